//! Why a client's TLS handshake came to nothing, and what to do about it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, PeerIncompatible};

use crate::tls::rustls_error;

/// Why a client's TLS handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeFault {
    /// It does not accept the certificate.
    Untrusted,
    /// It does not accept the certificate for its CONNECT's host, because it wants another one.
    OtherHost,
    /// It speaks no version that bearerd speaks.
    Version,
    /// It speaks no cipher suite, group or signature scheme that bearerd speaks.
    CipherSuite,
    /// It speaks neither HTTP/1.1 nor HTTP/2.
    Protocol,
    /// What it sent is not TLS.
    NotTls,
    /// It closed the connection without a word.
    WentAway,
    /// Something else.
    Other,
}

impl HandshakeFault {
    /// `misdirected`: its server name (SNI) is not the host of its CONNECT.
    pub(super) fn of(error: &io::Error, misdirected: bool) -> Self {
        match Self::of_error(error) {
            Self::Untrusted if misdirected => Self::OtherHost,
            fault => fault,
        }
    }

    fn of_error(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match (rustls_error(error), error.kind()) {
            (Some(error), _) => Self::of_tls(error),
            (None, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
                Self::WentAway
            }
            (None, _) => Self::Other,
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::NoApplicationProtocol => Self::Protocol,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                // Clients of TLS 1.2 send it, unless they are older than it.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ) => Self::Version,
            rustls::Error::PeerIncompatible(_) | rustls::Error::General(_) => Self::CipherSuite,
            _ => Self::Other,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as Alert;
        match alert {
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied => Self::Untrusted,
            Alert::ProtocolVersion => Self::Version,
            Alert::HandshakeFailure | Alert::InsufficientSecurity | Alert::IllegalParameter => {
                Self::CipherSuite
            }
            Alert::CloseNotify | Alert::UserCanceled => Self::WentAway,
            _ => Self::Other,
        }
    }

    /// The word of the metrics.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::OtherHost => "other_host",
            Self::Version => "version",
            Self::CipherSuite => "cipher_suite",
            Self::Protocol => "protocol",
            Self::NotTls => "not_tls",
            Self::WentAway => "went_away",
            Self::Other => "other",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "it does not trust the local CA: `bearerd ca show` has the setting for each runtime"
            }
            Self::OtherHost => {
                "it wants another host (server name) than its CONNECT names, and does not accept the certificate for that"
            }
            Self::Version => {
                "it does not speak TLS 1.2 or 1.3: it has to be updated, or ask by http://"
            }
            Self::CipherSuite => {
                "it knows no cipher suite with ECDHE and AES-GCM or ChaCha20: it has to be updated, or ask by http://"
            }
            Self::Protocol => {
                "it offers neither h2 nor http/1.1 in ALPN: only HTTP is served for this host"
            }
            Self::NotTls => "what it sends begins like TLS and is not",
            Self::WentAway => {
                "it said nothing. Some close like this if they do not trust the local CA: see `bearerd ca show`"
            }
            Self::Other => "nothing can be advised",
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_handshake_is_told_apart() {
        use AlertDescription as Alert;
        let alert = rustls::Error::AlertReceived;
        for (error, expected) in [
            (alert(Alert::UnknownCA), HandshakeFault::Untrusted),
            (alert(Alert::CertificateUnknown), HandshakeFault::Untrusted),
            (alert(Alert::ProtocolVersion), HandshakeFault::Version),
            (alert(Alert::HandshakeFailure), HandshakeFault::CipherSuite),
            (PeerIncompatible::Tls12NotOfferedOrEnabled.into(), HandshakeFault::Version),
            (
                PeerIncompatible::SignatureAlgorithmsExtensionRequired.into(),
                HandshakeFault::Version,
            ),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), HandshakeFault::CipherSuite),
            (rustls::Error::NoApplicationProtocol, HandshakeFault::Protocol),
            (rustls::InvalidMessage::InvalidContentType.into(), HandshakeFault::NotTls),
            (alert(Alert::UserCanceled), HandshakeFault::WentAway),
            (rustls::Error::DecryptError, HandshakeFault::Other),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(HandshakeFault::of(&error, false), expected, "{error}");
        }
        let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(HandshakeFault::of(&gone, true), HandshakeFault::WentAway);
        let rejects = alert(Alert::BadCertificate);
        let rejects = io::Error::new(io::ErrorKind::InvalidData, rejects);
        assert_eq!(HandshakeFault::of(&rejects, false), HandshakeFault::Untrusted);
        assert_eq!(HandshakeFault::of(&rejects, true), HandshakeFault::OtherHost);
    }
}
