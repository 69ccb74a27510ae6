//! What a credential's keys change: seen at the API and at the token endpoint.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use bearerd_test_support::{Answer, ReceivedRequest};
use serde_json::json;

use super::world::World;
use crate::texts::assert_says;

/// The API answers 200 to everything: its tokens do not come in the usual field.
fn accepting(world: &World, requests: usize) {
    for _ in 0..requests {
        world.origin.enqueue(Answer::status(200));
    }
}

fn last(world: &World) -> ReceivedRequest {
    world.origin.requests().pop().unwrap()
}

fn newest(world: &World) -> String {
    world.authorization_server.tokens().newest_access_token().unwrap()
}

/// One request with these bytes as its path, which a URL library would tidy up.
async fn get_raw(world: &World, path: &str) -> String {
    let mut proxy = tokio::net::TcpStream::connect(world.proxy_address()).await.unwrap();
    let host = world.origin.authority();
    let request =
        format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    proxy.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A second credential for the same host, with the client's own authority.
fn second_credential(keys: &str) -> String {
    format!(
        "[credential.second]\nhosts = [\"@host@\"]\ntoken_url = \"@token_url@\"\n\
         client_id = \"test-client\"\nclient_secret = {{ file = \"secret\" }}\n\
         grant = \"client_credentials\"\n{keys}"
    )
}

#[tokio::test]
async fn the_token_travels_in_the_fields_that_inject_names_and_in_no_other() {
    let world = World::builder()
        .credential(
            r#"vars = { key = { file = "secret" } }
inject = { "X-Access-Token" = "${access_token}", "x-api-key" = "${client_id}/${key}", "X-Id" = "${uuid}" }"#,
        )
        .start()
        .await;
    accepting(&world, 2);
    for _ in 0..2 {
        let request = world.client().get(world.https("/")).header("x-access-token", "theirs");
        let request = request.header("x_api_key", "theirs").header("Authorization", "Basic eDp5");
        assert_eq!(
            request.send().await.unwrap().status(),
            200,
            "a request with fields of its own was not served"
        );
    }
    let [first, second] = world.origin.requests().try_into().unwrap();
    assert_eq!(
        first.header("x-access-token"),
        Some(newest(&world).as_str()),
        "the token is not in the field that `inject` names"
    );
    assert_eq!(
        first.headers.get_all("x-access-token").iter().count(),
        1,
        "the client's own field was kept beside the token"
    );
    assert_eq!(
        first.header("x-api-key"),
        Some("test-client/test-client-secret"),
        "the field with client_id and secret has another value"
    );
    assert_eq!(
        first.header("x_api_key"),
        None,
        "the client's own spelling of the field reached the API"
    );
    assert_eq!(first.header("authorization"), Some("Basic eDp5"), "it is not named");
    assert_ne!(first.header("x-id"), second.header("x-id"), "two requests have the same UUID");
}

#[tokio::test]
async fn a_request_that_is_sent_again_carries_the_new_token_in_field_and_query() {
    let world = World::builder()
        .credential(
            r#"inject = { "X-Token" = "Token ${access_token}" }
query = { at = "${access_token}" }"#,
        )
        .start()
        .await;
    accepting(&world, 1);
    world.get("/").await;
    // Now the token is no longer brand-new, so that its rejection counts at once.
    world.clock.advance(Duration::from_secs(400));
    world.origin.clear();
    world.origin.enqueue(Answer::RejectToken);
    accepting(&world, 1);
    world.client().get(world.http("/x?a=%41&at=theirs&b")).send().await.unwrap();
    let requests = world.origin.requests();
    let tokens: Vec<_> = requests
        .iter()
        .map(|request| {
            let token = request.header("x-token").unwrap().strip_prefix("Token ").unwrap();
            assert_eq!(
                request.target,
                format!("/x?a=%41&b&at={token}"),
                "the token in the query is not the one in the field"
            );
            token.to_owned()
        })
        .collect();
    assert_eq!(tokens.len(), 2, "the rejected request was not sent again once");
    assert_ne!(tokens.first(), tokens.last(), "the request was sent again with the rejected token");
    assert_eq!(
        tokens.last(),
        Some(&newest(&world)),
        "the request was sent again with another token than the new one"
    );
}

#[tokio::test]
async fn on_existing_replaces_keeps_or_rejects_the_applications_own_token() {
    let world = World::new().await;
    let send = |world: &World| {
        let request = world.client().get(world.http("/")).header("authorization", "Bearer theirs");
        request.header("Author_ization", "x").header("authorization", "Bearer twice").send()
    };
    assert_eq!(
        send(&world).await.unwrap().status(),
        200,
        "a request with a token of its own was not served"
    );
    assert_eq!(
        last(&world).bearer(),
        Some(newest(&world).as_str()),
        "the client's own token was not replaced"
    );
    assert_eq!(
        last(&world).header("author_ization"),
        None,
        "the client's own spelling of Authorization reached the API"
    );

    let world = World::builder().credential("on_existing = \"keep\"").start().await;
    world.origin.enqueue(Answer::RejectToken);
    let request = world.client().get(world.http("/")).header("authorization", "Bearer theirs");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 401, "it is not retried");
    assert_eq!(last(&world).bearer(), Some("theirs"), "the client's own token was not kept");
    assert_eq!(
        (world.origin.requests().len(), world.authorization_server.token_requests()),
        (1, 0),
        "(requests, token requests): the rejection of the client's own token had consequences"
    );
    world.get("/").await.assert_status(200, "without one of its own it gets a token");

    let world = World::builder()
        .credential("on_existing = \"reject\"\nquery = { key = \"${access_token}\" }")
        .start()
        .await;
    let response = send(&world).await.unwrap();
    assert_eq!(response.status(), 403, "a request with a token of its own was not rejected");
    assert!(
        response.headers()["proxy-status"].to_str().unwrap().contains("http_request_denied"),
        "Proxy-Status does not say why the request was rejected"
    );
    world.get("/?%6bey=theirs").await.assert_status(
        403,
        "a parameter of the client's own was not recognised in another spelling",
    );
    world.origin.assert_requests(0, "a rejected request reached the API");
    world.get("/?keys=1").await.assert_ok();
}

