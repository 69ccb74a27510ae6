//! Reaching an authority: resolve, check the addresses, connect.
//!
//! The address that is checked is the address that is dialled, so a name that changes between two
//! look-ups gains nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::origin_error::OriginError;
use crate::origin::{Authority, Host};

/// Which addresses may be dialled, and how long that may take.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) deny: Vec<IpNet>,
    pub(super) allow: Vec<IpNet>,
    /// Where this proxy itself listens.
    pub(super) own: Vec<SocketAddr>,
    pub(super) timeout: Duration,
}

impl Dialer {
    /// Connects to `authority`, trying its addresses in the resolver's order.
    ///
    /// # Errors
    ///
    /// [`OriginError`]: name, denied or own address, refused, unreachable, or no time left.
    pub(super) async fn connect(&self, authority: &Authority) -> Result<TcpStream, OriginError> {
        let deadline = Instant::now() + self.timeout;
        let late = |_| OriginError::ConnectTimeout;
        let resolving = tokio::time::timeout_at(deadline, resolve(authority));
        let addresses = resolving.await.map_err(late)??;
        let mut last = None;
        let mut left = addresses.len();
        for address in addresses {
            let share = (deadline - Instant::now()) / u32::try_from(left.max(1)).unwrap_or(1);
            left = left.saturating_sub(1);
            let tried = match self.check(address) {
                Ok(()) => tokio::time::timeout(share, TcpStream::connect(address)).await,
                Err(error) => return Err(error),
            };
            last = Some(match tried {
                Ok(Ok(stream)) => return self.accept(stream, address),
                Ok(Err(error)) => refusal(error),
                Err(_) => OriginError::ConnectTimeout,
            });
        }
        let nothing = || OriginError::Name(std::io::Error::other("the name has no address"));
        Err(last.unwrap_or_else(nothing))
    }

    /// One denied address denies the name: whoever mixes them is up to something.
    fn check(&self, address: SocketAddr) -> Result<(), OriginError> {
        let ip = address.ip().to_canonical();
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        if is_in(&self.deny) && !is_in(&self.allow) {
            return Err(OriginError::DeniedAddress(ip));
        }
        let own = |own: &SocketAddr| {
            own.port() == address.port()
                && (own.ip().to_canonical() == ip || own.ip().is_unspecified() && is_local(ip))
        };
        if self.own.iter().any(own) {
            return Err(OriginError::OwnAddress);
        }
        Ok(())
    }

    /// A listener on every address is also reached by those of the network cards.
    fn accept(&self, stream: TcpStream, address: SocketAddr) -> Result<TcpStream, OriginError> {
        let everywhere =
            |own: &SocketAddr| own.ip().is_unspecified() && own.port() == address.port();
        if self.own.iter().any(everywhere)
            && stream.local_addr().is_ok_and(|local| local.ip() == address.ip())
        {
            return Err(OriginError::OwnAddress);
        }
        // Without it, a small write waits for the acknowledgement of the one before.
        let _unsupported = stream.set_nodelay(true);
        Ok(stream)
    }
}

fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

async fn resolve(authority: &Authority) -> Result<Vec<SocketAddr>, OriginError> {
    let port = authority.port;
    match &authority.host {
        Host::V4(address) => Ok(vec![SocketAddr::from((*address, port))]),
        Host::V6(address) => Ok(vec![SocketAddr::from((*address, port))]),
        Host::Name(name) => {
            // RFC 6761 §6.3; not every resolver knows the name with the dot that says that it is complete.
            let name = if &**name == "localhost." { "localhost" } else { name };
            let found = tokio::net::lookup_host((name, port)).await;
            Ok(found.map_err(OriginError::Name)?.collect())
        }
    }
}

fn refusal(error: std::io::Error) -> OriginError {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => OriginError::Refused,
        std::io::ErrorKind::TimedOut => OriginError::ConnectTimeout,
        _ => OriginError::Unreachable(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dialer(own: &str) -> Dialer {
        Dialer {
            deny: vec!["169.254.0.0/16".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
            allow: vec!["10.1.0.0/16".parse().unwrap()],
            own: vec![own.parse().unwrap()],
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn denied_addresses_stay_denied_in_every_spelling() {
        let dialer = dialer("127.0.0.1:1");
        for (address, allowed) in [
            ("169.254.169.254:80", false),
            ("[::ffff:169.254.169.254]:80", false),
            ("10.0.0.1:80", false),
            ("10.1.0.1:80", true),
            ("[::ffff:10.1.0.1]:80", true),
            ("192.0.2.1:80", true),
        ] {
            assert_eq!(dialer.check(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
    }

    #[test]
    fn a_proxy_knows_its_own_address() {
        for (own, address, is_own) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("0.0.0.0:8080", "127.0.0.2:8080", true),
            ("[::]:8080", "[::1]:8080", true),
            ("0.0.0.0:8080", "192.0.2.1:8080", false),
        ] {
            let checked = dialer(own).check(address.parse().unwrap());
            assert_eq!(matches!(checked, Err(OriginError::OwnAddress)), is_own, "{own} {address}");
        }
    }
}
