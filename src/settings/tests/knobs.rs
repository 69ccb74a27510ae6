//! What a credential is for, how its token travels, and what its token endpoint is sent.

use super::*;
use crate::credential::{InjectedFields, OnExisting, RejectionEvidence, RejectionRule, Rejections};
use crate::oauth::Parameter;
use crate::template::{Template, Values};

fn only(more: &str) -> credential::Config {
    let settings = load(&credential(more)).unwrap_or_else(|problems| panic!("{problems}"));
    settings.credentials.first().unwrap().clone()
}

fn expanded(template: &Template) -> String {
    template.expand(Values { access_token: "AT", ..Values::at(std::time::UNIX_EPOCH) })
}

#[test]
fn left_out_they_change_nothing() {
    let plain = only("");
    assert!(plain.paths.is_empty() && plain.methods.is_empty());
    assert_eq!(plain.injection, credential::Injection::default());
    assert_eq!(plain.rejections, Rejections::default());
    let spelt_out = "refresh_on = [401]\nparams = {}\nrefresh_params = {}\nheaders = {}\nquery = {}\n\
                     inject = { authorization = \"Bearer ${access_token}\" }\non_existing = \"replace\"";
    assert_eq!(only(spelt_out), plain);
}

#[test]
fn everything_arrives_in_its_place() {
    let config = only(
        r#"
paths = ["/v2/", "/status"]
methods = ["GET", "BREW"]
vars = { tenant = "acme", key = { env = "K" } }
inject = { X-Token = "${access_token}", x-key = "${key}/$$${tenant}" }
query = { at = "${access_token}" }
on_existing = "keep"
params = { audience = "${tenant}", resource = ["a", "${key}"], client_id = "" }
refresh_params = { request = "x" }
headers = { X-At = "${now}" }
refresh_on = [401, { status = 403, body = "expired" }, { status = 400, json = "error.0", is = true }, { status = 403, field = "X-Why", has = "expired" }, { grpc_status = 16 }]
"#,
    );
    assert_eq!(
        config.paths.iter().map(|path| path.as_str()).collect::<Vec<_>>(),
        ["/v2/", "/status"]
    );
    assert_eq!(config.methods, ["GET", "BREW"]);
    let InjectedFields::Listed(fields) = &config.injection.fields else { panic!() };
    let fields: Vec<_> = fields.iter().map(|(name, it)| (name.as_str(), expanded(it))).collect();
    assert_eq!(fields, [("x-token", "AT".to_owned()), ("x-key", "value/$acme".to_owned())]);
    let query: Vec<_> = config.injection.query.iter().map(|(_, it)| expanded(it)).collect();
    assert_eq!(query, ["AT"]);
    assert_eq!(config.injection.on_existing, OnExisting::Keep);
    let oauth = &config.token.oauth;
    let values = |it: &Parameter| (it.name.clone(), it.values.iter().map(expanded).collect());
    let params: Vec<(String, Vec<String>)> = oauth.params.iter().map(values).collect();
    assert_eq!(
        params,
        [
            ("audience".to_owned(), vec!["acme".to_owned()]),
            ("client_id".to_owned(), vec![]),
            ("resource".to_owned(), vec!["a".to_owned(), "value".to_owned()]),
        ]
    );
    assert_eq!(oauth.refresh_params.len(), 1);
    assert_eq!(oauth.headers.iter().map(|(_, it)| expanded(it)).collect::<Vec<_>>(), ["0"]);
    let status = |number| http::StatusCode::from_u16(number).unwrap();
    let json =
        RejectionEvidence::Json { path: vec!["error".to_owned(), "0".to_owned()], is: true.into() };
    let expected = Rejections::new(vec![
        RejectionRule { status: status(401), evidence: None },
        RejectionRule {
            status: status(403),
            evidence: Some(RejectionEvidence::Contains("expired".to_owned())),
        },
        RejectionRule { status: status(400), evidence: Some(json) },
        RejectionRule {
            status: status(403),
            evidence: Some(RejectionEvidence::Field {
                name: http::HeaderName::from_static("x-why"),
                has: "expired".to_owned(),
            }),
        },
        RejectionRule { status: status(200), evidence: Some(RejectionEvidence::Grpc(16)) },
    ]);
    assert_eq!(config.rejections, expected);
}

