//! Origin connections that serve one client alone.
//!
//! NTLM and Negotiate authenticate a connection, not a request (RFC 4559 §6): the next request on it is
//! attributed to the same person. Such a connection belongs to the client's connection and never enters
//! a pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::origin_connection::Http1Connection;
use crate::origin::Origin;

/// The schemes that authenticate a connection.
const CONNECTION_SCHEMES: [&[u8]; 2] = [b"ntlm", b"negotiate"];
/// The most origin servers to which one client has connections of its own.
const MAX_ORIGINS: usize = 16;

/// The origin connections that belong to one client connection.
#[derive(Default)]
pub(super) struct DedicatedConnections(Mutex<HashMap<Origin, Option<Box<Http1Connection>>>>);

impl DedicatedConnections {
    /// Takes the client's own connection to `origin`, if there is one and it is idle.
    pub(super) fn take(&self, origin: &Origin) -> Option<Box<Http1Connection>> {
        self.lock().get_mut(origin)?.take()
    }

    /// Returns `self` if the client has its own connection to `origin`, idle or in use.
    pub(super) fn if_contains(self: &Arc<Self>, origin: &Origin) -> Option<Arc<Self>> {
        self.lock().contains_key(origin).then(|| Arc::clone(self))
    }

    /// Adds an idle connection for this client alone. It closes with the client's connection.
    pub(super) fn put(&self, connection: Box<Http1Connection>) {
        let mut connections = self.lock();
        if connections.len() < MAX_ORIGINS || connections.contains_key(&connection.origin) {
            connections.insert(connection.origin.clone(), Some(connection));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Option<Box<Http1Connection>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for DedicatedConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DedicatedConnections")
    }
}

/// Returns true if a request with these fields authenticates its connection.
pub(super) fn authenticates_connection(fields: &HeaderMap) -> bool {
    fields.get_all(AUTHORIZATION).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        CONNECTION_SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ntlm_and_negotiate_authenticate_a_connection() {
        for (value, expected) in [
            ("NTLM TlRMTVNTUAAB", true),
            ("negotiate YII", true),
            ("Negotiate", true),
            ("Bearer NTLM", false),
            ("NTLMx y", false),
            ("Basic bnRsbQ==", false),
        ] {
            let fields = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(authenticates_connection(&fields), expected, "{value}");
        }
    }
}
