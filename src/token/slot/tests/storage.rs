//! A store that refuses to write, or that somebody else writes to at the worst moment.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::secret::Fingerprint;
use crate::store::{Commit, Lease, StoreError, StoreFuture, Terminal};

/// All commits fail.
const ALL: u32 = u32::MAX;
const HOUR: Duration = Duration::from_secs(3600);

/// Records in memory that cannot always be written.
#[derive(Debug, Default)]
pub(super) struct Unreliable {
    pub(super) inner: Arc<MemoryStore>,
    /// So many commits fail from now on.
    failing: AtomicU32,
    /// What somebody else writes just before the record of this generation is committed.
    intruder: Mutex<Option<(Generation, TokenRecord)>>,
    /// No record can be read.
    pub(super) unreadable: AtomicBool,
    /// Other processes use it as well.
    pub(super) shared: AtomicBool,
}

impl Unreliable {
    pub(super) fn under(stage: &mut Stage) -> Arc<Self> {
        let store = Arc::new(Self { inner: Arc::clone(&stage.store), ..Self::default() });
        stage.context.store = Arc::clone(&store) as Arc<dyn TokenStore>;
        store
    }

    fn fail(&self, commits: u32) {
        self.failing.store(commits, Ordering::SeqCst);
    }

    /// Writes past the lease, whatever is there.
    pub(super) async fn put(&self, record: &TokenRecord) {
        let stored = self.inner.load("api").await.unwrap().unwrap_or_default().generation;
        let written = self.inner.overrule("api", stored, record).await.unwrap();
        assert_eq!(written, Commit::Stored);
    }

    /// Somebody else is faster.
    async fn intrude(&self, generation: Generation) {
        let is_now = |(before, _): &mut (Generation, TokenRecord)| *before == generation;
        let record = self.intruder.lock().unwrap().take_if(is_now);
        if let Some((_, record)) = record {
            self.put(&record).await;
        }
    }

    async fn is_leased(&self) -> bool {
        self.inner.lease("api", Duration::ZERO).await.is_err()
    }
}

impl TokenStore for Unreliable {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<TokenRecord>> {
        if self.unreadable.load(Ordering::SeqCst) {
            let source = std::io::Error::other("the server of the files is away");
            let error = StoreError::Io { action: "read", path: "api".into(), source };
            return Box::pin(async move { Err(error) });
        }
        self.inner.load(key)
    }

    fn keys<'a>(&'a self, credential: &'a str) -> StoreFuture<'a, Vec<String>> {
        self.inner.keys(credential)
    }

    fn lease<'a>(&'a self, key: &'a str, wait: Duration) -> StoreFuture<'a, Lease> {
        self.inner.lease(key, wait)
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        Box::pin(async move {
            let failing = self.failing.load(Ordering::SeqCst);
            if failing > 0 {
                self.failing
                    .store(if failing == ALL { ALL } else { failing - 1 }, Ordering::SeqCst);
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(StoreError::Io { action: "write", path: "api".into(), source });
            }
            self.intrude(record.generation).await;
            self.inner.commit(lease, expected, record).await
        })
    }

    fn overrule<'a>(
        &'a self,
        key: &'a str,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        Box::pin(async move {
            self.intrude(record.generation).await;
            self.inner.overrule(key, expected, record).await
        })
    }

    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst)
    }
}

/// What somebody else has stored, with a token that lives from two hours before `end`.
pub(super) fn foreign(generation: u64, seeds: Vec<Fingerprint>, end: SystemTime) -> TokenRecord {
    TokenRecord {
        generation: Generation(generation),
        access_token: Some(Secret::new("at-other".to_owned())),
        issued_at: Some(end - 2 * HOUR),
        expires_at: Some(end),
        refresh_token: Some(Secret::new("rt-other".to_owned())),
        seeds,
        ..TokenRecord::default()
    }
}

/// A slot whose first token is over.
async fn expired(stage: &mut Stage) -> (Arc<Unreliable>, Arc<Slot>) {
    let store = Unreliable::under(stage);
    let slot = stage.started().await;
    stage.clock.advance(2 * HOUR);
    (store, slot)
}

