//! The options of every TCP socket that carries HTTP or a tunnel.
//!
//! A peer that is gone without a word (a crashed machine, a dropped NAT entry) is noticed by TCP's own
//! probes within two minutes, so no stream needs a short idle limit to get rid of dead peers.

use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Silence before the first probe: below the 60 s after which the strictest NAT gateways forget a
/// connection.
const IDLE: Duration = Duration::from_secs(45);
/// Between two probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer before the connection fails: `IDLE + PROBES * INTERVAL` is 2 min.
const PROBES: u32 = 5;
/// How long sent bytes may stay unacknowledged. Linux' default lets a dead peer hold a connection with
/// unsent data for 15 min, because probes are sent on silent connections alone.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Sets keepalive probes and `TCP_NODELAY` on the socket of a client or of an origin server.
///
/// An option that the platform does not know is left out: the connection works without it.
pub(crate) fn configure(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive =
        TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(PROBES);
    // Without TCP_NODELAY a small write waits for the acknowledgement of the one before.
    let set = socket.set_tcp_keepalive(&keepalive).and(socket.set_tcp_nodelay(true));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option is not supported");
    }
}

/// Sets the options of [`configure`], and ends the connection if the origin server acknowledges nothing
/// for 120 s, where the platform can do that.
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
    fn a_dead_peer_is_noticed_within_two_minutes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        configure_origin(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap(), "no keepalive probes");
        let probing = socket.tcp_keepalive_interval().unwrap() * PROBES;
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
        let noticed = socket.tcp_keepalive_time().unwrap() + probing;
        assert!(noticed <= Duration::from_secs(120), "a dead peer is noticed after {noticed:?}");
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        assert!(socket.tcp_nodelay().unwrap(), "small writes are delayed");
    }
}
