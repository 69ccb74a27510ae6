//! Whole slots against a scripted server, where no real one is needed to see what is asked and kept.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "tests/bootstrap.rs"]
mod bootstrap;
#[path = "tests/grant.rs"]
mod grant;
#[path = "tests/refusals.rs"]
mod refusals;
#[path = "tests/reload.rs"]
mod reload;
#[path = "tests/storage.rs"]
mod storage;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::UNIX_EPOCH;

use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::{
    Bootstrap, GrantType, OwnGrant, RawAnswer, Rotation, TokenRequest, TokenResponse, TokenType,
    Transport, TransportError,
};
use crate::secret::{Secret, SecretSource};
use crate::store::{MemoryStore, TerminalReason, TokenRecord, TokenStore};
use crate::template::{Names, Template};
use crate::token::Seed;

const TOKEN_URL: &str = "https://as.example/token";
const REVOKE_URL: &str = "https://as.example/revoke";

fn text(text: &str) -> Template {
    Template::parse(text, &Names::default()).unwrap()
}

/// In the place of a status: the request is not sent. So is one that nothing was told about.
const UNREACHABLE: u16 = 0;
/// In place of a status: the request was sent, and no answer came.
const LOST: u16 = 1;

/// Answers what it was told to, in this order, and remembers what it was asked.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<(u16, serde_json::Value)>>,
    requests: Mutex<Vec<String>>,
    arrived: Notify,
    /// When each of them came, and how long it waits for its answer.
    moments: Mutex<Vec<Instant>>,
    takes: Mutex<Duration>,
    /// While it holds, requests wait.
    gate: tokio::sync::RwLock<()>,
}

impl Script {
    fn answer(&self, status: u16, body: serde_json::Value) {
        self.answers.lock().unwrap().push_back((status, body));
    }

    fn issue(&self, number: u32) {
        let (access_token, refresh_token) = (format!("at{number}"), format!("rt{number}"));
        self.answer(
            200,
            json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": 3600}),
        );
    }

    /// The request arrives, and its answer does not.
    fn lose(&self) {
        self.answer(LOST, json!(null));
    }

