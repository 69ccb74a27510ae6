//! TLS to an origin server.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{Dialer, OriginSocket};
use super::origin_error::OriginError;
use super::reset_tolerant_stream::ResetTolerantStream;
use crate::origin::{Authority, Host};
use crate::tls::{CertificateFault, TlsCause, TlsFault, rustls_error};

/// A connection to an origin server whose certificate was verified.
pub(super) type OriginTlsStream = TlsStream<ResetTolerantStream<OriginSocket>>;

/// Connects to `authority` and performs the TLS handshake, all before `deadline`.
///
/// # Errors
///
/// Any error of [`Dialer::connect`]; [`OriginError::Certificate`] if the certificate is not accepted;
/// [`OriginError::Tls`] if the handshake fails for another reason; [`OriginError::HandshakeTimeout`]
/// if `deadline` passes during the handshake.
pub(super) async fn connect_tls(
    dialer: &Dialer,
    authority: &Authority,
    tls: &Arc<ClientConfig>,
    deadline: Instant,
) -> Result<OriginTlsStream, OriginError> {
    let name = server_name(&authority.host)?;
    let stream = ResetTolerantStream::new(dialer.connect(authority, deadline).await?);
    let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
    match timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(handshake_error),
        Err(_) => Err(OriginError::HandshakeTimeout),
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, OriginError> {
    match host {
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|error| OriginError::Tls(TlsFault::invalid_name(error))),
        Host::V4(address) => Ok(ServerName::from(std::net::IpAddr::from(*address))),
        Host::V6(address) => Ok(ServerName::from(std::net::IpAddr::from(*address))),
    }
}

fn handshake_error(error: io::Error) -> OriginError {
    match rustls_error(&error).and_then(CertificateFault::of) {
        Some(fault) => OriginError::Certificate(fault),
        None => OriginError::Tls(TlsFault::new(error)),
    }
}

/// Returns true if the server supports none of the protocols that were offered (RFC 7301 §3.2).
pub(super) fn is_alpn_mismatch(fault: &TlsFault) -> bool {
    fault.cause == TlsCause::Protocol && fault.is_alert()
}
