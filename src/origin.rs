//! Hosts, authorities and origins: parsed once, then used for everything.
//!
//! The host that policy decides on must be the host that the credential is sent to. The bytes sent
//! by a client are therefore parsed into one canonical value, and anything ambiguous is refused.
//! That value selects the credential, is resolved and dialled, appears in SNI and `Host`, is
//! checked against the certificate, and is the key of the connection pool. Nothing below uses the
//! original text again.
//!
//! The parsers are pure and decode nothing: a `%` in a host is an error, not an escape.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

/// `http` or `https` (RFC 9110 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP, default port 80.
    Http,
    /// HTTP over TLS, default port 443.
    Https,
}

impl Scheme {
    /// The port of a URI of this scheme that has none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// A host in canonical form: a lower-case name without a trailing dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A registered name in lower case, each label of letters, digits, `-` and `_`.
    Name(Box<str>),
    /// An IPv4 literal in dotted decimal.
    V4(Ipv4Addr),
    /// An IPv6 literal, written in brackets.
    V6(Ipv6Addr),
}

impl Host {
    /// Parses a host as written in an authority; IPv6 addresses are in brackets.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] for user information, percent signs, non-ASCII characters, a trailing dot, empty or overlong labels, and numbers that some resolvers read as an address (`127.1`, `0x7f000001`).
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Brackets)?;
            return inner.parse().map(Self::V6).map_err(|_| AuthorityError::Brackets);
        }
        if text.len() > 253 {
            return Err(AuthorityError::TooLong);
        }
        let labels = text.as_bytes().split(|byte| *byte == b'.');
        for label in labels.clone() {
            check_label(label, text)?;
        }
        if labels.clone().next_back().is_some_and(is_numeric) {
            return text.parse().map(Self::V4).map_err(|_| AuthorityError::Number);
        }
        Ok(Self::Name(text.to_ascii_lowercase().into_boxed_str()))
    }

    /// The rest of `text` after this host in canonical form; `None` if `text` does not start with
    /// it.
    fn strip_from<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Name(name) => text.strip_prefix(name.as_bytes()),
            Self::V4(address) => {
                address.octets().iter().enumerate().try_fold(text, |rest, (at, octet)| {
                    let rest = if at == 0 { rest } else { rest.strip_prefix(b".")? };
                    strip_decimal(rest, u16::from(*octet))
                })
            }
            Self::V6(_) => text.strip_prefix(self.to_string().as_bytes()),
        }
    }

    /// The name, unless the host is an address.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::V4(_) | Self::V6(_) => None,
        }
    }
}

/// The rest of `text` after `number` in decimal; `None` if `text` does not start with it.
fn strip_decimal(text: &[u8], number: u16) -> Option<&[u8]> {
    let length = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    let (digits, rest) = text.split_at_checked(length)?;
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0'))
    });
    (value == Some(u32::from(number))).then_some(rest)
}

/// Checks one label of `text`; earlier labels have been checked.
fn check_label(label: &[u8], text: &str) -> Result<(), AuthorityError> {
    if label.is_empty() {
        return Err(AuthorityError::EmptyLabel);
    }
    if label.len() > 63 {
        return Err(AuthorityError::TooLong);
    }
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if label.iter().all(is_allowed) {
        return Ok(());
    }
    let is_forbidden = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    text.chars().find(is_forbidden).map_or(Ok(()), |c| Err(AuthorityError::Character(c)))
}

/// Returns true if a resolver would read this last label as part of an IPv4 address (WHATWG URL
/// §3.5).
fn is_numeric(label: &[u8]) -> bool {
    let hex = label.strip_prefix(b"0x").or_else(|| label.strip_prefix(b"0X"));
    label.iter().all(u8::is_ascii_digit)
        || hex.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port; the scheme's default if none was written.
    pub port: u16,
}

impl Authority {
    /// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] from [`Host::parse`], for a port that is not 1–65535 in plain digits, and for a missing port if `default_port` is `None` (the request target of CONNECT, RFC 9110 §9.3.6).
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, AuthorityError> {
        Self::from_parts(text, split_port(text), default_port)
    }

