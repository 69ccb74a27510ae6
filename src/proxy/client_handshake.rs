//! Why a client's TLS handshake failed, and what to do about it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, PeerIncompatible};

use crate::tls::rustls_error;

/// Why a client's TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeFault {
    /// The client does not accept the certificate.
    Untrusted,
    /// The client does not accept the certificate for the host of its CONNECT, because its SNI names
    /// another host.
    HostMismatch,
    /// There is no common TLS version.
    Version,
    /// There is no common cipher suite, group or signature scheme.
    CipherSuite,
    /// The client offers neither HTTP/1.1 nor HTTP/2.
    Protocol,
    /// The client does not speak TLS.
    NotTls,
    /// The client closed the connection without an alert.
    Closed,
    /// Any other reason.
    Other,
}

impl HandshakeFault {
    /// Classifies an error. `is_misdirected` is true if the client's SNI is not the host of its CONNECT.
    pub(super) fn of(error: &io::Error, is_misdirected: bool) -> Self {
        match Self::of_error(error) {
            Self::Untrusted if is_misdirected => Self::HostMismatch,
            fault => fault,
        }
    }

    fn of_error(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match (rustls_error(error), error.kind()) {
            (Some(error), _) => Self::of_tls(error),
            (None, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
                Self::Closed
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
                // Only clients older than TLS 1.2 omit it.
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
            Alert::CloseNotify | Alert::UserCanceled => Self::Closed,
            _ => Self::Other,
        }
    }

    /// The label value in the metrics.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::HostMismatch => "other_host",
            Self::Version => "version",
            Self::CipherSuite => "cipher_suite",
            Self::Protocol => "protocol",
            Self::NotTls => "not_tls",
            Self::Closed => "went_away",
            Self::Other => "other",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "the client does not trust the local CA: `bearerd ca show` prints the setting for each runtime"
            }
            Self::HostMismatch => {
                "the client's server name (SNI) differs from the host of its CONNECT, whose certificate it does not accept"
            }
            Self::Version => {
                "the client supports neither TLS 1.2 nor TLS 1.3: update it, or use http:// URLs"
            }
            Self::CipherSuite => {
                "the client supports no cipher suite with ECDHE and AES-GCM or ChaCha20: update it, or use http:// URLs"
            }
            Self::Protocol => {
                "the client offers neither h2 nor http/1.1 in ALPN: only HTTP is served for this host"
            }
            Self::NotTls => "the client's first byte looks like TLS, but what follows is not TLS",
            Self::Closed => {
                "the client closed the connection without an alert. Some clients do so if they do not trust the local CA: see `bearerd ca show`"
            }
            Self::Other => "the error has the details",
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
    fn each_failure_of_a_handshake_is_classified() {
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
            (alert(Alert::UserCanceled), HandshakeFault::Closed),
            (rustls::Error::DecryptError, HandshakeFault::Other),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(HandshakeFault::of(&error, false), expected, "{error}");
        }
        let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(HandshakeFault::of(&gone, true), HandshakeFault::Closed);
        let rejects = alert(Alert::BadCertificate);
        let rejects = io::Error::new(io::ErrorKind::InvalidData, rejects);
        assert_eq!(HandshakeFault::of(&rejects, false), HandshakeFault::Untrusted);
        assert_eq!(HandshakeFault::of(&rejects, true), HandshakeFault::HostMismatch);
    }
}
