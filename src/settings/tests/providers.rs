//! Configurations of real providers (oauth.md §4.3): the exact bytes of their token requests, and what
//! becomes of their answers.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::oauth::{
    Endpoints, ExchangeTokens, Grant, RawAnswer, TokenRequest, TokenRequestContext, read,
};
use crate::secret::SecretError;
use crate::template::{Template, Values, Variables};

/// The key of RFC 8037 appendix A.1.
pub(super) const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// A key and a certificate of the OAuth client, made for these tests.
static RSA: LazyLock<(String, String)> = LazyLock::new(|| {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["client.test".to_owned()]);
    let certificate = certificate.unwrap().self_signed(&pair).unwrap();
    (pair.serialize_pem(), certificate.pem())
});

pub(super) fn lines(source: &SecretSource) -> Result<Option<Secret>, SecretError> {
    let place = source.to_string();
    let text = match place.as_str() {
        place if place.contains("jwk") => JWK.to_owned(),
        place if place.contains("cert") => RSA.1.clone(),
        place if place.contains("other") => rcgen::KeyPair::generate().unwrap().serialize_pem(),
        place if place.contains("junk") => "hunter2".to_owned(),
        _ => RSA.0.clone(),
    };
    Ok(Some(Secret::new(text)))
}

/// The only credential of a configuration whose secrets are all `value`.
pub(super) fn configured(text: &str) -> Result<credential::Config, Problems> {
    let environment = Environment { read_lines: lines, ..environment() };
    let settings =
        Settings::from_text("proxy.toml", Path::new("/etc/bearerd"), text, &environment)?;
    Ok(settings.credentials.first().unwrap().clone())
}

