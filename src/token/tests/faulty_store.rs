//! A store with scripted failures, concurrent writes by other processes, and leases that can be lost.

use std::future::pending;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::*;
use crate::store::{
    ExpectedKeys, Fence, HeldLease, StoreChanges, StoreError, StoreFuture, WriteId,
};

/// Events at the server and in the store, in order.
#[derive(Clone, Debug)]
pub(super) enum JournalEntry {
    ReceivedRequest(String),
    /// A record was stored.
    Stored(Box<TokenRecord>),
}

pub(super) type Journal = Arc<Mutex<Vec<JournalEntry>>>;

/// How writes hang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WriteHang {
    /// They do not hang.
    #[default]
    Never,
    /// They hang without writing.
    Before,
    /// They hang after writing.
    After,
    /// They hang, and write when they are released.
    Late,
}

/// All writes.
pub(super) const ALL: u32 = u32::MAX;

type Intruder = (Generation, TokenRecord);

/// A memory store with a script.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<MemoryStore>,
    journal: Journal,
    /// The next writes that fail.
    failing: AtomicU32,
    hang: Mutex<WriteHang>,
    late: Mutex<Vec<(String, Version, Vec<u8>)>>,
    /// The record that another process writes just before a record of this generation is written.
    pub(super) intruder: Mutex<Option<Intruder>>,
    /// Writing a record of this generation panics, once.
    pub(super) panics: Mutex<Option<Generation>>,
    /// Reads fail.
    pub(super) unreadable: AtomicBool,
    /// Identifies the current lock.
    lock: Arc<AtomicU64>,
    /// The lock is lost with the next write.
    pub(super) loses_lock: AtomicBool,
    /// The record that its new holder writes then.
    pub(super) new_holder: Mutex<Option<TokenRecord>>,
    changes: tokio::sync::broadcast::Sender<String>,
}

impl FaultyStore {
    pub(super) fn over(inner: Arc<MemoryStore>) -> Self {
        Self {
            inner,
            journal: Journal::default(),
            failing: AtomicU32::new(0),
            hang: Mutex::default(),
            late: Mutex::default(),
            intruder: Mutex::default(),
            panics: Mutex::default(),
            unreadable: AtomicBool::new(false),
            lock: Arc::default(),
            loses_lock: AtomicBool::new(false),
            new_holder: Mutex::default(),
            changes: tokio::sync::broadcast::Sender::new(16),
        }
    }

    pub(super) fn journal(&self) -> Journal {
        Arc::clone(&self.journal)
    }

    pub(super) fn events(&self) -> Vec<JournalEntry> {
        self.journal.lock().unwrap().clone()
    }

    pub(super) fn fail(&self, writes: u32) {
        self.failing.store(writes, SeqCst);
    }

    pub(super) fn hang(&self, hang: WriteHang) {
        *self.hang.lock().unwrap() = hang;
    }

    /// Releases the hanging writes.
    pub(super) async fn let_go(&self) {
        self.hang(WriteHang::Never);
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (key, expected, bytes) in late {
            self.inner.write(&key, expected, None, bytes).await.unwrap();
        }
    }

    /// Replaces the lock, as if its file were deleted and created again.
    pub(super) fn lose_lock(&self) {
        self.lock.fetch_add(1, SeqCst);
    }

    /// Notifies watchers that the record of `api` has changed.
    pub(super) fn notify(&self) {
        let _nobody = self.changes.send("api".to_owned());
    }

    /// Damages the record.
    pub(super) async fn damage(&self, fixture: &Fixture) {
        let version = fixture.version().await;
        let bytes = b"{\"bearerd\": 4, ".to_vec();
        assert!(self.inner.write("api", version, None, bytes).await.unwrap());
    }

    pub(super) async fn remove(&self, fixture: &Fixture) {
        let version = fixture.version().await;
        assert!(self.inner.quarantine("api", version).await.unwrap().is_some());
    }

    pub(super) async fn bytes(&self) -> Option<Vec<u8>> {
        self.inner.read("api").await.unwrap()
    }

    pub(super) async fn replace_bytes(&self, version: Version, bytes: &[u8]) {
        assert!(self.inner.write("api", version, None, bytes.to_vec()).await.unwrap());
    }

    /// Takes the lock as another process. Returns `None` if it is held.
    pub(super) async fn take_lock(&self) -> Option<Box<dyn HeldLease>> {
        self.lease("api", SECOND, Duration::ZERO).await.ok()
    }

    pub(super) async fn is_leased(&self) -> bool {
        self.take_lock().await.is_none()
    }

