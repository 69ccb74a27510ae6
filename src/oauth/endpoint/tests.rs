//! Tests of discovery, steps, revocation and grants without a request, with scripted answers.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode};

use super::*;
use crate::oauth::{
    Assertion, ClientCert, Encoding, GrantType, MemberPath, Parameter, SigningKey, Step,
    TransportError,
};
use crate::template::{DeferredName, Names, Template, Variables};

/// Returns the answers in order and records the requests. Without an answer, the connection fails.
#[derive(Debug, Default)]
struct ScriptedEndpoint {
    answers: Mutex<VecDeque<(u16, String)>>,
    sent: Mutex<Vec<String>>,
}

impl ScriptedEndpoint {
    fn of(answers: &[(u16, &str)]) -> Arc<Self> {
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned()));
        Arc::new(Self { answers: Mutex::new(answers.collect()), sent: Mutex::default() })
    }

    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

impl Transport for ScriptedEndpoint {
    fn send(
        &self,
        request: TokenRequest,
        _listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        let line = format!("{} {} {}", request.method, request.url, request.body.expose());
        self.sent.lock().unwrap().push(line.trim_end().to_owned());
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(async move {
            let (status, body) =
                answer.ok_or_else(|| TransportError::NotSent("refused".to_owned()))?;
            let status = StatusCode::from_u16(status).unwrap();
            Ok(RawAnswer { status, fields: HeaderMap::new(), body: body.into_bytes(), cut: None })
        })
    }
}

fn text(text: &str) -> Template {
    let mut names = Names::default().with_raw().with(DeferredName::AccessToken);
    names.insert_variable("club");
    Template::parse(text, &names).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn context(now: SystemTime) -> TokenRequestContext<'static> {
    static NONE: Variables = Variables::new();
    TokenRequestContext {
        now,
        access_token: None,
        variables: &NONE,
        proof: None,
        response_timeout: Duration::from_secs(9),
    }
}

fn config() -> Config {
    Config::new(GrantType::ClientCredentials, text("https://as.test/token"), text("acme"))
}

const TOKENS: &str = r#"{"access_token":"at1","refresh_token":"rt2","expires_in":60}"#;
const TOKEN_REQUEST: &str =
    "POST https://as.test/token grant_type=client_credentials&client_id=acme";

#[tokio::test]
async fn metadata_is_fetched_once_a_day_and_kept_while_the_issuer_is_unreachable() {
    let document = r#"{"issuer":"https://id.test/a","token_endpoint":"https://as.test/token"}"#;
    let answers = [(404, ""), (200, document), (200, TOKENS), (200, TOKENS)];
    let endpoint_script = ScriptedEndpoint::of(&answers);
    let config = Config { token_url: None, issuer: Some(text("https://id.test/a")), ..config() };
    let endpoint = TokenEndpoint::new(config, endpoint_script.clone());
    endpoint.request(Grant::Own, context(at(1_000_000))).await.unwrap();
    let places = [
        "GET https://id.test/a/.well-known/openid-configuration",
        "GET https://id.test/.well-known/oauth-authorization-server/a",
    ];
    assert_eq!(endpoint_script.sent(), [places[0], places[1], TOKEN_REQUEST]);
    endpoint.request(Grant::Own, context(at(1_080_000))).await.unwrap();
    assert_eq!(endpoint_script.sent(), [TOKEN_REQUEST]);
    *endpoint_script.answers.lock().unwrap() = [(500, ""), (500, ""), (200, TOKENS)]
        .map(|(status, body)| (status, body.to_owned()))
        .into();
    endpoint.request(Grant::Own, context(at(1_090_000))).await.unwrap();
    assert_eq!(endpoint_script.sent(), [places[0], places[1], TOKEN_REQUEST]);
}

