//! The metadata document of an issuer: what is read from it, and how a wrong one is reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::world::World;
use crate::texts::assert_never_says;

/// Serves the metadata of a server with many tenants: `/common/…` belongs to no tenant, as at Entra.
struct Issuer {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(token_url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let (base, token_url, count) = (url.clone(), token_url.to_owned(), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let tenant = if head.starts_with(b"GET /acme/") { "acme" } else { "{tenantid}" };
                let body =
                    format!(r#"{{"issuer":"{base}/{tenant}","token_endpoint":"{token_url}"}}"#);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn another_issuer_is_a_configuration_error_and_is_checked_once_a_minute() {
    let mut world = World::builder().start_servers().await;
    let token_url = world.authorization_server.token_url();
    let issuer = Issuer::start(&token_url).await;
    let line = format!("token_url = \"{token_url}\"");
    let common = format!("issuer = \"{}/common\"", issuer.url);
    world.configure(|text| text.replace(&line, &common));
    world.start_proxy().await;
    for _ in 0..11 {
        world.get("/").await.assert_no_token();
        world.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(issuer.asked(), 1, "one look in 55 seconds");
    let reply = world.ask_admin("/api/v1/credentials").await;
    let status = String::from_utf8(reply.content).unwrap();
    for says in ["/common", "/{tenantid}", "your own tenant"] {
        assert!(status.contains(says), "the status does not say {says:?}: {status}");
    }
    assert_never_says("Proxy-Status", &status, ["could not be asked"]);
    world.authorization_server.assert_token_requests(0, "no refresh token was spent");
    // With the corrected issuer it works at once.
    let own = format!("issuer = \"{}/acme\"", issuer.url);
    world.configure(|text| text.replace(&common, &own));
    world.reload().await;
    world.get("/").await.assert_ok();
    assert_eq!(
        (issuer.asked(), world.authorization_server.token_requests()),
        (2, 1),
        "(looks at the document, token requests): the corrected issuer was not used at once"
    );
}
