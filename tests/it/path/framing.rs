//! P1 to P15: message framing, and fields with special meaning.

use std::time::{Duration, Instant};

use bearerd_test_support::{Answer, Protocols, pattern};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use tokio::net::TcpListener;

use super::raw_api::RawApi;
use crate::connect::connect;
use crate::http2::{Client, get as get_http2};
use crate::wire::{Wire, ask, get, message, raw_origin, within};
use crate::world::World;

/// Encodes `text` in the chunked coding.
fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len())
}

// ===== Requests =====

#[tokio::test]
async fn p01_content_arrives_whatever_method_it_comes_with() {
    let world = World::new().await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "SEARCH", "POST"] {
        world.origin.clear();
        let target = format!("{method} {} HTTP/1.1", world.http("/_search"));
        let mut wire = Wire::to(&world).await;
        let head = message(&[&*target, "Host: x", "Transfer-Encoding: chunked"]);
        wire.send(head + &chunked("{\"query\":1}")).await;
        wire.reply_head().await.assert_status(200, method);
        let request = &world.origin.requests()[0];
        assert_eq!(&request.body[..], b"{\"query\":1}", "{method}: the content did not arrive");
        assert_eq!(
            request.header("transfer-encoding"),
            Some("chunked"),
            "{method}: unexpected framing of the content"
        );
    }
}

#[tokio::test]
async fn p01_content_of_http2_arrives_at_http1_whatever_method_it_comes_with() {
    let world = World::new().await;
    let client = Client::open(&world).await;
    for method in ["GET", "DELETE", "POST"] {
        world.origin.clear();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder().method(method).uri(world.https("/")).body(()).unwrap();
        client.ask_with(request, Bytes::from_static(b"content")).await.assert_ok();
        assert_eq!(&world.origin.requests()[0].body[..], b"content", "the content did not arrive");
    }
}

#[tokio::test]
async fn p02_a_request_without_content_says_so_where_content_is_usual() {
    let world = World::new().await;
    let client = Client::open(&world).await;
    for (method, expected) in [("POST", Some("0")), ("PUT", Some("0")), ("GET", None)] {
        world.origin.clear();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder().method(&method).uri(world.https("/")).body(()).unwrap();
        client.ask(request).await.assert_ok();
        assert_eq!(
            world.origin.requests()[0].header("content-length"),
            expected,
            "{method}: wrong Content-Length for a request without content"
        );
        // Over HTTP/1.1, the client's own Content-Length applies.
        let target = format!("{method} {} HTTP/1.1", world.http("/"));
        ask(&world, &[&*target, "Host: x"]).await.assert_ok();
        assert_eq!(
            world.origin.requests()[1].header("content-length"),
            expected,
            "{method}: wrong Content-Length over HTTP/1.1"
        );
    }
}

#[tokio::test]
async fn a_target_without_a_path_asks_for_the_root() {
    let world = World::new().await;
    let authority = world.origin.authority().to_string();
    for (rest, target) in
        [("", "/"), ("#", "/"), ("#x", "/"), ("/#x", "/"), ("?q#x", "/?q"), ("?", "/?")]
    {
        world.origin.clear();
        let line = format!("GET http://{authority}{rest} HTTP/1.1");
        ask(&world, &[&*line, "Host: x"]).await.assert_status(200, format!("{rest:?}"));
        assert_eq!(world.origin.requests()[0].target, target, "unexpected target: {rest:?}");
    }
}

#[tokio::test]
async fn te_trailers_is_forwarded_and_named_in_connection() {
    let world = World::new().await;
    for (fields, te, connection) in [
        (&["TE: trailers", "Connection: TE"][..], Some("trailers"), Some("TE")),
        (&["TE: trailers, gzip;q=0.5", "Connection: close, TE"], Some("trailers"), Some("TE")),
        (&["TE: gzip"], None, None),
        (&[], None, None),
    ] {
        world.origin.clear();
        let url = world.http("/");
        let head = get(&url);
        let lines: Vec<&str> =
            head.iter().map(|line| &**line).chain(fields.iter().copied()).collect();
        ask(&world, &lines).await.assert_status(200, format!("{fields:?}"));
        let request = &world.origin.requests()[0];
        assert_eq!(request.header("te"), te, "{fields:?}: unexpected TE at the origin server");
        assert_eq!(
            request.header("connection"),
            connection,
            "{fields:?}: unexpected Connection at the origin server"
        );
    }
}

