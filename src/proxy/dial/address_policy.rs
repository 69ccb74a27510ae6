//! Which addresses may be connected to.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;

use super::effective_addresses::effective_addresses;
use crate::proxy::origin_error::OriginError;
use crate::resolver::NameError;

/// Which addresses may be connected to. An address is checked together with all addresses that it
/// stands for ([`effective_addresses`]).
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct AddressPolicy {
    pub(in crate::proxy) deny: Vec<IpNet>,
    /// Exceptions to `deny`.
    pub(in crate::proxy) allow: Vec<IpNet>,
}

/// The addresses on which bearerd itself listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenerAddresses {
    pub(crate) proxy: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

impl AddressPolicy {
    /// Checks all addresses of a name and returns those that are allowed.
    ///
    /// One denied address denies the name, because a name with allowed and denied addresses is likely an
    /// attack. If `is_loopback` is true the name is `localhost`: its IPv4 and IPv6 addresses are checked
    /// separately.
    ///
    /// # Errors
    ///
    /// [`OriginError::DeniedAddress`], or [`OriginError::Name`] if there are no addresses.
    pub(super) fn check_all(
        &self,
        addresses: &[SocketAddr],
        is_loopback: bool,
    ) -> Result<Vec<SocketAddr>, OriginError> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut denied = OriginError::Name(NameError::NoAddress);
        for address in addresses {
            match self.check(address.ip()) {
                Ok(()) => allowed.push(*address),
                Err(error) if is_loopback => denied = error,
                Err(error) => return Err(error),
            }
        }
        if allowed.is_empty() { Err(denied) } else { Ok(allowed) }
    }

    fn check(&self, address: IpAddr) -> Result<(), OriginError> {
        match effective_addresses(address).into_iter().find(|ip| self.denies(*ip)) {
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
    /// Checks all addresses of a name before any is connected to.
    ///
    /// # Errors
    ///
    /// [`OriginError::OwnAddress`] or [`OriginError::AdminAddress`] if one of them is a listener's.
    pub(super) fn check_all(&self, addresses: &[SocketAddr]) -> Result<(), OriginError> {
        addresses.iter().try_for_each(|address| {
            let all = effective_addresses(address.ip());
            self.check(|own| {
                own.port() == address.port() && all.iter().any(|ip| accepts(own.ip(), *ip))
            })
        })
    }

    /// Checks a connection. A listener on the unspecified address also accepts connections to the
    /// addresses of the network interfaces, which only the connection reveals: both its ends have the
    /// same address.
    pub(super) fn check_connected(
        &self,
        stream: &TcpStream,
        address: SocketAddr,
    ) -> Result<(), OriginError> {
        self.check(|own| {
            own.port() == address.port()
                && own.ip().is_unspecified()
                && stream.local_addr().is_ok_and(|local| local.ip() == address.ip())
        })
    }

    fn check(&self, is_at: impl Fn(&SocketAddr) -> bool) -> Result<(), OriginError> {
        if self.proxy.iter().any(&is_at) {
            return Err(OriginError::OwnAddress);
        }
        match self.admin.as_ref().is_some_and(is_at) {
            true => Err(OriginError::AdminAddress),
            false => Ok(()),
        }
    }
}

/// Returns true if a listener on `own` accepts connections to `ip` of this machine.
fn accepts(own: IpAddr, ip: IpAddr) -> bool {
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

    fn listeners(proxy: &str) -> ListenerAddresses {
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
            assert_eq!(policy().check(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
    }

    #[test]
    fn p39_unspecified_addresses_are_loopback() {
        let policy = AddressPolicy {
            deny: vec!["127.0.0.0/8".parse().unwrap()],
            ..AddressPolicy::default()
        };
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:127.0.0.1"] {
            let result = policy.check(address.parse().unwrap());
            assert!(matches!(result, Err(OriginError::DeniedAddress(_))), "{address} is allowed");
        }
    }

    #[test]
    fn p39_the_proxy_recognises_its_own_address_in_every_form() {
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
            let result = listeners(proxy).check_all(&[address.parse().unwrap()]);
            assert_eq!(matches!(result, Err(OriginError::OwnAddress)), is_own, "{proxy} {address}");
        }
    }

    #[test]
    fn p37_the_admin_listener_is_distinguished_from_the_proxy() {
        for address in ["127.0.0.1:9", "0.0.0.0:9", "[::]:9", "[::ffff:127.0.0.1]:9"] {
            let result = listeners("127.0.0.1:1").check_all(&[address.parse().unwrap()]);
            assert!(matches!(result, Err(OriginError::AdminAddress)), "{address}: {result:?}");
        }
    }

    #[test]
    fn p39_one_denied_address_denies_a_name_but_not_localhost() {
        let policy = policy();
        let mixed = ["192.0.2.1:80", "10.0.0.1:80"].map(|it| it.parse().unwrap());
        assert!(
            policy.check_all(&mixed, false).is_err(),
            "a name with a denied address was allowed"
        );
        let allowed = policy.check_all(&mixed, true).unwrap();
        assert_eq!(allowed, mixed[..1], "the allowed address of localhost was denied");
        let mixed = ["192.0.2.1:1", "127.0.0.1:1"].map(|it| it.parse().unwrap());
        assert!(
            listeners("127.0.0.1:1").check_all(&mixed).is_err(),
            "a name with the proxy's own address was allowed"
        );
        assert!(policy.check_all(&[], false).is_err(), "a name without addresses was allowed");
    }
}
