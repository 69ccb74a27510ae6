//! Rejections that are no 401: what `refresh_on` finds in fields and in content, however that is framed and
//! coded, and that the client gets what it does not find, untouched.

use std::time::Duration;

use bearerd_test_support::{Answer, Framing};
use serde_json::json;

use super::stopwatch::Stopwatch;
use super::wire::{Reply, Wire, get, message};
use super::world::{MINUTE, World};

const RULES: &str = r#"refresh_on = [401, { status = 403, body = "token_expired" },
{ status = 400, json = "error.code", is = 190 }, { status = 200, json = "error", is = "token_expired" }]"#;

/// `{"error":"token_expired","error_description":"The access token expired"}` by another's encoder.
const BROTLI: &[u8] = &[
    0x1b, 0x47, 0x00, 0x40, 0x1c, 0x07, 0x76, 0x4c, 0x6c, 0xe2, 0xb1, 0x08, 0xbb, 0xbc, 0x16, 0xf9,
    0x02, 0xd9, 0x9b, 0x54, 0x64, 0x68, 0xa9, 0xc3, 0xd2, 0xe7, 0x94, 0x03, 0x0b, 0x54, 0xb2, 0xb6,
    0x28, 0x2c, 0xc0, 0x13, 0x1c, 0x76, 0xc0, 0xce, 0x0c, 0xc3, 0x38, 0xe4, 0x54, 0x45, 0xa5, 0x6e,
    0x6b, 0x60, 0x89, 0xfc, 0x82, 0x0e, 0xbe, 0x32, 0x44, 0x03, 0xa6, 0x01,
];

fn answer(text: &str) -> Answer {
    Answer::text(403, text)
}

fn with_body(answer: Answer, bytes: &'static [u8]) -> Answer {
    match answer {
        Answer::Respond { status, headers, framing, .. } => {
            Answer::Respond { status, headers, framing, body: bytes.into() }
        }
        other => other,
    }
}