#[tokio::test]
async fn expect_in_a_request_of_http10_is_ignored() {
    let world = World::new().await;
    for (version, expected) in [("1.0", None), ("1.1", Some("100-continue"))] {
        world.origin.clear();
        let mut wire = Wire::to(&world).await;
        let line = format!("POST {} HTTP/{version}", world.http("/"));
        wire.send(message(&[&*line, "Host: x", "Content-Length: 2", "Expect: 100-continue"])).await;
        wire.send("ok").await;
        let mut reply = wire.reply_head().await;
        if reply.status == 100 {
            reply = wire.reply_head().await;
        }
        reply.assert_ok();
        assert_eq!(
            world.origin.requests()[0].header("expect"),
            expected,
            "{version}: unexpected Expect at the origin server"
        );
    }
}

// ===== Answers =====

#[tokio::test]
async fn p03_lenient_syntax_is_forwarded_in_canonical_form() {
    let many: String = (0..150).map(|number| format!("x-{number}: 1\r\n")).collect();
    let world = World::new().await;
    for (answer, lines) in [
        (format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\nok"), &["x-149: 1"][..]),
        ("HTTP/1.1 200 OK\r\nX : 1\r\ncontent-length: 2\r\n\r\nok".to_owned(), &["x: 1"]),
        (
            "HTTP/1.1 200 OK\r\nX: a\r\n  b\r\n\tc\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            &["x: a b c"],
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok".to_owned(), &["content-length: 2"]),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            &["content-length: 2"],
        ),
        (
            "HTTP/1.1 200 OK\r\nX: a\x01b\0c\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            &["x: a b c"],
        ),
        ("HTTP/1.1 200 Gut So\r\ncontent-length: 2\r\n\r\nok".to_owned(), &["HTTP/1.1 200 Gut So"]),
        (
            "HTTP/1.1 299 Private\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            &["HTTP/1.1 299 Private"],
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\nok".to_owned(),
            &["connection: close", "transfer-encoding: chunked"],
        ),
    ] {
        let origin = raw_origin(answer.clone()).await;
        let mut wire = Wire::to(&world).await;
        wire.send(message(&get(&format!("http://{origin}/")))).await;
        let head = within(wire.head_text()).await;
        let is_there = |line: &&str| head.split("\r\n").any(|found| found == *line);
        let found = if answer.starts_with("HTTP/1.0") {
            lines.iter().any(is_there)
        } else {
            lines.iter().all(is_there)
        };
        assert!(found, "the answer {answer:?} became {head:?}");
        assert_eq!(
            head.matches("content-length").count(),
            usize::from(answer.contains("content-length")),
            "wrong number of Content-Length fields: {head:?}"
        );
    }
}

#[tokio::test]
async fn p09_the_field_limit_applies_to_both_directions() {
    let world = World::builder().sections("[limits]\nheader_count = 20").start().await;
    for (count, status) in [(15, 200), (25, 502)] {
        let many: String = (0..count).map(|number| format!("x-{number}: 1\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n");
        let origin = raw_origin(answer).await;
        let reply = ask(&world, &get(&format!("http://{origin}/"))).await;
        assert_eq!(reply.status, status, "{count} fields: unexpected status");
        if status == 502 {
            reply.is_refusal(502, "http_response_header_section_size");
        }
    }
    let lines: Vec<String> = (0..25).map(|number| format!("x-{number}: 1")).collect();
    let request = get(&world.http("/")).into_iter().chain(lines);
    ask(&world, &request.collect::<Vec<_>>())
        .await
        .assert_status(431, "a request with too many fields was not refused");
}

#[tokio::test]
async fn p09_split_cookie_fields_count_as_one_field() {
    let world = World::new().await;
    let client = Client::open(&world).await;
    let mut request = get_http2(&world.https("/"));
    for number in 0..120 {
        request.headers_mut().append("cookie", format!("c{number}=1").parse().unwrap());
    }
    client.ask(request).await.assert_ok();
    let cookie = world.origin.requests()[0].header("cookie").unwrap().to_owned();
    assert_eq!(cookie.split("; ").count(), 120, "parts of the cookie are missing");
}

// ===== Interim responses =====

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn p04_interim_responses_reach_clients_of_http1() {
    let world = World::new().await;
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let origin = raw_origin(format!("{processing}{HINTS}{FINAL}")).await;
    let mut wire = Wire::to(&world).await;
    for _ in 0..3 {
        wire.send(message(&get(&format!("http://{origin}/")))).await;
        wire.reply_head().await.assert_status(102, "the first interim response did not arrive");
        let hints = wire.reply_head().await;
        assert_eq!(
            (hints.status, hints.field("link")),
            (103, Some("</a.css>; rel=preload")),
            "the second interim response is incomplete"
        );
        assert_eq!(
            (hints.field("x-hop"), hints.field("connection")),
            (None, None),
            "a hop-by-hop field of an interim response was forwarded"
        );
        let reply = wire.reply().await;
        assert_eq!(
            (reply.status, reply.text()),
            (200, "ok".to_owned()),
            "the final response is incomplete"
        );
    }
}

#[tokio::test]
async fn p04_an_interim_response_says_no_length() {
    let world = World::new().await;
    let answer = format!("HTTP/1.1 103 Hints\r\nContent-Length: 5\r\nLink: </a>\r\n\r\n{FINAL}");
    let origin = raw_origin(answer).await;
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&format!("http://{origin}/")))).await;
    let interim = wire.reply_head().await;
    assert_eq!(
        (interim.status, interim.field("link")),
        (103, Some("</a>")),
        "the interim response did not arrive"
    );
    assert_eq!(
        interim.field("content-length"),
        None,
        "an interim response was forwarded with a length"
    );
    wire.reply().await.assert_ok();
}

