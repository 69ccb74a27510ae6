//! Discovery, steps, revocation and the grants without a request, over scripted answers.
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

/// Answers in turn and writes down what it was sent; with no answer left, the connection fails.
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
const ASK: &str = "POST https://as.test/token grant_type=client_credentials&client_id=acme";

#[tokio::test]
async fn an_issuer_is_asked_once_a_day_and_its_last_word_counts_while_it_is_away() {
    let document = r#"{"issuer":"https://id.test/a","token_endpoint":"https://as.test/token"}"#;
    let answers = [(404, ""), (200, document), (200, TOKENS), (200, TOKENS)];
    let script = ScriptedEndpoint::of(&answers);
    let config = Config { token_url: None, issuer: Some(text("https://id.test/a")), ..config() };
    let endpoint = TokenEndpoint::new(config, script.clone());
    endpoint.request(Grant::Own, context(at(1_000_000))).await.unwrap();
    let places = [
        "GET https://id.test/a/.well-known/openid-configuration",
        "GET https://id.test/.well-known/oauth-authorization-server/a",
    ];
    assert_eq!(script.sent(), [places[0], places[1], ASK]);
    endpoint.request(Grant::Own, context(at(1_080_000))).await.unwrap();
    assert_eq!(script.sent(), [ASK]);
    *script.answers.lock().unwrap() = [(500, ""), (500, ""), (200, TOKENS)]
        .map(|(status, body)| (status, body.to_owned()))
        .into();
    endpoint.request(Grant::Own, context(at(1_090_000))).await.unwrap();
    assert_eq!(script.sent(), [places[0], places[1], ASK]);
}

#[tokio::test]
async fn a_foreign_or_absent_document_sends_nothing_and_a_given_url_needs_none() {
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
        let script = ScriptedEndpoint::of(answers);
        let endpoint = TokenEndpoint::new(without_url.clone(), script.clone());
        let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert_eq!(script.sent().len(), asked, "{answers:?}");
    }
    let script = ScriptedEndpoint::of(&[(200, TOKENS)]);
    let endpoint = TokenEndpoint::new(with_issuer, script.clone());
    endpoint.request(Grant::Own, context(at(0))).await.unwrap();
    assert_eq!(script.sent(), [ASK]);
}

/// Twenty in ten seconds would make somebody else's outage worse, and mend no mistake.
#[tokio::test]
async fn an_issuer_that_is_of_no_use_is_asked_once_a_minute() {
    let entra =
        r#"{"issuer":"https://id.test/{tenantid}/v2.0","token_endpoint":"https://as.test/t"}"#;
    for (answer, says) in [
        (
            Some((200, entra)),
            &["https://id.test/common/v2.0", "https://id.test/{tenantid}/v2.0"][..],
        ),
        (None, &["could not be asked"]),
    ] {
        let script = ScriptedEndpoint::of(answer.as_slice());
        let issuer = Some(text("https://id.test/common/v2.0"));
        let config = Config { token_url: None, issuer, ..config() };
        let endpoint = TokenEndpoint::new(config, script.clone());
        for second in [0, 1, 30, 59] {
            let now = at(1_000_000 + second);
            let error = endpoint.request(Grant::Own, context(now)).await.unwrap_err().to_string();
            assert!(says.iter().all(|says| error.contains(says)), "{error}");
            assert_eq!(error.contains("could not be asked"), answer.is_none(), "{error}");
        }
        assert_eq!(script.sent().len(), 1);
        assert!(endpoint.request(Grant::Own, context(at(1_000_060))).await.is_err());
        assert_eq!(script.sent().len(), 1, "it is looked at again");
    }
}

#[tokio::test]
async fn a_message_about_an_issuer_repeats_no_secret() {
    let mut names = Names::default();
    names.insert_secret("tenant", Secret::new("hunter2".to_owned()));
    let issuer = Template::parse("https://id.test/${tenant}", &names).ok();
    let foreign = r#"{"issuer":"https://id.test/hunter2/"}"#;
    let config = Config { token_url: None, issuer, ..config() };
    let endpoint = TokenEndpoint::new(config, ScriptedEndpoint::of(&[(200, foreign)]));
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err().to_string();
    assert!(error.contains("https://id.test/…") && !error.contains("hunter2"), "{error}");
}

