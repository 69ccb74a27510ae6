//! A throwaway certificate authority for TLS on the loopback interface.
//!
//! Its certificates carry the extensions that strict verifiers require (key usages, key
//! identifiers), so that curl, Python, Java and Node accept them once they trust the
//! authority. The cryptography provider is always explicit, never the process default.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate authority that exists only in memory.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A client certificate and its private key.
pub struct ClientCertificate {
    /// The certificate as DER.
    pub der: CertificateDer<'static>,
    /// The certificate as PEM.
    pub pem: String,
    /// The private key as PEM.
    pub key_pem: String,
}

impl TestCa {
    /// Creates an authority with a fresh key.
    #[allow(clippy::new_without_default)] // two defaults would not be equal
    pub fn new() -> TestCa {
        let issuer = CertifiedIssuer::self_signed(authority_params(), fresh_key());
        TestCa { issuer: issuer.expect("the parameters are valid") }
    }

    /// Returns the authority's certificate as PEM, for a trust store file.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Returns the authority's certificate as DER.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Returns a server configuration for the given DNS names and IP addresses. ALPN is `http/1.1`.
    pub fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.issue(leaf_params(names))
    }

    /// Returns a server configuration whose certificate expired years ago.
    pub fn server_config_expired(&self, names: &[&str]) -> Arc<ServerConfig> {
        let mut params = leaf_params(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.issue(params)
    }

    /// Returns a server configuration with a self-signed certificate, which this authority did not issue.
    pub fn server_config_self_signed(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = fresh_key();
        let certificate = leaf_params(names).self_signed(&key);
        server_config(certificate.expect("the parameters are valid").into(), &key)
    }

    /// Returns a server configuration that requests client certificates issued by `clients`. If
    /// `required`, it rejects clients without one.
    pub fn server_config_asking(
        &self,
        names: &[&str],
        clients: &TestCa,
        required: bool,
    ) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der()).expect("a valid authority");
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let (certificate, key) = self.sign(leaf_params(names));
        let verifier = builder.build().expect("the authority is valid");
        server_config_with(verifier, certificate.der().clone(), &key)
    }

    /// Issues a client certificate.
    pub fn client_certificate(&self, name: &str) -> ClientCertificate {
        let mut params = leaf_params(&[name]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(params);
        ClientCertificate {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Returns a client configuration that trusts only this authority.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a valid authority");
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn issue(&self, params: CertificateParams) -> Arc<ServerConfig> {
        let (certificate, key) = self.sign(params);
        server_config(certificate.into(), &key)
    }

    fn sign(&self, params: CertificateParams) -> (Certificate, KeyPair) {
        let key = fresh_key();
        let certificate = params.signed_by(&key, &self.issuer);
        (certificate.expect("the parameters are valid"), key)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn fresh_key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    name(&mut params, "bearerd test authority");
    params
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let common_name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).expect("names are DNS names or addresses");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    name(&mut params, &common_name);
    params
}

fn name(params: &mut CertificateParams, common_name: &str) {
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
}

fn server_config(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    server_config_with(Arc::new(NoClientAuth), certificate, key)
}

fn server_config_with(
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .expect("the key belongs to the certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
