//! The keys that the design of `proxy.toml` names and this version does not have yet.
//!
//! Who follows the design and not this version's example should read "not available in this
//! version" and not "unknown key". When a key becomes available it moves from here into its section.

/// Is `key` of `section` (empty for the top of the file) a key of a later version?
pub(super) fn is_later(section: &str, key: &str) -> bool {
    KEYS.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}

const KEYS: &[(&str, &[&str])] = &[
    ("", &["telemetry"]),
    ("proxy", &["client", "gateway", "listen_tls", "no_parent", "parent", "parent_auth"]),
    ("store", &["on_outage"]),
];