#[tokio::test]
async fn p04_an_interim_response_does_not_wait_for_the_response() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&url))).await;
    let mut origin = Wire::over(within(listener.accept()).await.unwrap().0);
    origin.head_text().await;
    origin.send(HINTS).await;
    wire.reply_head()
        .await
        .assert_status(103, "the interim response was delayed until the final one");
    origin.send(FINAL).await;
    wire.reply().await.assert_ok();
}

#[tokio::test]
async fn p04_a_client_of_http10_gets_the_response_alone() {
    let world = World::new().await;
    let origin = raw_origin(format!("{HINTS}{FINAL}")).await;
    let target = format!("GET http://{origin}/ HTTP/1.0");
    ask(&world, &[&*target, "Host: x"]).await.assert_ok();
}

#[tokio::test]
async fn p04_a_flood_of_interim_responses_is_502() {
    let world = World::new().await;
    for (count, status) in [(16, 200), (17, 502), (100_000, 502)] {
        let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
        let origin = raw_origin(format!("{flood}{FINAL}")).await;
        let mut wire = Wire::to(&world).await;
        wire.send(message(&get(&format!("http://{origin}/")))).await;
        let mut reply = wire.reply_head().await;
        while reply.status == 102 {
            reply = wire.reply_head().await;
        }
        assert_eq!(reply.status, status, "{count} interim responses: unexpected status");
    }
}

// ===== Expectations =====

#[tokio::test]
async fn p05_a_rejection_before_any_content_is_absorbed_however_long_the_content_is() {
    const LENGTH: usize = 5 << 20;
    let world = World::settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    world.origin.enqueue(Answer::RejectEarly);
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    let length = format!("Content-Length: {LENGTH}");
    wire.send(message(&[&*target, "Host: x", "Expect: 100-continue", &*length])).await;
    wire.reply_head().await.assert_status(100, "the client got no 100 (Continue)");
    let requests = world.origin.requests();
    assert_eq!(requests.len(), 2, "the second attempt did not cause the 100 (Continue)");
    assert_eq!(requests[0].body_length, 0, "the first attempt received content");
    wire.send(pattern(LENGTH)).await;
    wire.reply().await.assert_ok();
    assert_eq!(world.origin.requests()[1].body_length, LENGTH as u64, "the content is incomplete");
}

