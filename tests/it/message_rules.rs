//! The rules for messages: fields of one hop, requests for the proxy itself, and what is refused because
//! it could be read in two ways.

use bearerd_test_support::{Answer, OriginConfig, OriginServer};

use super::wire::{DEADLINE, Wire, ask, get, message};
use super::world::World;
use crate::texts::assert_says;

// ===== Fields of one hop =====

#[tokio::test]
async fn fields_of_the_clients_hop_do_not_reach_the_origin() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let lines = [
        &*target,
        "Host: x",
        "Connection: keep-alive, x-one",
        "connection: X-Two ,",
        "X-One: 1",
        "x-two: 2",
        "X-Three: 3",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Proxy-Authenticate: Basic",
        "TE: gzip",
        "Trailer: x-sum",
        "Upgrade: h2c, websocket",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ];
    ask(&world, &lines).await.assert_ok();
    let request = &world.origin.requests()[0];
    let mut names: Vec<&str> = request.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["authorization", "host", "via", "x-three"],
        "fields of the client's hop reached the API, or others were lost"
    );
}

#[tokio::test]
async fn proxy_authorization_does_not_reach_an_origin_without_credential_either() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let target = format!("GET {} HTTP/1.1", other.url("/"));
    let lines = [&*target, "Host: x", "Proxy-Authorization: Basic c2VjcmV0"];
    ask(&world, &lines).await.assert_ok();
    assert_eq!(
        other.requests()[0].header("proxy-authorization"),
        None,
        "Proxy-Authorization reached a server without a credential"
    );
}

#[tokio::test]
async fn fields_of_the_origins_hop_do_not_reach_the_client() {
    let world = World::new().await;
    let answer = Answer::text(200, "content")
        .with_header("connection", "x-one")
        .with_header("connection", "keep-alive, X-TWO, set-cookie")
        .with_header("x-one", "1")
        .with_header("x-two", "2")
        .with_header("x-three", "3")
        .with_header("set-cookie", "a=b")
        .with_header("keep-alive", "timeout=5")
        .with_header("proxy-connection", "keep-alive")
        .with_header("proxy-authenticate", "Basic")
        .with_header("upgrade", "h2c");
    world.origin.enqueue(answer);
    let reply = ask(&world, &get(&world.http("/"))).await;
    assert_eq!(
        (reply.status, reply.text()),
        (200, "content".to_owned()),
        "the response was changed"
    );
    let mut names: Vec<&str> = reply.fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let kept = ["content-length", "content-type", "date", "set-cookie", "via", "x-three"];
    assert_eq!(names, kept, "fields of the API's hop reached the client, or others were lost");
}

#[tokio::test]
async fn via_is_added_on_both_sides_after_what_is_there() {
    let world = World::new().await;
    world.origin.enqueue(Answer::text(200, "").with_header("via", "1.0 far"));
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let reply = ask(&world, &[&*target, "Host: x", "Via: 1.0 near", "Via: 2 nearer (x)"]).await;
    let headers = &world.origin.requests()[0].headers;
    let seen: Vec<&str> =
        headers.get_all("via").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(seen[..2], ["1.0 near", "2 nearer (x)"], "earlier entries of Via were changed");
    assert!(seen[2].starts_with("1.1 bearerd-"), "bearerd has not added itself to Via: {seen:?}");
    assert_eq!(reply.fields("via"), ["1.0 far", seen[2]], "Via of the response was not extended");
}

// ===== The proxy itself =====

#[tokio::test]
async fn a_request_for_the_proxy_itself_is_a_loop() {
    let world = World::new().await;
    let port = world.proxy_address().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let reply = ask(&world, &get(&format!("http://{host}:{port}/"))).await;
        reply.is_refusal(508, "proxy_loop_detected");
    }
}

