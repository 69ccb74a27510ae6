//! Mutual TLS against a server that asks for a certificate.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::oauth::ClientCert;
use crate::secret::Secret;

const LISTEN: Duration = Duration::from_secs(9);

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_absence_is_told() {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &authority).unwrap(), key)
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
    let (certificate, key) = issue("localhost");
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from(certificate)],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/token", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let seen = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head.get(..read).unwrap().starts_with(b"GET /token HTTP/1.1"));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{seen}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let transport = HttpTransport::new(client).unwrap();
    let (certificate, key) = issue("client.test");
    let key = Secret::new(key.serialize_pem());
    let identity = ClientCert::from_pem(&certificate.pem(), &key, false, &provider()).unwrap();
    let url: url::Url = url.parse().unwrap();
    let request = TokenRequest::get(url.clone(), Some(identity));
    assert_eq!(transport.send(request, LISTEN).await.unwrap().body, b"1");
    assert!(transport.send(TokenRequest::get(url, None), LISTEN).await.is_err());
}