#[tokio::test]
async fn p05_a_final_answer_arrives_without_100_continue() {
    let world = World::settled().await;
    let origin =
        raw_origin("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n".into()).await;
    let target = format!("POST http://{origin}/ HTTP/1.1");
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&*target, "Host: x", "Expect: 100-continue", "Content-Length: 9999999"]))
        .await;
    wire.reply().await.assert_status(417, "the final response did not arrive instead of 100");
    wire.is_closed().await;
}

#[tokio::test]
async fn p05_an_origin_that_does_not_ask_gets_the_content_after_a_second() {
    let world = World::settled().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("POST http://{}/ HTTP/1.1", listener.local_addr().unwrap());
    let mut wire = Wire::to(&world).await;
    wire.send(message(&[&*target, "Host: x", "Expect: 100-continue", "Content-Length: 2"])).await;
    let mut origin = Wire::over(within(listener.accept()).await.unwrap().0);
    assert!(
        origin.head_text().await.contains("expect: 100-continue"),
        "the expectation was not forwarded"
    );
    let begun = Instant::now();
    wire.reply_head().await.assert_status(100, "the client got no 100 (Continue) after a second");
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "the wait was too short: {:?}",
        begun.elapsed()
    );
    wire.send("hi").await;
    assert_eq!(origin.exactly(2).await, b"hi", "the content did not arrive");
    origin.send(FINAL).await;
    wire.reply().await.assert_ok();
}

// ===== Sessions and targets =====

#[tokio::test]
async fn p08_http10_needs_no_host_where_the_connect_has_named_it() {
    let world = World::new().await;
    let (mut wire, _) = connect(&world, world.origin.authority()).await;
    wire.send("GET /bytes/3 HTTP/1.0\r\n\r\n").await;
    let reply = wire.reply().await;
    assert_eq!(
        (reply.status, reply.content.len()),
        (200, 3),
        "HTTP/1.0 without Host was not served in an intercepted session"
    );
}

#[tokio::test]
async fn p14_a_name_with_a_dot_passes_unless_it_is_a_credentials() {
    let world = World::new().await;
    let other = raw_origin(FINAL.to_owned()).await;
    let reply = ask(&world, &get(&format!("http://localhost.:{}/", other.port()))).await;
    assert_eq!(
        (reply.status, reply.text()),
        (200, "ok".to_owned()),
        "a name with a final dot and without a credential was refused"
    );
    let dotted = world.http("/").replace("localhost", "localhost.");
    ask(&world, &get(&dotted)).await.is_refusal(400, "http_request_error");
    world.origin.assert_requests(0, "a request with a final dot reached the API");
}

#[tokio::test]
async fn p14_an_unknown_coding_closes_the_connection() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wire = Wire::to(&world).await;
    let reply = wire.ask(&[&*target, "Host: x", "Transfer-Encoding: gzip, chunked"]).await;
    assert_eq!(
        (reply.status, reply.field("connection")),
        (501, Some("close")),
        "an unknown transfer coding must close the connection"
    );
    wire.is_closed().await;
}

// ===== Trailers =====

#[tokio::test]
async fn p10_client_trailers_arrive_without_head_only_fields() {
    for protocols in [Protocols::Http1, Protocols::Http2] {
        let world = World::builder().origin(|config| config.protocols = protocols).start().await;
        let client = Client::open(&world).await;
        let mut trailers = HeaderMap::new();
        for name in ["authorization", "x-sum", "grpc-status", "host", "cookie"] {
            trailers.insert(name, "t".parse().unwrap());
        }
        let mut request = Request::post(world.https("/")).body(()).unwrap();
        let announced = "authorization, x-sum, grpc-status, host, cookie".parse().unwrap();
        request.headers_mut().insert("trailer", announced);
        let reply = client.ask_with_trailers(request, Bytes::from_static(b"a"), trailers).await;
        reply.assert_ok();
        let trailers = world.origin.requests()[0].trailers.clone();
        let mut names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["grpc-status", "x-sum"], "{protocols:?}: unexpected trailers");
    }
}

