//! Which addresses a destination stands for.
//!
//! An address may carry another, to which the kernel, a gateway or a relay sends the packets: what is denied
//! must be denied in every such form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first 32 bits of a Teredo address (RFC 4380 §4).
const TEREDO: [u16; 2] = [0x2001, 0];
/// The well-known prefix of NAT64, and the first 48 bits of its local-use prefix (RFC 6052, RFC 8215).
const NAT64: [u16; 2] = [0x64, 0xff9b];

/// `address` and every address inside it.
///
/// Unspecified addresses are loopback: that is where the kernel connects to. Inside are the IPv4 addresses of
/// IPv4-mapped, -compatible and -translated forms, NAT64, 6to4, Teredo (server and client) and ISATAP. NAT64
/// with a prefix of the operator's own is not known here.
pub(super) fn effective(address: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![address];
    match address {
        IpAddr::V4(address) if address.is_unspecified() => all.push(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V4(_) => {}
        IpAddr::V6(address) if address.is_unspecified() => {
            all.extend([IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()]);
        }
        IpAddr::V6(address) if address.is_loopback() => {}
        IpAddr::V6(address) => {
            for inside in inside(address) {
                all.extend(effective(inside.into()));
            }
        }
    }
    all
}

fn inside(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let groups = address.segments();
    let [.., a, b] = groups;
    let mut found = Vec::new();
    match groups {
        // IPv4-compatible (RFC 4291 §2.5.5.1), -mapped, -translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            found.push(ipv4(a, b));
        }
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => found.push(ipv4(high, low)),
        [one, two, server_high, server_low, ..] if [one, two] == TEREDO => {
            found.extend([ipv4(server_high, server_low), ipv4(!a, !b)]);
        }
        [one, two, ..] if [one, two] == NAT64 => found.extend(translated(address)),
        _ => {}
    }
    // ISATAP (RFC 5214 §6.1): any prefix, then this interface identifier.
    if matches!(groups, [_, _, _, _, 0 | 0x200, 0x5efe, ..]) {
        found.push(ipv4(a, b));
    }
    found
}

/// What a NAT64 gateway with a prefix of 96, 64, 56 or 48 bits would read (RFC 6052 §2.2). Which of them applies
/// within the local-use prefix is the gateway's configuration, so all count but those that read padding.
fn translated(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = address.octets();
    let at = |positions: [usize; 4]| {
        let [a, b, c, d] = positions.map(|at| octets.get(at).copied().unwrap_or_default());
        Ipv4Addr::new(a, b, c, d)
    };
    let longest = at([12, 13, 14, 15]);
    match address.segments() {
        [_, _, 0, 0, 0, 0, ..] => vec![longest],
        [_, _, 1, ..] => {
            let shorter = [[9, 10, 11, 12], [7, 9, 10, 11], [6, 7, 9, 10]].map(at);
            let is_padding = |read: &Ipv4Addr| matches!(read.octets(), [0, ..]);
            let read = shorter.into_iter().filter(|read| !is_padding(read));
            std::iter::once(longest).chain(read).collect()
        }
        _ => Vec::new(),
    }
}

fn ipv4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn stands_for(address: &str, other: &str) -> bool {
        effective(address.parse().unwrap()).contains(&other.parse().unwrap())
    }

    #[test]
    fn p39_an_address_stands_for_what_is_inside_it() {
        for (address, inside) in [
            ("10.0.0.1", "10.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "127.0.0.1"),
            ("::", "::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:0.0.0.0", "127.0.0.1"),
            ("::10.0.0.1", "10.0.0.1"),
            ("::ffff:0:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("64:ff9b::0.0.0.0", "127.0.0.1"),
            ("64:ff9b:1::10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1:2:3:4:10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1:a00:0:100::", "10.0.0.1"),
            ("64:ff9b:1:0a:0:1::", "10.0.0.1"),
            ("64:ff9b:1:0:a:0:100:0", "10.0.0.1"),
            ("2002:a00:1::", "10.0.0.1"),
            ("2002:a00:1::1", "10.0.0.1"),
            ("2001:0:a00:1::", "10.0.0.1"),
            ("2001:0:c000:201:0:0:f5ff:fffe", "10.0.0.1"),
            ("fd12::5efe:10.0.0.1", "10.0.0.1"),
            ("2001:db8::200:5efe:10.0.0.1", "10.0.0.1"),
        ] {
            assert!(stands_for(address, inside), "{address} does not stand for {inside}");
        }
    }

    #[test]
    fn p39_an_ordinary_address_stands_for_itself_alone() {
        for address in ["192.0.2.1", "127.0.0.1", "::1", "2001:db8::1", "fd00::a00:1", "fe80::1"] {
            assert_eq!(effective(address.parse().unwrap()), [address.parse::<IpAddr>().unwrap()]);
        }
        let local_use = "64:ff9b:1::192.0.2.1".parse().unwrap();
        assert!(!effective(local_use).contains(&Ipv4Addr::LOCALHOST.into()), "padding was read");
    }

    proptest! {
        #[test]
        fn p39_every_address_stands_for_itself_first_and_ends(bits in any::<u128>()) {
            let address = IpAddr::from(Ipv6Addr::from(bits));
            let all = effective(address);
            prop_assert_eq!(all.first(), Some(&address));
            prop_assert!(all.len() <= 11, "{:?}", all);
        }

        #[test]
        fn p39_the_standard_library_agrees(bits in any::<u32>()) {
            let inside = Ipv4Addr::from(bits);
            prop_assert!(effective(inside.to_ipv6_mapped().into()).contains(&inside.into()));
        }
    }
}
