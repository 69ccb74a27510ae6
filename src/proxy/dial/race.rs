//! Connection attempts to the addresses of one name (RFC 8305, "Happy Eyeballs").

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::proxy::origin_error::OriginError;

/// The delay before the next attempt starts; it starts earlier if one fails (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The most addresses of a name that are tried: each attempt holds a file descriptor.
const MAX_ATTEMPTS: usize = 16;

/// The first connection that was established.
#[derive(Debug)]
pub(super) struct RaceWinner {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// The address was first in the order of attempts.
    pub(super) is_first: bool,
}

/// Returns the order of attempts: `preferred` first if it is one of the addresses, then IPv4 and IPv6
/// in turn, beginning with the family that the system lists first (RFC 8305 §4).
pub(super) fn attempt_order(
    addresses: Vec<SocketAddr>,
    preferred: Option<IpAddr>,
) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop_front());
        ordered.extend(second.pop_front());
    }
    // The sort is stable, so the others keep their order.
    ordered.sort_by_key(|address| Some(address.ip()) != preferred);
    ordered.truncate(MAX_ATTEMPTS);
    ordered
}

/// Connects to the one of `addresses` that accepts first. The other attempts are cancelled.
///
/// # Errors
///
/// The most informative error of the attempts; [`OriginError::ConnectTimeout`] at `deadline`.
pub(super) async fn connect_first(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
) -> Result<RaceWinner, OriginError> {
    let first = addresses.first().copied();
    let mut left = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = None;
    loop {
        let next = left.next();
        if let Some(address) = next {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        let until = match next {
            Some(_) if left.len() > 0 => deadline.min(Instant::now() + ATTEMPT_DELAY),
            _ => deadline,
        };
        match timeout_at(until, attempts.join_next()).await {
            Ok(Some(Ok((address, Ok(stream))))) => {
                return Ok(RaceWinner { stream, address, is_first: Some(address) == first });
            }
            Ok(Some(Ok((_, Err(error))))) => failure = more_informative(failure, classify(error)),
            Ok(Some(Err(ended))) => {
                failure = more_informative(failure, classify(io::Error::other(ended)))
            }
            Ok(None) => return Err(failure.unwrap_or(OriginError::ConnectTimeout)),
            Err(_) if Instant::now() >= deadline => return Err(OriginError::ConnectTimeout),
            Err(_) => {}
        }
    }
}

/// Returns the more informative of two errors. A server that refused the connection exists, while an
/// address without a route is often just of a family that this machine does not have.
fn more_informative(earlier: Option<OriginError>, new: OriginError) -> Option<OriginError> {
    let rank = |error: &OriginError| match error {
        OriginError::Exhausted(_) => 3,
        OriginError::Refused => 2,
        OriginError::ConnectTimeout => 1,
        _ => 0,
    };
    match earlier {
        Some(earlier) if rank(&earlier) >= rank(&new) => Some(earlier),
        _ => Some(new),
    }
}

fn classify(error: io::Error) -> OriginError {
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => OriginError::Refused,
        Some(Errno::TIMEDOUT) => OriginError::ConnectTimeout,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            OriginError::Exhausted(error)
        }
        _ => OriginError::Unreachable(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).into()
    }

    #[test]
    fn p22_families_alternate_and_the_preferred_address_comes_first() {
        let given = || {
            addresses([
                "[2001:db8::1]:443",
                "[2001:db8::2]:443",
                "[2001:db8::3]:443",
                "192.0.2.1:443",
                "192.0.2.2:443",
            ])
        };
        let in_turn = addresses([
            "[2001:db8::1]:443",
            "192.0.2.1:443",
            "[2001:db8::2]:443",
            "192.0.2.2:443",
            "[2001:db8::3]:443",
        ]);
        assert_eq!(attempt_order(given(), None), in_turn);
        let preferred = attempt_order(given(), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(preferred.first(), in_turn.get(3));
        assert_eq!(preferred.get(1..4), in_turn.get(..3));
        assert_eq!(attempt_order(given(), Some("192.0.2.9".parse().unwrap())), in_turn);
        let many = (0..100).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        assert_eq!(attempt_order(many, None).len(), MAX_ATTEMPTS);
    }

    #[test]
    fn the_most_informative_error_is_reported() {
        let unreachable = || OriginError::Unreachable(Errno::NETUNREACH.into());
        let reported = [unreachable(), OriginError::Refused, unreachable()];
        let reported = reported.into_iter().fold(None, more_informative);
        assert!(matches!(reported, Some(OriginError::Refused)), "{reported:?}");
        assert!(matches!(classify(Errno::MFILE.into()), OriginError::Exhausted(_)));
    }
}