#[tokio::test]
async fn p10_trailers_of_grpc_arrive_unannounced_in_every_pairing() {
    for protocols in [Protocols::Http1, Protocols::Http2] {
        let world = World::builder().origin(|config| config.protocols = protocols).start().await;
        let client = Client::open(&world).await;
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let mut request = Request::post(world.https("/")).body(()).unwrap();
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let reply = client.ask_with_trailers(request, Bytes::from_static(b"a"), trailers).await;
        reply.assert_ok();
        assert_eq!(
            world.origin.requests()[0].trailers["grpc-status"],
            "0",
            "{protocols:?}: the gRPC trailer is missing"
        );
    }
}

// ===== Answers to upgraded requests =====

#[tokio::test]
async fn p15_redirects_of_upgraded_requests_stay_within_the_proxy() {
    let world = World::new().await;
    let answer = |world: &World| {
        Answer::status(302)
            .with_header("location", &world.https("/next?a=b"))
            .with_header("link", &format!("<{}>; rel=next", world.https("/2")))
            .with_header("set-cookie", "a=b; Path=/; Secure; HttpOnly")
    };
    world.origin.enqueue(answer(&world));
    let reply = ask(&world, &get(&world.http("/"))).await;
    assert_eq!(
        reply.field("location"),
        Some(&*world.http("/next?a=b")),
        "the redirect bypasses the proxy"
    );
    assert_eq!(
        reply.field("link"),
        Some(&*format!("<{}>; rel=next", world.http("/2"))),
        "the link bypasses the proxy"
    );
    assert_eq!(
        reply.field("set-cookie"),
        Some("a=b; Path=/; HttpOnly"),
        "the client would not send the cookie over http"
    );
    // Clients that use TLS get the answer unchanged.
    world.origin.enqueue(answer(&world));
    let response = world.client().get(world.https("/")).send().await.unwrap();
    assert_eq!(
        response.headers()["location"],
        world.https("/next?a=b"),
        "the redirect of a client that speaks TLS was changed"
    );
    assert_eq!(
        response.headers()["set-cookie"],
        "a=b; Path=/; Secure; HttpOnly",
        "the cookie of a client that speaks TLS was changed"
    );
}

#[tokio::test]
async fn p15_rewrite_location_off_leaves_answers_unchanged() {
    let world = World::builder().credential("rewrite_location = false").start().await;
    world.origin.enqueue(Answer::status(302).with_header("location", &world.https("/next")));
    let reply = ask(&world, &get(&world.http("/"))).await;
    assert_eq!(
        reply.field("location"),
        Some(&*world.https("/next")),
        "the redirect was changed although `rewrite_location` is off"
    );
}

// ===== From HTTP/2 =====

#[tokio::test]
async fn p04_interim_responses_of_http2_reach_clients_of_both_versions() {
    let (world, api) = RawApi::start(&[b"h2"]).await;
    let url = api.http("/");
    let served = tokio::spawn(async move {
        let mut connection = h2::server::handshake(api.accept().await).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let hints =
                http::Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            respond.send_informational(hints).unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
        }
    });
    let mut wire = Wire::to(&world).await;
    wire.send(message(&get(&url))).await;
    let hints = wire.reply_head().await;
    assert_eq!(
        (hints.status, hints.field("link")),
        (103, Some("</a>")),
        "the interim response did not arrive"
    );
    wire.reply().await.assert_ok();
    served.abort();
}

#[tokio::test]
async fn p04_interim_responses_of_http1_reach_clients_of_http2() {
    let (world, api) = RawApi::start(&[b"http/1.1"]).await;
    let client = Client::open_to(&world, &api.authority()).await;
    let url = format!("https://{}/", api.authority());
    let origin = async {
        let mut origin = Wire::over(api.accept().await);
        origin.head_text().await;
        origin.send(format!("{HINTS}{FINAL}")).await;
        origin
    };
    let (interim, _origin) = tokio::join!(client.first_interim(get_http2(&url)), origin);
    assert_eq!(
        (interim.status().as_u16(), &interim.headers()["link"]),
        (103, &"</a.css>; rel=preload".parse().unwrap()),
        "the interim response did not arrive"
    );
}
