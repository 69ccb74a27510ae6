//! A store that forgets with the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{
    Commit, Generation, Lease, StoreError, StoreFuture, TokenRecord, TokenStore, has_values,
};

/// Records in memory, one entry per key. The lock of an entry is its lease.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: std::sync::Mutex<HashMap<String, TokenRecord>>,
    leases: std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl MemoryStore {
    fn records(&self) -> std::sync::MutexGuard<'_, HashMap<String, TokenRecord>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lease_of(&self, key: &str) -> Arc<Mutex<()>> {
        let mut leases = self.leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leases.entry(key.to_owned()).or_default().clone()
    }
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<TokenRecord>> {
        Box::pin(async move { Ok(self.records().get(key).cloned()) })
    }

    fn keys<'a>(&'a self, credential: &'a str) -> StoreFuture<'a, Vec<String>> {
        Box::pin(async move {
            let mut keys: Vec<String> = self.records().keys().cloned().collect();
            keys.retain(|key| has_values(key, credential));
            keys.sort();
            Ok(keys)
        })
    }

    fn lease<'a>(&'a self, key: &'a str, wait: Duration) -> StoreFuture<'a, Lease> {
        Box::pin(async move {
            let lock = self.lease_of(key).lock_owned();
            let busy = |_| StoreError::Busy { key: key.to_owned(), waited: wait };
            Ok(Lease::new(key, tokio::time::timeout(wait, lock).await.map_err(busy)?))
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        self.overrule(lease.key(), expected, record)
    }

    fn overrule<'a>(
        &'a self,
        key: &'a str,
        expected: Generation,
        record: &'a TokenRecord,
    ) -> StoreFuture<'a, Commit> {
        Box::pin(async move {
            let mut records = self.records();
            let current = records.get(key).map(|record| record.generation);
            if current.unwrap_or_default() != expected {
                return Ok(Commit::Conflict);
            }
            records.insert(key.to_owned(), record.clone());
            Ok(Commit::Stored)
        })
    }

    fn is_shared(&self) -> bool {
        false
    }
}
