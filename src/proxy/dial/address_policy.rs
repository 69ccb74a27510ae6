//! Which addresses may be dialled.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;

use super::embedded_addresses::effective;
use crate::proxy::origin_error::OriginError;
use crate::resolver::NameError;

/// Which addresses may be dialled; an address is judged by all that it stands for ([`effective`]).
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct AddressPolicy {
    pub(in crate::proxy) deny: Vec<IpNet>,
    /// Exceptions to `deny`.
    pub(in crate::proxy) allow: Vec<IpNet>,
}

/// Where bearerd itself listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenerAddresses {
    pub(crate) proxy: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

impl AddressPolicy {
    /// Judges all addresses of a name before any is dialled: one that is denied denies the name, because
    /// whoever mixes them is up to something. `is_loopback`: the name is `localhost`, whose two addresses
    /// nobody has mixed; what is allowed of them remains.
    ///
    /// # Errors
    ///
    /// A denied address, or none at all.
    pub(super) fn judge_all(
        &self,
        addresses: &[SocketAddr],
        is_loopback: bool,
    ) -> Result<Vec<SocketAddr>, OriginError> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut denied = OriginError::Name(NameError::NoAddress);
        for address in addresses {
            match self.judge(address.ip()) {
                Ok(()) => allowed.push(*address),
                Err(error) if is_loopback => denied = error,
                Err(error) => return Err(error),
            }
        }
        if allowed.is_empty() { Err(denied) } else { Ok(allowed) }
    }

    fn judge(&self, address: IpAddr) -> Result<(), OriginError> {
        match effective(address).into_iter().find(|ip| self.denies(*ip)) {
            Some(denied) => Err(OriginError::DeniedAddress(denied)),
            None => Ok(()),
        }
    }

    fn denies(&self, ip: IpAddr) -> bool {
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        is_in(&self.deny) && !is_in(&self.allow)
    }
}

impl ListenerAddresses {
    /// Judges all addresses of a name before any is dialled.
    ///
    /// # Errors
    ///
    /// One of them is the proxy's or the admin listener's.
    pub(super) fn judge_all(&self, addresses: &[SocketAddr]) -> Result<(), OriginError> {
        addresses.iter().try_for_each(|address| {
            let all = effective(address.ip());
            self.judge(|own| {
                own.port() == address.port() && all.iter().any(|ip| is_served(own.ip(), *ip))
            })
        })
    }

    /// A listener on every address is also reached by those of the network cards, which only the connection
    /// shows: both its ends have the same address.
    pub(super) fn judge_connected(
        &self,
        stream: &TcpStream,
        address: SocketAddr,
    ) -> Result<(), OriginError> {
        self.judge(|own| {
            own.port() == address.port()
                && own.ip().is_unspecified()
                && stream.local_addr().is_ok_and(|local| local.ip() == address.ip())
        })
    }

    fn judge(&self, is_at: impl Fn(&SocketAddr) -> bool) -> Result<(), OriginError> {
        if self.proxy.iter().any(&is_at) {
            return Err(OriginError::OwnAddress);
        }
        match self.admin.as_ref().is_some_and(is_at) {
            true => Err(OriginError::AdminAddress),
            false => Ok(()),
        }
    }
}

/// Does a listener on `own` get what is sent to `ip` of this machine?
fn is_served(own: IpAddr, ip: IpAddr) -> bool {
    own.to_canonical() == ip || own.is_unspecified() && ip.is_loopback()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy() -> AddressPolicy {
        AddressPolicy {
            deny: ["169.254.0.0/16", "10.0.0.0/8"].map(|net| net.parse().unwrap()).into(),
            allow: vec!["10.1.0.0/16".parse().unwrap()],
        }
    }

    fn own(proxy: &str) -> ListenerAddresses {
        let [proxy, admin] = [proxy, "127.0.0.1:9"].map(|address| address.parse().unwrap());
        ListenerAddresses { proxy: vec![proxy], admin: Some(admin) }
    }

    #[test]
    fn p39_denied_addresses_stay_denied_in_every_form() {
        for (address, allowed) in [
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("::169.254.169.254", false),
            ("64:ff9b::169.254.169.254", false),
            ("2002:a9fe:a9fe::", false),
            ("10.0.0.1", false),
            ("10.1.0.1", true),
            ("::ffff:10.1.0.1", true),
            ("64:ff9b::10.1.0.1", true),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(policy().judge(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
    }

    #[test]
    fn p39_unspecified_addresses_are_loopback() {
        let policy = AddressPolicy {
            deny: vec!["127.0.0.0/8".parse().unwrap()],
            ..AddressPolicy::default()
        };
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:127.0.0.1"] {
            let judged = policy.judge(address.parse().unwrap());
            assert!(matches!(judged, Err(OriginError::DeniedAddress(_))), "{address} is dialled");
        }
    }

    #[test]
    fn p39_a_proxy_knows_its_own_address_in_every_form() {
        for (proxy, address, is_own) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true),
            ("127.0.0.1:8080", "0.0.0.0:8080", true),
            ("127.0.0.1:8080", "[::]:8080", true),
            ("127.0.0.1:8080", "[::127.0.0.1]:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("0.0.0.0:8080", "127.0.0.2:8080", true),
            ("0.0.0.0:8080", "0.0.0.0:8080", true),
            ("[::]:8080", "[::1]:8080", true),
            ("[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "192.0.2.1:8080", false),
        ] {
            let judged = own(proxy).judge_all(&[address.parse().unwrap()]);
            assert_eq!(matches!(judged, Err(OriginError::OwnAddress)), is_own, "{proxy} {address}");
        }
    }

    #[test]
    fn p37_the_admin_listener_is_told_from_the_proxy() {
        for address in ["127.0.0.1:9", "0.0.0.0:9", "[::]:9", "[::ffff:127.0.0.1]:9"] {
            let judged = own("127.0.0.1:1").judge_all(&[address.parse().unwrap()]);
            assert!(matches!(judged, Err(OriginError::AdminAddress)), "{address}: {judged:?}");
        }
    }

    #[test]
    fn p39_one_denied_address_denies_a_name_but_not_localhost() {
        let policy = policy();
        let mixed = ["192.0.2.1:80", "10.0.0.1:80"].map(|it| it.parse().unwrap());
        assert!(policy.judge_all(&mixed, false).is_err(), "the allowed one was dialled");
        assert_eq!(policy.judge_all(&mixed, true).unwrap(), mixed[..1]);
        let mixed = ["192.0.2.1:1", "127.0.0.1:1"].map(|it| it.parse().unwrap());
        assert!(own("127.0.0.1:1").judge_all(&mixed).is_err(), "the other one was dialled");
        assert!(policy.judge_all(&[], false).is_err());
    }
}