/// Ends every flight, and with it everything that would still have been written.
pub(super) async fn settled() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_stored_leaves_nothing_to_save_and_the_lease_to_others() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().unsaved);
    assert!(!store.is_leased().await);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_gives_way_to_what_is_stored_and_leaves_the_lease() {
    let mut stage = Stage::new(|config| config.oauth.revoke_url = Some(text(REVOKE_URL)));
    let (store, slot) = expired(&mut stage).await;
    let seeds = stage.record().await.seeds;
    let theirs = foreign(2, seeds, stage.clock.now() + HOUR);
    *store.intruder.lock().unwrap() = Some((Generation(2), theirs));
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at-other");
    assert!(!slot.status().unsaved);
    assert!(!store.is_leased().await);
    // Theirs is what the next refresh goes on with, and nobody's token was revoked.
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    let requests = stage.script.requests();
    assert!(requests[2].contains("refresh_token=rt-other"), "{requests:?}");
    assert_eq!(stage.record().await.generation, Generation(3));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_by_a_token_that_is_over_serves_neither() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    let seeds = stage.record().await.seeds;
    let theirs = foreign(2, seeds, stage.clock.now());
    *store.intruder.lock().unwrap() = Some((Generation(2), theirs));
    stage.script.issue(2);
    let error = token(&slot).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { why: "store_conflict", .. }), "{error:?}");
    stage.clock.advance(Duration::from_secs(60));
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(stage.script.requests()[2].contains("refresh_token=rt-other"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_overtaken_by_a_logout_of_another_process_is_logged_out() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    let before = stage.record().await;
    let terminal = Terminal {
        reason: TerminalReason::LoggedOut,
        refresh_token: None,
        config: stage.config.oauth.fingerprint(),
        at: stage.clock.now(),
    };
    let tombstone = TokenRecord {
        generation: Generation(2),
        seeds: before.seeds,
        terminal: Some(terminal),
        ..TokenRecord::default()
    };
    *store.intruder.lock().unwrap() = Some((Generation(2), tombstone.clone()));
    stage.script.issue(2);
    let logged_out = TokenError::NeedsLogin { reason: TerminalReason::LoggedOut };
    assert_eq!(token(&slot).await, Err(logged_out));
    settled().await;
    assert_eq!(stage.record().await, tombstone);
}

/// The server has forgotten the old refresh token: what the backup holds is worth nothing.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_refresh_is_in_the_air_does_not_lose_what_it_brings() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    let backup = stage.record().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    *store.intruder.lock().unwrap() = Some((Generation(3), backup));
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    let record = stage.record().await;
    assert_eq!(record.refresh_token, Some(Secret::new("rt3".to_owned())));
    assert_eq!(record.generation, Generation(3));
    assert!(!slot.status().unsaved);
}

/// A disk in trouble is just when somebody reaches for a backup.
#[tokio::test(start_paused = true)]
async fn a_backup_put_back_while_a_token_is_not_saved_does_not_lose_it() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    let backup = stage.record().await;
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    stage.clock.advance(2 * HOUR);
    store.fail(ALL);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(slot.status().unsaved);
    store.put(&backup).await;
    store.fail(0);
    settled().await;
    assert!(!slot.status().unsaved);
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt3".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_saved_gives_way_to_a_newer_one() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    store.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    let theirs = foreign(5, stage.record().await.seeds, stage.clock.now() + HOUR);
    store.put(&theirs).await;
    store.fail(0);
    settled().await;
    assert!(!slot.status().unsaved);
    assert!(!store.is_leased().await);
    assert_eq!(stage.record().await, theirs);
}

/// Its next refresh fails: it is not forgotten for that.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_saved_is_kept_and_saved_through_a_refresh_that_fails() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    store.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(store.is_leased().await, "nobody else may refresh with what is stored");
    stage.clock.advance(2 * HOUR);
    stage.script.answer(429, json!({}));
    assert!(token(&slot).await.is_err());
    settled().await;
    assert!(slot.status().unsaved && store.is_leased().await);
    store.fail(0);
    settled().await;
    assert!(!slot.status().unsaved && !store.is_leased().await);
    let record = stage.record().await;
    assert_eq!(record.refresh_token, Some(Secret::new("rt2".to_owned())));
    // And the refresh after that is an ordinary one.
    stage.clock.advance(HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(!slot.status().unsaved && !store.is_leased().await);
    assert_eq!(stage.record().await.generation, Generation(3));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_twice_is_no_token_that_is_not_saved() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    // The intent's commit is one of the three.
    store.fail(3);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    assert!(!slot.status().unsaved);
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt2".to_owned())));
}

/// I3: with a token to spare there is time to wait for the disk.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_cannot_be_written_down_is_not_begun_while_the_token_is_good() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    let slot = stage.started().await;
    stage.clock.advance(Duration::from_secs(3500));
    store.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at1");
    settled().await;
    assert_eq!(stage.script.requests().len(), 1);
    assert_eq!(slot.status().condition, Condition::Failing("store_io"));
    assert_eq!(stage.record().await.refresh_token, Some(Secret::new("rt1".to_owned())));
}

/// Without one there is none: requests would only fail.
#[tokio::test(start_paused = true)]
async fn a_refresh_for_a_rejected_token_does_not_wait_for_the_disk() {
    let mut stage = Stage::new(|_| ());
    let store = Unreliable::under(&mut stage);
    let slot = stage.started().await;
    store.fail(ALL);
    stage.script.issue(2);
    let progress = Progress { renewed: false, settled: usize::MAX };
    let renewal = slot.renew(Generation(1), progress).await;
    assert!(matches!(renewal, Renewal::Resend(token, _) if token.access_token() == "at2"));
}

