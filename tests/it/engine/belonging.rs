//! E5, E6 and E22: a token is used only for the grant and the parameters that it was issued for.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, OriginConfig, OriginServer, TokenBehaviour,
    TokenRequest,
};
use serde_json::Value;

use super::super::wire::Reply;
use super::super::world::{HOURS, World, WorldBuilder, assert_all, eventually, get};
use super::operator::{WRITTEN_BACK, assert_says_what_to_do, presented, stays_true, whole_record};

/// How a new configuration comes into force.
#[derive(Clone, Copy, Debug)]
enum By {
    Reload,
    Restart,
}

const EITHER: [By; 2] = [By::Reload, By::Restart];

impl By {
    async fn apply(self, world: &mut World) {
        match self {
            Self::Reload => _ = world.reload().await,
            Self::Restart => world.restart().await,
        }
    }
}

/// Another token endpoint, and another API that takes its tokens.
struct Provider {
    server: AuthorizationServer,
    api: OriginServer,
}

impl Provider {
    async fn start() -> Self {
        let server = AuthorizationServer::start(AuthorizationServerConfig {
            client_id: "other-client".to_owned(),
            ..AuthorizationServerConfig::default()
        })
        .await;
        let tokens = Some(server.tokens());
        let api = OriginServer::start(OriginConfig { tokens, ..OriginConfig::default() }).await;
        Self { server, api }
    }

    async fn get(&self, world: &World) -> Reply {
        get(world.client().get(self.api.url("/"))).await
    }

    /// Asserts that neither the API nor the token endpoint received one of these tokens.
    #[track_caller]
    fn assert_never_saw(&self, tokens: &[String], case: &str) {
        let seen = |text: &str| tokens.iter().any(|token| text.contains(token));
        for request in self.api.requests() {
            let mut values = request.headers.values();
            assert!(
                !values.any(|value| seen(&String::from_utf8_lossy(value.as_bytes()))),
                "{case}: the other provider's API was shown a token in a field"
            );
            assert!(
                !seen(&request.target),
                "{case}: the other provider's API was shown a token in the target"
            );
        }
        for request in self.server.requests() {
            assert!(
                !request.form.iter().any(|(_, value)| seen(value)),
                "{case}: the other provider's token endpoint was shown a token"
            );
        }
    }
}

/// Points the credential to another provider; only its name stays.
fn move_to(world: &mut World, other: &Provider) {
    let (host, token_url) = (world.origin.authority(), world.authorization_server.token_url());
    world.configure(|text| {
        text.replace(&host, &other.api.authority())
            .replace(&token_url, &other.server.token_url())
            .replace("\"test-client\"", "\"other-client\"")
    });
}

fn move_back(world: &mut World, other: &Provider) {
    let (host, token_url) = (world.origin.authority(), world.authorization_server.token_url());
    world.configure(|text| {
        text.replace(&other.api.authority(), &host)
            .replace(&other.server.token_url(), &token_url)
            .replace("\"other-client\"", "\"test-client\"")
    });
}

/// All tokens that this world's provider has issued and that are known by now.
fn tokens_of(world: &World) -> Vec<String> {
    let server = &world.authorization_server;
    let mut tokens = server.previous_refresh_tokens();
    tokens.push(server.current_refresh_token());
    tokens.extend(server.tokens().live_access_tokens());
    tokens
}

fn admin(world: &World) -> std::net::SocketAddr {
    world.app().admin_address().unwrap()
}

// ----- another grant -----

