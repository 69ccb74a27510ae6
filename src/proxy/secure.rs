//! TLS towards an origin server.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::Dialer;
use super::early_response::EarlyResponse;
use super::origin_error::OriginError;
use crate::origin::{Authority, Host};

/// A connection on which an origin server has proved its name.
pub(super) type SecureStream = TlsStream<EarlyResponse<TcpStream>>;

/// Dials `authority` and has it prove its name.
///
/// # Errors
///
/// [`OriginError`]: those of dialling, a certificate that is not accepted, a handshake that failed, or no time left.
pub(super) async fn secure(
    dialer: &Dialer,
    authority: &Authority,
    tls: &Arc<ClientConfig>,
    timeout: Duration,
) -> Result<SecureStream, OriginError> {
    let name = match &authority.host {
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|error| OriginError::Tls(std::io::Error::other(error)))?,
        Host::V4(address) => ServerName::from(std::net::IpAddr::from(*address)),
        Host::V6(address) => ServerName::from(std::net::IpAddr::from(*address)),
    };
    let stream = EarlyResponse::of(dialer.connect(authority).await?);
    let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_about_certificate(&error) => Err(OriginError::Certificate(error)),
        Ok(Err(error)) => Err(OriginError::Tls(error)),
        Err(_) => Err(OriginError::ConnectTimeout),
    }
}

fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn is_about_certificate(error: &std::io::Error) -> bool {
    matches!(rustls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// RFC 7301 §3.2: the server knows none of the protocols that were offered.
pub(super) fn knows_other_protocols(error: &std::io::Error) -> bool {
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    matches!(rustls_error(error), Some(rustls::Error::AlertReceived(received)) if *received == alert)
}
