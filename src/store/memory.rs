//! A store that is lost when the process ends.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{
    ByteStore, ExpectedKeys, Fence, HeldLease, StoreChanges, StoreError, StoreFuture, Version,
};

/// Records in memory, one entry per key. The lock of an entry is its lease.
#[derive(Debug, Default)]
pub struct MemoryStore {
    stored: Mutex<HashMap<String, Vec<u8>>>,
    leases: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl MemoryStore {
    fn stored(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.entry(key.to_owned()).or_default().clone()
    }
}

impl ByteStore for MemoryStore {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.stored().get(key).cloned()) })
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        expected: Version,
        _fence: Option<&'a Fence>,
        bytes: Vec<u8>,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let mut stored = self.stored();
            if !expected.is_of(stored.get(key).map(Vec::as_slice)) {
                return Ok(false);
            }
            stored.insert(key.to_owned(), bytes);
            Ok(true)
        })
    }

    fn quarantine<'a>(&'a self, key: &'a str, damaged: Version) -> StoreFuture<'a, Option<String>> {
        Box::pin(async move {
            let mut stored = self.stored();
            let is_there = damaged.is_of(stored.get(key).map(Vec::as_slice));
            Ok(is_there.then(|| stored.remove(key)).map(|_| "nowhere".to_owned()))
        })
    }

    fn clear_quarantine<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn keys(&self) -> StoreFuture<'_, Vec<String>> {
        Box::pin(async move {
            let mut keys: Vec<String> = self.stored().keys().cloned().collect();
            keys.sort();
            Ok(keys)
        })
    }

    fn lease<'a>(
        &'a self,
        key: &'a str,
        _ttl: Duration,
        wait: Duration,
    ) -> StoreFuture<'a, Box<dyn HeldLease>> {
        Box::pin(async move {
            let lock = self.lease_of(key).lock_owned();
            let busy = |_| StoreError::Busy { key: key.to_owned(), waited: wait };
            let guard = tokio::time::timeout(wait, lock).await.map_err(busy)?;
            Ok(Box::new(MemoryLease { _guard: guard, fence: Fence("memory".to_owned()) })
                as Box<dyn HeldLease>)
        })
    }

    fn changes(&self) -> Box<dyn StoreChanges> {
        Box::new(NoChanges)
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn location(&self, key: &str) -> String {
        format!("the record of {key} in memory")
    }
}

/// No other process can change this memory.
struct NoChanges;

impl StoreChanges for NoChanges {
    fn next<'a>(
        &'a mut self,
        _expected: &'a ExpectedKeys<'a>,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>> {
        Box::pin(std::future::pending())
    }
}

struct MemoryLease {
    _guard: OwnedMutexGuard<()>,
    fence: Fence,
}

impl HeldLease for MemoryLease {
    fn fence(&self) -> &Fence {
        &self.fence
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