/// E5.
#[tokio::test]
async fn a_credential_moved_to_another_provider_never_sends_it_an_old_token() {
    for by in EITHER {
        for expired in [false, true] {
            let case = format!("{by:?}, expired: {expired}");
            let mut world = World::plain().settled().await;
            let other = Provider::start().await;
            let before = tokens_of(&world);
            move_to(&mut world, &other);
            by.apply(&mut world).await;
            if expired {
                world.clock.advance(HOURS);
            }
            for _ in 0..3 {
                other.get(&world).await.assert_status(503, &case);
            }
            other.assert_never_saw(&before, &case);
            other.server.assert_token_requests(0, format!("{case}: there is nothing to present"));
            world.authorization_server.assert_token_requests(1, &case);
            assert_says_what_to_do(admin(&world), &case).await;

            // Back to the old configuration.
            move_back(&mut world, &other);
            by.apply(&mut world).await;
            world.get("/").await.assert_status(200, &case);
            let requests = if expired { 2 } else { 1 };
            assert_eq!(
                world.authorization_server.token_requests(),
                requests,
                "{case}: the first provider got another number of token requests"
            );
            world.assert_stored(requests as u64);
        }
    }
}

/// E5, healed by the step that the status names: a seed of the other provider.
#[tokio::test]
async fn a_seed_of_the_other_provider_begins_its_grant() {
    for by in EITHER {
        for seed_first in [true, false] {
            let case = format!("{by:?}, seed first: {seed_first}");
            let mut world = World::plain().settled().await;
            let other = Provider::start().await;
            let before = tokens_of(&world);
            move_to(&mut world, &other);
            if !seed_first {
                by.apply(&mut world).await;
                other.get(&world).await.assert_status(503, &case);
            }
            world.write_seed(&other.server.current_refresh_token());
            by.apply(&mut world).await;
            other.get(&world).await.assert_status(200, &case);
            world.clock.advance(HOURS);
            other.get(&world).await.assert_status(200, &case);
            other.assert_never_saw(&before, &case);
            other.server.assert_token_requests(2, &case);
            other.server.assert_no_reuse();
            let record = world.record();
            assert_eq!(
                record["refresh_token"],
                other.server.current_refresh_token(),
                "{case}: the newest refresh token is not in the record"
            );
            world.authorization_server.assert_token_requests(1, &case);
        }
    }
}

/// A wrong seed of the other provider must not make bearerd use the first one's token.
#[tokio::test]
async fn a_seed_that_the_other_provider_refuses_does_not_fall_back_to_the_first_ones_token() {
    for by in EITHER {
        let case = format!("{by:?}");
        let mut world = World::plain().settled().await;
        let other = Provider::start().await;
        let before = tokens_of(&world);
        move_to(&mut world, &other);
        world.write_seed("no-such-token");
        by.apply(&mut world).await;
        for _ in 0..3 {
            other.get(&world).await.assert_status(503, &case);
            world.clock.advance(HOURS);
        }
        other.assert_never_saw(&before, &case);
        assert!(
            other.server.token_requests() <= 1,
            "{case}: the refused seed was presented more than once"
        );
        other.api.assert_requests(0, &case);
    }
}

/// Changes each part of a grant alone. The API stays the same and would accept the token.
#[tokio::test]
async fn a_token_is_not_used_after_any_part_of_its_grant_has_changed() {
    for by in EITHER {
        for part in ["token_url", "client_id", "dpop"] {
            let case = format!("{part}, {by:?}");
            let mut world = World::plain().settled().await;
            let url = world.authorization_server.token_url();
            let (from, to) = match part {
                "token_url" => (url.clone(), url.replace("localhost", "127.0.0.1")),
                "client_id" => ("\"test-client\"".to_owned(), "\"other-client\"".to_owned()),
                _ => ("client_id =".to_owned(), "dpop = true\nclient_id =".to_owned()),
            };
            world.configure(|text| text.replacen(&from, &to, 1));
            by.apply(&mut world).await;
            world.get("/").await.assert_status(503, &case);
            world.origin.assert_requests(0, &case);
            world.authorization_server.assert_token_requests(1, &case);
            assert_says_what_to_do(admin(&world), &case).await;
            world.configure(|text| text.replacen(&to, &from, 1));
            by.apply(&mut world).await;
            world.get("/").await.assert_status(200, &case);
            world.authorization_server.assert_token_requests(1, &case);
        }
    }
}

