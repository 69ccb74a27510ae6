//! A token request as bytes: pure, so that a test can look at every one of them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use url::Url;
use url::form_urlencoded::{self, Serializer};

use super::{Bootstrap, ClientAuth, Config, Given, Grant, Parameter, TokenKind};
use crate::secret::Secret;
use crate::template::Values;

/// A `POST` to a token endpoint (RFC 6749 §3.2).
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Where to.
    pub url: Url,
    /// All fields apart from `Host` and `Content-Length`; secret ones are marked sensitive.
    pub fields: HeaderMap,
    /// The form.
    pub body: Secret,
}

impl TokenRequest {
    /// Writes down the request for `grant`.
    pub fn new(config: &Config, grant: Grant<'_>, given: Given<'_>) -> Self {
        let mut form = Form::default();
        match grant {
            Grant::RefreshToken(token) => {
                form.add("grant_type", "refresh_token");
                form.add("refresh_token", token.expose());
            }
            Grant::Bootstrap => {
                form.add("grant_type", "password");
                if let Some(Bootstrap { username, password }) = &config.bootstrap {
                    form.add("username", username);
                    form.add("password", password.expose());
                }
            }
            Grant::Own => form.add("grant_type", "client_credentials"),
        }
        if let Some(scope) = &config.scope {
            form.add("scope", scope);
        }
        let mut fields = HeaderMap::new();
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        authenticate(config, &mut form, &mut fields);
        let values = given.values();
        form.replace(&config.params, values);
        if let Grant::RefreshToken(_) = grant {
            form.replace(&config.refresh_params, values);
        }
        for (name, template) in &config.headers {
            // What is in the template has been checked; `${uuid}` and `${now}` always fit.
            if let Ok(value) = template.expand_field(values) {
                fields.insert(name, value);
            }
        }
        Self { url: config.token_url.clone(), fields, body: form.encoded() }
    }
}

impl TokenRequest {
    /// Writes down the request that gives `token` back (RFC 7009 §2.1), if there is a place for it.
    pub fn revocation(config: &Config, token: &Secret, kind: TokenKind) -> Option<Self> {
        let mut form = Form::default();
        form.add("token", token.expose());
        form.add(
            "token_type_hint",
            match kind {
                TokenKind::RefreshToken => "refresh_token",
                TokenKind::AccessToken => "access_token",
            },
        );
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        authenticate(config, &mut form, &mut fields);
        Some(Self { url: config.revoke_url.clone()?, fields, body: form.encoded() })
    }
}

/// The parameters of a request, in the order in which they are sent.
#[derive(Default)]
struct Form<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Form<'a> {
    fn add(&mut self, name: &'a str, value: &'a str) {
        self.0.push((name, Cow::Borrowed(value)));
    }

    /// Parameters of the operator win over those of the same name; one without a value ends them.
    fn replace(&mut self, parameters: &'a [Parameter], values: Values<'_>) {
        for parameter in parameters {
            self.0.retain(|(name, _)| *name != parameter.name);
            let expanded = parameter.values.iter().map(|value| Cow::Owned(value.expand(values)));
            self.0.extend(expanded.map(|value| (parameter.name.as_str(), value)));
        }
    }

    fn encoded(self) -> Secret {
        Secret::new(Serializer::new(String::new()).extend_pairs(self.0).finish())
    }
}

