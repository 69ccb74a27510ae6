//! Origin servers whose protocol a test speaks by hand.

use std::sync::{Arc, mpsc};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::wire::{Wire, within};
use crate::world::World;

/// An origin server in plain http, and the beginning of its URLs.
pub(super) async fn origin() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Its next connection.
pub(super) async fn accept(listener: &TcpListener) -> Wire {
    Wire::over(within(listener.accept()).await.unwrap().0)
}

/// An API over TLS whose protocol a test speaks by hand. The credential of its world is for it as well.
pub(super) struct RawApi {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl RawApi {
    /// A world, and the second API of its credential, which agrees on one of these protocols.
    pub(super) async fn start(protocols: &[&[u8]]) -> (World, Self) {
        Self::start_with(protocols, "").await
    }

    /// The same with further sections in the configuration.
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

    /// What an application asks for that knows no TLS.
    pub(super) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority())
    }

    /// The next connection whose handshake succeeds.
    pub(super) async fn accept(&self) -> TlsStream<TcpStream> {
        loop {
            let (stream, _) = within(self.listener.accept()).await.unwrap();
            if let Ok(stream) = within(self.tls.accept(stream)).await {
                return stream;
            }
        }
    }
}
