//! One credential, many tokens: a club in the path or in a field says which.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bearerd::token::Condition;
use serde_json::Value;

use super::wire::{DEADLINE, Reply, within};
use super::world::{World, WorldBuilder, get};
use crate::texts::{assert_never_says, assert_says};

/// Longer than a token lives.
const HOURS: Duration = Duration::from_secs(2 * 3600);

const BY_PATH: &str = r#"
paths = ["/${club}/"]
vars = { club = ["paris", "lyon"] }
params = { club = "${club}" }
refresh_token = { file = "seeds/${club}" }
"#;

const BY_FIELD: &str = r#"
vars = { club = "${field.X-Club}" }
params = { club = "${club}" }
refresh_token = { file = "seeds/${club}" }
"#;

/// An authorization server that keeps the clubs apart, and a credential with these lines.
fn servers(lines: &str) -> WorldBuilder {
    World::builder()
        .without_seed()
        .authorization_server(|config| config.realm_parameter = Some("club".into()))
        .credential(lines)
}

async fn start(lines: &str, clubs: &[&str]) -> World {
    let mut world = servers(lines).start_servers().await;
    for club in clubs {
        write_seed(&world, club);
    }
    world.start_proxy().await;
    world
}

fn write_seed(world: &World, club: &str) {
    let seed = world.authorization_server.current_refresh_token_of(club);
    write_secret(world, &format!("seeds/{club}"), &seed);
}

fn write_secret(world: &World, path: &str, value: &str) {
    let path = world.dir.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, value).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// One `GET` with `X-Club`.
async fn get_for(world: &World, club: &str) -> Reply {
    get(world.client().get(world.http("/members")).header("X-Club", club)).await
}

/// The files of the store, without the locks.
fn records(world: &World) -> Vec<String> {
    stored(world).into_iter().filter(|name| name.ends_with(".json")).collect()
}

fn stored(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.state()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "admin.token");
    names.sort();
    names
}

fn record(world: &World, name: &str) -> Value {
    let text = std::fs::read(world.state().join(name)).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["record"].clone()
}

fn titles(world: &World) -> Vec<String> {
    let credentials = world.app().credentials();
    let statuses = credentials.all()[0].statuses();
    statuses.iter().map(|status| status.name.to_string()).collect()
}

/// The clubs of the token requests in the order of their arrival.
fn asked_for(world: &World) -> Vec<String> {
    let requests = world.authorization_server.requests();
    requests.iter().map(|request| request.param("club").unwrap().to_owned()).collect()
}

/// Asserts the clubs of the token requests, in the order of their arrival.
#[track_caller]
fn assert_asked_for(world: &World, clubs: &[&str]) {
    assert_eq!(asked_for(world), clubs, "the token requests were for other clubs");
}

#[tokio::test]
async fn two_clubs_have_two_tokens_two_records_and_a_refresh_each() {
    let world = start(BY_PATH, &["paris", "lyon"]).await;
    let server = &world.authorization_server;
    let seeds = ["paris", "lyon"].map(|club| server.current_refresh_token_of(club));
    for path in ["/paris/members", "/lyon/members", "/paris/", "/lyon/a/b"] {
        world.get(path).await.assert_status(200, path);
    }
    let [paris, lyon, paris_again, lyon_again] = world.tokens_seen().try_into().unwrap();
    assert!(
        paris != lyon && paris == paris_again && lyon == lyon_again,
        "the clubs do not have one token each"
    );
    assert_asked_for(&world, &["paris", "lyon"]);
    let sent =
        server.requests().into_iter().map(|it| it.param("refresh_token").unwrap().to_owned());
    assert_eq!(sent.collect::<Vec<_>>(), seeds, "a club's own seed was not presented");
    assert_eq!(
        records(&world),
        ["api@lyon.json", "api@paris.json"],
        "each club has to have a record"
    );
    for club in ["paris", "lyon"] {
        let stored = record(&world, &format!("api@{club}.json"));
        assert_eq!(
            stored["refresh_token"],
            server.current_refresh_token_of(club),
            "{club}: the newest refresh token is not in its record"
        );
        assert_eq!(stored["generation"], 1, "{club}: its token is not the first");
    }
    world.clock.advance(HOURS);
    for path in ["/paris/", "/lyon/", "/lyon/", "/paris/"] {
        world.get(path).await.assert_status(200, path);
    }
    assert_asked_for(&world, &["paris", "lyon", "paris", "lyon"]);
    server.assert_no_reuse();
}

