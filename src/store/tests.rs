//! Tests of every byte store through [`Store`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod contract;
mod unanswered;

use super::*;
use crate::secret::Secret;

const SOON: Duration = Duration::from_secs(5);

/// A byte store that can be opened several times, as by several processes.
struct TestStorage {
    open: Box<dyn Fn() -> Arc<dyn ByteStore>>,
    _dir: Option<tempfile::TempDir>,
}

impl TestStorage {
    fn in_memory() -> Self {
        let bytes_store = Arc::new(MemoryStore::default());
        Self { open: Box::new(move || bytes_store.clone()), _dir: None }
    }

    fn in_files() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let open = move || Arc::new(FileStore::open(&path).unwrap()) as Arc<dyn ByteStore>;
        Self { open: Box::new(open), _dir: Some(dir) }
    }

    /// A store as another process opens it: only the storage location is shared.
    fn store(&self) -> Store {
        Store::new((self.open)(), EncryptionKeys::default())
    }

    /// Overwrites the stored bytes.
    async fn set(&self, key: &str, bytes: &[u8]) {
        let bytes_store = (self.open)();
        let before = bytes_store.read(key).await.unwrap();
        let expected = before.map_or(Version::ABSENT, |before| Version::of(&before, 0));
        assert!(bytes_store.write(key, expected, None, bytes.to_vec()).await.unwrap());
    }

    async fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        (self.open)().read(key).await.unwrap()
    }
}

fn record(token: &str) -> TokenRecord {
    TokenRecord { refresh_token: Some(Secret::new(token.to_owned())), ..TokenRecord::default() }
}

async fn put(store: &Store, key: &str, expected: Version, token: &str) -> PutOutcome {
    store.put(key, expected, None, &record(token)).await.unwrap()
}

/// Stores a record and returns its version.
async fn stored(store: &Store, key: &str, expected: Version, token: &str) -> Version {
    match put(store, key, expected, token).await {
        PutOutcome::Stored(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn lease(store: &Store, key: &str, wait: Duration) -> Result<Lease, StoreError> {
    store.lease(key, SOON, wait).await
}

fn is_busy<T: fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Busy { .. }))
}

fn key(seed: u8) -> EncryptionKey {
    let hexadecimal: String = (0..32).map(|at: u8| format!("{:02x}", at ^ seed)).collect();
    EncryptionKey::parse(&Secret::new(hexadecimal)).unwrap()
}

fn keys(current: u8, old: &[u8]) -> EncryptionKeys {
    let old = old.iter().map(|seed| key(*seed)).collect();
    EncryptionKeys { current: Some(key(current)), old, plain: false }
}

/// A writer that got no answer can tell whether the stored record is its own.
#[tokio::test]
async fn two_writes_of_the_same_record_have_different_versions() {
    let (one, other) = (TestStorage::in_memory(), TestStorage::in_memory());
    let first = stored(&one.store(), "a", Version::ABSENT, "rt-1").await;
    let second = stored(&other.store(), "a", Version::ABSENT, "rt-1").await;
    assert_ne!(first, second);
}

#[test]
fn records_are_matched_by_credential_name() {
    for (key, credential, found) in [
        ("api", "api", true),
        ("api", "ap", false),
        ("api-2", "api", false),
        ("api_2", "api", false),
        ("api.2", "api", false),
        ("api", "api-2", false),
        // A record of a credential with variables.
        ("api/paris", "api", true),
        ("api/paris/2", "api", true),
        ("%61pi", "api", false),
    ] {
        assert_eq!(is_record_of(key, credential), found, "{key} {credential}");
    }
}

#[test]
fn a_version_matches_only_its_bytes() {
    let version = Version::of(b"a", 3);
    assert!(version.is_of(Some(b"a")) && !version.is_of(Some(b"b")) && !version.is_of(None));
    assert!(Version::ABSENT.is_of(None) && !Version::ABSENT.is_of(Some(b"")));
}

/// The maximum wait must not overflow.
#[tokio::test]
async fn a_lease_can_be_awaited_forever() {
    let storage = TestStorage::in_memory();
    assert!(lease(&storage.store(), "a", Duration::MAX).await.is_ok());
}
