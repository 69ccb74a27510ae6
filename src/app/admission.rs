//! Admission control: limits on client connections.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::net::{TcpStream, UnixStream};

use crate::metrics::Metrics;
use crate::proxy::client_stream::ClientStream;

/// A client's socket that is not registered with a runtime yet; the core that serves it registers
/// it.
#[derive(Debug)]
pub(super) enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl AcceptedSocket {
    /// Registers the socket with the calling runtime.
    pub(super) fn into_stream(self) -> io::Result<ClientStream> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                TcpStream::from_std(stream).map(ClientStream::Tcp)
            }
            Self::Unix(stream) => UnixStream::from_std(stream).map(ClientStream::Unix),
        }
    }
}

/// Counts client connections, in total and per address.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    limit_per_peer: usize,
    count: AtomicUsize,
    peers: DashMap<IpAddr, usize>,
    metrics: Metrics,
}

impl Admission {
    /// A `limit_per_peer` of 0 means no limit per address.
    pub(super) fn new(limit: usize, limit_per_peer: usize, metrics: Metrics) -> Self {
        let (count, peers) = (AtomicUsize::new(0), DashMap::new());
        Self { limit, limit_per_peer, count, peers, metrics }
    }

    /// Admits a client from `peer`; `None` if a limit is reached.
    pub(super) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Permit> {
        let peer = peer.filter(|_| self.limit_per_peer > 0);
        if self.count.load(Ordering::Relaxed) >= self.limit {
            tracing::warn!(limit = self.limit, "limits.connections reached; connection closed");
            self.metrics.record_limit("connections");
            return None;
        }
        if let Some(peer) = peer {
            let mut count = self.peers.entry(peer).or_default();
            if *count >= self.limit_per_peer {
                tracing::warn!(%peer, "limits.connections_per_peer reached; connection closed");
                self.metrics.record_limit("connections_per_peer");
                return None;
            }
            *count += 1;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(Permit { admission: Arc::clone(self), peer })
    }
}

/// The admission of one client, released on drop.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    peer: Option<IpAddr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.count.fetch_sub(1, Ordering::Relaxed);
        let Some(peer) = self.peer else { return };
        if let Some(mut count) = self.admission.peers.get_mut(&peer) {
            *count = count.saturating_sub(1);
        }
        self.admission.peers.remove_if(&peer, |_, count| *count == 0);
    }
}
