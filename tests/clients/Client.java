import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

/**
 * Java's HttpClient behind the proxy: {@code Client PROXY_HOST PROXY_PORT ORIGIN SECONDS}.
 *
 * <p>The proxy is set by a selector because the JVM's proxy properties exclude localhost. The CA is
 * in the trust store that javax.net.ssl.trustStore names. Prints
 * {@code java SCHEME REQUESTS FAILURES} for each scheme, and failures on standard error.
 */
public final class Client {
    private static final Duration REQUEST_TIMEOUT = Duration.ofSeconds(20);
    /** Milliseconds between rounds: a busy application, not a load test. */
    private static final long PAUSE = 20;

    private final HttpClient http;
    private final String scheme;
    private final String base;
    private int requests;
    private int failures;

    private Client(HttpClient http, String scheme, String origin) {
        this.http = http;
        this.scheme = scheme;
        this.base = scheme + "://" + origin;
    }

    public static void main(String[] arguments) throws InterruptedException {
        var proxy = new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1]));
        var http = HttpClient.newBuilder().proxy(ProxySelector.of(proxy)).build();
        var clients = new Client[] {
            new Client(http, "http", arguments[2]), new Client(http, "https", arguments[2])
        };
        long end = System.nanoTime() + Duration.ofSeconds(Long.parseLong(arguments[3])).toNanos();
        for (int number = 1; System.nanoTime() < end; number++) {
            for (var client : clients) {
                client.get(number);
                client.post(number);
            }
            Thread.sleep(PAUSE);
        }
        for (var client : clients) {
            System.out.printf(
                    "java %s %d %d%n", client.scheme, client.requests, client.failures);
        }
    }

    /** The API describes the request it saw: it must be ours, with a token. */
    private void get(int number) throws InterruptedException {
        var target = "/hello?n=" + number;
        var seen = send("GET " + target, HttpRequest.newBuilder(URI.create(base + target)));
        if (seen != null
                && !(seen.contains("\"authorization\":true")
                        && seen.contains("\"target\":\"" + target + "\""))) {
            fail("GET " + target + ": the API saw " + seen);
        }
    }

    /** The API sends the body back. */
    private void post(int number) throws InterruptedException {
        var body = "{\"client\":\"java\",\"number\":" + number + "}";
        var request = HttpRequest.newBuilder(URI.create(base + "/echo"))
                .header("Content-Type", "application/json")
                .POST(BodyPublishers.ofString(body));
        var echo = send("POST /echo", request);
        if (echo != null && !echo.equals(body)) {
            fail("POST /echo: the API sent back " + echo);
        }
    }

    /** The body of a 200, or null when there was a failure, which is then counted. */
    private String send(String what, HttpRequest.Builder request) throws InterruptedException {
        requests++;
        try {
            HttpResponse<String> answer =
                    http.send(request.timeout(REQUEST_TIMEOUT).build(), BodyHandlers.ofString());
            if (answer.statusCode() == 200) {
                return answer.body();
            }
            fail(what + ": " + answer.statusCode() + " " + answer.body());
        } catch (java.io.IOException error) {
            fail(what + ": " + error);
        }
        return null;
    }

    private void fail(String complaint) {
        failures++;
        System.err.println(scheme + " " + complaint);
    }
}
