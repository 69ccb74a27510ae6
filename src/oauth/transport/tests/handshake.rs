//! Requests that no server has read: the handshake was rejected, or the server speaks another
//! protocol.

use super::*;

/// Starts a TLS server with its own certificate for one connection.
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

/// A request that no server read is not lost, and the operator learns the cause.
#[tokio::test]
async fn after_a_rejected_handshake_the_request_was_not_sent() {
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

/// The first bytes show that the server does not speak HTTP/1.1.
#[tokio::test]
async fn after_an_answer_in_another_protocol_the_request_was_not_sent() {
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
