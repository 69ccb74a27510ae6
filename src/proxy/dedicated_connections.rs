//! Connections that authenticate a person.
//!
//! NTLM and Negotiate authenticate a connection, not a request (RFC 4559 §6): whoever sends on it next is taken for
//! the person before. Such a connection is kept with the client's own and never enters a pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::origin_connection::Http1Connection;
use crate::origin::Origin;

/// The authentication schemes that belong to a connection.
const SCHEMES: [&[u8]; 2] = [b"ntlm", b"negotiate"];
/// Origin servers at which one client's connection is authenticated at a time.
const MAX_ORIGINS: usize = 16;

/// The connections to origin servers that belong to one connection of a client.
#[derive(Default)]
pub(super) struct DedicatedConnections(Mutex<HashMap<Origin, Option<Box<Http1Connection>>>>);

impl DedicatedConnections {
    /// The client's own connection to `origin`, if it is free.
    pub(super) fn take(&self, origin: &Origin) -> Option<Box<Http1Connection>> {
        self.lock().get_mut(origin)?.take()
    }

    /// Returns this if the client has a connection of its own to `origin`, in use or not.
    pub(super) fn holds(self: &Arc<Self>, origin: &Origin) -> Option<Arc<Self>> {
        self.lock().contains_key(origin).then(|| Arc::clone(self))
    }

    /// Keeps a connection for this client alone. It closes with the client's.
    pub(super) fn keep(&self, connection: Box<Http1Connection>) {
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

/// Does a request authenticate its connection?
pub(super) fn authenticates_connection(fields: &HeaderMap) -> bool {
    fields.get_all(AUTHORIZATION).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        SCHEMES.iter().any(|personal| scheme.eq_ignore_ascii_case(personal))
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