/// These keys are not part of a grant.
#[tokio::test]
async fn a_token_stays_in_use_if_anything_else_changes() {
    for by in EITHER {
        for lines in [
            "margin = \"30s\"\n",
            "timeout = \"20s\"\n",
            "lifetime = \"30m\"\n",
            "keepalive = \"30d\"\n",
            "inject = { X-Token = \"${access_token}\", Authorization = \"Bearer ${access_token}\" }\n",
            "on_existing = \"keep\"\n",
            "client_auth = \"basic\"\n",
            "rotation = \"require\"\n",
        ] {
            let case = format!("{lines}{by:?}");
            let mut world = World::plain().settled().await;
            world.configure(|text| text.replace("client_id =", &format!("{lines}client_id =")));
            by.apply(&mut world).await;
            world.get("/").await.assert_status(200, &case);
            world.authorization_server.assert_token_requests(1, &case);
        }
        // A rotated client secret, and one more host.
        let mut world = World::plain().settled().await;
        world.write_client_secret("another-secret");
        let host = format!("[\"{}\"", world.origin.authority());
        world.configure(|text| text.replace(&host, &format!("{host}, \"api.test\"")));
        by.apply(&mut world).await;
        world.get("/").await.assert_status(200, format!("{by:?}"));
        world.authorization_server.assert_token_requests(1, format!("{by:?}"));
    }
}

#[tokio::test]
async fn another_grant_type_asks_for_a_token_of_its_own_and_presents_nothing() {
    for by in EITHER {
        let case = format!("{by:?}");
        let mut world = World::plain().settled().await;
        world.configure(|text| {
            text.replace("refresh_token = { file = \"seed\" }", "grant = \"client_credentials\"")
        });
        let old = world.authorization_server.tokens().newest_access_token().unwrap();
        by.apply(&mut world).await;
        world.get("/").await.assert_status(200, &case);
        let server = &world.authorization_server;
        let requests = server.requests();
        assert_eq!(requests.len(), 2, "{case}: the new grant has to cost one token request");
        assert_eq!(
            requests[1].param("grant_type"),
            Some("client_credentials"),
            "{case}: another grant type was requested"
        );
        assert_eq!(
            requests[1].param("refresh_token"),
            None,
            "{case}: the refresh token of the old grant was presented to the new one"
        );
        assert!(
            !world.tokens_seen().contains(&old),
            "{case}: the access token of the old grant was sent"
        );
    }
}

#[tokio::test]
async fn another_users_token_is_not_used() {
    let password = "grant = \"password\"\nusername = \"svc\"\npassword = { file = \"secret\" }";
    for by in EITHER {
        let case = format!("{by:?}");
        let mut world = World::plain()
            .without_seed()
            .credential(password)
            .authorization_server(|config| {
                config.resource_owner = Some(("svc".to_owned(), config.client_secret.clone()));
            })
            .settled()
            .await;
        let refresh = world.authorization_server.current_refresh_token();
        world.configure(|text| text.replace("\"svc\"", "\"somebody-else\""));
        by.apply(&mut world).await;
        world
            .get("/")
            .await
            .assert_status(503, format!("{case}: the server does not know that user"));
        world.origin.assert_requests(0, &case);
        let server = &world.authorization_server;
        assert_eq!(presented(server, &refresh), 0, "{case}: the refresh token was presented");
        assert_eq!(
            server.requests()[1].param("username"),
            Some("somebody-else"),
            "{case}: the token was requested for another user"
        );
    }
}