#[tokio::test]
async fn the_most_specific_credential_wins_and_the_rest_of_the_host_gets_no_token() {
    let world = World::builder()
        .credential("paths = [\"/v2/\"]")
        .sections(&second_credential("paths = [\"/v2/admin\"]\nmethods = [\"GET\"]"))
        .start()
        .await;
    for path in ["/v2/a", "/v2/admin", "/v2/admin/x", "/v2/administrator", "/v2", "/v1/x", "//v2/"]
    {
        accepting(&world, 1);
        world.get(path).await.assert_status(200, path);
    }
    accepting(&world, 1);
    world.client().post(world.http("/v2/admin")).send().await.unwrap();
    let bearer = |request: &ReceivedRequest| request.bearer().map(str::to_owned);
    let tokens: Vec<_> = world.origin.requests().iter().map(bearer).collect();
    let [api, admin, below, other, exact, v1, slashes, post] = tokens.try_into().unwrap();
    assert!(
        api.is_some() && admin.is_some() && api != admin,
        "the two credentials do not have one token each"
    );
    assert_eq!(
        (&below, &other, &post),
        (&admin, &api, &api),
        "(below the path, beside it, another method): a request has the token of the other credential"
    );
    assert_eq!(
        (exact, v1, slashes),
        (None, None, None),
        "a token was sent for a path without a credential"
    );
    world
        .authorization_server
        .assert_token_requests(2, "each credential has to make one token request");
}

#[tokio::test]
async fn of_two_credentials_for_every_path_the_one_that_lists_the_method_wins() {
    let get_only = "methods = [\"GET\"]";
    // Whichever of them it is, and so whichever comes first in the file.
    for (api, second, grants) in [
        ("", get_only, ["client_credentials", "refresh_token"]),
        (get_only, "", ["refresh_token", "client_credentials"]),
    ] {
        let sections = second_credential(second);
        let world = World::builder().credential(api).sections(&sections).start().await;
        let (client, url) = (world.client(), world.http("/"));
        for request in [client.get(&url), client.post(&url), client.get(&url), client.post(&url)] {
            accepting(&world, 1);
            assert_eq!(request.send().await.unwrap().status(), 200, "a request was not served");
        }
        let requests = world.authorization_server.requests();
        let asked: Vec<_> = requests.iter().map(|request| request.param("grant_type")).collect();
        assert_eq!(asked, grants.map(Some), "the methods did not choose the credential");
        let [get, post, get_again, post_again] = world.tokens_seen().try_into().unwrap();
        assert_ne!(get, post, "GET and POST have the same token");
        assert_eq!(
            (get, post),
            (get_again, post_again),
            "a second request has another token than the first"
        );
    }
}

