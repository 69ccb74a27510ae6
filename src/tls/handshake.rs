//! Why a TLS handshake with a server failed.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// A failed handshake, or a TLS alert after the handshake.
#[derive(Debug)]
pub(crate) struct TlsFault {
    pub(crate) cause: TlsCause,
    source: io::Error,
}

/// The cause of a failed handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsCause {
    /// The server's first bytes are not TLS.
    NotTls,
    /// There is no common protocol version.
    Version,
    /// There is no common cipher suite, group or signature scheme.
    CipherSuite,
    /// The server requires a client certificate, or another one.
    ClientCertificate,
    /// The server does not know the server name (SNI).
    ServerName,
    /// The server supports none of the offered protocols (RFC 7301 §3.2).
    Protocol,
    /// The server closed the connection during the handshake.
    Closed,
    /// The host is not a valid server name.
    InvalidName,
    /// Any other cause.
    Other,
}

impl TlsFault {
    pub(crate) fn new(source: io::Error) -> Self {
        Self { cause: TlsCause::of(&source), source }
    }

    pub(crate) fn invalid_name(error: rustls::pki_types::InvalidDnsNameError) -> Self {
        Self { cause: TlsCause::InvalidName, source: io::Error::other(error) }
    }

    /// Returns true if the server sent an alert.
    pub(crate) fn is_alert(&self) -> bool {
        matches!(rustls_error(&self.source), Some(rustls::Error::AlertReceived(_)))
    }
}

impl TlsCause {
    pub(crate) fn of(error: &io::Error) -> Self {
        match rustls_error(error) {
            Some(error) => cause_of(error),
            None if is_closed(error) => Self::Closed,
            None => Self::Other,
        }
    }

    /// Advice for the operator; empty if the error speaks for itself.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::NotTls => {
                "check the port; if the server has no TLS there, see allow_http and token_http of the credential"
            }
            Self::Version => "bearerd speaks TLS 1.2 and TLS 1.3; the server has to be updated",
            Self::CipherSuite => {
                "bearerd speaks TLS 1.2 with AEAD suites (ECDHE with AES-GCM or ChaCha20) and TLS 1.3"
            }
            Self::ClientCertificate => "see client_cert of the credential",
            Self::ServerName | Self::InvalidName => "check the name",
            Self::Protocol => "check the port and which HTTP versions the server supports",
            Self::Closed => "check whether it speaks TLS on that port",
            Self::Other => "",
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for TlsFault {}

/// Returns the cause of an alert that ended a connection after the handshake. With TLS 1.3, a
/// server rejects a client certificate only then.
pub(crate) fn late_alert(error: &(dyn Error + 'static)) -> Option<TlsCause> {
    let mut errors = std::iter::successors(Some(error), |error| (*error).source());
    errors.find_map(|error| match rustls_error(error.downcast_ref()?)? {
        error @ rustls::Error::AlertReceived(_) => Some(cause_of(error)),
        _ => None,
    })
}

pub(crate) fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn cause_of(error: &rustls::Error) -> TlsCause {
    match error {
        rustls::Error::AlertReceived(alert) => cause_of_alert(*alert),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => TlsCause::NotTls,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => TlsCause::Version,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::PeerMisbehaved(
            PeerMisbehaved::SelectedUnofferedCipherSuite
            | PeerMisbehaved::SelectedUnusableCipherSuiteForVersion
            | PeerMisbehaved::SelectedUnofferedKxGroup,
        ) => TlsCause::CipherSuite,
        rustls::Error::NoApplicationProtocol
        | rustls::Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            TlsCause::Protocol
        }
        _ => TlsCause::Other,
    }
}

fn cause_of_alert(alert: AlertDescription) -> TlsCause {
    use AlertDescription as Alert;
    match alert {
        Alert::ProtocolVersion => TlsCause::Version,
        Alert::HandshakeFailure | Alert::InsufficientSecurity => TlsCause::CipherSuite,
        Alert::NoApplicationProtocol => TlsCause::Protocol,
        Alert::UnrecognisedName => TlsCause::ServerName,
        Alert::CertificateRequired
        | Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => TlsCause::ClientCertificate,
        Alert::CloseNotify => TlsCause::Closed,
        _ => TlsCause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(error: rustls::Error) -> TlsCause {
        TlsFault::new(io::Error::new(io::ErrorKind::InvalidData, error)).cause
    }

    #[test]
    fn p27_each_handshake_failure_has_its_own_cause() {
        use AlertDescription as Alert;
        for (error, expected) in [
            (rustls::Error::AlertReceived(Alert::HandshakeFailure), TlsCause::CipherSuite),
            (rustls::Error::AlertReceived(Alert::ProtocolVersion), TlsCause::Version),
            (PeerIncompatible::ServerDoesNotSupportTls12Or13.into(), TlsCause::Version),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), TlsCause::CipherSuite),
            (PeerMisbehaved::SelectedUnofferedCipherSuite.into(), TlsCause::CipherSuite),
            (rustls::Error::AlertReceived(Alert::CertificateRequired), TlsCause::ClientCertificate),
            (rustls::Error::AlertReceived(Alert::UnrecognisedName), TlsCause::ServerName),
            (rustls::Error::AlertReceived(Alert::NoApplicationProtocol), TlsCause::Protocol),
            (InvalidMessage::InvalidContentType.into(), TlsCause::NotTls),
            (rustls::Error::AlertReceived(Alert::InternalError), TlsCause::Other),
            (rustls::Error::DecryptError, TlsCause::Other),
        ] {
            assert_eq!(cause(error.clone()), expected, "{error}");
        }
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(TlsFault::new(eof).cause, TlsCause::Closed);
    }

    #[test]
    fn an_alert_is_found_inside_other_errors() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let alert = io::Error::new(io::ErrorKind::InvalidData, alert);
        assert_eq!(late_alert(&alert), Some(TlsCause::ClientCertificate));
        #[derive(Debug, thiserror::Error)]
        #[error("wrapped")]
        struct Wrapped(#[source] io::Error);
        assert_eq!(late_alert(&Wrapped(alert)), Some(TlsCause::ClientCertificate));
        assert_eq!(late_alert(&io::Error::other("no alert")), None);
    }
}
