//! Requests that nobody has read: a handshake is refused, or another protocol is spoken.

use super::*;

/// A server of TLS with a certificate of its own, which the first connection is made to.
async fn secured(change: impl FnOnce(&mut ServerConfig)) -> (url::Url, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(params.self_signed(&key).unwrap());
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    change(&mut server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/token", listener.local_addr().unwrap().port());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = acceptor.accept(socket).await {
            _ = stream.read(&mut [0; 1024]).await;
        }
    });
    (url.parse().unwrap(), certificate)
}

/// What no server has looked at is not lost, and the operator is told what is in the way.
#[tokio::test]
async fn a_handshake_that_is_refused_is_a_request_not_sent_with_a_reason() {
    let not_sent = |error: TransportError| match error {
        TransportError::NotSent(why) => why,
        TransportError::NoAnswer(why) => panic!("the server read nothing: {why}"),
    };
    let get = |url: url::Url| TokenRequest::get(url, None);
    let (url, _) = secured(|_| {}).await;
    let why = not_sent(transport().send(get(url), LISTEN).await.unwrap_err());
    assert!(why.contains("is not trusted") && why.contains("list it in tls.extra_roots"), "{why}");
    let (url, certificate) = secured(|it| it.alpn_protocols = vec![b"h2".to_vec()]).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let trusting = HttpTransport::new(client);
    let why = not_sent(trusting.send(get(url), LISTEN).await.unwrap_err());
    assert!(why.contains("HTTP/2"), "{why}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut plain, _) = listener.accept().await.unwrap();
        plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        _ = plain.read_to_end(&mut Vec::new()).await;
    });
    let why = not_sent(transport().send(get(url.parse().unwrap()), LISTEN).await.unwrap_err());
    assert!(why.contains("check the port"), "{why}");
}

/// The same where the first bytes show that something else than HTTP/1.1 is spoken.
#[tokio::test]
async fn an_answer_in_another_protocol_is_a_request_not_sent() {
    for (answer, word) in [
        ("\u{15}\u{3}\u{1}\0\u{2}\u{2}\u{28}", "TLS"),
        ("\0\0\u{6}\u{4}\0\0\0\0\0\0\u{3}\0\0\0\u{64}\0\0\u{8}\u{7}\0\0\0\0\0", "HTTP/2"),
        ("\0\0\0\u{4}\0\0\0\0\0\n\n", "HTTP/2"),
    ] {
        let error = answered(answer, false, LISTEN).await.unwrap_err();
        assert!(matches!(&error, TransportError::NotSent(_)), "{word}: {error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