#[tokio::test]
async fn the_token_url_names_the_club() {
    let mut world = World::builder()
        .without_seed()
        .authorization_server(|config| config.token_path = "/*/oauth/v2/token".into())
        .credential(&BY_PATH.replace("params = { club = \"${club}\" }\n", ""))
        .start_servers()
        .await;
    world.configure(|text| text.replace("/*/oauth", "/${club}/oauth"));
    for club in ["paris", "lyon"] {
        write_seed(&world, club);
    }
    world.start_proxy().await;
    for path in ["/paris/members", "/lyon/members", "/paris/members"] {
        world.get(path).await.assert_status(200, path);
    }
    let requests = world.authorization_server.requests();
    let asked: Vec<_> = requests.iter().map(|request| request.path_and_query.as_str()).collect();
    assert_eq!(
        asked,
        ["/paris/oauth/v2/token", "/lyon/oauth/v2/token"],
        "the token endpoints of other clubs were asked"
    );
}

#[tokio::test]
async fn a_club_outside_the_list_is_refused_and_creates_nothing() {
    let world = start(BY_PATH, &["paris", "lyon", "berlin"]).await;
    for path in ["/berlin/members", "/Paris/members", "/paris;x/members", "/parisx/", "/..paris/"] {
        let reply = world.get(path).await;
        reply.assert_status(403, format!("{path} was not refused"));
        assert_says("the answer", reply.text(), ["does not allow this value of \"club\""]);
    }
    for path in ["/%70aris/members", "/paris%2fx", "/berlin/..%2fparis/"] {
        world.get(path).await.assert_status(400, path);
    }
    assert_eq!(stored(&world), [""; 0], "a refused club has left a file");
    world.authorization_server.assert_token_requests(0, "a token was requested for a refused club");
    world.origin.assert_requests(0, "a request for a refused club reached the API");
    assert!(titles(&world).is_empty(), "a refused club has a slot: {:?}", titles(&world));
}

#[tokio::test]
async fn a_field_chooses_the_token_and_never_reaches_the_api() {
    let world = start(BY_FIELD, &["paris", "lyon"]).await;
    for club in ["paris", "lyon", "paris"] {
        get_for(&world, club).await.assert_ok();
    }
    assert_asked_for(&world, &["paris", "lyon"]);
    let [one, two, three] = world.tokens_seen().try_into().unwrap();
    assert!(one != two && one == three, "the field does not choose the token");
    for request in world.origin.requests() {
        assert_eq!(
            request.header("x-club"),
            None,
            "the field that chooses the token reached the API"
        );
        assert_eq!(request.header("accept"), Some("*/*"), "another field was removed as well");
    }
}

#[tokio::test]
async fn a_field_can_be_named_where_it_is_used() {
    let lines = r#"
params = { club = "${field.X-Club}" }
inject = { Authorization = "Bearer ${access_token}", X-Sent-For = "club ${field.x-club}" }
refresh_token = { file = "seeds/${field.X-CLUB}" }
"#;
    let world = start(lines, &["paris"]).await;
    get_for(&world, "paris").await.assert_ok();
    assert_asked_for(&world, &["paris"]);
    assert_eq!(
        world.origin.requests()[0].header("x-club"),
        None,
        "the field that chooses the token reached the API"
    );
    assert_eq!(
        world.origin.requests()[0].header("x-sent-for"),
        Some("club paris"),
        "the value of the field was not injected"
    );
}

#[tokio::test]
async fn a_choosing_field_is_removed_even_if_it_chooses_nothing() {
    let world = start(&format!("{BY_FIELD}on_existing = \"keep\""), &["paris"]).await;
    let request = world.client().get(world.http("/")).header("X-Club", "paris");
    request.header("Authorization", "Bearer own").send().await.unwrap();
    let seen = &world.origin.requests()[0];
    assert_eq!(
        (seen.bearer(), seen.header("x-club")),
        (Some("own"), None),
        "the client's own token was replaced, or the choosing field reached the API"
    );
}

