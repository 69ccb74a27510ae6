#![allow(clippy::unwrap_used)]
mod answers;
mod documented_providers;
mod example;
mod grants;
mod knobs;
mod provider_answers;
mod providers;
mod report;
mod storage;
mod variables;

use std::path::PathBuf;

use super::*;
use crate::oauth::GrantType;
use crate::secret::{Secret, SecretSource};
use crate::token::Margin;

/// What is in the variables whose name has `STORE_KEY` in it. Those with `SEED` differ, but for copies.
const STORE_KEY: &str = "LAl2wQ9r5n0E1u8kq3vTzYxPb7sGdHjF+oM/iRcVaWE=";

fn environment() -> Environment {
    Environment {
        state_directory: None,
        cpus: 3,
        open_files: 3000,
        read_secret: |source| {
            Ok(Secret::new(match source.to_string() {
                key if key.contains("STORE_KEY") => STORE_KEY.to_owned(),
                seed if seed.to_ascii_uppercase().contains("SEED") => {
                    format!("that of {}", seed.replace("COPY_OF_", ""))
                }
                _ => "value".to_owned(),
            }))
        },
        read_lines: |_| Ok(None),
        volatility: |_| None,
    }
}

fn load(text: &str) -> Result<Settings, Problems> {
    Settings::from_text("proxy.toml", Path::new("/etc/bearerd"), text, &environment())
}

/// A complete credential and what is added to it.
fn credential(more: &str) -> String {
    format!(
        "[credential.x]\nhosts = [\"api.test\"]\ntoken_url = \"https://login.test/token\"\nclient_id = \"acme\"\nclient_secret = {{ env = \"S\" }}\nrefresh_token = {{ env = \"R\" }}\n{more}\n"
    )
}

fn report(text: &str) -> String {
    match load(text) {
        Ok(settings) => settings.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}

/// The report is about this place and says this.
#[track_caller]
fn refused(text: &str, place: &str, says: &str) {
    let report = load(text).expect_err(text).to_string();
    assert!(report.contains(&format!("--> proxy.toml:{place}\n")), "{report}");
    assert!(report.contains(says), "{report}");
}

#[test]
fn everything_the_file_can_say_arrives_at_its_part() {
    let settings = load(config::tests::EVERYTHING).unwrap();
    assert_eq!(settings.listen.len(), 2);
    assert_eq!(settings.threads, 2);
    assert_eq!(settings.proxy.unmatched, proxy::Unmatched::Deny);
    assert_eq!(settings.proxy.connect_ports, [443]);
    assert_eq!(settings.proxy.limits.header_bytes, 32 << 10);
    let key = store::EncryptionKey::parse(&Secret::new(STORE_KEY.to_owned())).unwrap();
    let keys = store::EncryptionKeys {
        current: Some(key.clone()),
        old: vec![key.clone(), key],
        plain: true,
    };
    assert_eq!(settings.store, store::Config::File { dir: "/etc/bearerd/state".into(), keys });
    assert_eq!(settings.ca.dir, PathBuf::from("/etc/bearerd/certs"));
    assert_eq!(settings.admin.listen, None);
    assert!(!settings.proxy.access_log);
    let [credential] = settings.credentials.as_slice() else { panic!() };
    assert_eq!(credential.hosts.len(), 3);
    assert_eq!(credential.token.margin, Margin::Share(0.1));
    assert_eq!(credential.token.oauth.grant, GrantType::RefreshToken);
    assert_eq!(credential.token.oauth.timeout, Duration::from_secs(10));
    assert_eq!(credential.token.wait, Duration::from_secs(15));
}

/// The parts' `Config`s name what they get as the file does, so that their `Debug` shows what arrived.
#[test]
fn every_limit_and_time_arrives_under_its_own_name() {
    let arrives = |key: &str, text: String, value: &str| {
        let settings = format!("{:?}", load(&text).unwrap());
        assert!(settings.contains(&format!("{key}: {value}")), "{key} is lost: {settings}");
    };
    for key in [
        "header_read_timeout",
        "handshake_timeout",
        "idle_timeout",
        "tunnel_idle_timeout",
        "connect_timeout",
        "response_timeout",
        "send_timeout",
        "stall_timeout",
        "wait",
    ] {
        arrives(key, credential(&format!("[limits]\n{key} = \"7777s\"")), "7777s");
    }
    for key in [
        "connections",
        "connections_per_peer",
        "request_line",
        "header_bytes",
        "header_count",
        "replay_bytes",
        "body_bytes",
    ] {
        arrives(key, credential(&format!("[limits]\n{key} = 7777")), "7777");
    }
    for (key, value, debug) in [
        ("margin", "\"7777s\"", "Fixed(7777s)"),
        ("rotation", "\"require\"", "Require"),
        ("lifetime", "\"7777s\"", "Some(7777s)"),
        ("keepalive", "\"7777s\"", "Some(7777s)"),
        ("timeout", "\"7777s\"", "7777s"),
        ("replay_body", "7777", "7777"),
    ] {
        arrives(key, credential(&format!("{key} = {value}")), debug);
    }
    // `Debug` leaves out how answers are read.
    let settings = load(&credential("[limits]\ntoken_bytes = 7777")).unwrap();
    let oauth = &settings.credentials.first().unwrap().token.oauth;
    assert_eq!(oauth.reading.token_bytes, 7777);
}

#[test]
fn an_empty_file_gives_the_defaults_and_one_warning() {
    let settings = load("").unwrap();
    assert_eq!(settings.listen, [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]);
    assert_eq!(settings.admin.listen, Some("127.0.0.1:9090".parse().unwrap()));
    assert_eq!(settings.threads, 3);
    assert_eq!(settings.proxy.limits.connections, 1000);
    assert_eq!(settings.proxy.connect_ports, [80, 443, 8443]);
    let denied = &settings.proxy.origins.deny_addresses;
    assert_eq!(denied.len(), 11);
    assert_eq!(
        settings.store,
        store::Config::File {
            dir: "/etc/bearerd/state".into(),
            keys: store::EncryptionKeys::default()
        }
    );
    assert_eq!(settings.warnings.iter().count(), 1);
    assert!(settings.warnings.to_string().contains("no credential is active"));
}

/// Certificates are public, so their mode is no reason for a warning.
#[test]
fn only_the_key_of_a_certificate_has_to_be_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    for (name, mode) in [("cert.pem", 0o644), ("key.pem", 0o600)] {
        write_private(&dir.path().join(name));
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.path().join(name), permissions).unwrap();
    }
    let text = credential("client_cert = { cert = \"cert.pem\", key = \"key.pem\" }");
    let settings = Settings::from_text("p", dir.path(), &text, &environment()).unwrap();
    assert_eq!(settings.warnings.iter().count(), 0, "{}", settings.warnings);
}

