//! The addresses that a destination address stands for.
//!
//! An IPv6 address may embed an IPv4 address to which the kernel, a gateway or a relay sends the packets.
//! A denied address must be denied in every such form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first 32 bits of a Teredo address (RFC 4380 §4).
const TEREDO: [u16; 2] = [0x2001, 0];
/// The well-known prefix of NAT64, and the first 48 bits of its local-use prefix (RFC 6052, RFC 8215).
const NAT64: [u16; 2] = [0x64, 0xff9b];

/// Returns `address` and every address that it embeds.
///
/// The unspecified address stands for loopback, because that is where the kernel connects to. The
/// embedded addresses are those of the IPv4-mapped, IPv4-compatible and IPv4-translated forms, NAT64,
/// 6to4, Teredo (server and client) and ISATAP. NAT64 with a network-specific prefix is not recognised.
pub(super) fn effective_addresses(address: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![address];
    match address {
        IpAddr::V4(address) if address.is_unspecified() => all.push(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V4(_) => {}
        IpAddr::V6(address) if address.is_unspecified() => {
            all.extend([IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()]);
        }
        IpAddr::V6(address) if address.is_loopback() => {}
        IpAddr::V6(address) => {
            for embedded in embedded_addresses(address) {
                all.extend(effective_addresses(embedded.into()));
            }
        }
    }
    all
}

fn embedded_addresses(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let groups = address.segments();
    let [.., a, b] = groups;
    let mut embedded = Vec::new();
    match groups {
        // IPv4-compatible (RFC 4291 §2.5.5.1), -mapped, -translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            embedded.push(ipv4(a, b));
        }
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => embedded.push(ipv4(high, low)),
        [one, two, server_high, server_low, ..] if [one, two] == TEREDO => {
            embedded.extend([ipv4(server_high, server_low), ipv4(!a, !b)]);
        }
        [one, two, ..] if [one, two] == NAT64 => embedded.extend(nat64_addresses(address)),
        _ => {}
    }
    // ISATAP (RFC 5214 §6.1): any prefix, then this interface identifier.
    if matches!(groups, [_, _, _, _, 0 | 0x200, 0x5efe, ..]) {
        embedded.push(ipv4(a, b));
    }
    embedded
}

/// The addresses that a NAT64 gateway with a prefix of 96, 64, 56 or 48 bits would extract
/// (RFC 6052 §2.2). Which length applies within the local-use prefix depends on the gateway, so all of
/// them count, except those that would extract padding.
fn nat64_addresses(address: Ipv6Addr) -> Vec<Ipv4Addr> {
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
            let is_padding = |address: &Ipv4Addr| matches!(address.octets(), [0, ..]);
            let extracted = shorter.into_iter().filter(|address| !is_padding(address));
            std::iter::once(longest).chain(extracted).collect()
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
        effective_addresses(address.parse().unwrap()).contains(&other.parse().unwrap())
    }

    #[test]
    fn p39_an_address_stands_for_the_addresses_it_embeds() {
        for (address, embedded) in [
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
            assert!(stands_for(address, embedded), "{address} does not stand for {embedded}");
        }
    }

    #[test]
    fn p39_an_ordinary_address_stands_for_itself_only() {
        for address in ["192.0.2.1", "127.0.0.1", "::1", "2001:db8::1", "fd00::a00:1", "fe80::1"] {
            assert_eq!(
                effective_addresses(address.parse().unwrap()),
                [address.parse::<IpAddr>().unwrap()]
            );
        }
        let local_use = "64:ff9b:1::192.0.2.1".parse().unwrap();
        assert!(
            !effective_addresses(local_use).contains(&Ipv4Addr::LOCALHOST.into()),
            "padding was extracted"
        );
    }

    proptest! {
        #[test]
        fn p39_every_address_stands_for_itself_and_a_bounded_number_of_others(bits in any::<u128>()) {
            let address = IpAddr::from(Ipv6Addr::from(bits));
            let all = effective_addresses(address);
            prop_assert_eq!(all.first(), Some(&address));
            prop_assert!(all.len() <= 11, "{:?}", all);
        }

        #[test]
        fn p39_ipv4_mapped_addresses_are_those_of_the_standard_library(bits in any::<u32>()) {
            let embedded = Ipv4Addr::from(bits);
            let effective = effective_addresses(embedded.to_ipv6_mapped().into());
            prop_assert!(effective.contains(&embedded.into()), "{} is missing", embedded);
        }
    }
}
