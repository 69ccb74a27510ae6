//! The settings of the request path.

use std::time::Duration;

use super::connector;

/// What happens to requests that no credential matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unmatched {
    /// They are forwarded without a token.
    #[default]
    Forward,
    /// They are refused with 403.
    Deny,
}

/// How requests are served.
#[derive(Clone, Debug)]
pub struct Config {
    /// What happens to requests that no credential matches.
    pub unmatched: Unmatched,
    /// Ports to which tunnels are allowed; if empty, all. Default: 80, 443 and 8443.
    pub connect_ports: Vec<u16>,
    /// Whether each request is logged.
    pub access_log: bool,
    /// Limits on what a client may use.
    pub limits: Limits,
    /// How origin servers are reached.
    pub origins: connector::Config,
}

/// Limits on what clients may use. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open client connections.
    pub connections: usize,
    /// Open connections from one client address; 0: no separate limit.
    pub connections_per_peer: usize,
    /// Length of the request target. Default: 8 KiB.
    pub request_line: usize,
    /// Length of a request head. Default: 32 KiB.
    pub header_bytes: usize,
    /// Fields in a request head. Default: 100.
    pub header_count: usize,
    /// From the first byte of a request head to its last. Default: 15 s.
    pub header_read_timeout: Duration,
    /// From CONNECT to the end of the TLS handshake. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Between two requests on a connection. Default: 60 s.
    pub idle_timeout: Duration,
    /// Without traffic in a tunnel. Default: 10 min.
    pub tunnel_idle_timeout: Duration,
    /// Without the client reading what is ready for it. Default: 60 s.
    pub send_timeout: Duration,
    /// Without progress of a message's content. Default: 15 min; 0: no limit.
    pub stall_timeout: Duration,
    /// All bodies that are kept for a retry. Default: 64 MiB.
    pub replay_bytes: u64,
    /// Content of one request; 0: no limit.
    pub body_bytes: u64,
}