#[tokio::test]
async fn an_ambiguous_path_is_refused_where_paths_decide() {
    let world = World::builder().credential("paths = [\"/v2/\"]").start().await;
    for path in [
        "/v2%2f..%2fadmin",
        "/%76%32/x",
        "/v2/../admin",
        "/v2/x/%2e%2e/%2E%2e/admin",
        "/v2/x/..\\..\\admin",
        "/v2/..;a/x",
    ] {
        let answer = get_raw(&world, path).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{path}: the answer has another status: {answer}"
        );
        assert_says("the answer", &answer, ["two ways"]);
    }
    world.origin.assert_requests(0, "an ambiguous path reached the API");
    world.get("/v2/group%2Fproject/a%20b").await.assert_ok();
    assert_eq!(
        last(&world).target,
        "/v2/group%2Fproject/a%20b",
        "a path with harmless escapes was changed"
    );
    let world = World::new().await;
    let answer = get_raw(&world, "/a/../%2e%2e/b").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "no path decides: the bytes go as they are");
    assert_eq!(
        last(&world).target,
        "/a/../%2e%2e/b",
        "the path was changed although no path decides"
    );
}

#[tokio::test]
async fn unmatched_requests_to_a_host_with_credentials_are_denied_if_so_configured() {
    let deny = "paths = [\"/v2/\"]\nmethods = [\"GET\"]";
    let mut world = World::builder().credential(deny).start().await;
    assert_eq!(
        world.client().get(world.https("/v1")).send().await.unwrap().status(),
        401,
        "the path without a credential was not forwarded without a token"
    );
    assert_eq!(last(&world).header("authorization"), None, "over TLS, without a token");
    world.stop().await;
    world.configure(|text| text.replacen("[proxy]", "[proxy]\nunmatched = \"deny\"", 1));
    world.start_proxy().await;
    for url in [world.http("/v1"), world.https("/v1")] {
        assert_eq!(
            world.client().get(url).send().await.unwrap().status(),
            403,
            "a path without a credential was not denied"
        );
    }
    assert_eq!(
        world.client().post(world.https("/v2/")).send().await.unwrap().status(),
        403,
        "a method without a credential was not denied"
    );
    assert_eq!(
        world.client().get(world.https("/v2/")).send().await.unwrap().status(),
        200,
        "a request with a credential was denied"
    );
}

#[tokio::test]
async fn refresh_on_decides_what_counts_as_a_rejection() {
    let rules = r#"refresh_on = [{ status = 403, body = "expired" }, { status = 400, json = "error.code", is = 190 }]"#;
    for (answer, token_requests, status) in [
        (Answer::text(403, "token expired"), 2, 200),
        (Answer::text(403, "forbidden"), 1, 403),
        (Answer::text(403, "expired").with_header("content-encoding", "gzip"), 1, 403),
        (
            Answer::text(403, "expired")
                .with_header("www-authenticate", "Bearer error=\"insufficient_scope\""),
            1,
            403,
        ),
        (Answer::json(400, json!({"error": {"code": 190}})), 2, 200),
        (Answer::json(400, json!({"error": {"code": 191}})), 1, 400),
        (Answer::text(403, &format!("expired{}", " ".repeat(70_000))), 1, 403),
        (Answer::RejectToken, 1, 401),
    ] {
        let world = World::builder().credential(rules).start().await;
        world.get("/").await.assert_ok();
        world.clock.advance(Duration::from_secs(400));
        world.origin.enqueue(answer.clone());
        let reply = world.get("/").await;
        reply.assert_status(status, format!("{answer:?}"));
        assert_eq!(
            world.authorization_server.token_requests(),
            token_requests,
            "{answer:?}: the answer had another consequence than `refresh_on` says"
        );
        if let (Answer::Respond { body, .. }, true) = (&answer, status != 200) {
            assert_eq!(reply.content, &body[..], "the content was changed on its way");
        }
    }
}

#[tokio::test]
async fn after_other_statuses_than_401_only_idempotent_requests_are_sent_again() {
    let world = World::builder().credential("refresh_on = [401, 403]").start().await;
    world.get("/").await.assert_ok();
    world.clock.advance(Duration::from_secs(400));
    world.origin.enqueue(Answer::text(403, "no"));
    let post = world.client().post(world.http("/")).body("x").send().await.unwrap();
    assert_eq!(
        (post.status().as_u16(), post.text().await.unwrap()),
        (403, "no".to_owned()),
        "a POST that was refused with 403 was sent again"
    );
    world.authorization_server.wait_for_answered(2).await;
    world.origin.assert_requests(2, "the post was not sent again");
    world.clock.advance(Duration::from_secs(400));
    world.origin.enqueue(Answer::status(403));
    let put = world.client().put(world.http("/")).body("x").send().await.unwrap();
    assert_eq!(put.status(), 200, "a PUT that was refused with 403 was not sent again");
    assert_eq!(last(&world).body.as_ref(), b"x", "the PUT was sent again with other content");
}

