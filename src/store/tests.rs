//! Any store, whatever its below.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod contract;
mod unanswered;

use super::*;
use crate::secret::Secret;

const SOON: Duration = Duration::from_secs(5);

/// Somewhere to keep records.
struct Place {
    open: Box<dyn Fn() -> Arc<dyn ByteStore>>,
    _dir: Option<tempfile::TempDir>,
}

impl Place {
    fn in_memory() -> Self {
        let below = Arc::new(MemoryStore::default());
        Self { open: Box::new(move || below.clone()), _dir: None }
    }

    fn in_files() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let open = move || Arc::new(FileStore::open(&path).unwrap()) as Arc<dyn ByteStore>;
        Self { open: Box::new(open), _dir: Some(dir) }
    }

    /// What another process has: nothing is shared but the place.
    fn store(&self) -> Store {
        Store::new((self.open)(), Keys::default())
    }

    /// Puts any bytes there.
    async fn set(&self, key: &str, bytes: &[u8]) {
        let below = (self.open)();
        let before = below.read(key).await.unwrap();
        let expected = before.map_or(Version::ABSENT, |before| Version::of(&before, 0));
        assert!(below.write(key, expected, None, bytes.to_vec()).await.unwrap());
    }

    async fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        (self.open)().read(key).await.unwrap()
    }
}

fn record(token: &str) -> TokenRecord {
    TokenRecord { refresh_token: Some(Secret::new(token.to_owned())), ..TokenRecord::default() }
}

async fn put(store: &Store, key: &str, expected: Version, token: &str) -> Put {
    store.put(key, expected, None, &record(token)).await.unwrap()
}

/// The version that was stored.
async fn stored(store: &Store, key: &str, expected: Version, token: &str) -> Version {
    match put(store, key, expected, token).await {
        Put::Stored(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn lease(store: &Store, key: &str, wait: Duration) -> Result<Lease, StoreError> {
    store.lease(key, SOON, wait).await
}

fn is_busy<T: fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Busy { .. }))
}

fn key(seed: u8) -> Key {
    let hexadecimal: String = (0..32).map(|at: u8| format!("{:02x}", at ^ seed)).collect();
    Key::parse(&Secret::new(hexadecimal)).unwrap()
}

fn keys(current: u8, old: &[u8]) -> Keys {
    let old = old.iter().map(|seed| key(*seed)).collect();
    Keys { current: Some(key(current)), old, plain: false }
}

/// Whoever got no answer to a write can tell whether what is stored is its own.
#[tokio::test]
async fn no_two_writes_of_one_record_are_alike() {
    let (one, other) = (Place::in_memory(), Place::in_memory());
    let first = stored(&one.store(), "a", Version::ABSENT, "rt-1").await;
    let second = stored(&other.store(), "a", Version::ABSENT, "rt-1").await;
    assert_ne!(first, second);
}

#[test]
fn records_are_found_by_the_name_of_their_credential() {
    for (key, credential, found) in [
        ("api", "api", true),
        ("api", "ap", false),
        ("api-2", "api", false),
        ("api_2", "api", false),
        ("api.2", "api", false),
        ("api", "api-2", false),
        // One of the tokens of a credential with variables.
        ("api/paris", "api", true),
        ("api/paris/2", "api", true),
        ("%61pi", "api", false),
    ] {
        assert_eq!(is_record_of(key, credential), found, "{key} {credential}");
    }
}

#[test]
fn a_version_is_of_its_bytes_and_of_no_others() {
    let version = Version::of(b"a", 3);
    assert!(version.is_of(Some(b"a")) && !version.is_of(Some(b"b")) && !version.is_of(None));
    assert!(Version::ABSENT.is_of(None) && !Version::ABSENT.is_of(Some(b"")));
}

/// As long as there are numbers for it.
#[tokio::test]
async fn a_lease_may_be_waited_for_for_ever() {
    let place = Place::in_memory();
    assert!(lease(&place.store(), "a", Duration::MAX).await.is_ok());
}