#[test]
fn systemd_names_the_state_directory() {
    let environment =
        Environment { state_directory: Some("/var/lib/bearerd".into()), ..environment() };
    let settings = Settings::from_text("proxy.toml", Path::new("/etc"), "", &environment).unwrap();
    assert_eq!(
        settings.store,
        store::Config::File {
            dir: "/var/lib/bearerd".into(),
            keys: store::EncryptionKeys::default()
        }
    );
    assert_eq!(settings.ca.dir, PathBuf::from("/var/lib/bearerd"));
}

#[test]
fn hosts_that_match_too_much_or_nothing_are_refused() {
    for host in [
        "*",
        "*.com",
        "api.test.",
        "api.test:99999",
        "http://api.test",
        "1.2.3.4/33",
        "a b",
        "",
        "api.test/x",
    ] {
        let text = credential("").replace("api.test", host);
        refused(&text, "2:10", "`credential.x.hosts` contains an invalid value");
    }
    refused(&credential("").replace("\"api.test\"", ""), "2:9", "is empty");
    assert!(report(&credential("").replace("api.test", "API.test")).contains("lower case"));
}

#[test]
fn the_summary_names_hosts_grant_and_token_endpoint() {
    let line = "credential `x`: hosts api.test:443, grant refresh_token, token endpoint login.test";
    assert_eq!(load(&credential("")).unwrap().summary(), [line]);
}

#[test]
fn a_host_belongs_to_one_credential() {
    let other = credential("")
        .replace("[credential.x]", "[credential.y]")
        .replace("api.test", "API.test:443");
    let text = credential("") + &other;
    let report = load(&text).unwrap_err().to_string();
    assert!(
        report.contains("--> proxy.toml:9:10\n") && report.contains("first named here"),
        "{report}"
    );
    assert!(report.contains("`credential.y.hosts` names a host that is taken"), "{report}");
    let exact_and_wildcard = credential("").replace("\"api.test\"", "\"a.b.test\", \"*.b.test\"");
    assert!(load(&exact_and_wildcard).is_ok());
}