/// The value of a counter of credential `api`.
async fn unread(world: &World, reason: &str) -> u64 {
    let metrics = world.ask_admin("/metrics").await.text();
    let name = format!("bearerd_unread_answers_total{{credential=\"api\",reason=\"{reason}\"}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&*name));
    found.map_or(0, |value| value.parse().unwrap())
}

/// Case E32.
#[tokio::test]
async fn content_is_matched_in_every_framing_and_coding() {
    let world = World::builder().credential(RULES).settled().await;
    let json = || Answer::json(400, json!({"error": {"code": 190}}));
    let slack = || Answer::json(200, json!({"ok": false, "error": "token_expired"}));
    let brotli = || with_body(answer("").with_header("content-encoding", "br"), BROTLI);
    let mut token_requests = 1;
    for (number, told) in [
        answer("token_expired"),
        answer("token_expired").coded("gzip"),
        answer("token_expired").coded("deflate"),
        answer("token_expired").coded("gzip").coded("deflate"),
        answer("token_expired").with_header("content-encoding", "identity"),
        brotli(),
        json(),
        json().coded("gzip"),
        slack(),
        slack().coded("deflate"),
        answer(&format!("token_expired{}", " ".repeat(65_536 - 13))),
    ]
    .into_iter()
    .flat_map(|answer| {
        [Framing::Length, Framing::Chunked, Framing::Close].map(|how| answer.clone().framed(how))
    })
    .enumerate()
    {
        world.clock.advance(10 * MINUTE);
        world.origin.clear();
        world.origin.enqueue(told);
        let url = if number % 2 == 0 { world.http("/") } else { world.https("/") };
        let response = world.client().get(url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{number}: the rejection reached the client");
        assert!(
            response.text().await.unwrap().contains("\"authorization\":true"),
            "{number}: the request was not sent again with the new token"
        );
        token_requests += 1;
        assert_eq!(
            world.authorization_server.token_requests(),
            token_requests,
            "{number}: the rejection did not lead to one token request"
        );
        world.origin.assert_requests(2, number);
    }
    for reason in ["long", "slow", "broken", "coded", "stream"] {
        assert_eq!(
            unread(&world, reason).await,
            0,
            "{reason}: an answer of this test was not read"
        );
    }
}

/// What a client gets, but for what differs by nature.
fn essence(mut reply: Reply) -> String {
    reply.fields.retain(|(name, _)| !matches!(&**name, "date" | "via"));
    format!("{reply:?}")
}

#[tokio::test]
async fn an_answer_that_is_not_a_rejection_reaches_the_client_unchanged() {
    let (looking, plain) =
        (World::builder().credential(RULES).start().await, World::builder().start().await);
    let long = "x".repeat(70_000);
    let trailers = vec![("x-checksum".to_owned(), "7".to_owned())];
    let answers = [
        answer("forbidden"),
        answer("forbidden").coded("gzip"),
        answer(""),
        answer("").coded("gzip"),
        answer("token_expired").with_header("content-encoding", "gzip"),
        answer("token_expired").with_header("content-encoding", "zstd"),
        answer("token_expired").coded("gzip").with_header("content-encoding", "compress"),
        with_body(
            Answer::status(403).with_header("content-type", "text/event-stream"),
            b"token_expired",
        ),
        answer(&format!("token_expired{long}")),
        answer(&format!("token_expired{}{long}", "\0".repeat(5_000_000))).coded("gzip"),
        Answer::json(200, json!({"ok": true})),
        Answer::json(200, json!({"ok": true, "all": long})).coded("deflate"),
        with_body(answer("").with_header("content-encoding", "br"), &BROTLI[..40]),
    ];
    let answers = answers.into_iter().flat_map(|answer| {
        [Framing::Length, Framing::Chunked, Framing::Close].map(|how| answer.clone().framed(how))
    });
    let with_trailers = [b"{}".as_slice(), b""]
        .map(|body| Answer::Trailers { body: body.into(), trailers: trailers.clone() });
    for (number, answer) in answers.chain(with_trailers).enumerate() {
        let mut replies = Vec::new();
        for world in [&looking, &plain] {
            world.origin.enqueue(answer.clone());
            let mut client = Wire::to(world).await;
            let [line, host] = get(&world.http("/"));
            let reply = client.ask(&[&*line, &*host, "TE: trailers"]).await;
            replies.push(essence(reply));
        }
        assert_eq!(replies[0], replies[1], "{number}: looking at the answer has changed it");
    }
    looking
        .authorization_server
        .assert_token_requests(1, "an answer that is no rejection has cost a token request");
    assert_eq!(unread(&looking, "coded").await, 6, "another number of answers counts as coded");
    assert_eq!(unread(&looking, "stream").await, 3, "another number of answers counts as streams");
    assert_eq!(unread(&looking, "broken").await, 6, "another number of answers counts as broken");
    assert_eq!(unread(&looking, "long").await, 9, "another number of answers counts as too long");
    assert_eq!(unread(&looking, "slow").await, 0, "an answer counts as slow");
    assert_eq!(unread(&plain, "long").await, 0, "answers were looked at without `refresh_on`");
}

#[tokio::test]
async fn content_that_breaks_off_also_breaks_off_at_the_client() {
    let world = World::builder().credential(RULES).start().await;
    let body = "{\"error\":\"token_expired\"}";
    world.origin.enqueue(Answer::Truncated { announced: 100, body: body.into() });
    let mut client = Wire::to(&world).await;
    let head = client.ask_head(&get(&world.http("/"))).await;
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("100")),
        "the head of the answer was changed"
    );
    assert_eq!(client.rest().await, body.as_bytes(), "the answer that broke off was changed");
    assert_eq!(
        unread(&world, "broken").await,
        1,
        "the answer that broke off is not counted as broken"
    );
    world
        .authorization_server
        .assert_token_requests(1, "an answer that broke off counts as a rejection");
}

