//! The settings of the request path.

use std::time::Duration;

use super::connector;

/// What happens to requests that no credential is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// They are forwarded untouched.
    #[default]
    Forward,
    /// They are answered 403.
    Deny,
}

/// How requests are served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What happens to hosts that no credential names.
    pub unmatched: Unmatched,
    /// Ports that may be tunnelled to; empty: any. Default 80, 443 and 8443.
    pub connect_ports: Vec<u16>,
    /// Whether each request is logged.
    pub access_log: bool,
    /// What a client may take of this proxy.
    pub limits: Limits,
    /// How origin servers are reached.
    pub origins: connector::Config,
}

/// What clients may take of this proxy. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients' connections at a time.
    pub connections: usize,
    /// The same for one address; 0: no limit of its own.
    pub connections_per_peer: usize,
    /// The request target. Default 8 KiB.
    pub request_line: usize,
    /// A request's whole head. Default 32 KiB.
    pub header_bytes: usize,
    /// Fields in a head. Default 100.
    pub header_count: usize,
    /// From the first byte of a head to its last. Default 15 s.
    pub header_read_timeout: Duration,
    /// From CONNECT to the end of the TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Between two requests of a connection. Default 60 s.
    pub idle_timeout: Duration,
    /// Silence in a tunnel. Default 10 min.
    pub tunnel_idle_timeout: Duration,
    /// A peer takes nothing of what is there for it. Default 60 s.
    pub send_timeout: Duration,
    /// A message's content brings nothing. Default 15 min; 0: for ever.
    pub stall_timeout: Duration,
    /// All kept bodies together. Default 64 MiB.
    pub replay_bytes: u64,
    /// A request's content; 0: no limit.
    pub body_bytes: u64,
}
