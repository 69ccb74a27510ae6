//! P17 and P21: when an origin connection may be reused, and by which client.

use std::collections::BTreeSet;

use bearerd_test_support::Answer;
use bytes::Bytes;
use http::Request;

use super::raw_api::{RawApi, accept, origin};
use crate::http2::{Client, received};
use crate::wire::{Wire, ask, get, message, within};
use crate::world::World;

#[tokio::test]
async fn p17_an_early_answer_gives_no_connection_to_the_next_request() {
    let world = World::builder().proxy("").start().await;
    let (listener, url) = origin().await;
    // Both requests run on the same core, because they share one client connection.
    let mut uploading = Vec::new();
    for _ in 0..2 {
        let mut client = Wire::to(&world).await;
        let line = format!("POST {url}/ HTTP/1.1");
        client.send(message(&[&*line, "Host: x", "Content-Length: 100"]) + "begun").await;
        let mut server = accept(&listener).await;
        server.head_text().await;
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        assert_eq!(
            client.reply().await.text(),
            "early",
            "the early answer did not reach the client"
        );
        uploading.push((client, server));
    }
    // Every core has an origin connection with an unfinished upload.
    for _ in 0..2 {
        let mut client = Wire::to(&world).await;
        client.send(message(&get(&format!("{url}/next")))).await;
        let mut server = accept(&listener).await;
        assert!(
            server.head_text().await.starts_with("GET /next "),
            "the next request reused a connection with an unfinished upload"
        );
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        client.reply().await.assert_ok();
    }
    // The uploads continue and finish.
    for (mut client, mut server) in uploading {
        client.send("x".repeat(95)).await;
        assert_eq!(server.exactly(100).await.len(), 100, "another request interrupted the upload");
    }
}

#[tokio::test]
async fn p17_a_connection_is_free_when_content_has_been_sent_on_it() {
    for kept in ["64KiB", "0"] {
        let world = World::builder().credential(&format!("replay_body = \"{kept}\"")).start().await;
        let line = format!("POST {} HTTP/1.1", world.http("/"));
        let mut client = Wire::to(&world).await;
        for (field, content) in [
            ("Content-Length: 5", "hello"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\na: trailer\r\n\r\n"),
            ("Content-Length: 0", ""),
        ] {
            client.send(message(&[&*line, "Host: x", field]) + content).await;
            client.reply().await.assert_ok();
        }
        let connections: BTreeSet<_> =
            world.origin.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections.len(), 1, "of four requests, {kept} of each kept");
    }
}

/// An HTTP/1.1 request ends with the last byte of its length; the stream of its HTTP/2 client may end later.
#[tokio::test]
async fn p17_a_connection_is_free_after_the_length_that_a_client_of_http2_declared() {
    let (world, api) = RawApi::start(&[b"http/1.1"]).await;
    let client = Client::open_to(&world, &api.authority()).await;
    let mut server = None;
    for _ in 0..3 {
        let request = Request::post(api.http("/").replace("http://", "https://"))
            .header("content-length", "5")
            .body(())
            .unwrap();
        let (response, mut content) = client.begin(request, false).await;
        content.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(Wire::over(api.accept().await)),
        };
        server.head_text().await;
        assert_eq!(
            server.exactly(5).await,
            b"hello",
            "the content did not arrive before the end of the client's stream"
        );
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        received(within(response).await.unwrap()).await.assert_ok();
    }
}

#[tokio::test]
async fn p17_a_repetition_goes_on_a_new_connection_and_the_first_closes() {
    let world = World::plain().settled().await;
    world.authorization_server.tokens().revoke_all_access_tokens();
    world.origin.enqueue(Answer::RejectEarly);
    let line = format!("POST {} HTTP/1.1", world.http("/"));
    let mut client = Wire::to(&world).await;
    client.send(message(&[&*line, "Host: x", "Content-Length: 10"]) + "begun").await;
    // The second attempt contains the content sent so far; the rest follows.
    within(world.origin.wait_for_requests(2)).await;
    client.send("ended").await;
    client.reply().await.assert_ok();
    let requests = world.origin.requests();
    assert_eq!(
        &requests[1].body[..],
        b"begunended",
        "the content of the second attempt differs from the client's"
    );
    assert_ne!(
        requests[0].connection, requests[1].connection,
        "the second attempt reused the connection with the unfinished upload"
    );
    world.get("/").await.assert_ok();
}

