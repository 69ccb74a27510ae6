//! A token request as bytes: pure, so that a test can look at every one of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use url::Url;
use url::form_urlencoded::{self, Serializer};

use super::{ClientAuth, Config, Grant};
use crate::secret::Secret;

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
    pub fn new(config: &Config, grant: Grant<'_>) -> Self {
        let mut form = Serializer::new(String::new());
        match grant {
            Grant::RefreshToken(token) => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", token.expose());
            }
            Grant::ClientCredentials => {
                form.append_pair("grant_type", "client_credentials");
            }
        }
        if let Some(scope) = &config.scope {
            form.append_pair("scope", scope);
        }
        let mut fields = HeaderMap::new();
        fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        authenticate(config, &mut form, &mut fields);
        Self { url: config.token_url.clone(), fields, body: Secret::new(form.finish()) }
    }
}

/// One method per request (RFC 6749 §2.3); a client without a secret only names itself.
fn authenticate(config: &Config, form: &mut Serializer<'_, String>, fields: &mut HeaderMap) {
    let id = config.client_id.as_str();
    match (&config.client_secret, config.client_auth) {
        (None, _) => {
            form.append_pair("client_id", id);
        }
        (Some(secret), ClientAuth::Post) => {
            form.append_pair("client_id", id);
            form.append_pair("client_secret", secret.expose());
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
    use std::time::Duration;

    use super::*;
    use crate::oauth::GrantType;

    fn config(client_auth: ClientAuth, secret: Option<&str>) -> Config {
        Config {
            grant: GrantType::RefreshToken,
            token_url: "https://as.test/token?tenant=1".parse().unwrap(),
            client_id: "a b".to_owned(),
            client_secret: secret.map(|text| Secret::new(text.to_owned())),
            client_auth,
            scope: None,
            timeout: Duration::from_secs(10),
        }
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
            let request = TokenRequest::new(&config(auth, secret), Grant::RefreshToken(&token));
            assert_eq!(request.body.expose(), format!("{grant}{body}"));
            assert_eq!(authorization(&request).as_deref(), header);
            assert_eq!(request.url.as_str(), "https://as.test/token?tenant=1");
        }
    }

    #[test]
    fn a_scope_is_sent_verbatim_with_every_grant() {
        let config = Config { scope: Some("a b,c".to_owned()), ..config(ClientAuth::Post, None) };
        let request = TokenRequest::new(&config, Grant::ClientCredentials);
        assert_eq!(
            request.body.expose(),
            "grant_type=client_credentials&scope=a+b%2Cc&client_id=a+b"
        );
    }
}
