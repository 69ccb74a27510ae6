//! The options of every TCP socket that carries HTTP or a tunnel.
//!
//! TCP keepalive detects a peer that disappears without closing (a crashed machine, a dropped NAT entry)
//! within two minutes, so no stream needs a short idle timeout for that.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Idle time before the first probe: below the 60 s after which the strictest NAT gateways drop a
/// connection.
const IDLE: Duration = Duration::from_secs(45);
/// The interval between two probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered probes before the connection fails: `IDLE + PROBES * INTERVAL` is 2 min.
const PROBES: u32 = 5;
/// How long sent bytes may stay unacknowledged. Without it, Linux keeps a connection to a dead peer with
/// unacknowledged data for 15 min, because probes are sent on idle connections only.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Sets keepalive probes and `TCP_NODELAY` on the socket of a client or of an origin server.
///
/// An option that the platform does not support is skipped: the connection works without it.
pub(crate) fn configure(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive =
        TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(PROBES);
    // Without TCP_NODELAY a small write waits for the acknowledgement of the previous one.
    let set = socket.set_tcp_keepalive(&keepalive).and(socket.set_tcp_nodelay(true));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option is not supported");
    }
}

/// Sets the options of [`configure`] and, if the platform supports it, ends the connection when the
/// origin server acknowledges nothing for 120 s.
pub(crate) fn configure_origin(socket: &impl AsFd) {
    configure(socket);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = SockRef::from(socket).set_tcp_user_timeout(Some(UNACKNOWLEDGED)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT is not supported");
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_dead_peer_is_detected_within_two_minutes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        configure_origin(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap(), "no keepalive probes");
        let probing = socket.tcp_keepalive_interval().unwrap() * PROBES;
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES, "wrong number of probes");
        let detected_after = socket.tcp_keepalive_time().unwrap() + probing;
        assert!(
            detected_after <= Duration::from_secs(120),
            "a dead peer is detected after {detected_after:?}"
        );
        let user_timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(user_timeout, Some(UNACKNOWLEDGED), "unacknowledged data is kept too long");
        assert!(socket.tcp_nodelay().unwrap(), "small writes are delayed");
    }
}
