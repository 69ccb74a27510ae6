//! Which settings change the grant, which only change the request, and which change nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::*;
use crate::oauth::{
    AnswerRule, Assertion, Bootstrap, Claim, ClientAuthentication, Exchange, GrantType, MemberPath,
    Rotation, SigningKey, Step,
};
use crate::secret::{Secret, SecretSource};
use crate::template::Names;

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn names() -> Names {
    let mut names = Names::default();
    names.insert("tenant", "t1");
    names.insert_secret("api_key", secret("k1"));
    names.insert_variable("club");
    names
}

fn template(text: &str) -> Template {
    Template::parse(text, &names()).unwrap()
}

fn variables() -> Variables {
    Variables::from([("club".to_owned(), "paris".to_owned())])
}

fn parameter(name: &str, value: &str) -> Parameter {
    Parameter { name: name.to_owned(), values: vec![template(value)], list: false }
}

fn bootstrap(username: &str, password: &str) -> Bootstrap {
    let (username, password) = (template(username), secret(password));
    let grant = OwnGrant::Password { username, password };
    Bootstrap { grant, scope: None, params: Vec::new() }
}

fn step(url: &str, params: Vec<Parameter>) -> Step {
    Step {
        url: template(url),
        encoding: Encoding::default(),
        params,
        headers: Vec::new(),
        access_token: None,
        expires_in: None,
        raw: Vec::new(),
    }
}

fn assertion() -> Assertion {
    let pem = include_str!("../keyfile/samples/p256.pem");
    Assertion::new(SigningKey::parse(&secret(pem), None, None).unwrap())
}

