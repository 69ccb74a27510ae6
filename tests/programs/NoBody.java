import java.net.*;
import java.net.http.*;

/** Sends a POST without content: NoBody PROXY_HOST PROXY_PORT URL. */
class NoBody {
    public static void main(String[] arguments) throws Exception {
        var proxy = ProxySelector.of(new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1])));
        var client = HttpClient.newBuilder().proxy(proxy).build();
        var request = HttpRequest.newBuilder(URI.create(arguments[2])).POST(HttpRequest.BodyPublishers.noBody()).build();
        var response = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(response.statusCode() + " " + response.body().strip());
    }
}