/// RFC 8705 §5; RFC 7523 §3 has the audience.
#[tokio::test]
async fn a_client_with_a_certificate_asks_the_alias_and_its_audience_stays() {
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
        let script = ScriptedEndpoint::of(&[(200, document), (200, TOKENS), (200, "")]);
        let param = Parameter { name: "aud".to_owned(), values: vec![aud.clone()], list: false };
        let issuer = Some(text("https://id.test"));
        let config =
            Config { token_url: None, issuer, client_cert, params: vec![param], ..config() };
        let endpoint = TokenEndpoint::new(config, script.clone());
        endpoint.request(Grant::Own, context(at(0))).await.unwrap();
        let token = Secret::new("t".to_owned());
        endpoint.revoke(&token, TokenKind::AccessToken, context(at(0))).await.unwrap();
        let [_, asked, revoked] = script.sent().try_into().unwrap();
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

/// The token request and the steps.
async fn obtain(
    endpoint: &TokenEndpoint,
    context: TokenRequestContext<'_>,
) -> Result<TokenResponse, GrantError> {
    let tokens = endpoint.request(Grant::Own, context).await?;
    endpoint.follow(tokens, context).await
}

#[tokio::test]
async fn steps_follow_and_the_last_token_is_the_one_that_is_used() {
    let login = r#"{"session":{"token":"bh","ttl":"600"},"restUrl":"https://r/"}"#;
    let script = ScriptedEndpoint::of(&[(200, TOKENS), (200, login), (200, "{}")]);
    let endpoint = TokenEndpoint::new(stepping(), script.clone());
    let tokens = obtain(&endpoint, context(at(1000))).await.unwrap();
    assert_eq!(tokens.access_token.unwrap().expose(), "bh");
    assert_eq!(tokens.refresh_token.unwrap().expose(), "rt2");
    assert_eq!(tokens.expires_at, Some(at(1600)));
    assert_eq!(
        script.sent(),
        [
            ASK,
            "GET https://rest.test/login?version=*&access_token=at1",
            "POST https://rest.test/ping url=https%3A%2F%2Fr%2F&t=bh",
        ]
    );
}

/// The same readers as for the answer of the token endpoint.
#[tokio::test]
async fn the_answer_to_a_step_is_read_as_tolerantly_and_as_strictly() {
    for (ttl, expires) in [
        ("600", 1600),
        ("600.0", 1600),
        ("\"600.0\"", 1600),
        ("99999999", 1000 + 365 * 24 * 60 * 60),
        ("\"1970-01-01T00:20:00Z\"", 1200),
        ("0", 1060),
    ] {
        let login = format!(r#"{{"session":{{"token":"b h","ttl":{ttl}}},"restUrl":"a\u0007b"}}"#);
        let script = ScriptedEndpoint::of(&[(200, TOKENS), (200, &login), (200, "null")]);
        let endpoint = TokenEndpoint::new(stepping(), script.clone());
        let tokens = obtain(&endpoint, context(at(1000))).await.unwrap();
        assert_eq!(tokens.access_token.unwrap().expose(), "b h");
        assert_eq!(tokens.expires_at, Some(at(expires)), "{ttl}");
        assert!(tokens.raw.is_empty(), "no header field may carry it");
        assert_eq!(script.sent().last().unwrap(), "POST https://rest.test/ping url=&t=b+h");
    }
}

#[tokio::test]
async fn a_failed_step_says_nothing_of_the_grant() {
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
async fn a_token_is_given_back_where_there_is_a_place_for_it() {
    let token = Secret::new("r t".to_owned());
    let config = Config {
        revoke_url: Some(text("https://as.test/revoke")),
        client_secret: Some(Secret::new("s".to_owned())),
        encoding: Encoding::Json,
        ..config()
    };
    let script =
        ScriptedEndpoint::of(&[(200, ""), (400, r#"{"error":"invalid_client"}"#), (503, "")]);
    let endpoint = TokenEndpoint::new(config.clone(), script.clone());
    let revoke = || endpoint.revoke(&token, TokenKind::RefreshToken, context(at(0)));
    assert_eq!(revoke().await.unwrap(), Revocation::Done);
    let request = "POST https://as.test/revoke token=r+t&token_type_hint=refresh_token&client_id=acme&client_secret=s";
    assert_eq!(script.sent(), [request]);
    assert_eq!(revoke().await.unwrap_err().class, ErrorClass::Config);
    assert_eq!(revoke().await.unwrap_err().class, ErrorClass::Transient);
    let nowhere = Config { revoke_url: None, ..config };
    let endpoint = TokenEndpoint::new(nowhere, ScriptedEndpoint::of(&[]));
    let revoked = endpoint.revoke(&token, TokenKind::AccessToken, context(at(0))).await;
    assert_eq!(revoked.unwrap(), Revocation::NoEndpoint);
}

#[tokio::test]
async fn a_self_signed_jwt_and_a_static_credential_ask_nobody() {
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
    let script =
        ScriptedEndpoint::of(&[(200, TOKENS), (400, r#"{"error":"x","error_description":"two"}"#)]);
    let endpoint = TokenEndpoint::new(config, script.clone());
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
    assert_eq!((error.class, script.sent().len()), (ErrorClass::NotSent, 0));
    std::fs::write(&path, "one\n").unwrap();
    endpoint.request(Grant::Own, context(at(0))).await.unwrap();
    std::fs::write(&path, "two\n").unwrap();
    let error = endpoint.request(Grant::Own, context(at(0))).await.unwrap_err();
    assert!(!error.to_string().contains("two"), "{error}");
    let sent = script.sent();
    let [one, two] = sent.as_slice() else { panic!("{sent:?}") };
    assert!(one.contains("&subject_token=one&") && two.contains("&subject_token=two&"));
}

#[tokio::test]
async fn a_subject_token_that_cannot_be_read_in_time_is_a_request_not_sent() {
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
    let script = ScriptedEndpoint::of(&[]);
    let endpoint = TokenEndpoint::new(config, script.clone());
    let asked = endpoint.request(Grant::Own, context(at(0)));
    let asked = tokio::time::timeout(Duration::from_secs(5), asked).await;
    // Whoever reads comes to an end, and the runtime with it.
    drop(std::fs::File::options().write(true).open(&path).unwrap());
    let error = asked.unwrap().unwrap_err();
    assert_eq!((error.class, script.sent().len()), (ErrorClass::NotSent, 0), "{error}");
}

#[tokio::test]
async fn a_variable_cannot_leave_its_place_in_a_url() {
    let config = Config { token_url: Some(text("https://as.test/${club}/token")), ..config() };
    for (value, path) in [("paris", "/paris/token"), ("../x?y#", "/..%2Fx%3Fy%23/token")] {
        let script = ScriptedEndpoint::of(&[(200, TOKENS)]);
        let endpoint = TokenEndpoint::new(config.clone(), script.clone());
        let variables = Variables::from([("club".to_owned(), value.to_owned())]);
        let context = TokenRequestContext { variables: &variables, ..context(at(0)) };
        endpoint.request(Grant::Own, context).await.unwrap();
        assert!(script.sent().concat().starts_with(&format!("POST https://as.test{path} ")));
    }
}
