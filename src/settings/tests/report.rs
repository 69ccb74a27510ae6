//! The report: its looks, and that it never shows a secret.

use super::*;
use crate::config::tests::computed;

/// A reader that stalls would stop a reload.
#[test]
fn a_long_unknown_key_is_reported_without_much_work() {
    let begin = computed();
    let report = report(&format!("[credential.x]\n{} = 1\n", "a".repeat(200_000)));
    assert!(report.contains("unknown key in [credential.x]"), "{report:.200}");
    let work = computed() - begin;
    assert!(work < Duration::from_secs(5), "{work:?}");
}

#[test]
fn a_report_shows_the_keys_of_inner_tables() {
    let report = report(&credential("password = { file = \"a\", env = \"b\" }"));
    assert!(report.contains("{ file = \"…\", env = \"…\" }"), "{report}");
    for word in ["from", "values", "grpc_status", "backdate", "cmd", "proxy"] {
        assert!(config::is_known_word(word), "{word}");
    }
    assert!(!config::is_known_word("hunter2"));
}

#[test]
fn an_unusable_value_causes_no_second_report() {
    for (text, problems) in [
        ("[proxy]\nlisten = \"bad\"\n[admin]\nlisten = \"127.0.0.1:8080\"", 1),
        ("[ca]\nlifetime = \"1h\"\nleaf_lifetime = 0", 1),
        ("[proxy]\nlisten = \"0.0.0.0:1\"\nopen = \"yes\"", 1),
    ] {
        let report = report(text);
        let errors = report.matches("error: `").count();
        assert_eq!(errors, problems, "{report}");
    }
}