#[tokio::test]
async fn without_valid_metadata_nothing_is_sent_unless_the_url_is_configured() {
    let foreign = r#"{"issuer":"https://other.test","token_endpoint":"https://as.test/token"}"#;
    let with_issuer = Config { issuer: Some(text("https://id.test")), ..config() };
    let without_url = Config { token_url: None, ..with_issuer.clone() };
    let page = "<html>";
    for (answers, class, asked) in [
        (&[(200, foreign)][..], ErrorClass::Config, 1),
        (&[(404, ""), (200, foreign)], ErrorClass::Config, 2),
        (&[(200, page), (404, "")], ErrorClass::Config, 2),
        (&[(404, ""), (404, "")], ErrorClass::Config, 2),
        (&[(404, ""), (503, "")], ErrorClass::NotSent, 2),
        (&[(503, ""), (404, "")], ErrorClass::NotSent, 2),
        (&[], ErrorClass::NotSent, 1),
    ] {
        let endpoint_script = ScriptedEndpoint::of(answers);
        let endpoint = TokenEndpoint::new(without_url.clone(), endpoint_script.clone());
        let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert_eq!(endpoint_script.sent().len(), asked, "{answers:?}");
    }
    let endpoint_script = ScriptedEndpoint::of(&[(200, TOKENS)]);
    let endpoint = TokenEndpoint::new(with_issuer, endpoint_script.clone());
    endpoint.request(Grant::Own, context(at(0))).await.unwrap();
    assert_eq!(endpoint_script.sent(), [TOKEN_REQUEST]);
}

/// More requests would worsen an outage and cannot fix a configuration error.
#[tokio::test]
async fn a_failing_issuer_is_asked_once_a_minute() {
    let entra =
        r#"{"issuer":"https://id.test/{tenantid}/v2.0","token_endpoint":"https://as.test/t"}"#;
    for (answer, says) in [
        (
            Some((200, entra)),
            &["https://id.test/common/v2.0", "https://id.test/{tenantid}/v2.0"][..],
        ),
        (None, &["could not be asked"]),
    ] {
        let endpoint_script = ScriptedEndpoint::of(answer.as_slice());
        let issuer = Some(text("https://id.test/common/v2.0"));
        let config = Config { token_url: None, issuer, ..config() };
        let endpoint = TokenEndpoint::new(config, endpoint_script.clone());
        for second in [0, 1, 30, 59] {
            let now = at(1_000_000 + second);
            let error = endpoint.request(Grant::Own, context(now)).await.unwrap_err().to_string();
            assert!(says.iter().all(|says| error.contains(says)), "{error}");
            assert_eq!(error.contains("could not be asked"), answer.is_none(), "{error}");
        }
        assert_eq!(endpoint_script.sent().len(), 1);
        assert!(endpoint.request(Grant::Own, context(at(1_000_060))).await.is_err());
        assert_eq!(endpoint_script.sent().len(), 1, "a cached failure must not be fetched again");
    }
}

#[tokio::test]
async fn messages_about_an_issuer_mask_secrets() {
    let mut names = Names::default();
    names.insert_secret("tenant", Secret::new("hunter2".to_owned()));
    let issuer = Template::parse("https://id.test/${tenant}", &names).ok();
    let foreign = r#"{"issuer":"https://id.test/hunter2/"}"#;
    let config = Config { token_url: None, issuer, ..config() };
    let endpoint = TokenEndpoint::new(config, ScriptedEndpoint::of(&[(200, foreign)]));
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err().to_string();
    assert!(error.contains("https://id.test/…") && !error.contains("hunter2"), "{error}");
}