/// What is on the disk while a new seed is in the air is all that a crash leaves.
#[tokio::test(start_paused = true)]
async fn a_new_seed_is_on_record_as_a_new_grant_before_it_is_sent() {
    let mut stage = Stage::new(|_| ());
    stage.seed("s1");
    let slot = stage.open().await;
    stage.script.answer(
        200,
        json!({"access_token": "at1", "refresh_token": "rt1", "expires_in": 3600, "refresh_expires_in": 7200}),
    );
    assert_eq!(token(&slot).await.unwrap(), "at1");
    assert!(stage.record().await.refresh_expires_at.is_some());
    stage.script.arrived.notified().await;
    stage.seed("s2");
    let slot = stage.open().await;
    let hold = stage.script.gate.write().await;
    stage.script.issue(2);
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { token(&slot).await }
    });
    stage.script.arrived.notified().await;
    let fingerprint = |text: &str| Secret::new(text.to_owned()).fingerprint();
    let record = stage.record().await;
    assert_eq!(record.generation, Generation(2), "the old grant's tokens are over");
    assert_eq!(record.refresh_token, Some(Secret::new("s2".to_owned())));
    assert_eq!(record.intent.unwrap().refresh_token, fingerprint("s2"));
    assert_eq!((record.access_token, record.expires_at), (None, None));
    assert_eq!(record.refresh_expires_at, None);
    assert_eq!(record.superseded, [fingerprint("rt1"), fingerprint("s1")]);
    assert_eq!(record.seeds, [fingerprint("s1"), fingerprint("s2")]);
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at2");
    assert_eq!(stage.record().await.generation, Generation(3));
}

/// #23: a login, say, that came while the request was in the air.
#[tokio::test(start_paused = true)]
async fn a_grant_that_dies_leaves_a_newer_record_alone() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    stage.script.arrived.notified().await;
    let theirs = foreign(2, stage.record().await.seeds, stage.clock.now() + HOUR);
    let hold = stage.script.gate.write().await;
    stage.script.dead();
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { token(&slot).await }
    });
    stage.script.arrived.notified().await;
    store.put(&theirs).await;
    drop(hold);
    assert_eq!(waiting.await.unwrap().unwrap(), "at-other");
    settled().await;
    assert_eq!(stage.record().await, theirs);
    assert!(!slot.status().unsaved && !store.is_leased().await);
    stage.clock.advance(2 * HOUR);
    stage.script.issue(3);
    assert_eq!(token(&slot).await.unwrap(), "at3");
    assert!(stage.script.requests()[2].contains("refresh_token=rt-other"));
}

/// #29: the tokens that only this process knows are revoked, and are not written down afterwards.
#[tokio::test(start_paused = true)]
async fn a_logout_ends_a_token_that_is_not_saved() {
    let mut stage = Stage::new(|config| config.oauth.revoke_url = Some(text(REVOKE_URL)));
    let (store, slot) = expired(&mut stage).await;
    store.fail(ALL);
    stage.script.issue(2);
    assert_eq!(token(&slot).await.unwrap(), "at2");
    slot.logout().await.unwrap();
    store.fail(0);
    settled().await;
    let record = stage.record().await;
    assert!(record.is_tombstone());
    assert_eq!(record.generation, Generation(3), "newer than what was not saved");
    assert!(!store.is_leased().await);
    let requests = stage.script.requests();
    assert!(requests[2].contains("token=rt2") && requests[3].contains("token=at2"), "{requests:?}");
    let logged_out = TokenError::NeedsLogin { reason: TerminalReason::LoggedOut };
    assert_eq!(token(&slot).await, Err(logged_out));
}

/// A refresh that is stored between an operator's look and the tombstone.
#[tokio::test(start_paused = true)]
async fn a_logout_that_is_overtaken_is_tried_again() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    let theirs = foreign(2, stage.record().await.seeds, stage.clock.now() + HOUR);
    *store.intruder.lock().unwrap() = Some((Generation(2), theirs));
    slot.logout().await.unwrap();
    let record = stage.record().await;
    assert!(record.is_tombstone() && record.generation == Generation(3));
}

/// #23: a logout is newer than the death of what it ended.
#[tokio::test(start_paused = true)]
async fn a_grant_that_dies_after_a_logout_of_another_process_is_logged_out() {
    let mut stage = Stage::new(|_| ());
    let (store, slot) = expired(&mut stage).await;
    stage.script.arrived.notified().await;
    let hold = stage.script.gate.write().await;
    stage.script.dead();
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move { token(&slot).await }
    });
    stage.script.arrived.notified().await;
    let terminal = Terminal {
        reason: TerminalReason::LoggedOut,
        refresh_token: None,
        config: stage.config.oauth.fingerprint(),
        at: stage.clock.now(),
    };
    let tombstone = TokenRecord {
        generation: Generation(2),
        seeds: stage.record().await.seeds,
        terminal: Some(terminal),
        ..TokenRecord::default()
    };
    store.put(&tombstone).await;
    drop(hold);
    let logged_out = TokenError::NeedsLogin { reason: TerminalReason::LoggedOut };
    assert_eq!(waiting.await.unwrap(), Err(logged_out));
    assert_eq!(stage.record().await, tombstone);
}