    /// Writes the record of the other process.
    async fn intrude(&self, generation: Generation) {
        let is_now = |(before, _): &mut Intruder| *before == generation;
        let record = self.intruder.lock().unwrap().take_if(is_now);
        self.overwrite(record.map(|(_, record)| record)).await;
    }

    async fn overwrite(&self, record: Option<TokenRecord>) {
        let Some(record) = record else { return };
        let store =
            Store::new(Arc::clone(&self.inner) as Arc<dyn ByteStore>, EncryptionKeys::default());
        let stored = store.load("api").await.unwrap();
        let version = stored.map_or(Version::ABSENT, |(_, version)| version);
        store.put("api", version, None, &record).await.unwrap();
    }

    fn lost(&self, fence: &Fence) -> bool {
        fence.0 != name(self.lock.load(SeqCst))
    }
}

fn name(lock: u64) -> String {
    format!("lock-{lock}")
}

fn lease_lost() -> StoreError {
    StoreError::LeaseLost { key: "api".to_owned() }
}

impl ByteStore for FaultyStore {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        if self.unreadable.load(SeqCst) {
            let away = StoreError::Unavailable("the server of the files is away".to_owned());
            return Box::pin(async move { Err(away) });
        }
        self.inner.read(key)
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let (record, _): (_, WriteId) = TokenRecord::from_bytes(key, &bytes).unwrap();
            let generation = record.generation;
            let panics = self.panics.lock().unwrap().take_if(|it| *it == generation);
            assert!(panics.is_none(), "a fault that a test wants");
            if fence.is_some_and(|fence| self.lost(fence)) {
                return Err(lease_lost());
            }
            let failing = self.failing.load(SeqCst);
            if failing > 0 {
                self.failing.store(if failing == ALL { ALL } else { failing - 1 }, SeqCst);
                return Err(StoreError::Unavailable("it cannot be written".to_owned()));
            }
            self.intrude(generation).await;
            let hang = *self.hang.lock().unwrap();
            match hang {
                WriteHang::Never => {}
                WriteHang::Before => return pending().await,
                WriteHang::After => {
                    self.inner.write(key, expected, fence, bytes).await?;
                    return pending().await;
                }
                WriteHang::Late => {
                    self.late.lock().unwrap().push((key.to_owned(), expected, bytes));
                    return pending().await;
                }
            }
            let is_stored = self.inner.write(key, expected, fence, bytes).await?;
            if is_stored {
                self.journal.lock().unwrap().push(JournalEntry::Stored(Box::new(record)));
                if self.loses_lock.swap(false, SeqCst) {
                    self.lose_lock();
                    let record = self.new_holder.lock().unwrap().take();
                    self.overwrite(record).await;
                }
            }
            Ok(is_stored)
        })
    }

    fn quarantine<'a>(
        &'a self,
        key: &'a str,
        is_damaged: Version,
    ) -> StoreFuture<'a, Option<String>> {
        self.inner.quarantine(key, is_damaged)
    }

    fn clear_quarantine<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        self.inner.clear_quarantine(key)
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        self.inner.keys()
    }

    fn lease<'a>(
        &'a self,
        key: &'a str,
        ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>> {
        Box::pin(async move {
            let lock = self.lock.load(SeqCst);
            let held = self.inner.lease(&format!("{key} {lock}"), ttl, wait).await;
            let busy = |_| StoreError::Busy { key: key.to_owned(), waited: wait };
            let (_held, current) = (held.map_err(busy)?, Arc::clone(&self.lock));
            Ok(Box::new(ScriptedLease { _held, fence: Fence(name(lock)), current })
                as Box<dyn HeldLease>)
        })
    }

    fn changes(&self) -> Box<dyn StoreChanges> {
        Box::new(ScriptedChanges(self.changes.subscribe()))
    }

    fn location(&self, key: &str) -> String {
        format!("the record of {key}")
    }
}

struct ScriptedLease {
    _held: Box<dyn HeldLease>,
    fence: Fence,
    current: Arc<AtomicU64>,
}

impl HeldLease for ScriptedLease {
    fn fence(&self) -> &Fence {
        &self.fence
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        let is_held = self.fence.0 == name(self.current.load(SeqCst));
        Box::pin(async move { is_held.then_some(()).ok_or_else(lease_lost) })
    }
}

struct ScriptedChanges(tokio::sync::broadcast::Receiver<String>);

impl StoreChanges for ScriptedChanges {
    fn next<'a>(
        &'a mut self,
        _expected: &'a ExpectedKeys<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>> {
        Box::pin(async {
            match self.0.recv().await {
                Ok(key) => vec![key],
                Err(_) => pending().await,
            }
        })
    }
}
