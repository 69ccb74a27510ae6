//! Origin servers for tests that write the protocol by hand.

use std::sync::{Arc, mpsc};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::wire::{Wire, within};
use crate::world::World;

/// Starts a plain http origin server. Returns it and its base URL.
pub(super) async fn origin() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Accepts the next connection.
pub(super) async fn accept(listener: &TcpListener) -> Wire {
    Wire::over(within(listener.accept()).await.unwrap().0)
}

/// An API over TLS for tests that write the protocol by hand. The credential of its world includes it.
pub(super) struct RawApi {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl RawApi {
    /// Starts a world and the second API of its credential, which negotiates one of these protocols by ALPN.
    pub(super) async fn start(protocols: &[&[u8]]) -> (World, Self) {
        Self::start_with(protocols, "").await
    }

    /// Like [`start`](Self::start), with additional configuration sections.
    pub(super) async fn start_with(protocols: &[&[u8]], sections: &str) -> (World, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (send, config) = mpsc::channel();
        let certificate = move |ca: &bearerd_test_support::TestCa| -> Arc<ServerConfig> {
            let config = ca.server_config(&["localhost"]);
            send.send(Arc::clone(&config)).unwrap();
            config
        };
        let builder = World::builder().sections(sections).certificate(certificate);
        let mut world = builder.start_servers().await;
        let also = format!("hosts = [\"localhost:{}\", ", listener.local_addr().unwrap().port());
        world.configure(|text| text.replace("hosts = [", &also));
        world.start_proxy().await;
        let mut config = (*config.recv().unwrap()).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        (world, Self { listener, tls: Arc::new(config).into() })
    }

    pub(super) fn authority(&self) -> String {
        format!("localhost:{}", self.listener.local_addr().unwrap().port())
    }

    /// Returns the http URL that an application without TLS requests.
    pub(super) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority())
    }

    /// Accepts the next connection with a successful handshake.
    pub(super) async fn accept(&self) -> TlsStream<TcpStream> {
        loop {
            let (stream, _) = within(self.listener.accept()).await.unwrap();
            if let Ok(stream) = within(self.tls.accept(stream)).await {
                return stream;
            }
        }
    }
}