/// RFC 8705 §5; RFC 7523 §3 for the audience.
#[tokio::test]
async fn clients_with_a_certificate_use_the_alias_and_keep_the_audience() {
    use crate::oauth::keyfile::tests::sample;
    let document = r#"{"issuer":"https://id.test","token_endpoint":"https://as.test/token",
        "revocation_endpoint":"https://as.test/revoke","mtls_endpoint_aliases":
        {"token_endpoint":"https://mtls.as.test/token","revocation_endpoint":"https://mtls.as.test/revoke"}}"#;
    let key = Secret::new(sample("p521"));
    let certificate =
        ClientCert::from_pem(&sample("p521.crt"), &key, false, &crate::tls::provider()).unwrap();
    let mut names = Names::default();
    names.insert("client_id", "acme");
    let aud = Template::parse("${token_url}", &names.with(DeferredName::TokenUrl)).unwrap();
    for (client_cert, host) in [(Some(certificate), "mtls.as.test"), (None, "as.test")] {
        let endpoint_script = ScriptedEndpoint::of(&[(200, document), (200, TOKENS), (200, "")]);
        let param = Parameter { name: "aud".to_owned(), values: vec![aud.clone()], list: false };
        let issuer = Some(text("https://id.test"));
        let config =
            Config { token_url: None, issuer, client_cert, params: vec![param], ..config() };
        let endpoint = TokenEndpoint::new(config, endpoint_script.clone());
        endpoint.request(Grant::Own, context(at(0))).await.unwrap();
        let token = Secret::new("t".to_owned());
        endpoint.revoke(&token, TokenKind::AccessToken, context(at(0))).await.unwrap();
        let [_, asked, revoked] = endpoint_script.sent().try_into().unwrap();
        assert!(asked.starts_with(&format!("POST https://{host}/token ")), "{asked}");
        assert!(asked.ends_with("&aud=https%3A%2F%2Fas.test%2Ftoken"), "{asked}");
        assert!(revoked.starts_with(&format!("POST https://{host}/revoke ")), "{revoked}");
    }
}

fn stepping() -> Config {
    let parameter = |name: &str, value| Parameter {
        name: name.to_owned(),
        values: vec![text(value)],
        list: false,
    };
    let login = Step {
        url: text("https://rest.test/login"),
        encoding: Encoding::Get,
        params: vec![parameter("version", "*"), parameter("access_token", "${access_token}")],
        headers: Vec::new(),
        access_token: MemberPath::parse("session.token"),
        expires_in: MemberPath::parse("session.ttl"),
        raw: MemberPath::parse("restUrl").into_iter().collect(),
    };
    let ping = Step {
        url: text("https://rest.test/ping"),
        encoding: Encoding::Form,
        params: vec![parameter("url", "${raw.restUrl}"), parameter("t", "${access_token}")],
        access_token: None,
        expires_in: None,
        raw: Vec::new(),
        ..login.clone()
    };
    Config { steps: vec![login, ping], ..config() }
}

/// Makes the token request and the steps.
async fn obtain(
    endpoint: &TokenEndpoint,
    context: TokenRequestContext<'_>,
) -> Result<TokenResponse, GrantError> {
    let tokens = endpoint.request(Grant::Own, context).await?;
    endpoint.follow(tokens, context).await
}

#[tokio::test]
async fn the_token_of_the_last_step_is_used() {
    let login = r#"{"session":{"token":"bh","ttl":"600"},"restUrl":"https://r/"}"#;
    let endpoint_script = ScriptedEndpoint::of(&[(200, TOKENS), (200, login), (200, "{}")]);
    let endpoint = TokenEndpoint::new(stepping(), endpoint_script.clone());
    let tokens = obtain(&endpoint, context(at(1000))).await.unwrap();
    assert_eq!(tokens.access_token.unwrap().expose(), "bh");
    assert_eq!(tokens.refresh_token.unwrap().expose(), "rt2");
    assert_eq!(tokens.expires_at, Some(at(1600)));
    assert_eq!(
        endpoint_script.sent(),
        [
            TOKEN_REQUEST,
            "GET https://rest.test/login?version=*&access_token=at1",
            "POST https://rest.test/ping url=https%3A%2F%2Fr%2F&t=bh",
        ]
    );
}