/// A refresh is under way while the provider changes: its answer belongs to the old configuration.
#[tokio::test]
async fn an_answer_that_comes_after_the_move_is_kept_and_not_shown_to_the_other_provider() {
    let mut world = World::plain().settled().await;
    let other = Provider::start().await;
    world.clock.advance(HOURS);
    let request = world.begin_refresh().await;
    move_to(&mut world, &other);
    world.reload().await;
    let get = world.client().get(other.api.url("/")).send();
    let there = tokio::spawn(get);
    world.authorization_server.release_all();
    let _either = request.await.unwrap();
    assert_eq!(
        there.await.unwrap().unwrap().status(),
        503,
        "a request that waited during the move was served with the first provider's token"
    );
    other.get(&world).await.assert_no_token();
    other.assert_never_saw(&tokens_of(&world), "moved during a refresh");
    let newest = world.authorization_server.current_refresh_token();
    let stored = || whole_record(&world).is_some_and(|it| it["refresh_token"] == newest.as_str());
    eventually("the answer is stored", stored).await;
    move_back(&mut world, &other);
    world.reload().await;
    world.get("/").await.assert_ok();
    world.authorization_server.assert_token_requests(
        2,
        "the answer that came after the move was lost, so the first grant was refreshed again",
    );
    world.assert_stored(2);
}

/// During a roll-out: one process has the new configuration and its seed, the other still the old one.
#[tokio::test]
async fn two_processes_with_different_providers_do_not_use_each_others_tokens() {
    let mut world = World::plain().settled().await;
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_ok();
    let other = Provider::start().await;
    let first = tokens_of(&world);
    move_to(&mut world, &other);
    world.write_seed(&other.server.current_refresh_token());
    world.reload().await;
    other.get(&world).await.assert_ok();
    let newest = other.server.current_refresh_token();
    let is_kept = || whole_record(&world).is_some_and(|it| it["refresh_token"] == newest.as_str());
    stays_true("the new grant in the record", WRITTEN_BACK, is_kept).await;
    world.origin.clear();
    for _ in 0..2 {
        // The sibling is served until its own token expires.
        let status = sibling.get(&world).await.status;
        assert!(matches!(status, 200 | 503), "{status}: the sibling answered with another status");
        world.clock.advance(HOURS);
    }
    other.get(&world).await.assert_ok();
    other.assert_never_saw(&first, "two processes");
    let mut others = other.server.previous_refresh_tokens();
    others.push(other.server.current_refresh_token());
    others.extend(other.server.tokens().live_access_tokens());
    for token in &others {
        assert_eq!(
            presented(&world.authorization_server, token),
            0,
            "the first provider was shown a token of the other one"
        );
        assert!(
            !world.tokens_seen().contains(token),
            "the first provider's API was shown a token of the other provider"
        );
    }
    other.server.assert_no_reuse();
    assert_eq!(
        world.record()["refresh_token"],
        other.server.current_refresh_token(),
        "the sibling with the old configuration has overwritten the new grant"
    );
}

// ----- another request -----

/// The old line, the new line, and the parameter that shows the change.
const WORDS: [(&str, &str, (&str, &str)); 5] = [
    ("scope = \"a\"", "scope = \"a b\"", ("scope", "a b")),
    ("scope = \"a\"", "", ("scope", "")),
    ("params = { audience = \"one\" }", "params = { audience = \"two\" }", ("audience", "two")),
    (
        "params = { resource = [\"https://one.test/\"] }",
        "params = { resource = [\"https://two.test/\"] }",
        ("resource", "https://two.test/"),
    ),
    ("refresh_params = { tenant = \"1\" }", "refresh_params = { tenant = \"2\" }", ("tenant", "2")),
];