#[tokio::test]
async fn a_request_with_this_proxy_in_via_is_a_loop() {
    let world = World::new().await;
    let other = OriginServer::start(OriginConfig::default()).await;
    let via = ask(&world, &get(&other.url("/"))).await.field("via").unwrap().to_owned();
    let via = format!("Via: 1.0 next, {via}, 1.1 last");
    for url in [other.url("/"), world.http("/")] {
        let target = format!("GET {url} HTTP/1.1");
        ask(&world, &[&*target, "Host: x", &via]).await.is_refusal(508, "proxy_loop_detected");
    }
    assert_eq!(
        (other.requests().len(), world.origin.requests().len()),
        (1, 0),
        "(other server, API): a request that has been here before was sent on"
    );
    let target = format!("GET {} HTTP/1.1", other.url("/"));
    let behind_another = ask(&world, &[&*target, "Host: x", "Via: 1.1 bearerd-00000000"]).await;
    assert_eq!(behind_another.status, 200, "one bearerd behind another is no loop");
}

#[tokio::test]
async fn a_target_without_a_host_is_400_with_a_sentence_and_the_connection_ends() {
    let world = World::new().await;
    let host = format!("Host: {}", world.origin.authority());
    for target in ["GET / HTTP/1.1", "GET //localhost/x HTTP/1.1", "POST /token?x HTTP/1.1"] {
        let mut wire = Wire::to(&world).await;
        let reply = wire.ask(&[target, &host]).await;
        reply.is_refusal(400, "http_request_error");
        assert_says("the answer", reply.text(), ["this is a proxy"]);
        wire.is_closed().await;
    }
    world.origin.assert_requests(0, "a target without a host reached the API");
}

#[tokio::test]
async fn trace_is_refused_and_lists_what_is_allowed() {
    let world = World::new().await;
    for method in ["TRACE", "TRACK"] {
        let target = format!("{method} {} HTTP/1.1", world.http("/"));
        let reply = ask(&world, &[&target, "Host: x", "Cookie: secret=1"]).await;
        reply.is_refusal(405, "http_request_error");
        assert!(
            reply.field("allow").is_some_and(|methods| methods.contains("GET")),
            "{method}: Allow does not list what is allowed"
        );
        assert!(!reply.text().contains("secret"), "{method}: the refusal repeats the request");
    }
    world.origin.assert_requests(0, "a refused method reached the API");
}

#[tokio::test]
async fn options_of_the_proxy_and_options_that_may_go_no_further_are_answered_here() {
    let world = World::new().await;
    let absolute = format!("OPTIONS {} HTTP/1.1", world.http("/x"));
    let mut wire = Wire::to(&world).await;
    for lines in
        [&["OPTIONS * HTTP/1.1", "Host: x"][..], &[&absolute, "Host: x", "Max-Forwards: 0"]]
    {
        let reply = wire.ask(lines).await;
        reply.assert_ok();
        assert!(
            reply.field("allow").is_some_and(|methods| methods.contains("CONNECT")),
            "Allow does not list what is allowed"
        );
    }
    world.origin.assert_requests(0, "a request for the proxy itself reached the API");
    wire.ask(&[&absolute, "Host: x", "Max-Forwards: 7"]).await.assert_ok();
    assert_eq!(
        world.origin.requests()[0].header("max-forwards"),
        Some("6"),
        "Max-Forwards was not counted down"
    );
}

#[tokio::test]
async fn the_ca_is_served_under_the_proxys_own_name_and_nothing_else_is() {
    let world = World::new().await;
    let reply = ask(&world, &get("http://bearerd.invalid/ca.pem")).await;
    assert_eq!(
        (reply.status, reply.text()),
        (200, world.app().ca().unwrap().pem().to_owned()),
        "the CA certificate was not served"
    );
    assert_eq!(
        reply.field("content-type"),
        Some("application/x-pem-file"),
        "the CA certificate has another content type"
    );
    for path in ["/", "/ca.key", "/ca.pem/", "/../certs/ca.key"] {
        let reply = ask(&world, &get(&format!("http://bearerd.invalid{path}"))).await;
        reply.assert_status(404, path);
        assert!(!reply.text().contains("BEGIN"), "{path}: a certificate or a key was served");
    }
}

