//! A received answer is never discarded, whatever its shape and coding, even if it is unreadable.

use bearerd_test_support::{Answer, Rotation, TokenBehaviour, coding};
use serde_json::{Value, json};

use super::super::world::{HOURS, World};
use super::{
    QUARTER, SECOND, SHORT_WAIT, at_rest, described, each, keeps_newest, look, metric, presented,
    state, with_bootstrap,
};
use crate::texts::{assert_never_says, assert_says};

/// Arranges the same members in another JSON.
type Shape = fn(Value) -> Value;
/// Codes a body.
type Code = fn(&[u8]) -> Vec<u8>;

/// Refreshes the token of a settled world with this answer; returns the old refresh token and the status.
pub(super) async fn answered(world: &World, answer: TokenBehaviour) -> (String, u16) {
    let server = &world.authorization_server;
    let old = server.current_refresh_token();
    server.enqueue(answer);
    world.clock.advance(HOURS);
    let status = world.get("/").await.status;
    (old, status)
}

/// Asserts that the answer was read: the request has its token, the new refresh token is on the disk and works
/// for the next refresh, and the old one was presented once.
pub(super) async fn assert_read(world: &World, answer: TokenBehaviour, case: &str) {
    let (old, status) = answered(world, answer).await;
    let server = &world.authorization_server;
    assert_eq!(presented(world, &old), 1, "{case}: the used refresh token was presented again");
    assert_eq!(status, 200, "{case}: the request got no token");
    let new = server.current_refresh_token();
    assert!(keeps_newest(world), "{case}: the new refresh token is not on the disk");
    world.clock.advance(HOURS);
    world.get("/").await.assert_status(200, format!("{case}: the next refresh failed"));
    assert_eq!(
        (presented(world, &old), presented(world, &new)),
        (1, 1),
        "{case}: (old, new): a refresh token was not presented exactly once"
    );
    assert_eq!(
        server.reuse_count(),
        0,
        "{case}: a refresh token was presented after it had been replaced"
    );
}

// ----- E2 -----

fn camel_case(tokens: Value) -> Value {
    json!({
        "accessToken": tokens["access_token"],
        "refreshToken": tokens["refresh_token"],
        "expiresIn": 3600,
    })
}

#[tokio::test]
async fn e02_tokens_in_an_unknown_shape_are_found() {
    let shapes: [(&str, Shape); 6] = [
        ("below data", |tokens| json!({ "data": tokens })),
        ("deep in a list", |tokens| json!({ "code": 0, "result": [{ "auth": tokens }] })),
        ("in camel case", camel_case),
        ("below data in camel case", |tokens| json!({ "data": camel_case(tokens) })),
        ("in two objects", |tokens| {
            json!({
                "access": { "access_token": tokens["access_token"], "expires_in": 3600 },
                "refresh": { "refresh_token": tokens["refresh_token"] },
            })
        }),
        ("in a list", |tokens| json!([tokens])),
    ];
    each(shapes, |case, shape| async move {
        assert_read(&World::settled().await, TokenBehaviour::reshaped(shape), &case).await;
    })
    .await;
}

#[tokio::test]
async fn e02_text_around_the_json_does_not_matter() {
    let texts =
        [(")]}',\n", ""), ("", "\0\0\0"), ("", "\n<!-- gateway 7 -->"), ("callback(", ");")];
    each(texts.map(|text| (format!("{text:?}"), text)), |case, (before, after)| async move {
        let around = TokenBehaviour::changed(move |answer| {
            let body = String::from_utf8(answer.body.to_vec()).unwrap();
            answer.body = format!("{before}{body}{after}").into();
        });
        assert_read(&World::settled().await, around, &case).await;
    })
    .await;
}

#[tokio::test]
async fn e02_tokens_where_the_mapping_does_not_look_are_found() {
    let mapping =
        r#"response = { access_token = "a.t", refresh_token = "a.r", expires_in = "a.ttl" }"#;
    let mut world = World::builder().credential(mapping).start_servers().await;
    let shape = |tokens: Value| {
        let (token, refresh) = (&tokens["access_token"], &tokens["refresh_token"]);
        json!({ "a": { "t": token, "r": refresh, "ttl": 3600 } })
    };
    world.authorization_server.enqueue(TokenBehaviour::reshaped(shape));
    world.start_proxy().await;
    world.get("/").await.assert_ok();
    let (old, status) = answered(&world, TokenBehaviour::Normal).await;
    assert_eq!(
        presented(&world, &old),
        1,
        "a refresh token whose answer had an unknown shape was presented again"
    );
    assert_eq!(
        status, 200,
        "the request got no token from an answer in which the mapping finds nothing"
    );
    assert!(keeps_newest(&world), "the newest refresh token is not on the disk");
}