#[test]
fn a_token_url_is_https_or_stays_on_this_machine() {
    for url in [
        "http://login.test/",
        "http://127.0.0.1.evil.test/",
        "ftp://login.test/",
        "login.test/token",
        "https://",
        "https://u:p@login.test/",
        "https://u@login.test/",
        "https://login.test/#x",
        "https://lo gin.test/",
        "https://x\\ny.test/",
    ] {
        refused(
            &credential("").replace("https://login.test/token", url),
            "3:13",
            "`credential.x.token_url`",
        );
    }
    for url in [
        "http://127.0.0.1:1/t",
        "http://127.9.9.9/t",
        "http://[::1]/t",
        "http://localhost:9/t",
        "https://x.test/t?a=b",
    ] {
        assert!(load(&credential("").replace("https://login.test/token", url)).is_ok(), "{url}");
    }
    let allowed =
        credential("allow_http = true").replace("https://login.test", "http://login.test");
    assert!(load(&allowed).is_ok());
}

#[test]
fn a_listener_beyond_loopback_is_opened_on_purpose() {
    for listen in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080", "[::ffff:10.0.0.1]:1"] {
        refused(&format!("[proxy]\nlisten = \"{listen}\""), "2:10", "open = true");
        assert!(load(&format!("[proxy]\nopen = true\nlisten = \"{listen}\"")).is_ok());
    }
    for listen in
        ["127.0.0.1:0", "localhost:8080", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:p.sock"]
    {
        assert!(load(&format!("[proxy]\nlisten = \"{listen}\"")).is_ok(), "{listen}");
    }
    for listen in ["proxy.test:80", "127.0.0.1", ":80", "", "unix:", "fd:proxy", "127.0.0.1:99999"]
    {
        refused(&format!("[proxy]\nlisten = [\"{listen}\"]"), "2:11", "`proxy.listen`");
    }
    refused("[proxy]\nlisten = []", "2:10", "`proxy.listen` is empty");
    refused("[proxy]\nlisten = [\"[::1]:1\", \"[::1]:1\"]", "2:22", "twice");
    refused("[proxy]\nlisten = [\"unix:a\", \"unix:/etc/bearerd/a\"]", "2:21", "twice");
    refused("[admin]\nlisten = \"localhost:8080\"", "2:10", "address of `proxy.listen`");
}

#[test]
fn what_a_grant_needs_is_asked_for() {
    let no_secret = credential("").replace("client_secret", "#");
    assert!(load(&no_secret).is_ok());
    refused(&(no_secret.clone() + "client_auth = \"basic\""), "1:13", "client_secret` is missing");
    refused(
        &no_secret.replace("refresh_token", "grant = \"client_credentials\" #"),
        "1:13",
        "is missing",
    );
    assert!(report(&credential("grant = \"client_credentials\"")).contains("is not used"));
    assert!(
        report(&credential("").replace("refresh_token", "#")).contains("no first refresh token")
    );
    assert!(
        report(&credential("[store]\nurl = \"memory:\"")).contains("lost with the next restart")
    );
    refused(
        &credential("").replace("client_id", "#"),
        "1:13",
        "`credential.x.client_id` is missing",
    );
    refused(&credential("").replace("acme", "ac\\r\\nme"), "4:13", "line break");
    refused(&credential("scope = \"a\\u0000\""), "7:9", "`credential.x.scope`");
}

#[test]
fn senseless_amounts_are_refused() {
    for (line, key) in [
        ("[proxy]\nthreads = 0", "proxy.threads"),
        ("[ca]\nlifetime = 0", "ca.lifetime"),
        ("[limits]\nwait = \"0s\"", "limits.wait"),
        ("[limits]\nidle_timeout = 0", "limits.idle_timeout"),
        ("[limits]\nconnections = 0", "limits.connections"),
        ("[limits]\nconnections = 9223372036854775807", "limits.connections"),
        ("[limits]\nheader_bytes = 0", "limits.header_bytes"),
        ("[limits]\nheader_count = 0", "limits.header_count"),
        ("[ca]\nleaf_lifetime = \"400d\"", "ca.leaf_lifetime"),
        ("[store]\nurl = \"redis://x\"", "store.url"),
        ("[store]\nurl = \"file:\"", "store.url"),
        ("[tls]\nroots = \"missing.pem\"", "tls.roots"),
    ] {
        let report = load(line).unwrap_err().to_string();
        assert!(
            report.contains(&format!("`{key}`")) && report.contains("proxy.toml:2:"),
            "{report}"
        );
    }
}