    fn dead(&self) {
        self.answer(400, json!({"error": "invalid_grant"}));
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Transport for Script {
    fn send(
        &self,
        request: TokenRequest,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        let path = request.url.path().to_owned();
        self.requests.lock().unwrap().push(format!("{path} {}", request.body.expose()));
        self.moments.lock().unwrap().push(Instant::now());
        self.arrived.notify_one();
        let takes = *self.takes.lock().unwrap();
        Box::pin(async move {
            let _open = self.gate.read().await;
            tokio::time::sleep(takes).await;
            if path == "/revoke" {
                let (status, body) = (StatusCode::OK, Vec::new());
                return Ok(RawAnswer { status, fields: HeaderMap::new(), body });
            }
            let answer = self.answers.lock().unwrap().pop_front();
            let (status, body) = answer
                .filter(|(status, _)| *status != UNREACHABLE)
                .ok_or_else(|| TransportError::NotSent("nobody listens".to_owned()))?;
            if status == LOST {
                return Err(TransportError::Unanswered("reset".to_owned()));
            }
            let status = StatusCode::from_u16(status).unwrap();
            Ok(RawAnswer { status, fields: HeaderMap::new(), body: body.to_string().into_bytes() })
        })
    }
}

/// A slot and what it stands on.
struct Stage {
    script: Arc<Script>,
    store: Arc<MemoryStore>,
    clock: Clock,
    config: Config,
    context: Context,
}

impl Stage {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let (script, store) = (Arc::new(Script::default()), Arc::new(MemoryStore::default()));
        let clock = Clock::adjustable();
        let mut config = Config {
            name: "api".to_owned(),
            oauth: crate::oauth::Config::new(
                GrantType::RefreshToken,
                text(TOKEN_URL),
                text("client"),
            ),
            variables: Default::default(),
            seed: None,
            margin: Margin::Auto,
            lifetime: None,
            keepalive: None,
            wait: Duration::from_secs(5),
        };
        change(&mut config);
        let context = Context {
            control: Handle::current(),
            tasks: TaskTracker::new(),
            clock: clock.clone(),
            store: Arc::clone(&store) as Arc<dyn TokenStore>,
            transport: Arc::clone(&script) as Arc<dyn Transport>,
            metrics: Metrics::new(),
        };
        Self { script, store, clock, config, context }
    }

    /// A slot with its first token.
    async fn started(&mut self) -> Arc<Slot> {
        self.seed("s1");
        let slot = self.open().await;
        self.script.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        slot
    }

    async fn open(&self) -> Arc<Slot> {
        Slot::open(self.config.clone(), self.context.clone(), None).await
    }

    /// The slot after a reload.
    async fn reopen(&self, before: &Slot) -> Arc<Slot> {
        Slot::open(self.config.clone(), self.context.clone(), Some(before)).await
    }

    async fn record(&self) -> TokenRecord {
        self.store.load("api").await.unwrap().unwrap_or_default()
    }

    fn seed(&mut self, value: &str) {
        self.config.seed = seed(value);
    }
}

fn seed(value: &str) -> Option<Seed> {
    let value = Some(Secret::new(value.to_owned()));
    Some(Seed { source: SecretSource::Env("SEED".to_owned()), value })
}

fn with_bootstrap(config: &mut Config) {
    let grant =
        OwnGrant::Password { username: text("svc"), password: Secret::new("pw".to_owned()) };
    config.oauth.bootstrap = Some(Bootstrap { grant, scope: None, params: Vec::new() });
}

async fn token(slot: &Arc<Slot>) -> Result<String, TokenError> {
    slot.token().await.map(|token| token.access_token().to_owned())
}

fn presents(request: &str, grant: &str) -> bool {
    request.starts_with("/token ") && request.contains(&format!("grant_type={grant}"))
}

// ----- #24: bootstrap -----

// ----- #29: logout -----

#[tokio::test]
async fn a_logout_leaves_a_tombstone_and_revokes_both_tokens() {
    let mut stage = Stage::new(|config| {
        config.oauth.revoke_url = Some(text(REVOKE_URL));
        with_bootstrap(config);
    });
    let slot = stage.started().await;
    slot.logout().await.unwrap();
    let logged_out = TokenError::NeedsLogin { reason: TerminalReason::LoggedOut };
    assert_eq!(token(&slot).await, Err(logged_out.clone()));
    let requests = stage.script.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("token=rt1") && requests[2].contains("token=at1"));
    let record = stage.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(2));
    assert_eq!((record.refresh_token, record.access_token), (None, None));

    // Neither a restart, nor the old seed, nor the bootstrap.
    let again = stage.open().await;
    assert_eq!(token(&again).await, Err(logged_out));
    assert_eq!(stage.script.requests().len(), 3);

    // #28: a new seed does.
    stage.seed("s2");
    let renewed = stage.open().await;
    stage.script.issue(3);
    assert_eq!(token(&renewed).await.unwrap(), "at3");
    assert!(stage.record().await.generation > Generation(2));
}

/// Row 48: what comes back is not used, not stored, and revoked.
#[tokio::test]
async fn a_refresh_under_way_does_not_undo_a_logout() {
    let mut stage = Stage::new(|config| {
        config.oauth.revoke_url = Some(text(REVOKE_URL));
    });
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.issue(1);
    let hold = stage.script.gate.write().await;
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { token(&slot).await }
    });
    stage.script.arrived.notified().await;
    let logout = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { slot.logout().await }
    });
    let logged_out = Err(TokenError::NeedsLogin { reason: TerminalReason::LoggedOut });
    // The request that waits is told at once.
    assert_eq!(waiting.await.unwrap(), logged_out);
    drop(hold);
    logout.await.unwrap().unwrap();
    stage.context.tasks.close();
    stage.context.tasks.wait().await;
    assert_eq!(token(&slot).await, logged_out);
    assert!(stage.record().await.is_tombstone());
    let requests = stage.script.requests();
    let revoked = |token: &str| {
        requests
            .iter()
            .any(|it| it.starts_with("/revoke") && it.contains(&format!("token={token}")))
    };
    assert!(revoked("rt1") && revoked("at1"), "{requests:?}");
    assert_eq!(slot.status().condition, Condition::NeedsLogin(TerminalReason::LoggedOut));
}

/// #28.
#[tokio::test]
async fn a_login_heals_a_logout_and_wins_over_a_seed_that_was_never_used() {
    log_in(true).await;
    log_in(false).await;
}

async fn log_in(after_logout: bool) {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.open().await;
    if after_logout {
        slot.logout().await.unwrap();
    }
    let secret = |text: &str| Some(Secret::new(text.to_owned()));
    let response = TokenResponse {
        access_token: secret("at-login"),
        token_type: TokenType::default(),
        refresh_token: secret("rt-login"),
        expires_at: Some(stage.clock.now() + Duration::from_secs(3600)),
        refresh_expires_at: None,
        raw: Default::default(),
        dpop_nonce: None,
    };
    slot.store_login(&response, stage.clock.now()).await.unwrap();
    assert_eq!(token(&slot).await.unwrap(), "at-login");
    stage.clock.advance(Duration::from_secs(7200));
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(stage.script.requests()[0].contains("refresh_token=rt-login"));
}