#[test]
fn no_report_shows_a_secret() {
    for line in [
        "client_secret = \"hunter2\"",
        "client_secret = 'hunter2'",
        "client_secret = \"\"\"\nhunter2\n\"\"\"",
        "client_secret = hunter2",
        "client_secret = \"hunter2",
        "client_secret \"hunter2\"",
        "client_secret = hunter2\"",
        "client_secret : \"hunter2\"",
        "client_secret = \"ok\" hunter2",
        "client_secret = \"x\\hunter2\"",
        "client_secret = [\"hunter2\"",
        "client_secret = { file = \"hunter2\"",
        "client_secret = { value = \"hunter2\" }",
        "client_secret = { env = \"hunter2 \" }",
        "client_secrt = \"hunter2\"",
        "password = \"hunter2\"",
        "clientsecret = \"hunter2\"",
        "refresh_token = \"hunter2\"\nrefresh_token = \"hunter2\"",
        "x = { hosts = [], client_secret = \"hunter2\" }",
        "nonsense = 1 # hunter2",
        "scope = \"\"\"a\nclient_secret = \"hunter2\"",
        "client_secret = \"\"\"\nMII.hunter2\n= hunter2\n",
        "key = -----BEGIN\nhunter2=\n-----END",
        "token_url = \"https://user:hunter2@login.test/x\"",
        "token_url = \"http://login.test/x?key=hunter2\"",
        "bootstrap = { password = \"hunter2\" }",
        "inject = \"hunter2\"",
        "inject = { Authorization = \"hunter2 ${x}\" }",
        "inject = { \"x y\" = \"hunter2\" }",
        "inject = { \"hunter2\" = \"\\n\" }",
        "params = { a = [\"hunter2\", \"\"] }",
        "params = [\"hunter2\"]",
        "refresh_params = { a = \"hunter2 ${assertion}\" }",
        "headers = { Host = \"hunter2\" }",
        "query = { a = \"hunter2$\" }",
        "vars = { key = [\"hunter2\"] }",
        "vars = { hunter2-x = \"hunter2\" }",
        "vars = \"hunter2\"",
        "refresh_on = [{ status = 403, text = \"hunter2\" }]",
        "refresh_on = [{ status = 403, field = \"hunter2\", has = \"hunter2\", x = 1 }]",
        "hunter2",
        "\"hunter2\"",
        "hunter2 = 1\n=",
        "[credential.hunter2]\n=",
    ] {
        let whole = credential("")
            .replace("refresh_token", "#")
            .replace("client_secret", "#")
            .replace("token_url", "#")
            + line
            + "\n";
        let report = report(&whole);
        assert!(!report.contains("hunter2"), "{line}\n{report}");
        assert!(report.contains("error:"), "{line}\n{report}");
        let debug = format!("{:?}", load(&whole).unwrap_err());
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}

#[test]
fn a_report_reads_like_one_of_rustc() {
    let report = report("[limits]\n# note\nwait = \"0s\" # why\n");
    assert_eq!(
        report,
        "\
error: `limits.wait` must be longer than zero
 --> proxy.toml:3:8
  |
3 | wait = \"0s\" #…
  |        ^^^^
  |
  = help: leave it out for the default, 15s

warning: no credential is active: every request passes without a token
--> proxy.toml
 = help: add a [credential.NAME] section

error: proxy.toml has 1 problem and 1 warning
"
    );
}

#[test]
fn columns_stay_right_beside_hidden_values() {
    let report = report("credential.x = { client_secret = \"a-long-secret\", hots = [] }\n");
    assert!(report.contains("--> proxy.toml:1:51\n"), "{report}");
    assert!(
        report.contains("{ client_secret = \"…\", hots = [] }") || report.contains("hots"),
        "{report}"
    );
}

#[test]
fn colour_comes_only_when_asked_for() {
    let problems = load("x = 1").unwrap_err();
    assert!(!problems.render(false).contains('\u{1b}'));
    assert!(problems.render(true).contains('\u{1b}'));
    assert!(!report("[proxy]\n\"\\u001b[31m\" = 1").contains('\u{1b}'));
}

#[test]
fn no_damage_to_a_file_makes_the_report_panic() {
    let text = config::tests::EVERYTHING;
    for end in 0..text.len() {
        let _ = report(text.get(..end).unwrap());
        let mut damaged = text.as_bytes().to_vec();
        *damaged.get_mut(end).unwrap() ^= 1 << (end % 7);
        let _ = report(&String::from_utf8_lossy(&damaged));
        let wide =
            format!("{}é\u{1f600}\"\t{}", text.get(..end).unwrap(), text.get(end..).unwrap());
        let _ = report(&wide);
    }
}

#[test]
fn no_damage_to_a_file_makes_the_report_show_a_secret() {
    let literal =
        "password = 'hunter2'\nrefresh_token = { key = \"hunter2\" }\nscope = \"\"\"a\"\"\"\n";
    let text = credential(literal).replace("{ env = \"S\" }", "\"hunter2\"");
    let inserts = [
        "", "\"", "'", "\"\"\"", "'''", "\n", "=", "#", ".", "[", "]", "{", "}", ",", "\\", "x",
        "\r", "\0",
    ];
    for at in 0..text.len() {
        let (before, after) = text.split_at(at);
        let shorter = after.get(1..).unwrap();
        for insert in inserts {
            for damaged in
                [format!("{before}{insert}{after}"), format!("{before}{insert}{shorter}")]
            {
                let report = report(&damaged);
                assert!(!report.contains("hunter2"), "{damaged}\n{report}");
            }
        }
    }
}

#[test]
fn a_byte_order_mark_and_foreign_line_ends_are_accepted() {
    assert!(load("\u{feff}[proxy]\r\nopen = true\r\n").is_ok());
    refused("[proxy]\r\nopen = 1\r\n", "2:8", "true or false");
}

#[test]
fn hostile_files_are_refused_with_little_work() {
    for text in [
        "=\n".repeat(500_000),
        "[x]\ny=1\n".repeat(100_000),
        "x".repeat(10_000_000),
        "a = \"".repeat(200_000),
    ] {
        let begin = computed();
        assert!(load(&text).unwrap_err().to_string().len() < 200_000);
        let work = computed() - begin;
        assert!(work < Duration::from_secs(10), "{work:?}");
    }
}