// ===== Ambiguous and oversized requests =====

#[tokio::test]
async fn a_target_that_could_name_two_hosts_is_400() {
    let world = World::new().await;
    let port = world.origin.port();
    let mut wrong = Vec::new();
    for target in [
        format!("http://user@localhost:{port}/"),
        format!("http://user:password@localhost:{port}/"),
        format!("http://localhost:{port}@evil.test/"),
        format!("http://localhost:{port}\\evil.test/"),
        format!("http://localhost\\@evil.test:{port}/"),
        format!("http://localhost%2E:{port}/"),
        format!("http://loc%61lhost:{port}/"),
        format!("http://localhost%2F.evil.test:{port}/"),
        format!("http://localhost.:{port}/"),
        format!("http://.localhost:{port}/"),
        format!("http://l\u{43e}calhost:{port}/"),
        format!("http://localhost:{port}:{port}/"),
        format!("http://localhost:{port}x/"),
        format!("http://localhost:+{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://[localhost]:{port}/"),
        format!("http://[::1%25lo]:{port}/"),
        format!("http://:{port}/"),
        format!("//localhost:{port}/"),
        format!("ftp://localhost:{port}/"),
        format!("localhost:{port}/"),
        "http://localhost:/".to_owned(),
        "http://localhost:0/".to_owned(),
        "http://localhost:65536/".to_owned(),
        "http:///x".to_owned(),
        "http://".to_owned(),
    ] {
        wrong.extend(not_refused(&world, &[&format!("GET {target} HTTP/1.1"), "Host: x"]).await);
    }
    assert_eq!(wrong, Vec::<String>::new(), "ambiguous targets were not refused");
    assert_eq!(world.origin.connections(), 0, "an ambiguous target was dialled");
}

#[tokio::test]
async fn a_missing_doubled_or_invalid_host_field_is_400() {
    let world = World::new().await;
    let target = format!("GET {} HTTP/1.1", world.http("/"));
    let authority = world.origin.authority();
    let mut wrong = not_refused(&world, &[&target]).await.into_iter().collect::<Vec<_>>();
    for host in [
        format!("{authority}\r\nHost: {authority}"),
        format!("{authority}\r\nhost: evil.test"),
        format!("{authority}, {authority}"),
        format!("x@{authority}"),
        format!("{authority}@evil.test"),
        "local%68ost".to_owned(),
        "[localhost]".to_owned(),
        "l\u{43e}calhost".to_owned(),
        "localhost:port".to_owned(),
        "localhost/path".to_owned(),
    ] {
        wrong.extend(not_refused(&world, &[&target, &format!("Host: {host}")]).await);
    }
    assert_eq!(wrong, Vec::<String>::new(), "wrong Host fields were not refused");
    assert_eq!(world.origin.connections(), 0, "a request with a wrong Host was sent on");
}

#[tokio::test]
async fn a_request_with_an_ambiguous_end_is_not_forwarded() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let mut wrong = Vec::new();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5_0",
        "Content-Length:\r\nContent-Length: 5",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551621",
        "Content-Length : 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \u{b}chunked",
        "Foo : bar",
        "Foo bar",
        ": bar",
        "X: a\r\n continued",
        "X: a\0b",
        "X: a\u{1}b",
        "X: a\rb",
    ] {
        wrong.extend(not_refused(&world, &[&target, "Host: x", fields]).await);
    }
    let first = message(&[&target, " Foo: bar", "Host: x"]);
    wrong.extend(not_refused_bytes(&world, &first).await);
    let http_1_0 = format!("POST {} HTTP/1.0", world.http("/"));
    wrong.extend(not_refused(&world, &[&http_1_0, "Transfer-Encoding: chunked"]).await);
    assert_eq!(wrong, Vec::<String>::new(), "requests with ambiguous ends were not refused");
    assert_eq!(world.origin.connections(), 0, "a request with an ambiguous end was sent on");
}