/// One method per request (RFC 6749 §2.3); a client without a secret only names itself.
fn authenticate<'a>(config: &'a Config, form: &mut Form<'a>, fields: &mut HeaderMap) {
    let id = config.client_id.as_str();
    match (&config.client_secret, config.client_auth) {
        (None, _) => form.add("client_id", id),
        (Some(secret), ClientAuth::Post) => {
            form.add("client_id", id);
            form.add("client_secret", secret.expose());
        }
        (Some(secret), ClientAuth::Basic) => {
            let pair = format!("{}:{}", encode(id), encode(secret.expose()));
            fields.insert(AUTHORIZATION, basic(&pair));
        }
        (Some(secret), ClientAuth::BasicRaw) => {
            let pair = format!("{id}:{}", secret.expose());
            fields.insert(AUTHORIZATION, basic(&pair));
        }
    }
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn basic(pair: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(pair));
    let mut value = HeaderValue::try_from(text).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::oauth::GrantType;
    use crate::template::{Names, Template, Variables};

    fn config(client_auth: ClientAuth, secret: Option<&str>) -> Config {
        Config {
            grant: GrantType::RefreshToken,
            token_url: "https://as.test/token?tenant=1".parse().unwrap(),
            client_id: "a b".to_owned(),
            client_secret: secret.map(|text| Secret::new(text.to_owned())),
            client_auth,
            bootstrap: None,
            revoke_url: None,
            scope: None,
            params: Vec::new(),
            refresh_params: Vec::new(),
            headers: Vec::new(),
            reading: Default::default(),
            rotation: Default::default(),
            timeout: Duration::from_secs(10),
        }
    }

    fn given() -> Given<'static> {
        static NONE: Variables = Variables::new();
        Given { now: UNIX_EPOCH, access_token: None, variables: &NONE }
    }

    fn authorization(request: &TokenRequest) -> Option<String> {
        let value = request.fields.get(AUTHORIZATION)?;
        assert!(value.is_sensitive());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        Some(String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap())
    }

    #[test]
    fn each_client_authentication_sends_the_secret_in_one_place_only() {
        let token = Secret::new("r+t".to_owned());
        let grant = "grant_type=refresh_token&refresh_token=r%2Bt";
        for (auth, secret, body, header) in [
            (ClientAuth::Post, Some("s/1"), "&client_id=a+b&client_secret=s%2F1", None),
            (ClientAuth::Basic, Some("s/1"), "", Some("a+b:s%2F1")),
            (ClientAuth::BasicRaw, Some("s/1"), "", Some("a b:s/1")),
            (ClientAuth::Basic, None, "&client_id=a+b", None),
        ] {
            let request =
                TokenRequest::new(&config(auth, secret), Grant::RefreshToken(&token), given());
            assert_eq!(request.body.expose(), format!("{grant}{body}"));
            assert_eq!(authorization(&request).as_deref(), header);
            assert_eq!(request.url.as_str(), "https://as.test/token?tenant=1");
        }
    }

    #[test]
    fn a_scope_is_sent_verbatim_with_every_grant() {
        let config = Config { scope: Some("a b,c".to_owned()), ..config(ClientAuth::Post, None) };
        let request = TokenRequest::new(&config, Grant::Own, given());
        assert_eq!(
            request.body.expose(),
            "grant_type=client_credentials&scope=a+b%2Cc&client_id=a+b"
        );
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
        };
        list.iter().map(parameter).collect()
    }

    #[test]
    fn parameters_of_the_operator_win_repeat_and_remove() {
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
            ..config(ClientAuth::Post, Some("s"))
        };
        let always = "client_key=a+b&resource=https%3A%2F%2Fx&resource=k-1&at=0";
        let refresh = TokenRequest::new(&config, Grant::RefreshToken(&token), given());
        assert_eq!(
            refresh.body.expose(),
            format!("refresh_token=rt&client_secret=s&{always}&grant_type=refresh")
        );
        let other = TokenRequest::new(&config, Grant::Own, given());
        assert_eq!(
            other.body.expose(),
            format!("client_secret=s&audience=a%26b&{always}&grant_type=account_credentials")
        );
    }

    #[test]
    fn fields_of_the_operator_are_sent_and_sensitive() {
        let headers = vec![
            (http::HeaderName::from_static("x-key"), template("${key}")),
            (ACCEPT, template("text/plain")),
        ];
        let config = Config { headers, ..config(ClientAuth::Post, None) };
        let request = TokenRequest::new(&config, Grant::Own, given());
        let key = request.fields.get("x-key").unwrap();
        assert!(key == "k-1" && key.is_sensitive());
        assert_eq!(request.fields.get(ACCEPT).unwrap(), "text/plain");
        assert!(!format!("{config:?}{request:?}").contains("k-1"));
    }

    #[test]
    fn a_changed_parameter_may_make_a_refused_grant_succeed() {
        let plain = config(ClientAuth::Post, None);
        let with =
            |value: &str| Config { params: parameters(&[("audience", &[value])]), ..plain.clone() };
        let refresh =
            Config { params: Vec::new(), refresh_params: with("a").params, ..plain.clone() };
        let headers = vec![(ACCEPT, template("x"))];
        let fields = Config { headers, ..plain.clone() };
        let all = [&plain, &with("a"), &with("b"), &refresh, &fields].map(Config::fingerprint);
        for (index, one) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{index}");
        }
    }
}
