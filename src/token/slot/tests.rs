//! Whole slots against a scripted server and a scripted store, where no real ones are needed to see what is
//! asked, when, and what is kept. Time is tokio's and is paused where it matters; the [`Clock`] goes with it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "tests/bootstrap.rs"]
mod bootstrap;
#[path = "tests/faulty.rs"]
mod faulty;
#[path = "tests/grant.rs"]
mod grant;
#[path = "tests/interleavings.rs"]
mod interleavings;
#[path = "tests/refusals.rs"]
mod refusals;
#[path = "tests/reload.rs"]
mod reload;
#[path = "tests/script.rs"]
mod script;
#[path = "tests/storage.rs"]
mod storage;

use std::time::UNIX_EPOCH;

use http::HeaderMap;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::faulty::{Hang, Scripted};
use self::script::Script;
use super::*;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oauth::{Bootstrap, Class, GrantType, MemberPath, OwnGrant, Rotation, Step, TokenType};
use crate::secret::{Secret, SecretSource};
use crate::store::{
    Attempt, ByteStore, Generation, Keys, MemoryStore, Store, Terminal, TerminalReason,
    TokenRecord, Version,
};
use crate::template::{Names, Template};
use crate::token::{Ledgers, Margin, Seed, Tasks, random_share};

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

/// A configuration, and what its slots stand on: one store, one server.
struct Stage {
    script: Arc<Script>,
    faulty: Arc<Scripted>,
    /// What is stored, read and written past the script.
    stored: Store,
    clock: Clock,
    config: Config,
    context: Context,
}

impl Stage {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let memory = Arc::new(MemoryStore::default());
        let faulty = Arc::new(Scripted::over(Arc::clone(&memory)));
        let script = Arc::new(Script::with_journal(faulty.journal()));
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
            tasks: Tasks::default(),
            clock: clock.clone(),
            store: Store::new(Arc::clone(&faulty) as Arc<dyn ByteStore>, Keys::default()),
            ledgers: Ledgers::default(),
            edition: 0,
            transport: Arc::clone(&script) as Arc<dyn crate::oauth::Transport>,
            metrics: Metrics::new(),
        };
        let stored = Store::new(memory as Arc<dyn ByteStore>, Keys::default());
        Self { script, faulty, stored, clock, config, context }
    }

    /// A slot with its first token, `at1`, and the refresh token `rt1`.
    async fn started(&mut self) -> Arc<Slot> {
        self.seed("s1");
        let slot = self.start().await;
        self.script.issue(1);
        assert_eq!(token(&slot).await.unwrap(), "at1");
        slot
    }

    /// The same, and the token is over.
    async fn expired(&mut self) -> Arc<Slot> {
        let slot = self.started().await;
        self.clock.advance(2 * HOUR);
        slot
    }

    /// The slot of a process that has just been started, and knows nothing of the others.
    async fn start(&mut self) -> Arc<Slot> {
        self.context.ledgers = Ledgers::default();
        self.reload().await
    }

    /// The slot after a reload of the process that was started last.
    async fn reload(&mut self) -> Arc<Slot> {
        let slot = self.open().await;
        slot.activate();
        slot
    }

    /// The same, before it is in use.
    async fn open(&mut self) -> Arc<Slot> {
        self.context.edition += 1;
        Arc::new(Slot::open(self.config.clone(), &self.context).await)
    }

    /// Lets the time, and what others store, be looked at.
    fn watch(&self) -> JoinHandle<()> {
        tokio::spawn(self.context.ledgers.clone().watch(self.context.clone()))
    }

    async fn record(&self) -> TokenRecord {
        self.stored.load("api").await.unwrap().map(|(record, _)| record).unwrap_or_default()
    }

    async fn version(&self) -> Version {
        self.stored.load("api").await.unwrap().map_or(Version::ABSENT, |(_, version)| version)
    }

    /// What another process or a person does: it takes the place of what is stored.
    async fn put(&self, record: &TokenRecord) {
        let put = self.stored.put("api", self.version().await, None, record).await.unwrap();
        assert!(matches!(put, crate::store::Put::Stored(_)));
    }

    fn seed(&mut self, value: &str) {
        let source = SecretSource::Env("SEED".to_owned());
        self.config.seed = Some(Seed { source, value: secret(value) });
    }

    /// Waits for everything that flights and writes still do.
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