#[tokio::test]
async fn the_token_endpoint_gets_the_operators_parameters_and_fields() {
    let world = World::builder()
        .credential(
            r#"vars = { tenant = "acme", key = { file = "secret" } }
params = { audience = "https://${tenant}/?a&b", resource = ["a", "b"], client_key = "${client_id}", client_id = "" }
refresh_params = { request = "x" }
headers = { "X-Correlation-Id" = "${uuid}", "x-key" = "${key}" }
client_auth = "basic""#,
        )
        .start()
        .await;
    world.get("/").await.assert_ok();
    let request = world.authorization_server.requests().pop().unwrap();
    let all = |name: &str| {
        let named = request.form.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(all("audience"), ["https://acme/?a&b"], "`audience` was not sent as configured");
    assert_eq!(all("resource"), ["a", "b"], "`resource` was not sent twice as configured");
    assert_eq!(all("client_key"), ["test-client"], "the variable in `params` was not replaced");
    assert_eq!(all("grant_type"), ["refresh_token"], "`grant_type` was lost or sent twice");
    assert_eq!(all("request"), ["x"], "the parameter for refreshes was not sent");
    assert!(all("client_id").is_empty(), "a parameter that the operator left out was sent");
    assert_eq!(request.headers["x-key"], "test-client-secret", "the configured field was not sent");
    assert_eq!(
        request.headers["x-correlation-id"].len(),
        36,
        "the UUID in the configured field is none"
    );
}

#[tokio::test]
async fn refresh_parameters_are_for_refresh_tokens_only_and_a_form_parameter_can_be_left_out() {
    let world = World::builder()
        .without_seed()
        .credential("grant = \"client_credentials\"\nparams = { audience = \"a\" }\nrefresh_params = { request = \"x\" }")
        .start()
        .await;
    world.get("/").await.assert_ok();
    let request = world.authorization_server.requests().pop().unwrap();
    assert_eq!(
        (request.param("audience"), request.param("request")),
        (Some("a"), None),
        "(audience, request): `refresh_params` were sent without a refresh token"
    );
    let world = World::builder().credential("params = { client_id = \"\" }").start().await;
    world.get("/").await;
    let request = world.authorization_server.requests().pop().unwrap();
    assert_eq!(request.param("client_id"), None, "a parameter that the operator left out was sent");
    assert!(request.param("client_secret").is_some(), "the client secret went with the client id");
}

#[tokio::test]
async fn on_failure_decides_whether_a_request_goes_on_without_a_token() {
    for (key, status, sent) in [("", 503, 0), ("on_failure = \"forward\"", 200, 1)] {
        let world = World::builder().without_seed().credential(key).start().await;
        accepting(&world, 1);
        let request = world.client().get(world.https("/")).header("x-own", "1");
        assert_eq!(
            request.send().await.unwrap().status(),
            status,
            "{key}: the request was answered with another status"
        );
        let seen = world.origin.requests();
        assert_eq!(seen.len(), sent, "{key}: the request was not sent on as configured");
        assert!(
            seen.iter().all(|request| request.header("authorization").is_none()),
            "a token was sent although there is none"
        );
    }
}

#[tokio::test]
async fn an_applications_own_token_request_gets_no_token_and_a_stub_answers_it_if_so_configured() {
    for (key, from_origin) in [("", true), ("stub_token_endpoint = true", false)] {
        // The token endpoint lies on the host of the API, as the founding providers have it.
        let mut world = World::builder().credential(key).start().await;
        let path = "/api/oauth2/token";
        let (elsewhere, here) = (world.authorization_server.token_url(), world.https(path));
        world.configure(|text| text.replace(&elsewhere, &here));
        world.restart().await;
        world.origin.enqueue(Answer::status(200));
        let asked = world.client().post(world.https(path)).body("grant_type=password").send();
        let answer = asked.await.unwrap();
        assert_eq!(answer.status(), 200, "{key}: the application's token request was not answered");
        let seen = world.origin.requests();
        assert_eq!(
            seen.len(),
            usize::from(from_origin),
            "{key}: the request for a token was not sent on as configured"
        );
        assert!(
            seen.iter().all(|request| request.header("authorization").is_none()),
            "a token was sent to the token endpoint"
        );
        if !from_origin {
            assert_eq!(
                answer.headers()["cache-control"],
                "no-store",
                "the answer of the stub may be cached"
            );
            let text = answer.text().await.unwrap();
            let tokens: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                tokens["access_token"], "bearerd-stub",
                "the stub answers with another token"
            );
        }
    }
}