    fn from_parts(
        text: &str,
        parts: Result<(&str, Option<&str>), AuthorityError>,
        default_port: Option<u16>,
    ) -> Result<Self, AuthorityError> {
        if memchr::memchr(b'@', text.as_bytes()).is_some() {
            return Err(AuthorityError::UserInfo);
        }
        let (host, port) = parts?;
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None => default_port.ok_or(AuthorityError::MissingPort)?,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// Parses an authority in a request, where a name may also end with a dot that marks it as
    /// absolute (RFC 1034 §3.1). The dot is kept, so that the name never equals one in the
    /// configuration.
    ///
    /// # Errors
    ///
    /// As [`Authority::parse`].
    pub fn parse_requested(text: &str, default_port: Option<u16>) -> Result<Self, AuthorityError> {
        let parts = split_port(text);
        let Some((name, port)) = parts.ok().and_then(split_dot) else {
            return Self::from_parts(text, parts, default_port);
        };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        match Self::parse(&format!("{name}{port}"), default_port)? {
            Self { host: Host::Name(name), port } => {
                Ok(Self { host: Host::Name(format!("{name}.").into()), port })
            }
            _ => Err(AuthorityError::EmptyLabel),
        }
    }

    /// The same authority without the trailing dot of its name; `None` if there is no such dot.
    pub fn without_dot(&self) -> Option<Self> {
        let name = self.host.name()?.strip_suffix('.')?;
        Some(Self { host: Host::Name(name.into()), port: self.port })
    }

    /// Parses the value of a `Host` field or `:authority` and returns true if it equals this
    /// authority.
    pub fn agrees_with(&self, text: &str, scheme: Scheme) -> bool {
        let other = Self::parse_requested(text, Some(scheme.default_port()));
        other.is_ok_and(|other| other == *self)
    }
}

/// Splits at the colon before the port, ignoring colons in brackets.
fn split_port(text: &str) -> Result<(&str, Option<&str>), AuthorityError> {
    let after_brackets = memchr::memrchr(b']', text.as_bytes()).map_or(0, |end| end + 1);
    let Some((before, rest)) = text.split_at_checked(after_brackets) else {
        return Err(AuthorityError::Brackets);
    };
    let colon = memchr::memchr(b':', rest.as_bytes());
    let parts = colon.and_then(|colon| Some((rest.get(..colon)?, rest.get(colon + 1..)?)));
    match parts {
        None => Ok((text, None)),
        Some((name, port)) if before.is_empty() => Ok((name, Some(port))),
        Some(("", port)) => Ok((before, Some(port))),
        Some(_) => Err(AuthorityError::Brackets),
    }
}

/// Removes the trailing dot of a name; `None` if there is none.
fn split_dot<'a>((name, port): (&'a str, Option<&'a str>)) -> Option<(&'a str, Option<&'a str>)> {
    Some((name.strip_suffix('.')?, port))
}

fn parse_port(digits: &str) -> Result<u16, AuthorityError> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if plain && port != 0 => Ok(port),
        _ => Err(AuthorityError::Port),
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The origin of a resource (RFC 9110 §4.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
}

impl Origin {
    /// The value of the `Host` field for a request to this origin, without a default port.
    pub fn host_field(&self) -> String {
        if self.authority.port == self.scheme.default_port() {
            self.authority.host.to_string()
        } else {
            self.authority.to_string()
        }
    }

    /// Returns true if `value` equals [`Origin::host_field`]. Allocates nothing, except for IPv6.
    pub fn is_host_field(&self, value: &[u8]) -> bool {
        let Authority { host, port } = &self.authority;
        match host.strip_from(value) {
            Some([]) => *port == self.scheme.default_port(),
            Some([b':', digits @ ..]) => {
                *port != self.scheme.default_port() && strip_decimal(digits, *port) == Some(b"")
            }
            _ => false,
        }
    }
}