/// After the token request a step brings the token that APIs take.
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

/// The same at another place, while this one goes on.
fn waiting(slot: &Arc<Slot>) -> JoinHandle<Result<String, TokenError>> {
    let slot = Arc::clone(slot);
    tokio::spawn(async move { token(&slot).await })
}

/// A first request with the current token is rejected: what it is sent again with.
async fn reject(slot: &Slot, repeatable: bool) -> Option<String> {
    let token = slot.token().await.unwrap();
    let mut sending = Sending::first(1, true);
    let next = slot.rejected(&token, &mut sending, repeatable).await;
    next.map(|token| token.access_token().to_owned())
}

fn why(error: TokenError) -> &'static str {
    match error {
        TokenError::Unavailable { why, .. } => why.word(),
        TokenError::NeedsLogin { .. } => "needs_login",
    }
}

fn needs_login(reason: TerminalReason) -> Result<String, TokenError> {
    Err(TokenError::NeedsLogin { reason })
}

fn presents(request: &str, grant: &str) -> bool {
    request.contains("/token ") && request.contains(&format!("grant_type={grant}"))
}

/// What a login brought.
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

/// The same after it was stored and read.
fn stored(record: &TokenRecord) -> TokenRecord {
    let bytes = record.to_bytes("api", &Default::default());
    TokenRecord::from_bytes("api", &bytes).unwrap().0
}

/// What a process that logs `before` out writes at `at`.
fn tombstone(before: &TokenRecord, config: &Config, at: SystemTime) -> TokenRecord {
    let mut record = before.clone();
    record.retire();
    stored(&TokenRecord {
        generation: before.generation.next(),
        history: record.history,
        seeds: record.seeds,
        terminal: Some(Terminal {
            reason: TerminalReason::LoggedOut,
            refresh_token: None,
            config: config.oauth.fingerprint(),
            at,
        }),
        ..TokenRecord::default()
    })
}

// ----- logging out and in -----

#[tokio::test(start_paused = true)]
async fn a_logout_leaves_a_tombstone_and_revokes_both_tokens() {
    let mut stage = Stage::new(|config| {
        with_revocation(config);
        with_bootstrap(config);
    });
    let slot = stage.started().await;
    let revoked = slot.logout().await.unwrap();
    assert!(revoked.len() == 2 && revoked.iter().all(|it| it.problem.is_none()), "{revoked:?}");
    let logged_out = needs_login(TerminalReason::LoggedOut);
    assert_eq!(token(&slot).await, logged_out);
    let requests = stage.script.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[1].contains("token=rt1") && requests[2].contains("token=at1"));
    let record = stage.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(2));
    assert_eq!((record.refresh_token, record.access_token), (None, None));

    // Neither a restart, nor the old seed, nor the bootstrap, nor an operator.
    let again = stage.start().await;
    assert_eq!(token(&again).await, logged_out);
    assert!(again.refresh_now().await.is_err());
    assert_eq!(stage.script.requests().len(), 3);

    // A new seed does.
    stage.seed("s2");
    let renewed = stage.reload().await;
    stage.script.issue(3);
    assert_eq!(token(&renewed).await.unwrap(), "at3");
    assert!(stage.record().await.generation > Generation(2));
}