/// E6.
#[tokio::test]
async fn after_a_change_of_parameters_the_next_request_has_a_token_requested_with_them() {
    for by in EITHER {
        for (old, new, (name, value)) in WORDS {
            let case = format!("{new:?}, {by:?}");
            let mut world = World::plain().credential(old).settled().await;
            let refresh = world.authorization_server.current_refresh_token();
            world.configure(|text| text.replace(old, new));
            by.apply(&mut world).await;
            assert_all(&world.get_many(20).await, 200);
            let server = &world.authorization_server;
            let requests = server.requests();
            assert_eq!(requests.len(), 2, "{case}: the change has to cost one token request");
            assert_eq!(
                requests[1].param("refresh_token"),
                Some(&*refresh),
                "{case}: the refresh token was not used on"
            );
            assert_eq!(
                requests[1].param(name).unwrap_or_default(),
                value,
                "{case}: the token was not requested with the new parameter"
            );
            let newest = server.tokens().newest_access_token().unwrap();
            assert_eq!(
                world.tokens_seen(),
                vec![newest; 20],
                "{case}: the API was sent another token"
            );
            world.assert_stored(2);
        }
    }
}

/// A refused scope yields no token for the new parameters; the token for the old ones is kept.
#[tokio::test]
async fn parameters_that_the_server_refuses_can_be_reverted() {
    for by in EITHER {
        let case = format!("{by:?}");
        let mut world = World::plain().credential("scope = \"a\"").settled().await;
        let server = &world.authorization_server;
        server.decide_by(|request: &TokenRequest| match request.param("scope") {
            Some("a") => TokenBehaviour::Normal,
            _ => TokenBehaviour::error(400, "invalid_scope", None),
        });
        world.configure(|text| text.replace("scope = \"a\"", "scope = \"nonsense\""));
        by.apply(&mut world).await;
        world.get("/").await.assert_status(503, &case);
        world.origin.assert_requests(0, &case);
        assert_says_what_to_do(admin(&world), &case).await;
        world.configure(|text| text.replace("scope = \"nonsense\"", "scope = \"a\""));
        by.apply(&mut world).await;
        world.get("/").await.assert_status(200, &case);
        let server = &world.authorization_server;
        assert!(
            server.token_requests() <= 3,
            "{case}: the refused scope has cost too many token requests"
        );
        assert_eq!(
            server.reuse_count(),
            0,
            "{case}: a refresh token was presented after it had been replaced"
        );
        assert_eq!(
            world.record()["refresh_token"],
            server.current_refresh_token(),
            "{case}: the newest refresh token is not in the record"
        );
    }
}

/// During a roll-out two processes share a refresh token and need different access tokens.
#[tokio::test]
async fn two_processes_with_different_parameters_do_not_alternate_refreshes() {
    let mut world = World::plain().credential("scope = \"a\"").settled().await;
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_ok();
    world.configure(|text| text.replace("scope = \"a\"", "scope = \"b\""));
    world.reload().await;
    for _ in 0..10 {
        world.get("/").await.assert_ok();
        sibling.get(&world).await.assert_ok();
    }
    let quiet = || world.authorization_server.token_requests() <= 3;
    stays_true("a token request for each", WRITTEN_BACK, quiet).await;
    world.get("/").await.assert_ok();
    sibling.get(&world).await.assert_ok();
    let server = &world.authorization_server;
    assert!(server.token_requests() <= 3, "{} token requests", server.token_requests());
    server.assert_no_reuse();
    world.assert_newest_refresh_token_is_stored();
}

/// The parameters change while a token for the old ones is being requested.
#[tokio::test]
async fn a_token_requested_with_the_old_parameters_is_not_used_for_the_new_ones() {
    let mut world = World::plain().credential("scope = \"a\"").settled().await;
    world.clock.advance(HOURS);
    let before = world.begin_refresh().await;
    world.configure(|text| text.replace("scope = \"a\"", "scope = \"b\""));
    world.reload().await;
    let after = world.spawn_get();
    world.authorization_server.release_all();
    before.await.unwrap().assert_ok();
    after.await.unwrap().assert_ok();
    let server = &world.authorization_server;
    let requests = server.requests();
    let scopes: Vec<_> = requests.iter().map(|it| it.param("scope").unwrap()).collect();
    assert_eq!(scopes, ["a", "a", "b"], "each request got no token for its own scope");
    let newest = server.tokens().newest_access_token().unwrap();
    world.get("/").await.assert_ok();
    assert_eq!(
        world.tokens_seen().last(),
        Some(&newest),
        "the request after the change was sent with the token for the old scope"
    );
    world.assert_stored(3);
}