/// Uses the same code as for answers of the token endpoint.
#[tokio::test]
async fn answers_to_steps_are_read_like_token_responses() {
    for (ttl, expires) in [
        ("600", 1600),
        ("600.0", 1600),
        ("\"600.0\"", 1600),
        ("99999999", 1000 + 365 * 24 * 60 * 60),
        ("\"1970-01-01T00:20:00Z\"", 1200),
        ("0", 1060),
    ] {
        let login = format!(r#"{{"session":{{"token":"b h","ttl":{ttl}}},"restUrl":"a\u0007b"}}"#);
        let endpoint_script = ScriptedEndpoint::of(&[(200, TOKENS), (200, &login), (200, "null")]);
        let endpoint = TokenEndpoint::new(stepping(), endpoint_script.clone());
        let tokens = obtain(&endpoint, context(at(1000))).await.unwrap();
        assert_eq!(tokens.access_token.unwrap().expose(), "b h");
        assert_eq!(tokens.expires_at, Some(at(expires)), "{ttl}");
        assert!(tokens.raw.is_empty(), "the value is not valid in a header field");
        assert_eq!(
            endpoint_script.sent().last().unwrap(),
            "POST https://rest.test/ping url=&t=b+h"
        );
    }
}

#[tokio::test]
async fn failed_steps_do_not_invalidate_the_grant() {
    for (answers, class) in [
        (&[(200, TOKENS), (503, "")][..], ErrorClass::Transient),
        (&[(200, TOKENS), (400, r#"{"error":"invalid_grant"}"#)], ErrorClass::Config),
        (&[(200, TOKENS), (200, r#"{"session":{}}"#)], ErrorClass::Unreadable),
        (&[(200, TOKENS), (200, "<html>at1")], ErrorClass::Unreadable),
        (&[(200, TOKENS)], ErrorClass::NotSent),
    ] {
        let endpoint = TokenEndpoint::new(stepping(), ScriptedEndpoint::of(answers));
        let error = obtain(&endpoint, context(at(0))).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(!error.to_string().contains("at1"), "{error}");
    }
}

#[tokio::test]
async fn tokens_are_revoked_if_there_is_an_endpoint() {
    let token = Secret::new("r t".to_owned());
    let config = Config {
        revoke_url: Some(text("https://as.test/revoke")),
        client_secret: Some(Secret::new("s".to_owned())),
        encoding: Encoding::Json,
        ..config()
    };
    let endpoint_script =
        ScriptedEndpoint::of(&[(200, ""), (400, r#"{"error":"invalid_client"}"#), (503, "")]);
    let endpoint = TokenEndpoint::new(config.clone(), endpoint_script.clone());
    let revoke = || endpoint.revoke(&token, TokenKind::RefreshToken, context(at(0)));
    assert_eq!(revoke().await.unwrap(), Revocation::Done);
    let request = "POST https://as.test/revoke token=r+t&token_type_hint=refresh_token&client_id=acme&client_secret=s";
    assert_eq!(endpoint_script.sent(), [request]);
    assert_eq!(revoke().await.unwrap_err().class, ErrorClass::Config);
    assert_eq!(revoke().await.unwrap_err().class, ErrorClass::Transient);
    let nowhere = Config { revoke_url: None, ..config };
    let endpoint = TokenEndpoint::new(nowhere, ScriptedEndpoint::of(&[]));
    let revoked = endpoint.revoke(&token, TokenKind::AccessToken, context(at(0))).await;
    assert_eq!(revoked.unwrap(), Revocation::NoEndpoint);
}

#[tokio::test]
async fn self_signed_jwts_and_static_credentials_send_no_request() {
    let key = Secret::new("s".repeat(32));
    let key = SigningKey::shared(&key, None, None).unwrap();
    let assertion = Assertion { ttl: Duration::from_secs(90), ..Assertion::new(key) };
    let own = Config::new(GrantType::SelfSignedJwt, text("https://api.test/"), text("acme"));
    let own = Config { assertion: Some(assertion), ..own };
    let endpoint = TokenEndpoint::new(own, ScriptedEndpoint::of(&[]));
    let tokens = endpoint.request(Grant::Own, context(at(1000))).await.unwrap();
    assert_eq!(tokens.expires_at, Some(at(1060)));
    assert_eq!(tokens.access_token.unwrap().expose().split('.').count(), 3);
    let none = Config::new(GrantType::Static, text("https://as.test/"), text("acme"));
    let endpoint = TokenEndpoint::new(none, ScriptedEndpoint::of(&[]));
    let tokens = endpoint.request(Grant::Own, context(at(0))).await.unwrap();
    assert!(tokens.access_token.is_some() && tokens.expires_at.is_none());
}

#[tokio::test]
async fn the_subject_token_is_read_for_each_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let exchange = Exchange {
        subject_token: SecretSource::File(path.clone()),
        subject_token_type: "t".to_owned(),
        actor: None,
    };
    let own = Some(OwnGrant::TokenExchange(Box::new(exchange)));
    let config = Config { grant: GrantType::TokenExchange, own, ..config() };
    let endpoint_script =
        ScriptedEndpoint::of(&[(200, TOKENS), (400, r#"{"error":"x","error_description":"two"}"#)]);
    let endpoint = TokenEndpoint::new(config, endpoint_script.clone());
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
    assert_eq!((error.class, endpoint_script.sent().len()), (ErrorClass::NotSent, 0));
    std::fs::write(&path, "one\n").unwrap();
    endpoint.request(Grant::Own, context(at(0))).await.unwrap();
    std::fs::write(&path, "two\n").unwrap();
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
    assert!(!error.to_string().contains("two"), "{error}");
    let sent = endpoint_script.sent();
    let [one, two] = sent.as_slice() else { panic!("{sent:?}") };
    assert!(one.contains("&subject_token=one&") && two.contains("&subject_token=two&"));
}

#[tokio::test]
async fn a_subject_token_that_cannot_be_read_in_time_sends_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    let exchange = Exchange {
        subject_token: SecretSource::File(path.clone()),
        subject_token_type: "t".to_owned(),
        actor: None,
    };
    let own = Some(OwnGrant::TokenExchange(Box::new(exchange)));
    let timeout = Duration::from_millis(20);
    let config = Config { grant: GrantType::TokenExchange, own, timeout, ..config() };
    let endpoint_script = ScriptedEndpoint::of(&[]);
    let endpoint = TokenEndpoint::new(config, endpoint_script.clone());
    let asked = endpoint.request(Grant::Own, context(at(0)));
    let asked = tokio::time::timeout(Duration::from_secs(5), asked).await;
    // Let the blocked reader finish, so that the runtime can stop.
    drop(std::fs::File::options().write(true).open(&path).unwrap());
    let error = asked.unwrap().unwrap_err();
    assert_eq!((error.class, endpoint_script.sent().len()), (ErrorClass::NotSent, 0), "{error}");
}

#[tokio::test]
async fn variables_cannot_change_the_structure_of_a_url() {
    let config = Config { token_url: Some(text("https://as.test/${club}/token")), ..config() };
    for (value, path) in [("paris", "/paris/token"), ("../x?y#", "/..%2Fx%3Fy%23/token")] {
        let endpoint_script = ScriptedEndpoint::of(&[(200, TOKENS)]);
        let endpoint = TokenEndpoint::new(config.clone(), endpoint_script.clone());
        let variables = Variables::from([("club".to_owned(), value.to_owned())]);
        let context = TokenRequestContext { variables: &variables, ..context(at(0)) };
        endpoint.request(Grant::Own, context).await.unwrap();
        assert!(
            endpoint_script.sent().concat().starts_with(&format!("POST https://as.test{path} "))
        );
    }
}