/// What comes back is not used, not stored, and revoked.
#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_does_not_undo_a_logout() {
    for grant in [GrantType::RefreshToken, GrantType::ClientCredentials] {
        let mut stage = Stage::new(with_revocation);
        if grant == GrantType::ClientCredentials {
            stage.config.oauth.grant = grant;
            stage.config.oauth.own = Some(OwnGrant::ClientCredentials);
        } else {
            stage.seed("s1");
        }
        let slot = stage.start().await;
        stage.script.issue(1);
        let hold = stage.script.gate.write().await;
        let waiting = waiting(&slot);
        stage.script.arrival().await;
        let asked = Instant::now();
        let logout = tokio::spawn({
            let slot = Arc::clone(&slot);
            async move { slot.logout().await }
        });
        let logged_out = needs_login(TerminalReason::LoggedOut);
        // The request that waits is told at once.
        assert_eq!(waiting.await.unwrap(), logged_out, "{grant:?}");
        assert!(asked.elapsed() < SECOND);
        drop(hold);
        logout.await.unwrap().unwrap();
        stage.rest().await;
        assert_eq!(token(&slot).await, logged_out);
        assert!(stage.record().await.is_tombstone());
        let requests = stage.script.requests();
        let is_revoked = |token: &str| {
            let token = format!("token={token}");
            requests.iter().any(|it| it.contains("/revoke ") && it.contains(&token))
        };
        assert!(is_revoked("at1"), "{grant:?}: {requests:?}");
        assert_eq!(is_revoked("rt1"), grant == GrantType::RefreshToken, "{requests:?}");
        let condition = Condition::NeedsLogin(TerminalReason::LoggedOut);
        assert_eq!(slot.status().condition, condition);
    }
}

/// Whatever the answer is: it is for a grant that is no more.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_a_logout_or_a_login_changes_nothing() {
    let answers = [
        json!({"error": "invalid_grant"}),
        json!({"error": "invalid_request"}),
        json!({"error": "invalid_client"}),
        json!({"error": "slow_down"}),
        json!({"access_token": "a", "token_type": "mac", "refresh_token": "rt2"}),
    ];
    for answer in answers {
        for logs_in in [true, false] {
            let mut stage = Stage::new(with_bootstrap);
            let slot = stage.expired().await;
            let script = Arc::clone(&stage.script);
            let hold = script.gate.write().await;
            let is_success = answer.get("error").is_none();
            script.answer(if is_success { 200 } else { 400 }, answer.clone());
            script.arrival().await;
            let waiting = waiting(&slot);
            script.arrival().await;
            match logs_in {
                true => slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap(),
                false => drop(slot.logout().await.unwrap()),
            }
            drop(hold);
            let expected = match logs_in {
                true => Ok("at-login".to_owned()),
                false => needs_login(TerminalReason::LoggedOut),
            };
            assert_eq!(waiting.await.unwrap(), expected, "{answer}");
            stage.rest().await;
            assert_eq!(token(&slot).await, expected, "{answer}");
            assert_eq!(token(&*stage.start().await).await, expected, "{answer}");
            assert_eq!(script.requests().len(), 2, "{answer}: {:?}", script.requests());
        }
    }
}