/// hyper reads such a request as chunked and hides the length from us (RFC 9112 §6.1 allows that if
/// the connection ends with it), so the origin gets one unambiguous message.
#[tokio::test]
async fn a_request_with_a_length_and_chunks_is_chunked_and_the_last_of_its_connection() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    let smuggled = message(&get(&world.http("/smuggled")));
    for fields in [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
    ] {
        let mut wire = Wire::to(&world).await;
        let head = message(&[&[&*target, "Host: x"][..], &fields].concat());
        wire.send(head + "5\r\nhello\r\n0\r\n\r\n" + &smuggled).await;
        wire.reply().await.assert_ok();
        wire.is_closed().await;
    }
    let requests = world.origin.requests();
    assert_eq!(requests.len(), 2, "content was taken for a request of its own");
    for request in &requests {
        assert_eq!(
            (&request.body[..], request.header("content-length")),
            (&b"hello"[..], None),
            "(content, Content-Length): the request was not sent on with one unambiguous end"
        );
    }
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_request_without_completing_it() {
    let world = World::new().await;
    let target = format!("POST {} HTTP/1.1", world.http("/"));
    for chunk in ["\r\n", "g\r\n", "-1\r\n", "0x5\r\nhello\r\n", "10000000000000000\r\nhello\r\n"] {
        let mut wire = Wire::to(&world).await;
        wire.send(message(&[&target, "Host: x", "Transfer-Encoding: chunked"]) + chunk).await;
        let answer = String::from_utf8(wire.rest().await).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{chunk:?}: a malformed chunk was answered with another status: {answer}"
        );
    }
    assert!(
        world.origin.requests().iter().all(|request| !request.body_complete),
        "a malformed chunk ended like the last one at the API"
    );
    world.get("/").await.assert_ok();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_the_status_that_says_so() {
    let world = World::new().await;
    let url = world.http("/");
    let line = |length: usize| format!("GET {url}{} HTTP/1.1", "x".repeat(length - url.len() - 13));
    ask(&world, &[&*line(8 * 1024), "Host: x"]).await.assert_ok();
    world.origin.clear();

    ask(&world, &[&*line(8 * 1024 + 100), "Host: x"])
        .await
        .assert_status(414, "a target that is too long was not refused");
    let target = format!("GET {url} HTTP/1.1");
    let many: Vec<String> = (0..101).map(|number| format!("X-{number}: 1")).collect();
    let many: Vec<&str> = [&*target].into_iter().chain(many.iter().map(String::as_str)).collect();
    ask(&world, &many).await.assert_status(431, "too many fields were not refused");
    let heavy = format!("X-Heavy: {}", "x".repeat(33 * 1024));
    ask(&world, &[&target, "Host: x", &heavy])
        .await
        .assert_status(431, "a field that is too large was not refused");
    world.origin.assert_requests(0, "a request whose head is too large reached the API");
    // Answered here: an origin server would count the fields that we add.
    let hundred: Vec<&str> = ["OPTIONS * HTTP/1.1", "Host: x"]
        .into_iter()
        .chain(many[1..].iter().copied().take(99))
        .collect();
    ask(&world, &hundred).await.assert_ok();
}

// ===== Support =====

/// Sends a request that must be refused and its connection closed; returns a description if it was not.
async fn not_refused(world: &World, lines: &[&str]) -> Option<String> {
    not_refused_bytes(world, &message(lines)).await
}

async fn not_refused_bytes(world: &World, request: &str) -> Option<String> {
    let mut wire = Wire::to(world).await;
    wire.send(request).await;
    let Ok(reply) = tokio::time::timeout(DEADLINE, wire.reply()).await else {
        return Some(format!("{request:?} got no answer"));
    };
    if !matches!(reply.status, 400 | 501) {
        return Some(format!("{request:?} got {}", reply.status));
    }
    let closed = tokio::time::timeout(DEADLINE, wire.rest()).await;
    closed.is_err().then(|| format!("{request:?} got {} and was not closed", reply.status))
}