// ----- other transitions that need a whole flight -----

#[tokio::test]
async fn an_operator_replaces_a_token_that_is_still_good() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.script.issue(2);
    assert_eq!(slot.refresh_now().await.unwrap().generation, Generation(2));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.script.answer(429, json!({"error": "slow_down"}));
    let throttled = slot.refresh_now().await.unwrap_err();
    assert!(matches!(throttled, TokenError::Unavailable { why: "throttled", .. }));
    assert!(slot.refresh_now().await.is_err());
    assert_eq!(stage.script.requests().len(), 3);
    assert_eq!(token(&slot).await.unwrap(), "at2", "the old one is still good");
}

#[tokio::test]
async fn with_rotation_ignored_nothing_is_written_before_and_the_first_refresh_token_stays() {
    let mut stage = Stage::new(|config| config.oauth.rotation = Rotation::Ignore);
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(7200));
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { token(&slot).await }
    });
    stage.script.arrived.notified().await;
    stage.script.arrived.notified().await;
    assert_eq!(stage.record().await.intent, None);
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert!(stage.script.requests()[1].contains("refresh_token=s1"));
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("s1".to_owned())));
}

#[tokio::test]
async fn with_rotation_required_an_answer_without_a_new_refresh_token_is_an_error_with_a_name() {
    let mut stage = Stage::new(|config| config.oauth.rotation = Rotation::Require);
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.answer(200, json!({"access_token": "at1", "expires_in": 3600}));
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "not_rotated", .. }), "{error}");
    let record = stage.record().await;
    assert_eq!(record.refresh_token, Some(Secret::new("s1".to_owned())));
    assert_eq!(record.intent, None, "an answer came: nothing was lost");
}

/// C9b: the third doubtful answer in a row ends a grant that had worked, and only such a one.
#[tokio::test]
async fn three_doubtful_answers_end_a_grant_that_had_worked() {
    for worked_before in [true, false] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.open().await;
        if worked_before {
            stage.script.issue(1);
            assert_eq!(token(&slot).await.unwrap(), "at1");
            stage.clock.advance(Duration::from_secs(7200));
        }
        for _ in 0..3 {
            stage.script.answer(400, json!({"error": "invalid_request"}));
            assert!(token(&slot).await.is_err());
            stage.clock.advance(Duration::from_secs(901));
        }
        let needs_login = matches!(slot.status().condition, Condition::NeedsLogin(_));
        assert_eq!(needs_login, worked_before);
    }
}

/// #9, row 33: 40 days without a request.
#[tokio::test(start_paused = true)]
async fn an_idle_refresh_token_is_used_once_in_its_keepalive() {
    let day = Duration::from_secs(86_400);
    let mut stage = Stage::new(|config| config.keepalive = Some(30 * day));
    let _before = stage.started().await;
    stage.script.arrived.notified().await;
    stage.clock.advance(29 * day);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.script.requests().len(), 1);
    stage.script.issue(2);
    stage.clock.advance(11 * day);
    stage.script.arrived.notified().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stage.script.requests().len(), 2, "once");
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt2".to_owned())));
    assert!(stage.record().await.issued_at > Some(UNIX_EPOCH + 30 * day));
}

/// #7 and #8 by the clock, and that nobody's token is left alone.
#[tokio::test(start_paused = true)]
async fn near_expiry_the_timer_replaces_a_token_that_was_used_and_no_other() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    assert_eq!(token(&slot).await.unwrap(), "at1");
    stage.script.arrived.notified().await;
    stage.clock.advance(Duration::from_secs(3400));
    stage.script.issue(2);
    stage.script.arrived.notified().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(slot.status().generation, Generation(2));
    // Nobody has used that one.
    stage.clock.advance(Duration::from_secs(3400));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.script.requests().len(), 2);
}

/// Row 5: two hundred credentials that expire together.
#[test]
fn credentials_that_expire_together_are_refreshed_apart() {
    let lifetime = Duration::from_secs(3600);
    let margins: Vec<_> =
        (0..200).map(|_| Margin::Auto.of(lifetime, lifetime, random_share())).collect();
    let (first, last) = (margins.iter().max().unwrap(), margins.iter().min().unwrap());
    assert!(*first - *last >= *first / 10, "spread over {:?}", *first - *last);
}