/// Its answer would undo the logout, and its refresh token is none any more.
#[tokio::test(start_paused = true)]
async fn a_replay_is_not_made_after_a_logout_or_a_login() {
    for logs_in in [true, false] {
        let mut stage = Stage::new(|_| ());
        let slot = stage.expired().await;
        stage.script.lose();
        stage.script.issue(2);
        let waiting = waiting(&slot);
        tokio::time::sleep(SECOND / 10).await;
        match logs_in {
            true => slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap(),
            false => drop(slot.logout().await.unwrap()),
        }
        let expected = match logs_in {
            true => Ok("at-login".to_owned()),
            false => needs_login(TerminalReason::LoggedOut),
        };
        assert_eq!(waiting.await.unwrap(), expected);
        stage.rest().await;
        assert_eq!(token(&slot).await, expected);
        assert_eq!(stage.script.presented("rt1"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_heals_a_logout_and_wins_over_a_seed_that_was_never_used() {
    for after_logout in [true, false] {
        let mut stage = Stage::new(|_| ());
        stage.seed("s1");
        let slot = stage.start().await;
        if after_logout {
            slot.logout().await.unwrap();
        }
        slot.store_login(&login(&stage.clock), stage.clock.now()).await.unwrap();
        assert_eq!(token(&slot).await.unwrap(), "at-login");
        stage.clock.advance(2 * HOUR);
        stage.script.issue(2);
        assert_eq!(token(&slot).await.unwrap(), "at2");
        assert!(stage.script.requests()[0].contains("refresh_token=rt-login"));
    }
}

/// A seed that was ever used, or that was only configured, is no new one.
#[tokio::test(start_paused = true)]
async fn no_seed_of_before_a_logout_brings_a_credential_back() {
    let mut stage = Stage::new(|_| ());
    for (number, seed) in [(1, "s1"), (2, "s2")] {
        stage.seed(seed);
        stage.script.issue(number);
        token(&*stage.start().await).await.unwrap();
    }
    stage.seed("s3");
    stage.start().await.logout().await.unwrap();
    let asked = stage.script.requests().len();
    for seed in ["s1", "s2", "s3", "rt1", "rt2"] {
        stage.seed(seed);
        let slot = stage.start().await;
        assert_eq!(token(&slot).await, needs_login(TerminalReason::LoggedOut), "{seed}");
    }
    assert_eq!(stage.script.requests().len(), asked);
}

// ----- what an operator asks for -----

#[tokio::test(start_paused = true)]
async fn an_operator_replaces_a_token_that_is_still_good() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    stage.script.issue(2);
    assert_eq!(slot.refresh_now().await.unwrap().generation, Generation(2));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.script.answer(429, json!({"error": "slow_down"}));
    assert_eq!(why(slot.refresh_now().await.unwrap_err()), "throttled");
    assert_eq!(why(slot.refresh_now().await.unwrap_err()), "throttled");
    assert_eq!(stage.script.requests().len(), 3, "a server's own wish holds for operators");
    assert_eq!(token(&slot).await.unwrap(), "at2", "the old one is still good");
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_comes_while_a_flight_is_under_way_waits_for_that_one() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = waiting(&slot);
    stage.script.arrival().await;
    let operator = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { slot.refresh_now().await }
    });
    tokio::time::sleep(SECOND).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(operator.await.unwrap().unwrap().generation, Generation(2));
    assert_eq!(stage.script.requests().len(), 2);
}

// ----- who waits, and for how long -----

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_is_configured_and_the_flight_goes_on() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.takes(Duration::from_secs(40));
    stage.script.issue(2);
    let asked = Instant::now();
    assert_eq!(why(token(&slot).await.unwrap_err()), "timeout");
    assert_eq!(asked.elapsed().as_secs(), 5);
    // Whoever hangs up ends nothing either.
    let waiting = waiting(&slot);
    tokio::time::sleep(SECOND).await;
    waiting.abort();
    tokio::time::sleep(Duration::from_secs(36)).await;
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert_eq!(stage.script.requests().len(), 2, "and it was asked once");
}

/// Hanging up would lose the refresh token that it is about to send.
#[tokio::test(start_paused = true)]
async fn an_answer_is_listened_for_as_long_as_is_configured_unless_nothing_can_be_lost() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.expired().await;
    stage.script.answer(200, json!({"access_token": "at2", "expires_in": 3600}));
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    stage.clock.advance(2 * HOUR);
    stage.script.issue(4);
    assert_eq!(token(&slot).await.unwrap(), "at4");
    let listened: Vec<u64> = stage.script.asked().iter().map(|it| it.listen.as_secs()).collect();
    assert_eq!(listened, [60, 60, 10, 60], "a server that has not rotated may be asked anew");
    let longest = stage.config.longest_flight();
    assert!(longest >= Duration::from_secs(70), "a shutdown waits for it: {longest:?}");
}

