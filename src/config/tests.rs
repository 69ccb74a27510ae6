#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;
use crate::token::Margin;

/// Every key of the file with a value it may have.
pub(crate) const EVERYTHING: &str = r#"
[proxy]
listen = ["127.0.0.1:8080", "unix:/run/proxy.sock"]
unmatched = "deny"
deny_addresses = ["10.0.0.0/8", "fe80::1"]
allow_addresses = "10.1.2.3"
connect_ports = [443]
threads = 2
shutdown_grace = "25s"
open = false

[credential.billing]
hosts = ["api.x.test", "*.my.salesforce.com", "api.y.test:8443"]
paths = ["/v2/", "/status"]
methods = ["GET", "POST"]
vars = { tenant = "acme", key = { env = "KEY" } }
allow_http = false
token_http = false
grant = "refresh_token"
token_url = "https://login.test/token"
client_id = "acme"
client_secret = { env = "SECRET" }
refresh_token = { cmd = ["pass", "show", "seed"] }
client_auth = "basic_raw"
scope = "a b"
params = { audience = "${tenant}", resource = ["a", "b"], client_id = "" }
refresh_params = { request = "x" }
headers = { "X-Correlation-Id" = "${uuid}" }
response = { access_token = "data.0.token", expires_in = "data.0.life", unit = "ms", ok = "result == '0000'", error = "result", keep_access_token = true }
dead = { status = 404, error = "not_found_error" }
busy = [{ status = 400, body = "exceeded the rate limit" }, { json = "code", is = 7 }]
rotation = "require"
username = "svc"
password = { env = "PASSWORD" }
subject_token = { file = "/run/secrets/token" }
subject_token_type = "urn:x"
actor_token = { env = "ACTOR" }
actor_token_type = "urn:y"
bootstrap = { grant = "password", username = "svc", password = { env = "PW" }, scope = "a", params = { a = "b" } }
issuer = "https://login.test"
refresh_url = "https://login.test/refresh"
revoke_url = "https://login.test/revoke"
auth_url = "https://login.test/authorize"
device_url = "https://login.test/device"
encoding = "json"
assertion = { alg = "RS256", key = { env = "KEY" }, kid = "k", iss = "i", sub = "s", aud = "a", ttl = "5m", backdate = "30s", claims = { a = ["x", 1, true, { b = 1.5 }] }, header = { typ = "x", n = [1] }, cert = "cert.pem" }
steps = [{ url = "https://api.test/login", encoding = "get", params = { a = "${access_token}" }, headers = { A = "b" }, response = { access_token = "a.b", expires_in = "c" } }]
lifetime = "1h"
margin = "10%"
refresh_on = [401, { status = 403, body = "expired" }, { status = 400, json = "error.code", is = 190 }, { status = 403, field = "X-Amzn-ErrorType", has = "Expired" }, { grpc_status = 16 }]
inject = { Authorization = "Token ${access_token}", x-api-key = "${key}" }
query = { access_token = "${access_token}" }
on_existing = "keep"
client_cert = { cert = "client.pem", key = "client.key", bind = false }
dpop = false
keepalive = "30d"
on_failure = "refuse"
stub_token_endpoint = false
rewrite_location = true
allow_overrides = false
replay_body = "1MiB"
timeout = 10

[store]
url = "file:state"
key = { env = "STORE_KEY" }
old_keys = [{ env = "STORE_KEY_OLD" }, { file = "OLD_STORE_KEY" }, "plain"]

[ca]
dir = "certs"
lifetime = "365d"
leaf_lifetime = "24h"

[tls]
roots = "bundled"
extra_roots = []

[admin]
listen = ""
token = { env = "ADMIN_TOKEN" }
metrics_public = false

[log]
format = "json"
access = "off"

[limits]
connections = 10_000
connections_per_peer = 0
request_line = "8KiB"
header_bytes = "32KiB"
header_count = 100
send_timeout = "60s"
stall_timeout = "15m"
header_read_timeout = "15s"
handshake_timeout = "5s"
idle_timeout = "60s"
tunnel_idle_timeout = "10m"
connect_timeout = "5s"
response_timeout = "300s"
wait = "15s"
replay_bytes = "64MiB"
body_bytes = 0
token_bytes = "64KiB"
"#;

