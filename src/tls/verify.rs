//! Verifies server certificates like rustls, but also accepts a server certificate that is itself
//! listed as trusted.
//!
//! webpki accepts a self-signed certificate only as an authority, not as a server's certificate.
//! OpenSSL also accepts a certificate from the trust store itself, after checking its names and
//! dates. This verifier does the same: an operator who lists a server's certificate in
//! `tls.extra_roots` trusts that server.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::TlsError;
use super::fault::CertificateFault;

/// The trusted certificates, as authorities and as server certificates.
#[derive(Debug)]
pub(super) struct TrustStore {
    pub(super) roots: RootCertStore,
    /// The DER of each trusted certificate.
    pub(super) listed: HashSet<Vec<u8>>,
}

impl TrustStore {
    pub(super) fn empty() -> Self {
        Self { roots: RootCertStore::empty(), listed: HashSet::new() }
    }

    /// Trusts `certificate` as an authority and as a server certificate.
    pub(super) fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), Error> {
        self.listed.insert(certificate.to_vec());
        self.roots.add(certificate)
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.roots.extend(other.roots.roots);
        self.listed.extend(other.listed);
    }
}

/// Verifies certificates against a [`TrustStore`].
#[derive(Debug)]
pub(super) struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    listed: HashSet<Vec<u8>>,
    /// The DER-encoded names of the authorities.
    subjects: HashSet<Vec<u8>>,
}

impl Verifier {
    pub(super) fn new(trust: TrustStore) -> Result<Self, TlsError> {
        let TrustStore { roots, listed } = trust;
        let subjects = roots.subjects().iter().map(|name| name.as_ref().to_vec()).collect();
        let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), super::provider());
        let authorities = builder.build().map_err(|_| TlsError::NoRoots)?;
        Ok(Self { authorities, listed, subjects })
    }

    /// Explains why the issuer of a certificate is not accepted.
    fn explain(
        &self,
        error: &CertificateError,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<CertificateFault> {
        let (_, leaf) = X509Certificate::from_der(end_entity).ok()?;
        match error {
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
            | CertificateError::Other(_)
                if is_self_signed(&leaf) =>
            {
                Some(CertificateFault::SelfSigned)
            }
            CertificateError::UnknownIssuer => Some(CertificateFault::UnknownIssuer {
                issuer: missing_issuer(&leaf, intermediates),
                sent_chain: !intermediates.is_empty(),
            }),
            // The signature was not made with the key of the trusted authority.
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                let chain = std::iter::once(end_entity).chain(intermediates);
                let mut certificates = chain.filter_map(read);
                let issued =
                    certificates.find(|it| self.subjects.contains(it.issuer().as_raw()))?;
                Some(CertificateFault::OtherKey { issuer: issued.issuer().to_string() })
            }
            _ => None,
        }
    }
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate)
}

fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

/// Returns the first issuer, starting from the leaf, that the chain does not contain.
fn missing_issuer(leaf: &X509Certificate<'_>, intermediates: &[CertificateDer<'_>]) -> String {
    let chain: Vec<_> = intermediates.iter().filter_map(read).collect();
    let mut issuer = leaf.issuer();
    // At most one step per certificate, because a chain may contain a cycle.
    for _ in 0..chain.len() {
        let found = chain.iter().find(|it| it.subject().as_raw() == issuer.as_raw());
        match found {
            Some(found) if !is_self_signed(found) => issuer = found.issuer(),
            _ => break,
        }
    }
    issuer.to_string()
}

/// Verifies names, dates and usage of a listed certificate.
fn verify_listed(
    end_entity: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let certificate = read(end_entity).ok_or(CertificateError::BadEncoding)?;
    let validity = certificate.validity();
    let (not_before, not_after) = (unix_time(validity.not_before), unix_time(validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if not_after < now {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    let usage = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
    Ok(ServerCertVerified::assertion())
}

fn unix_time(time: ASN1Time) -> UnixTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.contains(end_entity.as_ref()) {
            return verify_listed(end_entity, name, now);
        }
        let verified = self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            name,
            ocsp_response,
            now,
        );
        verified.map_err(|error| {
            let Error::InvalidCertificate(about) = &error else { return error };
            let explained = self.explain(about, end_entity, intermediates);
            explained.map_or(error, CertificateFault::into_error)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}