#[tokio::test]
async fn a_field_that_chooses_nothing_is_refused_and_creates_nothing() {
    let world = start(BY_FIELD, &["paris"]).await;
    let reply = world.get("/members").await;
    let said = reply.text();
    reply.assert_status(403, "a request without the field was not refused");
    assert_says(
        "the output",
        &said,
        ["the request field \"x-club\", which this request does not have"],
    );
    let twice = world.client().get(world.http("/"));
    let twice = twice.header("X-Club", "paris").header("X-Club", "lyon").send().await.unwrap();
    assert_eq!(twice.status(), 403, "a request with two such fields was not refused");
    for unfit in ["", ".", "..", "../seed", "a b", "a%2fb", "${client_id}", &"a".repeat(65)] {
        let reply = get_for(&world, unfit).await;
        reply.assert_status(403, format!("the unfit value {unfit:?} was not refused"));
        assert_says("the answer", reply.text(), ["1 to 64 letters"]);
        assert_never_says("the answer", reply.text(), ["../seed"]);
    }
    let reply = get_for(&world, "stranger").await;
    let said = reply.text();
    reply.assert_status(403, "a value without a seed was not refused");
    assert_says("the answer", &said, ["no refresh token for these values"]);
    assert_eq!(stored(&world), [""; 0], "a refused value has left a file");
    world
        .authorization_server
        .assert_token_requests(0, "a token was requested for a refused value");
    world.origin.assert_requests(0, "a refused request reached the API");
}

#[tokio::test]
async fn a_field_may_have_a_list_as_well() {
    let lines = BY_FIELD
        .replace("\"${field.X-Club}\"", "{ from = \"${field.X-Club}\", values = [\"paris\"] }");
    let world = start(&lines, &["paris", "lyon"]).await;
    get_for(&world, "paris").await.assert_ok();
    get_for(&world, "lyon").await.assert_status(403, "a value outside the list was not refused");
    assert_eq!(records(&world), ["api@paris.json"], "a refused value has a record");
}

#[tokio::test]
async fn a_hundred_first_requests_share_one_token_request() {
    let world = start(BY_PATH, &["paris"]).await;
    world.authorization_server.hold();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let request = world.client().get(world.http("/paris/"));
        requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    world.authorization_server.wait_for_token_requests(1).await;
    world.authorization_server.release_all();
    assert_eq!(
        requests.join_all().await,
        [200; 100],
        "a request that waited for the first token failed"
    );
    assert_asked_for(&world, &["paris"]);
    assert_eq!(titles(&world), ["api[paris]"], "the slot has another name");
}

#[tokio::test]
async fn a_club_without_its_seed_waits_for_one_and_the_others_work() {
    let world = start(BY_PATH, &["paris"]).await;
    let reply = world.get("/lyon/").await;
    let said = reply.text();
    reply.assert_status(503, "a club without its seed was served");
    assert_says("the answer", &said, ["api[lyon]", "it has no refresh token"]);
    world.get("/paris/").await.assert_ok();
    write_seed(&world, "lyon");
    world.reload().await;
    world.get("/lyon/").await.assert_ok();
    assert_asked_for(&world, &["paris", "lyon"]);
}