/// Answers with status 2xx that yield no refresh token. None is an HTML page.
fn unreadable() -> Vec<(&'static str, TokenBehaviour)> {
    let body = |text: &'static str| {
        TokenBehaviour::changed(move |answer| answer.body = text.as_bytes().into())
    };
    vec![
        ("no token", body(r#"{"ok":true}"#)),
        ("a word", body("OK")),
        ("null", body("null")),
        ("nothing", body("")),
        (
            "204",
            TokenBehaviour::changed(|answer| {
                answer.status = 204;
                answer.body = bytes::Bytes::new();
            }),
        ),
        (
            "cut within the refresh token",
            TokenBehaviour::changed(|answer| {
                let text = String::from_utf8(answer.body.to_vec()).unwrap();
                let at = text.find("\"refresh_token\":\"").unwrap() + 30;
                answer.body = text[..at].to_owned().into();
            }),
        ),
        (
            "two refresh tokens",
            TokenBehaviour::reshaped(|tokens| {
                json!({
                    "a": { "refresh_token": tokens["refresh_token"] },
                    "b": { "refresh_token": "rt-of-somebody-else" },
                })
            }),
        ),
        (
            "over a mebibyte",
            TokenBehaviour::changed(|answer| answer.body = vec![b'x'; 3 << 20].into()),
        ),
    ]
}

#[tokio::test]
async fn e02_an_answer_that_nothing_can_be_read_from_is_a_lost_rotation_and_no_reason_to_ask_again()
{
    each(unreadable(), |case, answer| async move {
        let mut world = World::builder().sections(SHORT_WAIT).settled().await;
        let (old, status) = answered(&world, answer).await;
        look(&world).await;
        assert_eq!(presented(&world, &old), 1, "{case}: presented again at once");
        assert_eq!(status, 503, "{case}: a request was served without a token");
        assert_eq!(
            state(&world),
            "needs_login (lost_rotation)",
            "{case}: the state is another one"
        );
        assert_eq!(
            metric(&world, "bearerd_lost_rotations_total").await,
            1.0,
            "{case}: the lost rotation was not counted once"
        );
        world.clock.advance(HOURS);
        world.restart().await;
        look(&world).await.assert_status(503, &case);
        assert_eq!(presented(&world, &old), 1, "{case}: presented again after a restart");
        world.authorization_server.assert_token_requests(2, &case);
    })
    .await;
}

#[tokio::test]
async fn e02_an_answer_that_nothing_can_be_read_from_is_healed_by_a_bootstrap() {
    each(unreadable(), |case, answer| async move {
        let world = with_bootstrap(World::builder()).settled().await;
        let (old, status) = answered(&world, answer).await;
        assert_eq!(status, 200, "{case}: the bootstrap did not heal the request");
        assert_eq!(
            presented(&world, &old),
            1,
            "{case}: the refresh token was not presented exactly once"
        );
        assert!(keeps_newest(&world), "{case}: the newest refresh token is not on the disk");
        assert_eq!(
            world.authorization_server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
    })
    .await;
}

/// A server that does not rotate its refresh tokens has lost nothing.
#[tokio::test]
async fn e02_where_nothing_rotates_an_unreadable_answer_passes() {
    each(unreadable(), |case, answer| async move {
        let builder =
            World::builder().authorization_server(|config| config.rotation = Rotation::Keep);
        let world = builder.sections(SHORT_WAIT).settled().await;
        answered(&world, answer).await;
        let back = super::back_within(&world, QUARTER, SECOND * 30).await;
        assert!(back.is_some(), "{case}: it did not work again in time: {}", state(&world));
    })
    .await;
}

// ----- E3 -----

fn coded(name: &'static str, code: Code) -> TokenBehaviour {
    TokenBehaviour::changed(move |answer| {
        answer.body = code(&answer.body).into();
        if !name.is_empty() {
            answer.headers.push(("content-encoding".to_owned(), name.to_owned()));
        }
    })
}

#[tokio::test]
async fn e03_a_compressed_answer_is_read_although_identity_was_asked() {
    let twice: Code = |body| coding::gzip(&coding::gzip(body));
    let codings: [(&str, Code); 7] = [
        ("gzip", coding::gzip),
        ("x-gzip", coding::gzip),
        ("GZIP", coding::gzip),
        ("deflate", coding::zlib),
        ("deflate", coding::raw_deflate),
        ("br", coding::brotli),
        ("gzip, gzip", twice),
    ];
    each(codings.map(|coding| (coding.0, coding)), |case, (name, code)| async move {
        assert_read(&World::settled().await, coded(name, code), &case).await;
    })
    .await;
}

/// The field was lost, or a gateway has decoded the content and kept the field.
#[tokio::test]
async fn e03_a_coding_that_is_not_named_or_is_named_wrongly_costs_nothing() {
    let plain: Code = |body| body.to_vec();
    let codings = [
        ("not named", ("", coding::gzip as Code)),
        ("undone", ("gzip", plain)),
        ("none", ("identity", plain)),
    ];
    each(codings, |case, (name, code)| async move {
        assert_read(&World::settled().await, coded(name, code), &case).await;
    })
    .await;
}

#[tokio::test]
async fn e03_a_compressed_refusal_is_read_too() {
    let world = World::builder().sections(SHORT_WAIT).settled().await;
    let refusal = TokenBehaviour::changed(|answer| {
        answer.status = 400;
        answer.body = coding::gzip(br#"{"error":"invalid_grant"}"#).into();
        answer.headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
    });
    let (old, status) = answered(&world, refusal).await;
    assert_eq!(status, 503, "a request was served although the grant is dead");
    assert_eq!(state(&world), "needs_login (revoked)", "the compressed refusal was not read");
    assert_eq!(presented(&world, &old), 1, "a refused refresh token was presented again");
}

// ----- E38 -----

#[tokio::test]
async fn e38_a_token_type_in_words_is_sent_as_bearer() {
    let names = ["User Access Token", "Application", "Application Access Token", "bearer token"];
    each(names.map(|name| (name, name)), |case, name| async move {
        let typed = TokenBehaviour::reshaped(move |mut tokens| {
            tokens["token_type"] = name.into();
            tokens
        });
        assert_read(&World::settled().await, typed, &case).await;
    })
    .await;
}

#[tokio::test]
async fn e38_an_access_token_of_twenty_kilobytes_is_sent() {
    let world = World::settled().await;
    let long = TokenBehaviour::reshaped(|mut tokens| {
        tokens["access_token"] = "a".repeat(20_000).into();
        tokens
    });
    // The API has not issued it.
    world.origin.enqueue(Answer::status(200));
    let (old, status) = answered(&world, long).await;
    assert_eq!(status, 200, "a token of twenty kilobytes was not sent");
    assert_eq!(world.tokens_seen(), ["a".repeat(20_000)], "the API received another token");
    assert_eq!(presented(&world, &old), 1, "a used refresh token was presented again");
}

// ----- E41 -----

/// Answers whose access token can never be used.
fn unusable() -> Vec<(&'static str, TokenBehaviour)> {
    let member = |name: &'static str, value: String| {
        TokenBehaviour::reshaped(move |mut tokens| {
            tokens[name] = value.clone().into();
            tokens
        })
    };
    vec![
        ("mac", member("token_type", "mac".to_owned())),
        ("N_A", member("token_type", "N_A".to_owned())),
        ("dpop", member("token_type", "DPoP".to_owned())),
        ("too long", member("access_token", "a".repeat(70_000))),
        ("no token68", member("access_token", "two words\u{e9}".to_owned())),
    ]
}

#[tokio::test]
async fn e41_the_client_and_the_operator_are_told_what_only_an_operator_can_fix() {
    each(unusable(), |case, answer| async move {
        let world = World::builder().sections(SHORT_WAIT).settled().await;
        let server = &world.authorization_server;
        let old = server.current_refresh_token();
        server.decide_by(move |_| answer.clone());
        world.clock.advance(HOURS);
        let reply = world.get("/").await;
        reply.assert_status(503, format!("{case}: a request was served with an unusable token"));
        assert_says(&format!("{case}: the answer"), reply.text(), ["operator"]);
        assert_never_says(&format!("{case}: the answer"), reply.text(), ["keeps retrying"]);
        at_rest(&world).await;
        let next = described(&world).await["next"].clone();
        assert!(
            next.as_str().is_some_and(|next| !next.is_empty()),
            "{case}: the status does not say what to do: {next}"
        );
        if case == "too long" {
            assert!(
                next.as_str().unwrap().contains("token_bytes"),
                "{case}: the status does not name the key that would help: {next}"
            );
        }
        assert!(keeps_newest(&world), "{case}: the new refresh token is not on the disk");
        assert_eq!(
            presented(&world, &old),
            1,
            "{case}: the refresh token was not presented exactly once"
        );
        assert_eq!(
            server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
    })
    .await;
}
