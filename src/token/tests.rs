//! Tests of whole slots against a scripted authorization server and a scripted store: which requests are made, when,
//! and what is stored. Tokio's time is paused where it matters, and the [`Clock`] follows it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod answers;
mod bootstrap;
mod faulty_store;
mod interleavings;
mod logout;
mod lost_answers;
mod processes;
mod refusals;
mod reload;
mod restored;
mod scripted_server;
mod seeds;
mod steps;
mod storage;
mod timer;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::faulty_store::{FaultyStore, WriteHang};
use self::scripted_server::ScriptedServer;
use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::{
    Bootstrap, ErrorClass, GrantType, MemberPath, OwnGrant, Rotation, Step, TokenResponse,
    TokenType,
};
use crate::secret::{Secret, SecretSource};
use crate::store::{
    Attempt, ByteStore, EncryptionKeys, MemoryStore, PutOutcome, Store, TerminalReason,
    TerminalState, TokenRecord, Version,
};
use crate::template::{Names, Template};

const TOKEN_URL: &str = "https://as.example/token";
const REVOKE_URL: &str = "https://as.example/revoke";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn text(text: &str) -> Template {
    Template::parse(text, &Names::default()).unwrap()
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

fn hash(text: &str) -> crate::secret::Fingerprint {
    Secret::new(text.to_owned()).fingerprint()
}

fn config() -> Config {
    Config {
        name: "api".to_owned(),
        oauth: crate::oauth::Config::new(GrantType::RefreshToken, text(TOKEN_URL), text("client")),
        variables: Default::default(),
        seed: None,
        margin: Margin::Auto,
        lifetime: None,
        keepalive: None,
        wait: Duration::from_secs(5),
    }
}

/// A configuration, one server and one store for the slots of a test.
struct Fixture {
    server: Arc<ScriptedServer>,
    store: Arc<FaultyStore>,
    /// The same store without the script.
    stored: Store,
    clock: Clock,
    config: Config,
    context: Context,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let memory = Arc::new(MemoryStore::default());
        let store = Arc::new(FaultyStore::over(Arc::clone(&memory)));
        let server = Arc::new(ScriptedServer::with_journal(store.journal()));
        let clock = Clock::adjustable();
        let mut config = config();
        change(&mut config);
        let context = Context {
            control: Handle::current(),
            tasks: Tasks::default(),
            clock: clock.clone(),
            store: Store::new(Arc::clone(&store) as Arc<dyn ByteStore>, EncryptionKeys::default()),
            cache: TokenCache::default(),
            revision: 0,
            transport: Arc::clone(&server) as Arc<dyn crate::oauth::Transport>,
            metrics: Metrics::new(),
        };
        let stored = Store::new(memory as Arc<dyn ByteStore>, EncryptionKeys::default());
        Self { server, store, stored, clock, config, context }
    }

    /// Starts a process and obtains the first token, `at1`, and the refresh token `rt1`.
    async fn started(&mut self) -> Arc<Slot> {
        self.seed("s1");
        let slot = self.start().await;
        self.server.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        slot
    }

    /// The same, but the token has expired.
    async fn expired(&mut self) -> Arc<Slot> {
        let slot = self.started().await;
        self.clock.advance(2 * HOUR);
        slot
    }

    /// Starts a process, which has a cache of its own, and returns its slot.
    async fn start(&mut self) -> Arc<Slot> {
        self.context.cache = TokenCache::default();
        self.reload().await
    }

    /// Reloads the process that was started last, and returns its new slot.
    async fn reload(&mut self) -> Arc<Slot> {
        let slot = self.open().await;
        slot.activate();
        slot
    }

    /// The same without activating the slot.
    async fn open(&mut self) -> Arc<Slot> {
        self.context.revision += 1;
        Arc::new(Slot::open(self.config.clone(), &self.context).await)
    }

    /// Runs the timer and the store watcher.
    fn watch(&self) -> JoinHandle<()> {
        tokio::spawn(self.context.cache.clone().watch(self.context.clone()))
    }

    async fn record(&self) -> TokenRecord {
        self.stored.load("api").await.unwrap().map(|(record, _)| record).unwrap_or_default()
    }

    async fn version(&self) -> Version {
        self.stored.load("api").await.unwrap().map_or(Version::ABSENT, |(_, version)| version)
    }

    /// Replaces the stored record, as another process or an operator would.
    async fn put(&self, record: &TokenRecord) {
        let put = self.stored.put("api", self.version().await, None, record).await.unwrap();
        assert!(matches!(put, PutOutcome::Stored(_)));
    }

    fn seed(&mut self, value: &str) {
        let source = SecretSource::Env("SEED".to_owned());
        self.config.seed = Some(Seed { source, value: secret(value) });
    }

    async fn intrude(&self, record: TokenRecord) {
        *self.store.intruder.lock().unwrap() = Some((Generation(2), record));
    }

    /// Waits until a token request has arrived.
    async fn until_asked(&self) {
        let before = self.server.requests().len();
        while self.server.requests().len() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until flights and writes have ended.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

fn with_bootstrap(config: &mut Config) {
    let grant =
        OwnGrant::Password { username: text("svc"), password: Secret::new("pw".to_owned()) };
    config.oauth.bootstrap = Some(Bootstrap { grant, scope: None, params: Vec::new() });
}

fn with_revocation(config: &mut Config) {
    config.oauth.revoke_url = Some(text(REVOKE_URL));
}

/// Adds a step after the token request that returns the access token.
fn with_step(config: &mut Config) {
    config.oauth.steps.push(Step {
        url: text("https://as.example/step"),
        encoding: Default::default(),
        params: Vec::new(),
        headers: Vec::new(),
        access_token: MemberPath::parse("token"),
        expires_in: None,
        raw: Vec::new(),
    });
}

async fn token(slot: &Slot) -> Result<String, TokenError> {
    slot.token().await.map(|token| token.access_token().to_owned())
}

/// The same as a separate task.
fn waiting(slot: &Arc<Slot>) -> JoinHandle<Result<String, TokenError>> {
    let slot = Arc::clone(slot);
    tokio::spawn(async move { token(&slot).await })
}

/// Rejects a first request with the current token. Returns the token that it is sent again with.
async fn reject(slot: &Slot, repeatable: bool) -> Option<String> {
    let token = slot.token().await.unwrap();
    let mut resend = ResendState::first(1, true);
    let next = slot.rejected(&token, &mut resend, repeatable).await;
    next.map(|token| token.access_token().to_owned())
}

fn why(error: TokenError) -> &'static str {
    match error {
        TokenError::Unavailable { reason, .. } => reason.word(),
        TokenError::NeedsLogin { .. } => "needs_login",
    }
}

fn needs_login(reason: TerminalReason) -> Result<String, TokenError> {
    Err(TokenError::NeedsLogin { reason })
}

fn presents(request: &str, grant: &str) -> bool {
    request.contains("/token ") && request.contains(&format!("grant_type={grant}"))
}

/// The token response of a login.
fn login(clock: &Clock) -> TokenResponse {
    TokenResponse {
        access_token: secret("at-login"),
        token_type: TokenType::default(),
        refresh_token: secret("rt-login"),
        expires_at: Some(clock.now() + HOUR),
        refresh_expires_at: None,
        grant_expires_at: None,
        raw: Default::default(),
        dpop_nonce: None,
        notes: Vec::new(),
    }
}

/// The record after it was stored and loaded.
fn stored(record: &TokenRecord) -> TokenRecord {
    let bytes = record.to_bytes("api", &Default::default());
    TokenRecord::from_bytes("api", &bytes).unwrap().0
}

/// The record that another process writes when it logs `before` out at `at`.
fn tombstone(before: &TokenRecord, config: &Config, at: SystemTime) -> TokenRecord {
    let mut record = before.clone();
    record.retire_refresh_token();
    stored(&TokenRecord {
        generation: before.generation.next(),
        history: record.history,
        seeds: record.seeds,
        terminal: Some(TerminalState {
            reason: TerminalReason::LoggedOut,
            refresh_token: None,
            config: config.oauth.fingerprint(),
            at,
        }),
        ..TokenRecord::default()
    })
}

/// The record that another process writes when it refreshes `before` at `at`.
fn foreign(before: &TokenRecord, number: u32, at: SystemTime, lifetime: Duration) -> TokenRecord {
    let mut record = before.clone();
    record.parent = before.refresh_token.as_ref().map(Secret::fingerprint);
    record.replace_refresh_token(Secret::new(format!("rt-other{number}")));
    stored(&TokenRecord {
        generation: before.generation.next(),
        access_token: secret(&format!("at-other{number}")),
        issued_at: Some(at),
        expires_at: Some(at + lifetime),
        rejected: false,
        attempt: None,
        ..record
    })
}
