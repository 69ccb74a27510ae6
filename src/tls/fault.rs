//! Why a server's certificate is not accepted, in words that an operator can act on.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

/// Names of a certificate that are repeated in a message.
const MAX_NAMES: usize = 5;
/// Characters of a name that are repeated; names come from whoever made the certificate.
const MAX_CHARACTERS: usize = 100;

/// Why a server's certificate is not accepted. The `Display` form is for logs: it repeats names from the
/// certificate, escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is signed with its own key and not listed as trusted.
    SelfSigned,
    /// Its issuer, or the last issuer of the chain, is not trusted.
    UnknownIssuer {
        /// The issuer that is missing.
        issuer: String,
        /// Whether the server sent any certificate beside its own.
        sent_chain: bool,
    },
    /// An authority of its issuer's name is trusted, but with another key.
    OtherKey {
        /// The name.
        issuer: String,
    },
    /// It is for other names.
    Name {
        /// The names that it has.
        presented: Vec<String>,
    },
    /// It, or one of its chain, has expired.
    Expired {
        /// When, if that is known.
        at: Option<SystemTime>,
    },
    /// It, or one of its chain, is not valid yet.
    NotYetValid {
        /// When it will be, if that is known.
        from: Option<SystemTime>,
    },
    /// It is on a revocation list.
    Revoked,
    /// Its extended key usage does not allow servers.
    Purpose,
    /// A signature in the chain, or the server's own in the handshake, is wrong.
    Signature,
    /// It is signed with an algorithm that is not accepted, such as SHA-1.
    Algorithm,
    /// It cannot be read.
    Malformed,
    /// Something else.
    Other(String),
}

impl CertificateFault {
    /// The fault that `error` stands for; `None` if it is about something else than a certificate.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(error) => Some(error.into()),
            rustls::Error::NoCertificatesPresented => {
                Some(Self::Other("the server sent no certificate".to_owned()))
            }
            _ => None,
        }
    }

    /// What to do about it; empty if only the error itself can say.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::SelfSigned => "if it is the right one, list it in tls.extra_roots",
            Self::UnknownIssuer { sent_chain: true, .. } => {
                "if that authority is your own, list it in tls.extra_roots"
            }
            Self::UnknownIssuer { sent_chain: false, .. } => {
                "if that authority is your own, list it in tls.extra_roots; else the server has to send its chain"
            }
            Self::OtherKey { .. } => {
                "if the authority was renewed, trust its new certificate in place of the old one"
            }
            Self::Name { .. } => "use a name that the certificate has",
            Self::Expired { .. } => {
                "its operator has to renew it; check the clock of bearerd's machine as well"
            }
            Self::NotYetValid { .. } => "check the clock of bearerd's machine",
            Self::Revoked => "its operator has to replace it",
            Self::Purpose => "its operator has to replace it by one with the usage serverAuth",
            Self::Signature => {
                "its operator has to replace it; something may interfere with the connection"
            }
            Self::Algorithm => {
                "its operator has to replace it by one that is signed with SHA-256 or better"
            }
            Self::Malformed | Self::Other(_) => "",
        }
    }

    /// The error that takes this fault through rustls.
    pub(super) fn into_error(self) -> rustls::Error {
        CertificateError::Other(OtherError(std::sync::Arc::new(self))).into()
    }
}

