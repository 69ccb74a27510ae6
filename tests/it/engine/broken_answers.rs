//! E4: answers with tokens that break off, have a wrong length or contain invalid text.

use bearerd_test_support::{End, TokenAnswer, TokenBehaviour};
use serde_json::json;

use super::super::world::{World, WorldBuilder};
use super::answers::{answered, assert_read};
use super::{SHORT_WAIT, each, look, presented, state};

/// A server whose answers hold more bytes than characters.
fn abroad() -> WorldBuilder {
    let builder = World::builder().authorization_server(|config| {
        config.extra.insert("scope".to_owned(), json!("Zoë Ångström, 東京"));
    });
    builder.credential("timeout = \"2s\"")
}

fn characters(answer: &TokenAnswer) -> usize {
    String::from_utf8(answer.body.to_vec()).unwrap().chars().count()
}

/// The head without a length, with this field in its place.
fn head_with(answer: &TokenAnswer, field: &str) -> String {
    answer.head(0).replace("content-length: 0\r\n", field)
}

fn join(head: impl Into<String>, body: &[u8]) -> Vec<u8> {
    [head.into().as_bytes(), body].concat()
}

#[tokio::test]
async fn e04_a_content_length_that_counts_characters_loses_no_refresh_token() {
    let all = |answer: &TokenAnswer| join(answer.head(characters(answer)), &answer.body);
    let cut = |answer: &TokenAnswer| {
        join(answer.head(characters(answer)), &answer.body[..characters(answer)])
    };
    let cases = [End::Open, End::Close].map(|end| {
        [
            (format!("all, {end:?}"), TokenBehaviour::written(end, all)),
            (format!("cut, {end:?}"), TokenBehaviour::written(end, cut)),
        ]
    });
    each_is_read(cases.concat()).await;
}

#[tokio::test]
async fn e04_a_whole_object_is_an_answer_however_the_connection_ends() {
    let more = |answer: &TokenAnswer| join(answer.head(answer.body.len() + 100), &answer.body);
    let unfinished = |answer: &TokenAnswer| {
        let size = format!("{:x}\r\n", answer.body.len());
        let head = head_with(answer, "transfer-encoding: chunked\r\n") + &size;
        join(head, &[&answer.body[..], b"\r\n"].concat())
    };
    let until_close = |answer: &TokenAnswer| join(head_with(answer, ""), &answer.body);
    let mut cases = Vec::new();
    for end in [End::Close, End::Reset, End::Open] {
        cases.push((format!("announces more, {end:?}"), TokenBehaviour::written(end, more)));
        cases.push((format!("no last chunk, {end:?}"), TokenBehaviour::written(end, unfinished)));
        cases.push((format!("no length, {end:?}"), TokenBehaviour::written(end, until_close)));
    }
    each_is_read(cases).await;
}

#[tokio::test]
async fn e04_a_tls_connection_that_ends_without_close_notify_loses_nothing() {
    let until_close = |answer: &TokenAnswer| join(head_with(answer, ""), &answer.body);
    let more = |answer: &TokenAnswer| join(answer.head(answer.body.len() + 9), &answer.body);
    let cases = [
        ("no length", TokenBehaviour::written(End::CloseSilently, until_close)),
        ("announces more", TokenBehaviour::written(End::CloseSilently, more)),
    ];
    each(cases, |case, answer| async move {
        let world = abroad().secure_token_endpoint().settled().await;
        assert_read(&world, answer, &case).await;
    })
    .await;
}

/// The members before the break are whole.
#[tokio::test]
async fn e04_the_refresh_token_before_a_break_is_kept() {
    let cut = |answer: &TokenAnswer| {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let start = text.find("\"refresh_token\":\"").unwrap() + 17;
        let end = start + text[start..].find('"').unwrap() + 1;
        join(answer.head(answer.body.len()), &answer.body[..end])
    };
    let ends = [End::Close, End::Reset, End::Open];
    each_is_read(ends.map(|end| (format!("{end:?}"), TokenBehaviour::written(end, cut)))).await;
}

/// Half a refresh token must not be used.
#[tokio::test]
async fn e04_half_a_refresh_token_is_never_presented() {
    let cut = |answer: &TokenAnswer| {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let half = text.find("\"refresh_token\":\"").unwrap() + 30;
        join(answer.head(answer.body.len()), &answer.body[..half])
    };
    let world = abroad().sections(SHORT_WAIT).settled().await;
    let (old, _) = answered(&world, TokenBehaviour::written(End::Close, cut)).await;
    look(&world).await;
    let server = &world.authorization_server;
    let new = server.current_refresh_token();
    for request in server.requests() {
        let sent = request.param("refresh_token").unwrap_or_default().to_owned();
        assert!(sent == new || !new.starts_with(&sent), "half a token was presented: {sent}");
    }
    assert_eq!(
        presented(&world, &old),
        1,
        "the refresh token whose answer broke off was presented again"
    );
    assert_eq!(
        state(&world),
        "needs_login (lost_rotation)",
        "an answer without a whole refresh token does not count as a lost rotation"
    );
}

#[tokio::test]
async fn e04_invalid_text_beside_the_tokens_does_not_matter() {
    let members: [(&str, &[u8]); 8] = [
        ("invalid UTF-8", b"\"name\":\"Z\xff\xfe\","),
        ("Latin-1", b"\"name\":\"Zo\xeb\","),
        ("an invalid escape", b"\"name\":\"C:\\q\","),
        ("half a surrogate", b"\"name\":\"\\ud83d\","),
        ("a raw line break", b"\"name\":\"a\nb\","),
        ("a member twice", b"\"token_type\":\"Bearer\","),
        ("a trailing comma", b"\"list\":[1,],"),
        ("NaN", b"\"quota\":NaN,"),
    ];
    let odd = |member: &'static [u8]| {
        TokenBehaviour::changed(move |answer| {
            answer.body = [b"{", member, &answer.body[1..]].concat().into();
        })
    };
    each_is_read(members.map(|(case, member)| (case, odd(member)))).await;
}

/// Asserts that each of these answers is read, each in a world of its own.
async fn each_is_read(answers: impl IntoIterator<Item = (impl ToString, TokenBehaviour)>) {
    each(answers, |case, answer| async move {
        assert_read(&abroad().settled().await, answer, &case).await;
    })
    .await;
}