/// Hashes few values, because pools are looked up twice per request.
impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Authority { host, port } = &self.authority;
        match host {
            Host::Name(name) => state.write(name.as_bytes()),
            Host::V4(address) => state.write_u32(address.to_bits()),
            Host::V6(address) => state.write_u128(address.to_bits()),
        }
        state.write_u32(u32::from(*port) << 1 | u32::from(self.scheme == Scheme::Https));
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Why a text is not an unambiguous authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// `user@host`, which some parsers read as another host.
    #[error("user information is not allowed before the host")]
    UserInfo,
    /// Misplaced `[` or `]`.
    #[error("brackets are only for one IPv6 address without a zone")]
    Brackets,
    /// An empty host, two dots in a row, or a trailing dot.
    #[error("a host has no empty labels and no trailing dot")]
    EmptyLabel,
    /// A trailing dot on a name that is a credential's host without it.
    #[error("a credential's host must be requested without a trailing dot")]
    TrailingDot,
    /// More than 63 octets in a label or 253 in all (RFC 1035 §2.3.4).
    #[error("a host has at most 63 characters in a label and 253 in all")]
    TooLong,
    /// A character that is not allowed in hosts, such as `%`, `\` or a non-ASCII letter.
    #[error("`{}` is not allowed in a host", .0.escape_default())]
    Character(char),
    /// A numeric last label in a host that is not a plain IPv4 address.
    #[error("a host that ends in a number must be an IPv4 address of four decimal parts")]
    Number,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// No port where one is required.
    #[error("the port is missing")]
    MissingPort,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepted_spellings_have_one_canonical_form() {
        for (text, canonical) in [
            ("API.Test", "api.test:443"),
            ("api.test:8443", "api.test:8443"),
            ("api_1.x-y.test", "api_1.x-y.test:443"),
            ("127.0.0.1", "127.0.0.1:443"),
            ("[::1]", "[::1]:443"),
            ("[::FFFF:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
            ("localhost:00080", "localhost:80"),
        ] {
            assert_eq!(Authority::parse(text, Some(443)).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn ambiguous_authorities_are_refused() {
        for text in [
            "",
            ":443",
            "api.test.",
            ".api.test",
            "api..test",
            "user@api.test",
            "api.test:443@evil.test",
            "allowed:x@attacker.example",
            "api%2etest",
            "api.test%2Fevil",
            "api.test\\evil",
            "аpi.test",
            "api.test:",
            "api.test:0",
            "api.test:65536",
            "api.test:8O80",
            "api.test:+80",
            "api.test:443:443",
            "[allowed.example]:443",
            "[::1",
            "::1",
            "[::1]x:80",
            "[::1%25eth0]",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "1.2.3.4.5",
            "api test",
            "api.test/",
            "api.test?x",
            "api.test#x",
        ] {
            assert!(Authority::parse(text, Some(443)).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_requested_name_keeps_its_trailing_dot() {
        for (text, canonical) in [
            ("LocalHost.", "localhost.:80"),
            ("api.test.:8080", "api.test.:8080"),
            ("api.test", "api.test:80"),
            ("[::1]:1", "[::1]:1"),
        ] {
            let authority = Authority::parse_requested(text, Some(80)).unwrap();
            assert_eq!(authority.to_string(), canonical);
        }
        for text in [".", "..", "api.test..", "127.0.0.1.", "1.", "[::1].", "user@api.test."] {
            assert!(Authority::parse_requested(text, Some(80)).is_err(), "{text:?}");
        }
        let dotted = Authority::parse_requested("api.test.", Some(80)).unwrap();
        assert!(dotted.agrees_with("API.test.", Scheme::Http));
        assert!(!dotted.agrees_with("api.test", Scheme::Http));
        assert_eq!(dotted.without_dot(), Authority::parse("api.test:80", None).ok());
        assert_eq!(Authority::parse("api.test:80", None).unwrap().without_dot(), None);
    }

    #[test]
    fn labels_are_limited_to_63_octets_and_names_to_253() {
        let label = "a".repeat(63);
        assert!(Host::parse(&label).is_ok());
        assert!(Host::parse(&format!("{label}a")).is_err());
        let name = [label.as_str(), &label, &label, &"b".repeat(61)].join(".");
        assert_eq!(name.len(), 253);
        assert!(Host::parse(&name).is_ok());
        assert!(Host::parse(&format!("{name}b")).is_err());
    }

    #[test]
    fn connect_requires_a_port() {
        assert_eq!(Authority::parse("api.test", None), Err(AuthorityError::MissingPort));
    }

    #[test]
    fn the_host_field_omits_the_default_port() {
        for (scheme, authority, field) in [
            (Scheme::Https, "api.test:443", "api.test"),
            (Scheme::Https, "api.test:80", "api.test:80"),
            (Scheme::Http, "api.test:80", "api.test"),
            (Scheme::Http, "[::1]:8080", "[::1]:8080"),
            (Scheme::Http, "[::1]:80", "[::1]"),
            (Scheme::Http, "127.0.0.1:8080", "127.0.0.1:8080"),
            (Scheme::Https, "127.0.0.1:443", "127.0.0.1"),
        ] {
            let authority = Authority::parse(authority, None).unwrap();
            let origin = Origin { scheme, authority };
            assert_eq!(origin.host_field(), field);
            assert!(origin.is_host_field(field.as_bytes()));
            for other in [
                "",
                "api",
                "api.test:8",
                "api.test:4430",
                "API.test",
                "api.test:443",
                "api.test:080",
                "api.test:",
                "u@api.test",
                "[::1]:80800",
                "[::1]:080",
                "[0::1]",
                "127.0.0.1:08080",
                "127.0.0.01",
                "127.0.0.1:443",
                "127.0.0.2",
                "127.0.0.2:8080",
                "127.0.0.1:8081",
                "api.test:8081",
                "api.tesu",
                "127.0.0.1 ",
            ] {
                assert!(!origin.is_host_field(other.as_bytes()), "{origin} {other}");
            }
        }
    }
}