/// A refresh token grant that uses every setting.
fn config() -> Config {
    Config {
        client_secret: Some(secret("s1")),
        scope: Some(template("read paris")),
        params: vec![parameter("audience", "https://api.test/")],
        bootstrap: Some(bootstrap("anna", "p1")),
        steps: vec![step("https://as.test/step", vec![parameter("club", "paris")])],
        headers: vec![(HeaderName::from_static("x-club"), template("paris"))],
        ..Config::new(
            GrantType::RefreshToken,
            template("https://as.test/t1/paris/token"),
            template("client-paris"),
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
enum ExpectedChange {
    Nothing,
    Request,
    Grant,
}

fn change(before: &Config, after: &Config) -> ExpectedChange {
    let (before, after) = (before.grant_identity(&variables()), after.grant_identity(&variables()));
    match () {
        () if before.grant != after.grant => ExpectedChange::Grant,
        () if before.request != after.request => ExpectedChange::Request,
        () => ExpectedChange::Nothing,
    }
}

/// Description, expected change, and the edit.
type ChangeCase = (&'static str, ExpectedChange, fn(&mut Config));

/// Checks the effect of each edit of `before`.
fn check(before: &Config, rows: &[ChangeCase]) {
    for (name, expected, alter) in rows {
        let mut after = before.clone();
        alter(&mut after);
        assert_eq!(change(before, &after), *expected, "{name}");
    }
}

#[test]
fn notation_and_authentication_do_not_change_the_grant() {
    check(
        &config(),
        &[
            ("nothing", ExpectedChange::Nothing, |_| {}),
            ("a name in the server", ExpectedChange::Nothing, |config| {
                config.token_url = Some(template("https://as.test/${tenant}/${club}/token"));
            }),
            ("a variable in the client", ExpectedChange::Nothing, |config| {
                config.client_id = Some(template("client-${club}"));
            }),
            ("a variable in the scope", ExpectedChange::Nothing, |config| {
                config.scope = Some(template("read ${club}"));
            }),
            ("a variable in a parameter of a step", ExpectedChange::Nothing, |config| {
                config.steps =
                    vec![step("https://as.test/step", vec![parameter("club", "${club}")])];
            }),
            ("a variable in a field", ExpectedChange::Nothing, |config| {
                config.headers = vec![(HeaderName::from_static("x-club"), template("${club}"))];
            }),
            ("another secret", ExpectedChange::Nothing, |config| {
                config.client_secret = Some(secret("s2"))
            }),
            ("no secret", ExpectedChange::Nothing, |config| config.client_secret = None),
            ("another password", ExpectedChange::Nothing, |config| {
                config.bootstrap = Some(bootstrap("anna", "p2"));
            }),
            ("another authentication", ExpectedChange::Nothing, |config| {
                config.client_auth = ClientAuthentication::Basic;
            }),
            ("another encoding", ExpectedChange::Nothing, |config| {
                config.encoding = Encoding::Json
            }),
            ("another timeout", ExpectedChange::Nothing, |config| {
                config.timeout = Duration::from_secs(1)
            }),
            ("another rotation", ExpectedChange::Nothing, |config| {
                config.rotation = Rotation::Ignore
            }),
            ("a place to revoke at", ExpectedChange::Nothing, |config| {
                config.revoke_url = Some(template("https://as.test/revoke"));
            }),
            ("places for people", ExpectedChange::Nothing, |config| {
                config.auth_url = Some(template("https://as.test/authorize"));
                config.device_url = Some(template("https://as.test/device"));
            }),
            ("errors read in another way", ExpectedChange::Nothing, |config| {
                config.reading.dead.push(AnswerRule::default());
            }),
        ],
    );
}

#[test]
fn values_per_request_change_nothing() {
    let with_uuid = Config {
        params: vec![parameter("nonce", "${uuid}"), parameter("time", "${now}")],
        token_url: Some(template("https://as.test/token?request=${uuid}")),
        ..config()
    };
    assert_eq!(change(&with_uuid, &with_uuid), ExpectedChange::Nothing);
}

/// A secret variable may be an audience. Requesting one token too many is harmless; using a token
/// of another audience is not.
#[test]
fn another_value_of_a_secret_variable_changes_the_request() {
    let with_key = |key: &str| {
        let mut names = names();
        names.insert_secret("api_key", secret(key));
        let value = Template::parse("${api_key}", &names).unwrap();
        let key = Parameter { name: "api_key".to_owned(), values: vec![value], list: false };
        Config { params: vec![key], ..config() }
    };
    assert_eq!(change(&with_key("k1"), &with_key("k1")), ExpectedChange::Nothing);
    assert_eq!(change(&with_key("k1"), &with_key("k2")), ExpectedChange::Request);
}

#[test]
fn another_server_client_user_or_type_changes_the_grant() {
    check(
        &config(),
        &[
            ("server", ExpectedChange::Grant, |config| {
                config.token_url = Some(template("https://other.test/t1/paris/token"));
            }),
            ("issuer", ExpectedChange::Grant, |config| {
                config.issuer = Some(template("https://other.test"))
            }),
            ("client", ExpectedChange::Grant, |config| {
                config.client_id = Some(template("client-rome"))
            }),
            ("no client", ExpectedChange::Grant, |config| config.client_id = None),
            ("kind", ExpectedChange::Grant, |config| config.grant = GrantType::DeviceCode),
            ("user of the bootstrap", ExpectedChange::Grant, |config| {
                config.bootstrap = Some(bootstrap("berta", "p1"));
            }),
        ],
    );
    let exchange = |path: &str| {
        let subject_token = SecretSource::File(PathBuf::from(path));
        let subject_token_type = Exchange::JWT.to_owned();
        let exchange = Exchange { subject_token, subject_token_type, actor: None };
        let own = Some(OwnGrant::TokenExchange(Box::new(exchange)));
        Config { grant: GrantType::TokenExchange, own, ..config() }
    };
    assert_eq!(change(&exchange("/a"), &exchange("/a")), ExpectedChange::Nothing);
    assert_eq!(change(&exchange("/a"), &exchange("/b")), ExpectedChange::Grant);
    let password = |username, password| Config {
        grant: GrantType::Password,
        own: Some(bootstrap(username, password).grant),
        ..config()
    };
    assert_eq!(change(&password("anna", "1"), &password("anna", "2")), ExpectedChange::Nothing);
    assert_eq!(change(&password("anna", "1"), &password("berta", "1")), ExpectedChange::Grant);
    let speaks_of = |iss: &str, sub: &str| Config {
        grant: GrantType::JwtBearer,
        own: Some(OwnGrant::JwtBearer),
        assertion: Some(Assertion {
            iss: Some(template(iss)),
            sub: Some(template(sub)),
            ..assertion()
        }),
        ..config()
    };
    assert_eq!(
        change(&speaks_of("i", "paris"), &speaks_of("i", "${club}")),
        ExpectedChange::Nothing
    );
    assert_eq!(change(&speaks_of("i", "s"), &speaks_of("i", "x")), ExpectedChange::Grant);
    assert_eq!(change(&speaks_of("i", "s"), &speaks_of("x", "s")), ExpectedChange::Grant);
}

#[test]
fn values_of_variables_change_the_grant_that_uses_them() {
    let config = Config { client_id: Some(template("client-${club}")), ..config() };
    let rome = Variables::from([("club".to_owned(), "rome".to_owned())]);
    assert_ne!(config.grant_identity(&variables()).grant, config.grant_identity(&rome).grant);
}

#[test]
fn request_settings_only_change_the_request() {
    check(
        &config(),
        &[
            ("scope", ExpectedChange::Request, |config| {
                config.scope = Some(template("write paris"))
            }),
            ("no scope", ExpectedChange::Request, |config| config.scope = None),
            ("audience", ExpectedChange::Request, |config| {
                config.params = vec![parameter("audience", "https://other.test/")];
            }),
            ("resource", ExpectedChange::Request, |config| {
                config.params.push(parameter("resource", "https://api.test/"));
            }),
            ("a parameter less", ExpectedChange::Request, |config| config.params.clear()),
            ("a parameter that is not sent", ExpectedChange::Request, |config| {
                let name = "scope".to_owned();
                config.params.push(Parameter { name, values: Vec::new(), list: false });
            }),
            ("two values", ExpectedChange::Request, |config| {
                config.params[0].values.push(template("https://second.test/"));
            }),
            ("only of refreshes", ExpectedChange::Request, |config| {
                config.refresh_params = vec![parameter("audience", "https://other.test/")];
            }),
            ("of the bootstrap", ExpectedChange::Request, |config| {
                let params = vec![parameter("audience", "https://other.test/")];
                config.bootstrap = Some(Bootstrap { params, ..bootstrap("anna", "p1") });
            }),
            ("scope of the bootstrap", ExpectedChange::Request, |config| {
                let scope = Some(template("all"));
                config.bootstrap = Some(Bootstrap { scope, ..bootstrap("anna", "p1") });
            }),
            ("where refresh tokens go", ExpectedChange::Grant, |config| {
                config.refresh_url = Some(template("https://as.test/refresh"));
            }),
            ("a step more", ExpectedChange::Request, |config| {
                config.steps.push(step("https://as.test/second", Vec::new()));
            }),
            ("no step", ExpectedChange::Request, |config| config.steps.clear()),
            ("where a step goes", ExpectedChange::Request, |config| {
                config.steps =
                    vec![step("https://as.test/other", vec![parameter("club", "paris")])];
            }),
            ("what a step asks for", ExpectedChange::Request, |config| {
                config.steps = vec![step("https://as.test/step", vec![parameter("club", "rome")])];
            }),
            ("what a step makes of it", ExpectedChange::Request, |config| {
                config.steps[0].access_token = Some(MemberPath::parse("session.token").unwrap());
            }),
            ("a field of a step", ExpectedChange::Request, |config| {
                config.steps[0].headers =
                    vec![(HeaderName::from_static("x-club"), template("rome"))];
            }),
            ("a field", ExpectedChange::Request, |config| {
                config.headers = vec![(HeaderName::from_static("x-club"), template("rome"))];
            }),
            ("which member is the token", ExpectedChange::Request, |config| {
                config.reading.mapping.access_token = Some(MemberPath::parse("id_token").unwrap());
            }),
        ],
    );
}

#[test]
fn claims_change_the_request_and_keys_do_not() {
    let with = |alter: fn(&mut Assertion)| {
        let mut assertion = assertion();
        alter(&mut assertion);
        Config { assertion: Some(assertion), ..config() }
    };
    let plain = with(|_| {});
    let scope = with(|it| it.claims = vec![("scope".to_owned(), Claim::Text(template("a")))]);
    let other = with(|it| it.claims = vec![("scope".to_owned(), Claim::Text(template("b")))]);
    assert_eq!(change(&plain, &scope), ExpectedChange::Request);
    assert_eq!(change(&scope, &other), ExpectedChange::Request);
    let aud = with(|it| it.aud = Some(template("https://other.test/")));
    assert_eq!(change(&plain, &aud), ExpectedChange::Request);
    let longer = with(|it| it.ttl = Duration::from_secs(60));
    assert_eq!(change(&plain, &longer), ExpectedChange::Nothing);
    let by_name =
        with(|it| it.claims = vec![("scope".to_owned(), Claim::Text(template("${club}")))]);
    let spelt_out =
        with(|it| it.claims = vec![("scope".to_owned(), Claim::Text(template("paris")))]);
    assert_eq!(change(&by_name, &spelt_out), ExpectedChange::Nothing);
    let header = with(|it| it.header = vec![("kid".to_owned(), Claim::Text(template("2")))]);
    assert_eq!(change(&plain, &header), ExpectedChange::Nothing);
}

/// A grant that a user started stays valid when a bootstrap is configured later.
#[test]
fn adding_a_bootstrap_does_not_change_the_grant() {
    let before = Config { bootstrap: None, ..config() }.grant_identity(&variables());
    let after = config().grant_identity(&variables());
    assert_eq!(before.grant, after.grant_without_bootstrap);
    assert_ne!(before.grant, after.grant);
}

/// Without delimiters, different parts could have the same concatenation.
#[test]
fn parts_are_delimited() {
    let with = |url: &str, client: &str| Config {
        token_url: Some(template(url)),
        client_id: Some(template(client)),
        ..config()
    };
    let one = with("https://as.test/a", "bc");
    assert_eq!(change(&one, &with("https://as.test/ab", "c")), ExpectedChange::Grant);
    let name_and_value = |name, value| Config { params: vec![parameter(name, value)], ..config() };
    let both = Config { params: vec![parameter("a", "b"), parameter("c", "d")], ..config() };
    let listed = |name: &str, values: &[&str]| Config {
        params: vec![Parameter {
            name: name.to_owned(),
            values: values.iter().map(|it| template(it)).collect(),
            list: false,
        }],
        ..config()
    };
    assert_eq!(change(&name_and_value("a", "b"), &both), ExpectedChange::Request);
    assert_eq!(change(&both, &listed("a", &["b", "params c", "d"])), ExpectedChange::Request);
    let of_refresh = Config { params: Vec::new(), refresh_params: config().params, ..config() };
    assert_eq!(change(&config(), &of_refresh), ExpectedChange::Request);
}