fn messages(text: &str) -> Vec<String> {
    parse(text).1.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn every_key_is_read() {
    let (file, problems) = parse(EVERYTHING);
    assert_eq!(problems, []);
    let (name, credential) = file.credentials.first().unwrap();
    assert_eq!(name.get_ref(), "billing");
    assert_eq!(credential.hosts.get().unwrap().len(), 3);
    assert_eq!(credential.replay_body.given().unwrap().get_ref().0, 1 << 20);
    assert_eq!(credential.timeout.0, Duration::from_secs(10));
    assert_eq!(*credential.margin, Margin::Share(0.1));
    assert_eq!(file.proxy.allow_addresses.len(), 1);
    assert_eq!(*file.log.access, Switch::Off);
    assert_eq!(file.limits.header_bytes.given().unwrap().get_ref().0, 32 << 10);
}

#[test]
fn the_text_with_every_key_has_every_key() {
    for section in &reference::SECTIONS {
        for key in section.keys {
            let line = format!("\n{} = ", key.name);
            assert!(EVERYTHING.contains(&line), "{}.{} is missing", section.name, key.name);
        }
    }
}

#[test]
fn an_empty_file_says_nothing() {
    assert_eq!(parse("").1, []);
}

#[test]
fn an_unknown_key_brings_the_nearest_one_or_the_list() {
    let (_, problems) = parse("[proxy]\nlisen = \"x\"\nzzz = 1\n[prxy]\n");
    let fixes: Vec<_> = problems.iter().map(|problem| problem.fix.clone().unwrap()).collect();
    assert!(fixes.contains(&"did you mean `listen`?".to_owned()), "{fixes:?}");
    assert!(fixes.contains(&"did you mean `proxy`?".to_owned()), "{fixes:?}");
    assert!(fixes.iter().any(|fix| fix.starts_with("the keys here are listen, open")), "{fixes:?}");
}

#[test]
fn an_unknown_key_of_a_table_brings_the_nearest_one_or_the_list() {
    for (line, fix) in [
        ("assertion = { backdated = 1 }", "did you mean `backdate`?"),
        ("assertion = { headers = {} }", "did you mean `header`?"),
        ("assertion = { certificate_of_the_key = 1 }", "the keys here are alg, key, kid"),
        ("client_cert = { certs = \"x\" }", "did you mean `cert`?"),
        ("token_htp = true", "did you mean `token_http`?"),
    ] {
        let (_, problems) = parse(&format!("[credential.x]\n{line}\n"));
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(problem.fix.as_ref().unwrap().starts_with(fix), "{problem:?}");
    }
}

#[test]
fn a_key_of_a_later_version_is_not_called_unknown() {
    for text in ["[telemetry]", "[[proxy.client]]", "[store]\non_outage = \"keep\""] {
        let found = messages(text);
        assert!(
            found.iter().any(|message| message.ends_with("is not available in this version")),
            "{found:?}"
        );
    }
}

#[test]
fn values_outside_their_type_are_refused() {
    for wrong in [
        "[proxy]\nthreads = \"2\"",
        "[proxy]\nthreads = -1",
        "[proxy]\nopen = \"true\"",
        "[proxy]\nunmatched = \"drop\"",
        "[proxy]\nconnect_ports = [0]",
        "[proxy]\nconnect_ports = [65536]",
        "[proxy]\ndeny_addresses = [\"1.2.3.4/33\"]",
        "[proxy]\nshutdown_grace = \"25\"",
        "[proxy]\nshutdown_grace = \"100years\"",
        "[proxy]\nshutdown_grace = 1.5",
        "[credential.x]\nmargin = \"101%\"",
        "[credential.x]\nmargin = \"-1%\"",
        "[credential.x]\nmargin = \"NaN%\"",
        "[credential.x]\nvars = { a = [\"x\", 1] }",
        "[credential.x]\nvars = { a = { from = 1 } }",
        "[credential.x]\nvars = { a = { from = \"${field.a}\", value = [] } }",
        "[credential.x]\nvars = { a = 1 }",
        "[credential.x]\nvars = { a = { env = \"\" } }",
        "[credential.x]\nparams = { a = 1 }",
        "[credential.x]\nparams = \"a=b\"",
        "[credential.x]\ninject = { Authorization = [\"x\"] }",
        "[credential.x]\non_existing = \"overwrite\"",
        "[credential.x]\nrefresh_on = [99]",
        "[credential.x]\nrefresh_on = [\"401\"]",
        "[credential.x]\nrefresh_on = { status = 403, body = \"\" }",
        "[credential.x]\nrefresh_on = { body = \"x\" }",
        "[credential.x]\nrefresh_on = { status = 400, json = \"a\" }",
        "[credential.x]\nrefresh_on = { status = 400, json = \"a..b\", is = 1 }",
        "[credential.x]\nrefresh_on = { status = 400, json = \"a\", is = 1.5 }",
        "[credential.x]\nrefresh_on = { status = 400, body = \"a\", is = 1 }",
        "[credential.x]\nrefresh_on = { status = 400, text = \"a\" }",
        "[credential.x]\nrefresh_on = { status = 403, field = \"x-a\" }",
        "[credential.x]\nrefresh_on = { status = 403, has = \"x\" }",
        "[credential.x]\nrefresh_on = { field = \"x-a\", has = \"x\" }",
        "[credential.x]\nrefresh_on = { status = 403, field = \"x a\", has = \"x\" }",
        "[credential.x]\nrefresh_on = { status = 403, field = \"x-a\", has = \"\" }",
        "[credential.x]\nrefresh_on = { status = 403, field = \"x-a\", has = 7 }",
        "[credential.x]\nrefresh_on = { status = 403, field = \"x-a\", has = \"x\", body = \"y\" }",
        "[credential.x]\nrefresh_on = { grpc_status = 0 }",
        "[credential.x]\nrefresh_on = { grpc_status = 17 }",
        "[credential.x]\nrefresh_on = { grpc_status = \"16\" }",
        "[credential.x]\nrefresh_on = { grpc_status = 16, status = 200 }",
        "[credential.x]\nreplay_body = \"1MB\"",
        "[credential.x]\nreplay_body = \"99999999999GiB\"",
        "[ca]\ndir = \"\"",
        "[log]\naccess = true",
        "proxy = 3",
        "[credential]\nx = 3",
    ] {
        assert_eq!(messages(wrong).len(), 1, "{wrong}: {:?}", messages(wrong));
    }
}

#[test]
fn every_wrong_item_of_a_list_is_reported() {
    assert_eq!(messages("[proxy]\nconnect_ports = [0, 443, \"80\", 70000]").len(), 3);
}

#[test]
fn a_secret_names_exactly_one_place() {
    for wrong in [
        "\"geheim\"",
        "12345",
        "{}",
        "{ env = \"A\", file = \"b\" }",
        "{ env = \"$A\" }",
        "{ env = \"\" }",
        "{ file = \"\" }",
        "{ file = 3 }",
        "{ cmd = \"prog arg\" }",
        "{ cmd = [] }",
        "{ cmd = [\"\"] }",
        "{ credential = \"../x\" }",
        "{ vault = \"x\" }",
        "[\"geheim\"]",
        "true",
    ] {
        let (_, problems) = parse(&format!("[credential.x]\nclient_secret = {wrong}"));
        let [problem] = problems.as_slice() else { panic!("{wrong}: {problems:?}") };
        assert!(problem.fix.as_ref().unwrap().contains("{ file = \"PATH\" }"), "{wrong}");
        assert!(!format!("{problem:?}").contains("geheim"));
    }
}

#[test]
fn the_name_of_a_credential_is_a_safe_file_name() {
    for name in ["\"\"", "\"../x\"", "Big", "-x", "\"a.b\"", "\"a b\"", &"a".repeat(65)] {
        assert_eq!(messages(&format!("[credential.{name}]")).len(), 1, "{name}");
    }
    for name in ["a", "0", "a-b_c", &"a".repeat(64)] {
        assert_eq!(messages(&format!("[credential.{name}]")).len(), 0, "{name}");
    }
}

#[test]
fn a_second_key_and_a_second_section_are_refused() {
    assert_eq!(messages("[proxy]\nopen = true\nopen = false").len(), 1);
    assert_eq!(messages("[credential.x]\n[proxy]\n[credential.x]").len(), 1);
}

#[test]
fn a_broken_line_is_reported_once_and_does_not_hide_the_others() {
    let (file, problems) = parse("[proxy]\nthreads = two\nopen = \"yes\"\nlisten = [\"a\"\n");
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| {
            line_start(
                "[proxy]\nthreads = two\nopen = \"yes\"\nlisten = [\"a\"\n",
                problem.span.clone().unwrap().start,
            )
        })
        .collect();
    assert!(file.is_invalid());
    assert!(lines.contains(&8) && lines.contains(&22), "{problems:?}");
    assert_eq!(lines.iter().filter(|line| **line == 8).count(), 1, "{problems:?}");
}

/// What this thread has computed so far: the time of day says more about the machine's other work.
pub(crate) fn computed() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

#[test]
fn no_input_panics_or_takes_much_work() {
    let begin = computed();
    let nested = [
        format!("a{} = 1", ".a".repeat(400_000)),
        format!("a{} = 1", ".a".repeat(MAX_DOTS)),
        format!("[a{}]", ".a".repeat(MAX_DOTS)),
        format!("[a]\n{}", format!("[a{}]\n", ".a".repeat(MAX_DOTS - 1)).repeat(900)),
        format!("a = {}", "[".repeat(500_000)),
        format!("a = {}", "{a=".repeat(300_000)),
        "=\n".repeat(500_000),
        "\"".repeat(1_000_000),
        "[x]\n".repeat(250_000),
        "\0".repeat(1000),
        " ".repeat(10_000_000),
        (0..60_000).map(|n| format!("k{n} = 1\n")).collect(),
    ];
    for text in &nested {
        let (_, problems) = parse(text);
        assert!(!problems.is_empty());
    }
    let work = computed() - begin;
    assert!(work < Duration::from_secs(30), "{work:?}");
}
