#![allow(clippy::unwrap_used)]
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;

use super::*;
use crate::oauth::{ClientAuthentication, GrantType, Parameter};
use crate::template::{Names, Template, Variables};

fn config(client_auth: ClientAuthentication, secret: Option<&str>) -> Config {
    let plain = |text| Template::parse(text, &Names::default()).unwrap();
    let url = plain("https://as.test/token?tenant=1");
    Config {
        client_secret: secret.map(|text| Secret::new(text.to_owned())),
        client_auth,
        ..Config::new(GrantType::ClientCredentials, url, plain("a b"))
    }
}

fn context() -> TokenRequestContext<'static> {
    static NONE: Variables = Variables::new();
    TokenRequestContext {
        now: UNIX_EPOCH,
        access_token: None,
        variables: &NONE,
        proof: None,
        response_timeout: Duration::ZERO,
    }
}

fn request(config: &Config, grant: Grant<'_>) -> TokenRequest {
    let endpoints = Endpoints::of(config, context()).unwrap();
    TokenRequest::new(config, &endpoints, &ExchangeTokens::default(), grant, context()).unwrap()
}

fn authorization(request: &TokenRequest) -> Option<String> {
    let value = request.fields.get(AUTHORIZATION)?;
    assert!(value.is_sensitive());
    let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
    Some(String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap())
}

#[test]
fn each_authentication_method_sends_the_secret_in_its_place() {
    let token = Secret::new("r+t".to_owned());
    let grant = "grant_type=refresh_token&refresh_token=r%2Bt";
    for (auth, secret, body, header) in [
        (ClientAuthentication::Post, Some("s/1"), "&client_id=a+b&client_secret=s%2F1", None),
        (ClientAuthentication::Basic, Some("s/1"), "", Some("a+b:s%2F1")),
        (ClientAuthentication::BasicRaw, Some("s/1"), "", Some("a b:s/1")),
        (ClientAuthentication::Basic, None, "&client_id=a+b", None),
        (ClientAuthentication::None, Some("s/1"), "&client_id=a+b", None),
        (
            ClientAuthentication::Both,
            Some("s/1"),
            "&client_id=a+b&client_secret=s%2F1",
            Some("a+b:s%2F1"),
        ),
    ] {
        let request = request(&config(auth, secret), Grant::RefreshToken(&token));
        assert_eq!(request.body.expose(), format!("{grant}{body}"));
        assert_eq!(authorization(&request).as_deref(), header);
        // All of these secrets have to be masked in logs.
        let masked = |text: &str| request.secrets.iter().any(|secret| secret.expose() == text);
        assert!(header.is_none_or(|pair| masked(&STANDARD.encode(pair))) && masked("r+t"));
        // Without this field the answer might be compressed.
        assert_eq!(request.fields.get(ACCEPT_ENCODING).unwrap(), "identity");
        assert_eq!(request.url.as_str(), "https://as.test/token?tenant=1");
    }
}

#[test]
fn scopes_are_sent_verbatim() {
    let config =
        Config { scope: Some(template("a b,c")), ..config(ClientAuthentication::Post, None) };
    let request = request(&config, Grant::Own);
    assert_eq!(request.body.expose(), "grant_type=client_credentials&scope=a+b%2Cc&client_id=a+b");
}
fn template(text: &str) -> Template {
    let mut names = Names::default();
    names.insert("client_id", "a b");
    names.insert_secret("key", Secret::new("k-1".to_owned()));
    Template::parse(text, &names).unwrap()
}

fn parameters(list: &[(&str, &[&str])]) -> Vec<Parameter> {
    let parameter = |(name, values): &(&str, &[&str])| Parameter {
        name: (*name).to_owned(),
        values: values.iter().map(|text| template(text)).collect(),
        list: false,
    };
    list.iter().map(parameter).collect()
}

#[test]
fn configured_parameters_replace_repeat_and_remove() {
    let token = Secret::new("rt".to_owned());
    let config = Config {
        params: parameters(&[
            ("audience", &["a&b"]),
            ("client_key", &["${client_id}"]),
            ("client_id", &[]),
            ("resource", &["https://x", "${key}"]),
            ("at", &["${now}"]),
            ("grant_type", &["account_credentials"]),
        ]),
        refresh_params: parameters(&[("grant_type", &["refresh"]), ("audience", &[])]),
        ..config(ClientAuthentication::Post, Some("s"))
    };
    let always = "client_key=a+b&resource=https%3A%2F%2Fx&resource=k-1&at=0";
    let refresh = request(&config, Grant::RefreshToken(&token));
    assert_eq!(
        refresh.body.expose(),
        format!("refresh_token=rt&client_secret=s&{always}&grant_type=refresh")
    );
    let other = request(&config, Grant::Own);
    assert_eq!(
        other.body.expose(),
        format!("client_secret=s&audience=a%26b&{always}&grant_type=account_credentials")
    );
}

#[test]
fn configured_fields_are_sent_and_sensitive() {
    let headers = vec![
        (http::HeaderName::from_static("x-key"), template("${key}")),
        (ACCEPT, template("text/plain")),
    ];
    let config = Config { headers, ..config(ClientAuthentication::Post, None) };
    let request = request(&config, Grant::Own);
    let key = request.fields.get("x-key").unwrap();
    assert!(key == "k-1" && key.is_sensitive());
    assert_eq!(request.fields.get(ACCEPT).unwrap(), "text/plain");
    assert!(!format!("{config:?}{request:?}").contains("k-1"));
}

#[test]
fn changed_parameters_change_the_fingerprint() {
    let plain = config(ClientAuthentication::Post, None);
    let with =
        |value: &str| Config { params: parameters(&[("audience", &[value])]), ..plain.clone() };
    let refresh = Config { params: Vec::new(), refresh_params: with("a").params, ..plain.clone() };
    let headers = vec![(ACCEPT, template("x"))];
    let fields = Config { headers, ..plain.clone() };
    let all = [&plain, &with("a"), &with("b"), &refresh, &fields].map(Config::fingerprint);
    for (index, one) in all.iter().enumerate() {
        assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{index}");
    }
}

#[test]
fn a_missing_url_is_reported() {
    let config = Config { token_url: None, ..config(ClientAuthentication::Post, None) };
    let endpoints = Endpoints::of(&config, context()).unwrap();
    let made =
        TokenRequest::new(&config, &endpoints, &ExchangeTokens::default(), Grant::Own, context());
    let error = made.unwrap_err().to_string();
    assert!(error.contains("token_url") && error.contains("nor the issuer"), "{error}");
}