/// It is held back for a second at most, and then comes as the API sends it.
#[tokio::test]
async fn a_slow_answer_is_forwarded_without_being_read() {
    let world = World::builder().credential(RULES).start().await;
    let pieces = ["one", "two", "three"].map(|piece| piece.into());
    world.origin.enqueue(Answer::Chunks(pieces.into()));
    let mut client = Wire::to(&world).await;
    let asked = Stopwatch::start();
    world.origin.release_chunk();
    let head = client.ask_head(&get(&world.http("/"))).await;
    assert_eq!(
        (head.status, head.field("transfer-encoding")),
        (200, Some("chunked")),
        "the head of the slow answer was changed"
    );
    assert_eq!(client.chunk().await, b"one", "the first piece did not arrive");
    assert!(asked.elapsed() < Duration::from_secs(3), "it took too long: {:?}", asked.elapsed());
    for piece in ["two", "three"] {
        world.origin.release_chunk();
        assert_eq!(client.chunk().await, piece.as_bytes(), "a later piece was held back");
    }
    assert_eq!(client.chunk().await, b"", "the slow answer did not end");
    assert_eq!(unread(&world, "slow").await, 1, "the slow answer is not counted as slow");
    // One that announces itself is not held back at all.
    let asked = Stopwatch::start();
    client.send(message(&get(&world.http("/sse/2")))).await;
    client.reply_head().await.assert_ok();
    assert!(
        asked.elapsed() < Duration::from_millis(900),
        "it took too long: {:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_rule_can_look_at_a_field() {
    let rule =
        r#"refresh_on = [{ status = 403, field = "X-Amzn-ErrorType", has = "ExpiredToken" }]"#;
    let world = World::builder().credential(rule).settled().await;
    let told = |status, name, value| Answer::text(status, "no").with_header(name, value);
    let url = "ExpiredTokenException:http://internal.amazon.com/";
    for (answer, token_requests, status) in [
        (told(403, "x-amzn-errortype", "AccessDeniedException"), 1, 403),
        (told(403, "x-other", "ExpiredToken"), 1, 403),
        (told(400, "x-amzn-errortype", "ExpiredToken"), 1, 400),
        (Answer::RejectToken, 1, 401),
        (told(403, "x-amzn-errortype", url).framed(Framing::Chunked), 2, 200),
    ] {
        world.origin.enqueue(answer.clone());
        assert_eq!(
            world.get("/").await.status,
            status,
            "{answer:?}: the answer had another status than the rule says"
        );
        assert_eq!(
            world.authorization_server.token_requests(),
            token_requests,
            "{answer:?}: the answer had another consequence than the rule says"
        );
    }
}

/// As a server of gRPC refuses a call before it has begun: everything is in the head.
#[tokio::test]
async fn a_call_of_grpc_that_is_unauthenticated_is_made_again() {
    let world = World::builder().credential("refresh_on = [{ grpc_status = 16 }]").settled().await;
    let told = |status| {
        Answer::status(200)
            .with_header("content-type", "application/grpc")
            .with_header("grpc-status", status)
    };
    for (status, requests, token_requests) in [("7", 1, 1), ("0", 1, 1), ("16", 2, 2)] {
        world.origin.clear();
        world.origin.enqueue(told(status));
        let call = world.client().post(world.https("/echo")).body("a call");
        let response = call.send().await.unwrap();
        assert_eq!(response.status(), 200, "grpc-status {status}: the call failed in HTTP");
        let content = response.text().await.unwrap();
        assert_eq!(
            content,
            if requests == 2 { "a call" } else { "" },
            "grpc-status {status}: the call was answered by another attempt"
        );
        assert_eq!(
            world.origin.requests().len(),
            requests,
            "{status}: the call was not made as often as the rule says"
        );
        assert_eq!(
            world.authorization_server.token_requests(),
            token_requests,
            "{status}: the answer had another consequence than the rule says"
        );
    }
}