/// Whoever comes a moment after a failure gets the token a moment later, and no error.
#[tokio::test(start_paused = true)]
async fn a_pause_of_a_second_is_sat_out() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.start().await;
    assert!(slot.refresh_now().await.is_err());
    stage.script.issue(1);
    assert_eq!(token(&slot).await.unwrap(), "at1");
}

#[tokio::test(start_paused = true)]
async fn fifty_requests_and_a_thousand_rejections_cost_one_token_request_each() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.start().await;
    stage.script.issue(1);
    stage.script.takes(SECOND);
    let requests: Vec<_> = (0..50).map(|_| waiting(&slot)).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), "at1");
    }
    assert_eq!(stage.script.requests().len(), 1);
    let at1 = slot.token().await.unwrap();
    slot.accepted(&at1, &Sending::first(1, true));
    tokio::time::sleep(HOUR / 2).await;
    stage.script.issue(2);
    let rejections: Vec<_> = (0..1000)
        .map(|target| {
            let (slot, at1) = (Arc::clone(&slot), Arc::clone(&at1));
            let mut sending = Sending::first(target, true);
            tokio::spawn(async move { slot.rejected(&at1, &mut sending, true).await })
        })
        .collect();
    for rejection in rejections {
        assert_eq!(rejection.await.unwrap().unwrap().access_token(), "at2");
    }
    assert_eq!(stage.script.requests().len(), 2);
    // And one that comes late costs none.
    let late = slot.rejected(&at1, &mut Sending::first(1, true), true).await;
    assert_eq!(late.unwrap().access_token(), "at2");
    assert_eq!(stage.script.requests().len(), 2);
}

// ----- the timer -----

/// 40 days without a request.
#[tokio::test(start_paused = true)]
async fn an_idle_refresh_token_is_used_once_in_its_keepalive() {
    let mut stage = Stage::new(|config| config.keepalive = Some(30 * DAY));
    let _before = stage.started().await;
    let _watching = stage.watch();
    stage.clock.advance(29 * DAY);
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 1);
    stage.script.issue(2);
    stage.clock.advance(11 * DAY);
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 2, "once");
    assert_eq!(stage.record().await.refresh_token, secret("rt2"));
    assert!(stage.record().await.issued_at > Some(UNIX_EPOCH + 30 * DAY));
}

/// The same access token comes back with what is left of its life.
#[tokio::test(start_paused = true)]
async fn keepalive_counts_from_the_last_use_although_the_access_token_stays_the_same() {
    let mut stage = Stage::new(|config| config.keepalive = Some(6 * HOUR));
    stage.seed("s1");
    let slot = stage.start().await;
    let same =
        |left: u32| json!({"access_token": "at", "refresh_token": "rt", "expires_in": left * 3600});
    stage.script.answer(200, same(12));
    assert_eq!(token(&slot).await.unwrap(), "at");
    let _watching = stage.watch();
    stage.clock.advance(6 * HOUR);
    (0..5).for_each(|_| stage.script.answer(200, same(6)));
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 2, "once");
    // The restart before the next look knows it as well.
    let _again = stage.start().await;
    let _watching = stage.watch();
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn near_expiry_the_timer_replaces_a_token_that_was_used_and_no_other() {
    let mut stage = Stage::new(|_| ());
    let slot = stage.started().await;
    let _watching = stage.watch();
    stage.rest().await;
    stage.clock.advance(Duration::from_secs(3400));
    stage.script.issue(2);
    stage.rest().await;
    assert_eq!(slot.status().generation, Generation(2));
    // Nobody has used that one.
    stage.clock.advance(Duration::from_secs(3400));
    stage.rest().await;
    assert_eq!(stage.script.requests().len(), 2);
}

/// Two hundred credentials that expire together.
#[test]
fn credentials_that_expire_together_are_refreshed_apart() {
    let margins: Vec<_> = (0..200).map(|_| Margin::Auto.of(HOUR, random_share())).collect();
    let (first, last) = (margins.iter().max().unwrap(), margins.iter().min().unwrap());
    assert!(*first - *last >= *first / 10, "spread over {:?}", *first - *last);
}
