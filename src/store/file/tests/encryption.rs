//! Encryption keys: rotation, and records that cannot be opened.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::store::Config;

fn key(seed: u8) -> crate::store::EncryptionKey {
    let hexadecimal: String = (0..32).map(|at: u8| format!("{:02x}", at ^ seed)).collect();
    crate::store::EncryptionKey::parse(&Secret::new(hexadecimal)).unwrap()
}

fn keys(current: Option<u8>, old: &[u8]) -> EncryptionKeys {
    let old = old.iter().map(|seed| key(*seed)).collect();
    EncryptionKeys { current: current.map(key), old, plain: false }
}

fn config(path: &Path, keys: EncryptionKeys) -> Config {
    Config::File { dir: path.to_owned(), keys }
}

fn shows(bytes: &[u8], token: &str) -> bool {
    bytes.windows(token.len()).any(|part| part == token.as_bytes())
}

#[tokio::test]
async fn an_old_key_still_reads_and_the_next_write_uses_the_current_one() {
    let (_dir, path, _) = temp_store();
    let before = config(&path, keys(Some(1), &[])).build().unwrap();
    stored(&before, "a", Version::ABSENT, "rt-1").await;
    let rotated = config(&path, keys(Some(2), &[1])).build().unwrap();
    let (loaded, version) = rotated.load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-1"));
    stored(&rotated, "a", version, "rt-2").await;
    let after = config(&path, keys(Some(2), &[])).build().unwrap();
    let (loaded, version) = after.load("a").await.unwrap().unwrap();
    assert_eq!(loaded, record("rt-2"));
    assert_eq!(before.load("a").await.unwrap_err().label(), "store_sealed");
    // Removing the key turns encryption off again.
    stored(&config(&path, keys(None, &[2])).build().unwrap(), "a", version, "rt-3").await;
    assert_eq!(token_of(&open(&path), "a").await.as_deref(), Some("rt-3"));
}

#[tokio::test]
async fn check_keys_finds_records_that_cannot_be_opened() {
    let (_dir, path, plain) = temp_store();
    let sealed = config(&path, keys(Some(1), &[])).build().unwrap();
    stored(&sealed, "a/Paris", Version::ABSENT, "rt-1").await;
    stored(&plain, "plain", Version::ABSENT, "rt-1").await;
    write_private(&path.join("b.json"), b"{");
    let untouched = contents(&path);
    let check_keys = |keys, credential| config(&path, keys).check_keys(&["absent", credential]);
    for keys in [keys(None, &[]), keys(Some(2), &[3])] {
        let store = Store::new(Arc::new(FileStore::open(&path).unwrap()), keys.clone());
        let examined = check_keys(keys, "a").unwrap_err();
        for error in [examined, store.load("a/Paris").await.unwrap_err()] {
            let said = error.to_string();
            assert!(
                said.contains("a@,paris.json") && said.contains(&key(1).id().to_string()),
                "{said}"
            );
            assert!(said.contains("nothing was changed"), "{said}");
        }
    }
    let error = check_keys(keys(Some(1), &[]), "plain").unwrap_err();
    assert!(error.to_string().contains("plain.json"), "{error}");
    assert_eq!(error.label(), "store_plain");
    // Other damage is detected on use, and other credentials' records are not checked.
    for credential in ["a", "b", "d", "pla"] {
        assert!(check_keys(keys(Some(1), &[]), credential).is_ok(), "{credential}");
    }
    assert!(check_keys(EncryptionKeys { plain: true, ..keys(Some(1), &[]) }, "plain").is_ok());
    assert!(config(&path.join("absent"), keys(None, &[])).check_keys(&["a"]).is_ok());
    assert!(!path.join("absent").exists());
    assert_eq!(contents(&path), untouched);
}

#[tokio::test]
async fn a_damaged_encrypted_record_is_quarantined() {
    let (_dir, path, _) = temp_store();
    let store = config(&path, keys(Some(1), &[])).build().unwrap();
    for (from, to) in
        [("\"sealed\"", "\"seamed\""), ("\"sha256\": \"", "\"sha256\": \"0"), ("\"}", "")]
    {
        stored(&store, "a", Version::ABSENT, "rt-1").await;
        let text = std::fs::read_to_string(path.join("a.json")).unwrap();
        std::fs::write(path.join("a.json"), text.replacen(from, to, 1)).unwrap();
        assert!(config(&path, keys(Some(1), &[])).check_keys(&["a"]).is_ok());
        let error = store.load("a").await.unwrap_err();
        assert_eq!(error.label(), "store_corrupt", "{to}: {error}");
    }
}

/// A second thread reads the directory continuously while records are written.
#[tokio::test]
async fn no_file_ever_holds_plain_text_not_even_a_temporary_one() {
    let (_dir, path, _) = temp_store();
    let store = config(&path, keys(Some(1), &[])).build().unwrap();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, temporary, dir) = (Arc::clone(&stop), Arc::clone(&seen), path.clone());
    let looker = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            for (path, bytes) in contents(&dir) {
                assert!(!shows(&bytes, "token-"), "{}", path.display());
                let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
                temporary
                    .fetch_add(usize::from(is_temporary && !bytes.is_empty()), Ordering::SeqCst);
            }
        }
    });
    let mut version = Version::ABSENT;
    let mut writes = 0;
    while seen.load(Ordering::SeqCst) < 10 && !looker.is_finished() {
        version = stored(&store, "a", version, "token-of-a-secret").await;
        writes += 1;
        assert!(writes < 20_000, "no temporary file was ever seen");
    }
    stop.store(true, Ordering::SeqCst);
    looker.join().unwrap();
}