#[test]
fn secrets_are_read_and_a_missing_seed_is_no_problem() {
    let real = Environment { read_secret: SecretSource::read, ..environment() };
    let text = credential("")
        .replace("env = \"S\"", "env = \"BEARERD_TEST_UNSET\"")
        .replace("env = \"R\"", "file = \"absent\"");
    let problems =
        Settings::from_text("proxy.toml", Path::new("/nonexistent"), &text, &real).unwrap_err();
    let found: Vec<_> =
        problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert_eq!(found.len(), 1, "{problems}");
    assert!(
        problems.to_string().contains("environment variable `BEARERD_TEST_UNSET` is not set"),
        "{problems}"
    );
    let settings = load(&text).unwrap();
    assert!(settings.credentials.first().unwrap().token.seed.as_ref().unwrap().value.is_some());
    let seed = Settings::from_text(
        "p",
        Path::new("/nonexistent"),
        &text.replace("client_secret", "#"),
        &real,
    )
    .unwrap();
    let seed = seed.credentials.first().unwrap().token.seed.clone().unwrap();
    assert_eq!(seed.source, SecretSource::File("/nonexistent/absent".into()));
    assert!(seed.value.is_none());
}

#[test]
fn all_problems_come_in_one_run_each_with_its_place() {
    let text = "\
[proxy]
listen = \"0.0.0.0:8080\"
lisen = \"x\"
threads = \"two\"

[credential.a]
hosts = [\"*.com\", \"ok.test\"]
client_id = \"x\"
token_url = \"http://login.test\"
client_secret = \"geheim\"

[credential.b]
hosts = [\"ok.test\"]
client_id = \"a\\nb\"
";
    let report = load(text).unwrap_err().to_string();
    for place in ["2:10", "3:1", "4:11", "7:10", "9:13", "10:17", "13:10", "12:13", "14:13"] {
        assert!(report.contains(&format!("--> proxy.toml:{place}\n")), "{place} in {report}");
    }
    assert!(report.ends_with("error: proxy.toml has 9 problems and 2 warnings\n"), "{report}");
    assert!(!report.contains("geheim"), "{report}");
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    write_private(&path);
    let text = credential("").replace("env = \"S\"", "file = \"s\"");
    let warnings = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let settings = Settings::from_text("p", dir.path(), &text, &environment()).unwrap();
        settings.warnings.iter().count()
    };
    assert_eq!((warnings(0o600), warnings(0o644), warnings(0o640)), (0, 1, 1));
}

/// It is used to the byte: whoever made it may have meant it.
#[test]
fn blanks_and_quotes_around_a_secret_are_warned_about_by_their_place() {
    let odd = Environment {
        read_secret: |source| {
            Ok(Secret::new(match source.to_string() {
                it if it.contains("`S`") => "\"hunter2\"".to_owned(),
                it if it.contains("`R`") => "hunter2 ".to_owned(),
                _ => "\u{a0}hunter2".to_owned(),
            }))
        },
        ..environment()
    };
    let more = "vars = { key = { file = \"/run/k\" } }\n[admin]\ntoken = { credential = \"t\" }";
    let settings = Settings::from_text("proxy.toml", Path::new("/"), &credential(more), &odd);
    let settings = settings.unwrap();
    let report = settings.warnings.to_string();
    for says in [
        "environment variable `S` is in quotes",
        "environment variable `R` ends with a blank",
        "file `/run/k` begins with a blank",
        "systemd credential `t` begins with a blank",
        "--> proxy.toml:5:17\n",
        "--> proxy.toml:6:17\n",
    ] {
        assert!(report.contains(says), "{says} in {report}");
    }
    assert!(!report.contains("hunter2"), "{report}");
    let [credential] = settings.credentials.as_slice() else { panic!() };
    let secret = credential.token.oauth.client_secret.as_ref().unwrap();
    assert_eq!(secret.expose(), "\"hunter2\"");
}

fn write_private(path: &Path) {
    std::fs::write(path, "s3cret\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn the_search_ends_with_the_places_that_were_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("mine.toml");
    std::fs::write(&here, "[ca]\ndir = \"c\"").unwrap();
    let explicit = Locator { explicit: Some(here.clone()), variable: Some("/nonexistent".into()) };
    let settings = Settings::load(&explicit).unwrap();
    assert_eq!(settings.ca.dir, dir.path().join("c"));
    let variable = Locator { explicit: None, variable: Some(here) };
    assert!(Settings::load(&variable).is_ok());
    let absent = Locator { explicit: Some(dir.path().join("absent.toml")), variable: None };
    assert!(Settings::load(&absent).unwrap_err().to_string().contains("cannot be read"));
}