impl From<&CertificateError> for CertificateFault {
    fn from(error: &CertificateError) -> Self {
        use CertificateError as Error;
        match error {
            Error::UnknownIssuer => {
                Self::UnknownIssuer { issuer: "unknown".to_owned(), sent_chain: true }
            }
            Error::NotValidForName => Self::Name { presented: Vec::new() },
            Error::NotValidForNameContext { presented, .. } => {
                Self::Name { presented: presented.iter().map(|name| plain(name)).collect() }
            }
            Error::Expired => Self::Expired { at: None },
            Error::ExpiredContext { not_after, .. } => Self::Expired { at: time(*not_after) },
            Error::NotValidYet => Self::NotYetValid { from: None },
            Error::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { from: time(*not_before) }
            }
            Error::Revoked => Self::Revoked,
            Error::InvalidPurpose | Error::InvalidPurposeContext { .. } => Self::Purpose,
            Error::BadSignature => Self::Signature,
            Error::UnsupportedSignatureAlgorithmContext { .. }
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Algorithm,
            Error::BadEncoding | Error::UnhandledCriticalExtension => Self::Malformed,
            Error::Other(OtherError(other)) => match other.downcast_ref::<Self>() {
                Some(fault) => fault.clone(),
                None => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// The name in `DnsName("the.name")`, which is how the library writes it; others as they are.
fn plain(name: &str) -> String {
    let inner = name.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")"));
    inner.unwrap_or(name).to_owned()
}

fn time(time: UnixTime) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfSigned => f.write_str("it is self-signed and not listed as trusted"),
            Self::UnknownIssuer { issuer, sent_chain } => {
                write!(f, "its issuer \"{}\" is not trusted", EscapedText(issuer))?;
                f.write_str(if *sent_chain { "" } else { ", and the server sent no chain" })
            }
            Self::OtherKey { issuer } => {
                let issuer = EscapedText(issuer);
                write!(
                    f,
                    "the trusted authority named \"{issuer}\" has another key than its issuer"
                )
            }
            Self::Name { presented } if presented.is_empty() => {
                f.write_str("it has no subjectAltName, and so is for no host")
            }
            Self::Name { presented } => write_names(f, presented),
            Self::Expired { at } => write_date(f, "it, or one of its chain, expired", *at),
            Self::NotYetValid { from } => {
                write_date(f, "it, or one of its chain, is not valid before", *from)
            }
            Self::Revoked => f.write_str("it is revoked"),
            Self::Purpose => f.write_str("its extended key usage does not allow servers"),
            Self::Signature => f.write_str("a signature is wrong"),
            Self::Algorithm => f.write_str("it is signed with an algorithm that is not accepted"),
            Self::Malformed => f.write_str("it cannot be read"),
            Self::Other(text) => EscapedText(text).fmt(f),
        }
    }
}

impl std::error::Error for CertificateFault {}

fn write_names(f: &mut fmt::Formatter<'_>, presented: &[String]) -> fmt::Result {
    f.write_str("it is for other names: ")?;
    for (at, name) in presented.iter().take(MAX_NAMES).enumerate() {
        write!(f, "{}{}", if at == 0 { "" } else { ", " }, EscapedText(name))?;
    }
    match presented.len().checked_sub(MAX_NAMES) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, " and {more} more"),
    }
}

fn write_date(f: &mut fmt::Formatter<'_>, what: &str, at: Option<SystemTime>) -> fmt::Result {
    f.write_str(what)?;
    match at {
        // Later years have no HTTP date.
        Some(at) if at < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800) => {
            write!(f, " {}", httpdate::fmt_http_date(at))
        }
        _ => Ok(()),
    }
}

/// Text from a certificate: one line, and not a long one.
struct EscapedText<'a>(&'a str);

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.chars().take(MAX_CHARACTERS);
        shown.flat_map(char::escape_debug).try_for_each(|character| write!(f, "{character}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says_stays_on_one_short_line() {
        let presented = (0..100).map(|n| format!("evil{n}\n{}", "x".repeat(1000))).collect();
        let text = CertificateFault::Name { presented }.to_string();
        assert!(!text.contains('\n') && text.len() < 1000, "{text}");
        assert!(text.ends_with("and 95 more"), "{text}");
    }

    #[test]
    fn the_time_of_an_expired_certificate_is_said() {
        let at = Some(SystemTime::UNIX_EPOCH);
        let text = CertificateFault::Expired { at }.to_string();
        assert_eq!(text, "it, or one of its chain, expired Thu, 01 Jan 1970 00:00:00 GMT");
        let at = time(UnixTime::since_unix_epoch(Duration::from_secs(1 << 40)));
        assert!(CertificateFault::Expired { at }.to_string().ends_with("expired"));
    }
}