/// As on a disk that does not answer: requests get an answer, and further requests start no second read.
#[tokio::test]
async fn a_seed_that_cannot_be_read_in_time_does_not_block_requests() {
    let mut world = servers(BY_FIELD).sections("[limits]\nwait = \"50ms\"").start_servers().await;
    write_seed(&world, "paris");
    let (kind, mode) =
        (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    let pipe = world.dir.path().join("seeds/lyon");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    world.start_proxy().await;
    let asked = async { [get_for(&world, "lyon").await, get_for(&world, "lyon").await] };
    let asked = tokio::time::timeout(DEADLINE, asked).await;
    // This ends the pending read, so that the test can end.
    std::fs::write(&pipe, world.authorization_server.current_refresh_token_of("lyon")).unwrap();
    for reply in asked.unwrap() {
        reply.assert_status(503, "a seed that cannot be read in time kept the request waiting");
        assert!(reply.text().contains("secret"), "the answer does not name the secret: {reply}");
    }
    let answered = async { while get_for(&world, "lyon").await.status != 200 {} };
    within(answered).await;
    assert_asked_for(&world, &["lyon"]);
}

#[tokio::test]
async fn each_club_can_have_a_client_secret_of_its_own() {
    let mut world = servers(BY_PATH).start_servers().await;
    world.configure(|text| {
        text.replace(
            "client_secret = { file = \"secret\" }",
            "client_secret = { file = \"secrets/${club}\" }",
        )
    });
    for club in ["paris", "lyon"] {
        write_seed(&world, club);
    }
    write_secret(&world, "secrets/paris", "test-client-secret");
    world.start_proxy().await;
    world.get("/paris/").await.assert_ok();
    let reply = world.get("/lyon/").await;
    let said = reply.text();
    reply.assert_status(503, "a club without its client secret was served");
    assert_says("the answer", &said, ["a secret that cannot be read"]);
    // It is read by the next request, not by the next start.
    write_secret(&world, "secrets/lyon", "test-client-secret");
    world.get("/lyon/").await.assert_ok();
}

#[tokio::test]
async fn a_restart_finds_every_record_again() {
    let mut world = start(BY_PATH, &["paris", "lyon"]).await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    world.restart().await;
    assert_eq!(
        titles(&world),
        ["api[lyon]", "api[paris]"],
        "the restart has not found every record"
    );
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    assert_asked_for(&world, &["paris", "lyon"]);
    let [paris, lyon, paris_again, lyon_again] = world.tokens_seen().try_into().unwrap();
    assert!(paris == paris_again && lyon == lyon_again, "the restart has lost the stored tokens");
}

/// Row 33 for each of many: a refresh token that dies of idleness does not ask whether its club is busy.
#[tokio::test]
async fn after_a_restart_a_club_that_nobody_asks_for_is_kept_alive() {
    for lines in [BY_PATH, BY_FIELD] {
        let mut world = start(&format!("{lines}keepalive = \"30d\""), &["paris"]).await;
        let response = world.client().get(world.http("/paris/")).header("X-Club", "paris");
        assert_eq!(response.send().await.unwrap().status(), 200, "the first request failed");
        world.stop().await;
        world.clock.advance(31 * 12 * HOURS);
        world.start_proxy().await;
        world.authorization_server.wait_for_token_requests(2).await;
        assert_asked_for(&world, &["paris", "paris"]);
    }
}

#[tokio::test]
async fn a_restart_makes_no_slot_for_a_record_whose_values_are_not_allowed_any_more() {
    let mut world = start(BY_PATH, &["paris", "lyon"]).await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    world.configure(|text| text.replace(r#"["paris", "lyon"]"#, r#"["paris", "berlin"]"#));
    world.restart().await;
    assert_eq!(titles(&world), ["api[paris]"], "a value that is not allowed any more has a slot");
    assert_eq!(
        records(&world),
        ["api@lyon.json", "api@paris.json"],
        "the record of a value that is not allowed any more was removed"
    );
}

#[tokio::test]
async fn a_stranger_s_value_with_a_record_needs_no_seed() {
    let mut world = start(BY_FIELD, &["paris"]).await;
    get_for(&world, "paris").await.assert_ok();
    std::fs::remove_file(world.dir.path().join("seeds/paris")).unwrap();
    world.restart().await;
    world.clock.advance(HOURS);
    get_for(&world, "paris").await.assert_ok();
    assert_asked_for(&world, &["paris", "paris"]);
}

#[tokio::test]
async fn a_reload_adds_a_club_and_takes_one_away() {
    let mut world = start(BY_PATH, &["paris", "lyon", "berlin"]).await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    world.get("/berlin/").await.assert_status(403, "a club outside the list was served");
    world.configure(|text| text.replace(r#"["paris", "lyon"]"#, r#"["paris", "berlin"]"#));
    world.reload().await;
    assert_eq!(
        titles(&world),
        ["api[paris]"],
        "the club that the reload took away still has a slot"
    );
    world.get("/berlin/").await.assert_ok();
    world.get("/lyon/").await.assert_status(403, "the club that the reload took away was served");
    world.get("/paris/").await.assert_ok();
    assert_asked_for(&world, &["paris", "lyon", "berlin"]);
}

#[tokio::test]
async fn a_new_seed_of_one_club_counts_after_a_reload() {
    let world = start(BY_PATH, &["paris", "lyon"]).await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    world.authorization_server.revoke_refresh_token_of("paris");
    world.clock.advance(HOURS);
    assert_eq!(
        (world.get("/paris/").await.status, world.get("/lyon/").await.status),
        (503, 200),
        "(paris, lyon): the revocation of one club's grant is not that club's alone"
    );
    let new = world.authorization_server.issue_refresh_token_of("paris");
    write_secret(&world, "seeds/paris", &new);
    world.reload().await;
    assert_eq!(
        (world.get("/paris/").await.status, world.get("/lyon/").await.status),
        (200, 200),
        "(paris, lyon): the new seed does not count"
    );
    assert_asked_for(&world, &["paris", "lyon", "paris", "lyon", "paris"]);
}

#[tokio::test]
async fn two_replicas_refresh_each_club_once() {
    let world = start(BY_PATH, &["paris", "lyon"]).await;
    let sibling = world.sibling().await;
    for round in 1..=3 {
        let mut requests = tokio::task::JoinSet::new();
        for n in 0..40 {
            let client = if n % 2 == 0 { world.client() } else { sibling.client() };
            let club = if n % 4 < 2 { "paris" } else { "lyon" };
            let request = client.get(world.http(&format!("/{club}/")));
            requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
        }
        assert_eq!(requests.join_all().await, [200; 40], "round {round}: a request failed");
        let mut asked = asked_for(&world);
        asked.sort();
        let expected = [vec!["lyon"; round], vec!["paris"; round]].concat();
        assert_eq!(asked, expected, "round {round}: each club has to be refreshed once");
        world.clock.advance(HOURS);
    }
    world.authorization_server.assert_no_reuse();
}

#[tokio::test]
async fn a_rejection_renews_the_token_of_its_club_alone() {
    let world = start(BY_PATH, &["paris", "lyon"]).await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    // Old enough to get no propagation delay.
    world.clock.advance(Duration::from_secs(600));
    let paris = world.tokens_seen()[0].clone();
    world.authorization_server.tokens().revoke_access_token(&paris);
    for path in ["/paris/", "/lyon/", "/paris/"] {
        world.get(path).await.assert_ok();
    }
    assert_asked_for(&world, &["paris", "lyon", "paris"]);
}

#[tokio::test]
async fn a_literal_path_goes_before_a_variable_one() {
    let mut world = servers(BY_PATH)
        .sections(
            r#"
[credential.own]
hosts = ["@host@"]
paths = ["/paris/"]
token_url = "@token_url@"
client_id = "test-client"
client_secret = { file = "secret" }
grant = "client_credentials"
params = { club = "own" }
"#,
        )
        .start_servers()
        .await;
    write_seed(&world, "lyon");
    world.start_proxy().await;
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    assert_asked_for(&world, &["own", "lyon"]);
    assert_eq!(
        records(&world),
        ["api@lyon.json", "own.json"],
        "the literal path did not choose its credential"
    );
}

#[tokio::test]
async fn operators_see_the_clubs_in_use_and_metrics_name_the_credential_alone() {
    let world = start(BY_PATH, &["paris", "lyon"]).await;
    let ask = async |path: &str| world.ask_admin(path).await.text();
    let described: Value = serde_json::from_str(&ask("/api/v1/credentials").await).unwrap();
    assert_eq!(
        described["credentials"][0]["name"], "api",
        "a credential without slots is not listed"
    );
    assert_eq!(
        described["credentials"][0]["state"], "absent",
        "a credential without slots has another state"
    );
    for path in ["/paris/", "/lyon/"] {
        world.get(path).await.assert_ok();
    }
    for path in ["/api/v1/credentials", "/readyz"] {
        let described: Value = serde_json::from_str(&ask(path).await).unwrap();
        for (at, name) in [(0, "api[lyon]"), (1, "api[paris]")] {
            assert_eq!(
                described["credentials"][at]["name"], name,
                "{path}: the slot has another name"
            );
            assert_eq!(
                described["credentials"][at]["credential"], "api",
                "{path}: the slot is listed for another credential"
            );
            assert_eq!(
                described["credentials"][at]["state"], "fresh",
                "{path}: the slot has another state"
            );
        }
    }
    let metrics = ask("/metrics").await;
    let fresh = "bearerd_credential_state{credential=\"api\",state=\"fresh\"} 2";
    assert_says("the metrics", &metrics, [fresh]);
    assert_never_says("the metrics", &metrics, ["paris", "lyon"]);
    world.authorization_server.revoke_refresh_token_of("paris");
    world.clock.advance(HOURS);
    world.get("/paris/").await.assert_no_token();
    let credentials = world.app().credentials();
    let conditions: Vec<Condition> =
        credentials.all()[0].statuses().iter().map(|status| status.condition).collect();
    assert!(
        matches!(conditions[..], [_, Condition::NeedsLogin(_)]),
        "the club whose grant died does not need a login: {conditions:?}"
    );
    assert!(
        ask("/readyz").await.contains("degraded"),
        "the probe does not tell of the club that needs a login"
    );
}

#[tokio::test]
async fn strangers_values_make_no_more_slots_than_are_allowed() {
    let world = World::builder()
        .without_seed()
        .sections("[store]\nurl = \"memory:\"")
        .credential("grant = \"client_credentials\"\nparams = { tenant = \"${field.X-Club}\" }")
        .start()
        .await;
    let client = world.client();
    let get = |n: usize| {
        let request = client.get(world.http("/")).header("X-Club", format!("club-{n}"));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let most = bearerd::credential::MAX_SLOTS;
    for start in (0..most).step_by(64) {
        let statuses = futures_util::future::join_all((start..start + 64).map(get)).await;
        assert_eq!(statuses, [200; 64], "a value within the limit got no token");
    }
    let reply = get_for(&world, "one-more").await;
    let said = reply.text();
    reply.assert_status(503, "more slots were made than are allowed");
    assert_says("the answer", &said, ["has reached its maximum number of tokens"]);
    assert_eq!(get(7).await, 200, "a value that has a slot was not served at the limit");
    assert_eq!(
        world.authorization_server.token_requests(),
        most,
        "each slot has to make one token request"
    );
}

#[tokio::test]
async fn the_clients_name_chooses_the_token_in_clear_and_through_connect() {
    let by_name = BY_FIELD.replace("${field.X-Club}", "${client}");
    let direct = r#"
params = { club = "${client}" }
refresh_token = { file = "seeds/${client}" }
"#;
    for lines in [by_name.as_str(), direct] {
        let world = start(lines, &["paris", "lyon"]).await;
        for (name, url) in [
            ("paris", world.http("/")),
            ("lyon", world.https("/")),
            ("paris", world.https("/a")),
            ("paris", world.https("/b")),
        ] {
            let answer = world.client_named(name).get(url).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name}: the client got another status");
        }
        assert_asked_for(&world, &["paris", "lyon"]);
        let [one, two, three, four] = world.tokens_seen().try_into().unwrap();
        assert!(
            one != two && one == three && one == four,
            "the client's name does not choose the token"
        );
        for request in world.origin.requests() {
            assert_eq!(
                request.header("proxy-authorization"),
                None,
                "the client's name was sent to the API"
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_asked_for_its_name() {
    let world = start(&BY_FIELD.replace("${field.X-Club}", "${client}"), &["paris"]).await;
    let answer = world.client().get(world.http("/")).send().await.unwrap();
    assert_eq!(answer.status(), 407, "a client without a name was not asked for it");
    assert_eq!(
        answer.headers()["proxy-authenticate"],
        "Basic realm=\"bearerd\"",
        "the challenge asks for something else"
    );
    assert!(
        answer.text().await.unwrap().contains("user name of its proxy"),
        "the answer does not say where the name belongs"
    );
    // The answer to its CONNECT is what the client fails with.
    assert!(
        world.client().get(world.https("/")).send().await.is_err(),
        "the CONNECT of a client without a name was accepted"
    );
    assert_eq!(
        world.client_named("a%2Fb").get(world.http("/")).send().await.unwrap().status(),
        403,
        "a name that no path may have was not refused"
    );
    assert!(
        stored(&world).is_empty() && world.origin.requests().is_empty(),
        "a refused client has left a file or reached the API"
    );
}
