//! Special-use names, which are never looked up (RFC 6761).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{LookupResult, NameError};

/// The answer for a special-use name; `None` for all others.
pub(super) fn answer(name: &str) -> Option<LookupResult> {
    if is_loopback(name) {
        // IPv4 first, because most development servers listen only there.
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Some(Ok(Arc::new(loopback)));
    }
    is_or_is_below(name, "invalid").then_some(Err(NameError::NotFound))
}

/// Returns true for `localhost` and names below it.
pub(crate) fn is_loopback(name: &str) -> bool {
    is_or_is_below(name, "localhost")
}

fn is_or_is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_names_are_matched_by_whole_labels() {
        for (name, special) in [
            ("localhost", true),
            ("app.localhost", true),
            ("a.b.localhost", true),
            ("notlocalhost", false),
            ("localhost.example", false),
            ("invalid", true),
            ("no-such-host.invalid", true),
            ("notinvalid", false),
        ] {
            assert_eq!(answer(name).is_some(), special, "{name}");
        }
    }
}