// ----- bound tokens -----

fn bound() -> WorldBuilder {
    World::plain().dpop()
}

/// The key in the proof of a token request.
fn proven_by(request: &TokenRequest) -> Option<Value> {
    let proof = request.headers.get("dpop")?.to_str().unwrap();
    let head = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    Some(serde_json::from_slice::<Value>(&head).unwrap()["jwk"].clone())
}

/// E22: DPoP is switched off by mistake and on again.
#[tokio::test]
async fn binding_switched_off_and_on_again_costs_no_grant() {
    for by in EITHER {
        for expired in [false, true] {
            let case = format!("{by:?}, expired: {expired}");
            let mut world = bound().settled().await;
            world.configure(|text| text.replace("dpop = true", "dpop = false"));
            by.apply(&mut world).await;
            if expired {
                world.clock.advance(HOURS);
            }
            world.get("/").await.assert_status(503, &case);
            let server = &world.authorization_server;
            server.assert_token_requests(1, format!("{case}: presented without its key"));
            world.origin.assert_requests(0, format!("{case}: a bound token without a proof"));
            world.configure(|text| text.replace("dpop = false", "dpop = true"));
            by.apply(&mut world).await;
            world.get("/").await.assert_status(200, &case);
            world.clock.advance(HOURS);
            world.get("/").await.assert_status(200, &case);
            let requests = world.authorization_server.requests();
            assert_eq!(
                requests.len(),
                if expired { 3 } else { 2 },
                "{case}: each expiry and nothing else has to cost a token request"
            );
            let keys: Vec<_> = requests.iter().map(proven_by).collect();
            assert!(keys[0].is_some(), "{case}: the first token request has no proof");
            assert!(keys.iter().all(|key| *key == keys[0]), "{case}: another key");
            world.assert_stored(requests.len() as u64);
        }
    }
}

/// The key is kept as long as the refresh token that is bound to it.
#[tokio::test]
async fn a_bound_refresh_token_is_presented_with_one_key_through_damage_and_restarts() {
    let mut world = bound().settled().await;
    for round in 0..3 {
        match round {
            0 => world.restart().await,
            1 => {
                std::fs::remove_file(world.state().join("api.json")).unwrap();
                let back = || whole_record(&world).is_some();
                eventually("it is written back", back).await;
                world.restart().await;
            }
            _ => _ = world.reload().await,
        }
        world.clock.advance(HOURS);
        world.get("/").await.assert_status(200, round);
    }
    let keys: Vec<_> = world.authorization_server.requests().iter().map(proven_by).collect();
    assert_eq!(keys.len(), 4, "each round has to cost one refresh");
    assert!(
        keys[0].is_some() && keys.iter().all(|key| *key == keys[0]),
        "a refresh token was presented with another key than the one that it is bound to"
    );
}

/// Two processes, one of them without the binding.
#[tokio::test]
async fn a_process_without_the_binding_does_not_spoil_the_grant_of_one_with_it() {
    let mut world = bound().settled().await;
    world.configure(|text| text.replace("dpop = true", "dpop = false"));
    let sibling = world.sibling().await;
    sibling.get(&world).await.assert_no_token();
    world.clock.advance(HOURS);
    sibling.get(&world).await.assert_no_token();
    world.origin.assert_requests(0, "a bound token was sent to the API without a proof");
    world.get("/").await.assert_ok();
    let two_seconds = Duration::from_secs(2);
    let server = &world.authorization_server;
    stays_true("the grant", two_seconds, || server.token_requests() == 2).await;
    let keys: Vec<_> = server.requests().iter().map(proven_by).collect();
    assert_eq!(keys[0], keys[1], "the process without the binding has replaced the key");
    world.assert_stored(2);
}