#[test]
fn what_cannot_be_meant_is_refused_where_it_stands() {
    for (line, place, says) in [
        ("paths = []", "7:9", "`credential.x.paths` is empty"),
        ("paths = [\"/a\", \"v2\"]", "7:16", "a path begins with `/`"),
        ("paths = [\"/a%2f\"]", "7:10", "could be read in two ways"),
        ("paths = [\"/x${club}/\"]", "7:10", "a variable is a whole segment"),
        ("paths = [\"/${club}/\"]", "7:10", "without the list of values"),
        ("methods = []", "7:11", "`credential.x.methods` is empty"),
        ("methods = [\"get\"]", "7:12", "write it in capitals"),
        ("methods = [\"G T\"]", "7:12", "must be a method such as"),
        ("methods = [\"CONNECT\"]", "7:12", "never gets a token"),
        ("vars = { Big = \"x\" }", "7:10", "no `${name}` can use"),
        ("vars = { uuid = \"x\" }", "7:10", "already has a meaning"),
        ("inject = { A = \"x ${tenant}\" }", "7:19", "names something unknown"),
        ("inject = { A = \"$1\" }", "7:17", "write `${name}`"),
        ("inject = { A = \"${now\" }", "7:17", "without its `}`"),
        ("inject = { A = \"x\\n${access_token}\" }", "7:16", "line break"),
        ("inject = { \"a b\" = \"${access_token}\" }", "7:12", "no field name"),
        ("inject = { Host = \"${access_token}\" }", "7:12", "belongs to the connection"),
        ("inject = { Aa = \"${access_token}\", aA = \"x\" }", "7:36", "names a field twice"),
        ("query = { \"\" = \"${access_token}\" }", "7:11", "without a name"),
        ("params = { a = \"${assertion}\" }", "7:17", "does not exist at that point"),
        ("params = { a = [] }", "7:16", "without a value"),
        ("params = { a = [\"x\", \"\"] }", "7:22", "empty value in a list"),
        ("headers = { a = \"${nothing}\" }", "7:18", "names something unknown"),
        ("headers = { Connection = \"x\" }", "7:13", "belongs to the connection"),
    ] {
        refused(&credential(line), place, says);
    }
    assert!(
        report(&credential("inject = { A = \"x\" }")).contains("puts the access token nowhere")
    );
    let other_grant = "grant = \"client_credentials\"\nrefresh_params = { a = \"b\" }";
    assert!(report(&credential(other_grant)).contains("`credential.x.refresh_params` is not used"));
}

#[test]
fn two_credentials_share_a_host_if_paths_or_methods_tell_them_apart() {
    let both = |one: &str, other: &str| {
        let other = credential(other).replace("[credential.x]", "[credential.y]");
        credential(one) + &other.replace("env = \"R\"", "env = \"SEED\"")
    };
    for (one, other) in [
        ("", "paths = [\"/v2/\"]"),
        ("paths = [\"/v1/\"]", "paths = [\"/v2/\"]"),
        ("paths = [\"/v2\"]", "paths = [\"/v2/\"]"),
        ("", "methods = [\"GET\"]"),
        ("methods = [\"GET\"]", "methods = [\"POST\"]"),
        ("paths = [\"/a\"]\nmethods = [\"GET\"]", "paths = [\"/a\"]"),
    ] {
        assert!(load(&both(one, other)).is_ok(), "{one} {other}");
    }
    for (one, other, place) in [
        ("", "", "9:10"),
        ("methods = [\"GET\", \"PUT\"]", "methods = [\"PUT\"]", "9:10"),
        ("paths = [\"/a\"]", "paths = [\"/b\", \"/a\"]", "14:16"),
        ("paths = [\"/a\"]\nmethods = [\"GET\"]", "paths = [\"/a\"]\nmethods = [\"GET\"]", "15:10"),
    ] {
        let text = both(one, other);
        refused(&text, place, "no two credentials are for the same host, path and method");
        refused(&text, place, "first named here");
    }
    refused(&credential("paths = [\"/a\", \"/a\"]"), "7:16", "`credential.x.paths` names a path");
}

#[test]
fn the_summary_says_what_a_credential_is_for() {
    let settings = load(&credential("paths = [\"/v2/\"]\nmethods = [\"GET\"]")).unwrap();
    let line = settings.summary().concat();
    assert!(line.contains("hosts api.test:443, paths /v2/, methods GET, grant"), "{line}");
}

#[test]
fn what_contradicts_dpop_is_refused_where_it_stands() {
    for (more, says) in [
        (
            "inject = { Authorization = \"Bearer ${access_token}\" }",
            "`credential.x.inject` says Bearer",
        ),
        ("inject = { X-Token = \"bearer ${access_token}\" }", "`credential.x.inject` says Bearer"),
        ("headers = { Authorization = \"Bearer x\" }", "`credential.x.headers` says Bearer"),
        ("inject = { DPoP = \"${access_token}\" }", "inject` names the field of the proof"),
        ("headers = { dpop = \"x\" }", "headers` names the field of the proof"),
        ("query = { t = \"${access_token}\" }", "into the query"),
        ("grant = \"static\"\ninject = { A = \"b\" }", "the static grant has none"),
        ("grant = \"self_signed_jwt\"", "the self_signed_jwt grant has none"),
    ] {
        let found = report(&credential(&format!("dpop = true\n{more}")));
        assert!(found.contains("error: `credential.x.") && found.contains(says), "{more}: {found}");
        assert!(found.contains("= help: remove it"), "{more}: {found}");
        let without = report(&credential(more));
        assert!(!without.contains(says), "{more}: {without}");
    }
    for fine in
        ["", "inject = { Authorization = \"DPoP ${access_token}\", X-Kind = \"Bearerless\" }"]
    {
        only(&format!("dpop = true\n{fine}"));
    }
}

#[test]
fn a_stub_without_the_url_that_it_stands_for_is_refused() {
    let text = credential("stub_token_endpoint = true")
        .replace("token_url = \"https://login.test/token\"", "issuer = \"https://login.test\"");
    let found = report(&text);
    assert!(found.contains("`credential.x.stub_token_endpoint` needs `token_url`"), "{found}");
    only("stub_token_endpoint = true");
}