/// Starts a server that authenticates connections, as NTLM does: every request on a connection counts as the user who
/// authenticated on it. It closes the connection after a request for `/bye`.
async fn ntlm_origin() -> String {
    let (listener, url) = origin().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                let (mut is_challenged, mut is_alice) = (false, false);
                while let Some(head) = wire.next_head().await {
                    let head = head.to_ascii_lowercase();
                    if head.contains("transfer-encoding: chunked") {
                        while !wire.chunk().await.is_empty() {}
                    }
                    is_alice |= is_challenged && head.contains(" type3\r\n");
                    is_challenged = head.contains(" type1\r\n");
                    let challenge = if is_challenged { "NTLM type2" } else { "NTLM" };
                    let who = if is_alice { "alice" } else { "nobody" };
                    let status = if is_alice { "200 OK" } else { "401 Unauthorized" };
                    let length = who.len();
                    wire.send(format!(
                        "HTTP/1.1 {status}\r\nwww-authenticate: {challenge}\r\ncontent-length: {length}\r\n\r\n{who}"
                    ))
                    .await;
                    if head.starts_with("get /bye ") {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn p21_an_authenticated_connection_serves_only_its_client() {
    let world = World::new().await;
    let url = ntlm_origin().await;
    let line = format!("GET {url}/ HTTP/1.1");
    let mut alices = Vec::new();
    // On both cores.
    for _ in 0..4 {
        let mut alice = Wire::to(&world).await;
        alice
            .ask(&[&*line, "Host: x"])
            .await
            .assert_status(401, "an unauthenticated request was served as an authenticated user");
        let reply = alice.ask(&[&*line, "Host: x", "Authorization: NTLM type1"]).await;
        assert_eq!(
            (reply.status, reply.field("www-authenticate")),
            (401, Some("NTLM type2")),
            "the second step of NTLM did not reach the client"
        );
        let reply = alice.ask(&[&*line, "Host: x", "Authorization: NTLM type3"]).await;
        assert_eq!(
            (reply.status, reply.text()),
            (200, "alice".to_owned()),
            "the third step of NTLM used another connection"
        );
        // Alice keeps the connection, without further authentication.
        assert_eq!(
            alice.ask(&[&*line, "Host: x"]).await.text(),
            "alice",
            "the authenticated connection was not used for its own client"
        );
        alices.push(alice);
    }
    for _ in 0..4 {
        ask(&world, &[&*line, "Host: x"])
            .await
            .assert_status(401, "a stranger was served on Alice's connection");
    }
    // Nobody else gets it after she has disconnected.
    drop(alices);
    for _ in 0..8 {
        ask(&world, &[&*line, "Host: x"])
            .await
            .assert_status(401, "a stranger was served on the connection left by Alice");
    }
}

/// Returns the user that the server identifies in a request with these fields.
async fn who(client: &mut Wire, url: &str, fields: &[&str]) -> String {
    let line = format!("GET {url} HTTP/1.1");
    client.ask(&[&[&*line, "Host: x"], fields].concat()).await.text()
}

#[tokio::test]
async fn p21_an_authenticated_connection_stays_with_its_client_at_each_origin() {
    let world = World::new().await;
    let origins = [ntlm_origin().await, ntlm_origin().await];
    let mut alice = Wire::to(&world).await;
    for (origin, scheme) in origins.iter().zip(["negotiate", "NTLM"]) {
        let url = format!("{origin}/");
        let field = |word: &str| format!("Authorization: {scheme} {word}");
        assert_eq!(
            who(&mut alice, &url, &[&field("type1")]).await,
            "nobody",
            "the first step of NTLM already authenticated the connection"
        );
        // A request with content, which may end after the response.
        let post = format!("POST {url} HTTP/1.1");
        let chunked = [&*post, "Host: x", &field("type3"), "Transfer-Encoding: chunked"];
        alice.send(message(&chunked) + "2\r\nhi\r\n0\r\n\r\n").await;
        assert_eq!(
            alice.reply().await.text(),
            "alice",
            "{scheme}: the authentication did not finish on one connection"
        );
    }
    for origin in &origins {
        assert_eq!(
            who(&mut alice, &format!("{origin}/"), &[]).await,
            "alice",
            "the authenticated connection was not used for its own client"
        );
        for _ in 0..4 {
            let mut bob = Wire::to(&world).await;
            assert_eq!(
                who(&mut bob, &format!("{origin}/"), &[]).await,
                "nobody",
                "a stranger was served on Alice's connection"
            );
        }
    }
    // After the origin server closes the connection, nobody is authenticated, not even Alice.
    assert_eq!(
        who(&mut alice, &format!("{}/bye", origins[0]), &[]).await,
        "alice",
        "the authenticated connection was not used for its own client"
    );
    assert_eq!(
        who(&mut alice, &format!("{}/", origins[0]), &[]).await,
        "nobody",
        "a new connection counts as authenticated"
    );
    assert_eq!(
        who(&mut alice, &format!("{}/", origins[1]), &[]).await,
        "alice",
        "Alice lost her connection to the other origin server"
    );
}

#[tokio::test]
async fn p21_no_client_finishes_the_authentication_of_another() {
    let world = World::new().await;
    let url = format!("{}/", ntlm_origin().await);
    for stays in [true, false] {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut alice = Wire::to(&world).await;
            assert_eq!(
                who(&mut alice, &url, &["Authorization: NTLM type1"]).await,
                "nobody",
                "the first step of NTLM already authenticated the connection"
            );
            if stays {
                clients.push(alice);
            }
        }
        for _ in 0..8 {
            let mut mallory = Wire::to(&world).await;
            assert_eq!(
                who(&mut mallory, &url, &["Authorization: NTLM type3"]).await,
                "nobody",
                "another client completed Alice's authentication"
            );
        }
    }
}