/// What is sent at second 1,700,000,000: the request line, the fields but those that are always
/// there, the content; JWTs spelt out, their random names as `U`.
pub(super) fn sent(config: &credential::Config, grant: Grant<'_>) -> String {
    let (oauth, none) = (&config.token.oauth, Variables::new());
    let access_token = Secret::new("at".to_owned());
    let given = TokenRequestContext {
        now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        access_token: Some(&access_token),
        variables: &none,
        proof: None,
        response_timeout: Duration::from_secs(9),
    };
    let material = ExchangeTokens {
        subject_token: Some(Secret::new("subject".to_owned())),
        actor_token: Some(Secret::new("actor".to_owned())),
    };
    let endpoints = Endpoints::of(oauth, given).unwrap();
    let request = TokenRequest::new(oauth, &endpoints, &material, grant, given).unwrap();
    let mut text = format!("{} {}\n", request.method, request.url);
    for (name, value) in &request.fields {
        let usual = ["application/json", "application/x-www-form-urlencoded", "identity"];
        if !["accept", "accept-encoding", "content-type"].contains(&name.as_str())
            || !usual.contains(&value.to_str().unwrap())
        {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
    }
    text.push_str(request.body.expose());
    for jwt in request.secrets.iter().filter(|secret| secret.expose().split('.').count() == 3) {
        text = text.replace(jwt.expose(), &spelt_out(jwt.expose()));
    }
    text
}

fn spelt_out(jwt: &str) -> String {
    let part = |part: &str| {
        let json = URL_SAFE_NO_PAD.decode(part).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        if let Some(jti) = json.get_mut("jti") {
            assert_eq!(jti.as_str().unwrap().len(), 36);
            *jti = "U".into();
        }
        json.to_string()
    };
    jwt.split('.').take(2).map(part).collect::<Vec<_>>().join(".")
}

/// One provider: its block, what is presented, what is then sent, answered, and put on requests.
struct Provider {
    name: &'static str,
    block: &'static str,
    presents: Presents,
    sends: &'static str,
    /// The status and the content of the answer.
    answers: (u16, &'static str),
    /// The fields that are then put on a request, one a line, an identifier as `U`.
    injects: &'static str,
}

enum Presents {
    RefreshToken,
    Own,
}

use Presents::{Own, RefreshToken};

const PROVIDERS: &[Provider] = &[
    Provider {
        name: "stripe-app",
        block: r#"token_url = "https://api.stripe.test/v1/oauth/token"
            client_id = { file = "sk" }
            client_secret = ""
            client_auth = "basic_raw"
            lifetime = "1h""#,
        presents: RefreshToken,
        sends: "POST https://api.stripe.test/v1/oauth/token\nauthorization: Basic dmFsdWU6\n\
                grant_type=refresh_token&refresh_token=rt",
        answers: (
            200,
            r#"{"access_token":"at2","refresh_token":"rt2","token_type":"bearer","livemode":false}"#,
        ),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "tiktok-personal",
        block: r#"token_url = "https://open.tiktok.test/v2/oauth/token/"
            client_id = "acme"
            client_secret = { env = "S" }
            params = { client_key = "${client_id}", client_id = "" }"#,
        presents: RefreshToken,
        sends: "POST https://open.tiktok.test/v2/oauth/token/\n\
                grant_type=refresh_token&refresh_token=rt&client_secret=value&client_key=acme",
        answers: (
            200,
            r#"{"access_token":"at2","expires_in":86400,"refresh_token":"rt2","token_type":"Bearer"}"#,
        ),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "clover",
        block: r#"token_url = "https://clover.test/oauth/v2/token"
            refresh_url = "https://clover.test/oauth/v2/refresh"
            client_id = "acme"
            client_auth = "none"
            encoding = "json"
            params = { grant_type = "" }
            response = { expires_at = "access_token_expiration" }"#,
        presents: RefreshToken,
        sends: "POST https://clover.test/oauth/v2/refresh\n\
                {\"refresh_token\":\"rt\",\"client_id\":\"acme\"}",
        answers: (
            200,
            r#"{"access_token":"at2","access_token_expiration":1700001800,"refresh_token":"rt2"}"#,
        ),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "instagram",
        block: r#"token_url = "https://api.instagram.test/oauth/access_token"
            refresh_url = "https://graph.instagram.test/refresh_access_token"
            client_id = "acme"
            client_auth = "none"
            encoding = "get"
            params = { grant_type = "ig_refresh_token", access_token = "${access_token}", client_id = "", refresh_token = "" }"#,
        presents: RefreshToken,
        sends: "GET https://graph.instagram.test/refresh_access_token?access_token=at&grant_type=ig_refresh_token\n",
        answers: (200, r#"{"access_token":"at2","token_type":"bearer","expires_in":5183944}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "slack bot",
        block: r#"token_url = "https://slack.test/api/oauth.v2.access"
            client_id = "acme"
            client_secret = { env = "S" }
            refresh_on = [401, { status = 200, json = "error", is = "token_expired" }]
            response = { ok = "ok == true" }"#,
        presents: RefreshToken,
        sends: "POST https://slack.test/api/oauth.v2.access\n\
                grant_type=refresh_token&refresh_token=rt&client_id=acme&client_secret=value",
        answers: (
            200,
            r#"{"ok":true,"access_token":"xoxe-1","refresh_token":"rt2","expires_in":43200,"token_type":"bot"}"#,
        ),
        injects: "authorization: Bearer xoxe-1\n",
    },
    Provider {
        name: "coros",
        block: r#"token_url = "https://open.coros.test/oauth2/accesstoken"
            refresh_url = "https://open.coros.test/oauth2/refresh-token"
            client_id = "acme"
            client_secret = { env = "S" }
            lifetime = "30d"
            response = { ok = "result == '0000'", keep_access_token = true }"#,
        presents: RefreshToken,
        sends: "POST https://open.coros.test/oauth2/refresh-token\n\
                grant_type=refresh_token&refresh_token=rt&client_id=acme&client_secret=value",
        answers: (200, r#"{"message":"OK","result":"0000"}"#),
        injects: "authorization: Bearer at\n",
    },
    Provider {
        name: "sentry",
        block: r#"token_url = "https://sentry.test/api/0/sentry-app-installations/1/authorizations/"
            client_id = "acme"
            client_secret = { env = "S" }
            encoding = "json"
            response = { access_token = "token", refresh_token = "refreshToken", expires_at = "expiresAt" }"#,
        presents: RefreshToken,
        sends: "POST https://sentry.test/api/0/sentry-app-installations/1/authorizations/\n\
                {\"grant_type\":\"refresh_token\",\"refresh_token\":\"rt\",\"client_id\":\"acme\",\"client_secret\":\"value\"}",
        answers: (
            201,
            r#"{"token":"at2","refreshToken":"rt2","expiresAt":"2023-11-15T06:13:20.430Z"}"#,
        ),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "walmart",
        block: r#"token_url = "https://marketplace.walmart.test/v3/token"
            client_id = "acme"
            client_secret = { env = "S" }
            client_auth = "basic"
            headers = { "WM_SVC.NAME" = "bearerd" }
            inject = { "WM_SEC.ACCESS_TOKEN" = "${access_token}", "WM_QOS.CORRELATION_ID" = "${uuid}" }
            rotation = "ignore""#,
        presents: RefreshToken,
        sends: "POST https://marketplace.walmart.test/v3/token\nauthorization: Basic YWNtZTp2YWx1ZQ==\n\
                wm_svc.name: bearerd\ngrant_type=refresh_token&refresh_token=rt",
        answers: (200, r#"{"access_token":"at2","token_type":"Bearer","expires_in":900}"#),
        injects: "wm_qos.correlation_id: U\nwm_sec.access_token: at2\n",
    },
    Provider {
        name: "okta-cc",
        block: r#"grant = "client_credentials"
            token_url = "https://acme.okta.test/oauth2/v1/token"
            client_id = "acme"
            client_auth = "private_key_jwt"
            assertion = { key = { file = "jwk.json" }, kid = "k1" }"#,
        presents: Own,
        sends: "POST https://acme.okta.test/oauth2/v1/token\n\
                grant_type=client_credentials&client_id=acme\
                &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                &client_assertion={\"alg\":\"EdDSA\",\"kid\":\"k1\",\"typ\":\"JWT\"}.\
                {\"aud\":\"https://acme.okta.test/oauth2/v1/token\",\"exp\":1700000270,\"iat\":1699999970,\
                \"iss\":\"acme\",\"jti\":\"U\",\"nbf\":1699999970,\"sub\":\"acme\"}",
        answers: (200, r#"{"token_type":"Bearer","expires_in":3600,"access_token":"at2"}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "revolut",
        block: r#"token_url = "https://b2b.revolut.test/api/1.0/auth/token"
            client_id = "acme"
            client_auth = "private_key_jwt"
            assertion = { key = { file = "k.pem" }, iss = "cb.example.com", sub = "${client_id}", aud = "https://revolut.com" }"#,
        presents: RefreshToken,
        sends: "POST https://b2b.revolut.test/api/1.0/auth/token\n\
                grant_type=refresh_token&refresh_token=rt&client_id=acme\
                &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                &client_assertion={\"alg\":\"RS256\",\"typ\":\"JWT\"}.\
                {\"aud\":\"https://revolut.com\",\"exp\":1700000270,\"iat\":1699999970,\
                \"iss\":\"cb.example.com\",\"jti\":\"U\",\"nbf\":1699999970,\"sub\":\"acme\"}",
        answers: (200, r#"{"access_token":"at2","token_type":"bearer","expires_in":2399}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "zoom-cc",
        block: r#"grant = "client_credentials"
            token_url = "https://zoom.test/oauth/token"
            client_id = "acme"
            client_secret = { env = "S" }
            client_auth = "basic"
            params = { grant_type = "account_credentials", account_id = "A1" }"#,
        presents: Own,
        sends: "POST https://zoom.test/oauth/token\nauthorization: Basic YWNtZTp2YWx1ZQ==\n\
                account_id=A1&grant_type=account_credentials",
        answers: (200, r#"{"access_token":"at2","token_type":"bearer","expires_in":3599}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "google service account",
        block: r#"grant = "jwt_bearer"
            token_url = "https://oauth2.googleapis.test/token"
            assertion = { key = { file = "k.pem" }, iss = "sa@x.test", claims = { scope = "a b" }, aud = "${token_url}", ttl = "1h" }
            params = { client_id = "" }"#,
        presents: Own,
        sends: "POST https://oauth2.googleapis.test/token\n\
                grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
                &assertion={\"alg\":\"RS256\",\"typ\":\"JWT\"}.\
                {\"aud\":\"https://oauth2.googleapis.test/token\",\"exp\":1700003570,\"iat\":1699999970,\
                \"iss\":\"sa@x.test\",\"jti\":\"U\",\"nbf\":1699999970,\"scope\":\"a b\"}",
        answers: (200, r#"{"access_token":"at2","expires_in":3599,"token_type":"Bearer"}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "github app",
        block: r#"grant = "custom"
            token_url = "https://api.github.test/app/installations/1/access_tokens"
            headers = { Authorization = "Bearer ${assertion}" }
            assertion = { key = { file = "k.pem" }, iss = "123", ttl = "9m", claims = { aud = "" } }
            response = { access_token = "token", expires_at = "expires_at" }"#,
        presents: Own,
        sends: "POST https://api.github.test/app/installations/1/access_tokens\n\
                authorization: Bearer {\"alg\":\"RS256\",\"typ\":\"JWT\"}.\
                {\"exp\":1700000510,\"iat\":1699999970,\"iss\":\"123\",\"jti\":\"U\",\"nbf\":1699999970}\n",
        answers: (201, r#"{"token":"at2","expires_at":"2023-11-14T23:13:20Z","permissions":{}}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "salesforce",
        block: r#"token_url = "https://login.salesforce.test/services/oauth2/token"
            client_id = "acme"
            client_secret = { env = "S" }"#,
        presents: RefreshToken,
        sends: "POST https://login.salesforce.test/services/oauth2/token\n\
                grant_type=refresh_token&refresh_token=rt&client_id=acme&client_secret=value",
        answers: (
            200,
            r#"{"access_token":"at2","instance_url":"https://eu1.my.salesforce.com","token_type":"Bearer"}"#,
        ),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "fiserv",
        block: r#"grant = "client_credentials"
            token_url = "https://fiserv.test/token"
            client_id = "acme"
            client_secret = { env = "S" }
            client_auth = "basic"
            response = { unit = "ms" }"#,
        presents: Own,
        sends: "POST https://fiserv.test/token\nauthorization: Basic YWNtZTp2YWx1ZQ==\n\
                grant_type=client_credentials",
        answers: (200, r#"{"access_token":"at2","token_type":"Bearer","expires_in":"900000"}"#),
        injects: "authorization: Bearer at2\n",
    },
    Provider {
        name: "adp",
        block: r#"grant = "client_credentials"
            token_url = "https://accounts.adp.test/auth/oauth/v2/token"
            client_id = "acme"
            client_secret = { env = "S" }
            client_cert = { cert = "cert.pem", key = "k.pem" }"#,
        presents: Own,
        sends: "POST https://accounts.adp.test/auth/oauth/v2/token\n\
                grant_type=client_credentials&client_id=acme&client_secret=value",
        answers: (200, r#"{"access_token":"at2","token_type":"Bearer","expires_in":3600}"#),
        injects: "authorization: Bearer at2\n",
    },
];

#[test]
fn sixteen_providers_are_asked_as_they_want_and_their_token_is_put_on_requests() {
    assert_eq!(PROVIDERS.len(), 16);
    for Provider { name, block, presents, sends, answers, injects } in PROVIDERS {
        let text = format!("[credential.x]\nhosts = [\"api.test\"]\n{block}\n");
        let config = configured(&text).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let token = Secret::new("rt".to_owned());
        let grant = match presents {
            RefreshToken => Grant::RefreshToken(&token),
            Own => Grant::Own,
        };
        assert_eq!(sent(&config, grant), *sends, "{name}");
        assert_eq!(injected(&config, *answers), *injects, "{name}");
    }
}

/// What is put on requests after this answer; before it, the token was `at`.
fn injected(config: &credential::Config, (status, content): (u16, &str)) -> String {
    let (status, fields) = (http::StatusCode::from_u16(status).unwrap(), http::HeaderMap::new());
    let answer = RawAnswer { status, fields, body: content.as_bytes().to_vec(), cut: None };
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let tokens = read(&answer, &config.token.oauth.reading, now, &[]).unwrap();
    let kept = Secret::new("at".to_owned());
    let access_token = tokens.access_token.as_ref().unwrap_or(&kept).expose();
    let listed = match &config.injection.fields {
        credential::InjectedFields::Bearer => {
            return format!("authorization: Bearer {access_token}\n");
        }
        credential::InjectedFields::Listed(listed) => listed,
    };
    let values = Values { access_token, raw: Some(&tokens.raw), ..Values::at(now) };
    let field = |(name, template): &(http::HeaderName, Template)| {
        let value = template.expand(values);
        let value = if value.len() == 36 { "U" } else { &value };
        format!("{name}: {value}\n")
    };
    listed.iter().map(field).collect()
}

#[test]
fn an_api_key_takes_no_token_request() {
    let config = configured(
        "[credential.x]\nhosts = [\"api.test\"]\ngrant = \"static\"\n\
         vars = { k = { env = \"K\" } }\ninject = { \"x-api-key\" = \"${k}\" }",
    )
    .unwrap();
    let values = Values::at(UNIX_EPOCH);
    let credential::InjectedFields::Listed(fields) = &config.injection.fields else { panic!() };
    let fields: Vec<_> =
        fields.iter().map(|(name, it)| (name.as_str(), it.expand(values))).collect();
    assert_eq!(fields, [("x-api-key", "value".to_owned())]);
    assert!(!config.token.oauth.grant.makes_token_requests());
}

#[test]
fn the_client_certificate_is_loaded_with_its_flag() {
    let with = |more: &str| {
        configured(&credential(&format!("client_cert = {{ cert = \"cert.pem\", {more} }}")))
    };
    let plain = with("key = \"k.pem\"").unwrap();
    assert!(!plain.token.oauth.client_cert.as_ref().unwrap().bind);
    let bound = with("key = { env = \"K\" }, bind = true").unwrap();
    assert!(bound.token.oauth.client_cert.as_ref().unwrap().bind);
    assert_ne!(plain.token.oauth.fingerprint(), bound.token.oauth.fingerprint());
    for (more, says) in [
        ("key = \"other.pem\"", "`credential.x.client_cert.key` is not the key of the certificate"),
        ("key = \"junk\"", "`credential.x.client_cert.key` holds no private key"),
        ("bind = true", "`credential.x.client_cert.key` is missing"),
    ] {
        let report = with(more).unwrap_err().to_string();
        assert!(report.contains(says) && !report.contains("hunter2"), "{report}");
    }
}

#[test]
fn a_certificate_is_not_bound_where_requests_may_go_without_tls() {
    let with = |bind: &str, allow_http: &str| {
        let client_cert =
            format!("client_cert = {{ cert = \"cert.pem\", key = \"k.pem\", bind = {bind} }}");
        configured(&credential(&format!("{client_cert}\nallow_http = {allow_http}")))
    };
    for (bind, allow_http) in [("true", "false"), ("false", "true")] {
        assert!(with(bind, allow_http).is_ok(), "{bind} {allow_http}");
    }
    let report = with("true", "true").unwrap_err().to_string();
    assert!(report.contains("`credential.x.client_cert.bind` needs TLS to the API"), "{report}");
    assert!(report.contains("leave allow_http out, or write bind = false"), "{report}");
}
