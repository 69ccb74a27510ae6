//! Explains to operators why a server's certificate is not accepted.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

/// The maximum number of certificate names in a message.
const MAX_NAMES: usize = 5;
/// The maximum number of characters of a name in a message, because names are chosen by whoever
/// issued the certificate.
const MAX_CHARACTERS: usize = 100;

/// Why a server's certificate is not accepted. The `Display` form is for logs: names from the
/// certificate are escaped and truncated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// The certificate is self-signed and not listed as trusted.
    SelfSigned,
    /// The issuer, or the last issuer of the chain, is not trusted.
    UnknownIssuer {
        /// The missing issuer.
        issuer: String,
        /// Whether the server sent any certificate besides its own.
        sent_chain: bool,
    },
    /// An authority with the issuer's name is trusted, but has another key.
    OtherKey {
        /// The name.
        issuer: String,
    },
    /// The certificate is for other names.
    Name {
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// A certificate of the chain has expired.
    Expired {
        /// When it expired, if known.
        at: Option<SystemTime>,
    },
    /// A certificate of the chain is not valid yet.
    NotYetValid {
        /// When it becomes valid, if known.
        from: Option<SystemTime>,
    },
    /// The certificate is revoked.
    Revoked,
    /// The extended key usage does not include server authentication.
    Purpose,
    /// A signature in the chain or in the handshake is wrong.
    Signature,
    /// The signature algorithm, such as SHA-1, is not accepted.
    Algorithm,
    /// The certificate cannot be parsed.
    Malformed,
    /// Any other fault.
    Other(String),
}

impl CertificateFault {
    /// Returns the fault in `error`; `None` if it is not about a certificate.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(error) => Some(error.into()),
            rustls::Error::NoCertificatesPresented => {
                Some(Self::Other("the server sent no certificate".to_owned()))
            }
            _ => None,
        }
    }

    /// Advice for the operator; empty if the error speaks for itself.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::SelfSigned => "if it is the expected certificate, list it in tls.extra_roots",
            Self::UnknownIssuer { sent_chain: true, .. } => {
                "if that authority is your own, list it in tls.extra_roots"
            }
            Self::UnknownIssuer { sent_chain: false, .. } => {
                "if that authority is your own, list it in tls.extra_roots; else the server has to send its chain"
            }
            Self::OtherKey { .. } => {
                "if the authority was renewed, trust its new certificate in place of the old one"
            }
            Self::Name { .. } => "use a name that is in the certificate",
            Self::Expired { .. } => {
                "its operator has to renew it; check the clock of bearerd's machine as well"
            }
            Self::NotYetValid { .. } => "check the clock of bearerd's machine",
            Self::Revoked => "its operator has to replace it",
            Self::Purpose => {
                "its operator has to replace it with one that has the usage serverAuth"
            }
            Self::Signature => {
                "its operator has to replace it; something may interfere with the connection"
            }
            Self::Algorithm => {
                "its operator has to replace it with one that is signed with SHA-256 or better"
            }
            Self::Malformed | Self::Other(_) => "",
        }
    }

    /// Wraps this fault in an error of rustls.
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

/// Extracts the name from `DnsName("the.name")`, the format of the library; returns others as they
/// are.
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
        // Later years cannot be formatted as an HTTP date.
        Some(at) if at < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800) => {
            write!(f, " {}", httpdate::fmt_http_date(at))
        }
        _ => Ok(()),
    }
}

/// Text from a certificate, escaped to one line and truncated.
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
    fn certificate_names_are_escaped_and_truncated() {
        let presented = (0..100).map(|n| format!("evil{n}\n{}", "x".repeat(1000))).collect();
        let text = CertificateFault::Name { presented }.to_string();
        assert!(!text.contains('\n') && text.len() < 1000, "{text}");
        assert!(text.ends_with("and 95 more"), "{text}");
    }

    #[test]
    fn expired_certificates_are_reported_with_their_date() {
        let at = Some(SystemTime::UNIX_EPOCH);
        let text = CertificateFault::Expired { at }.to_string();
        assert_eq!(text, "it, or one of its chain, expired Thu, 01 Jan 1970 00:00:00 GMT");
        let at = time(UnixTime::since_unix_epoch(Duration::from_secs(1 << 40)));
        assert!(CertificateFault::Expired { at }.to_string().ends_with("expired"));
    }
}
