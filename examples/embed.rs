//! Uses the token engine in a program without the proxy.
//!
//! `cargo run --example embed` starts an authorization server whose refresh tokens work once, then gets a token for
//! one credential, replaces it, and shuts down. The engine works as in the proxy: one token request for any number of
//! tasks, the new refresh token is stored before the access token is used, and tokens are replaced in the background
//! before they expire.
#![allow(clippy::print_stdout, reason = "an example prints its output")]

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use bearerd::oauth::HttpTransport;
use bearerd::settings::{Environment, Settings};
use bearerd::token::{Context, Slot};
use bearerd_test_support::{AuthorizationServer, AuthorizationServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = AuthorizationServer::start(AuthorizationServerConfig::default()).await;
    let state = tempfile::tempdir()?;

    // The settings of proxy.toml. Without the proxy, only the credential, `[store]` and `[tls]` apply.
    write_secret(state.path(), "client_secret", "test-client-secret")?;
    write_secret(state.path(), "seed", &server.current_refresh_token())?;
    let text = format!(
        r#"
        [credential.api]
        hosts         = ["api.example"]
        token_url     = "{}"
        client_id     = "test-client"
        client_secret = {{ file = "client_secret" }}
        refresh_token = {{ file = "seed" }}
        "#,
        server.token_url()
    );
    let settings =
        Settings::from_text("embed.toml", state.path(), &text, &Environment::of_process())?;
    let credential = settings.credentials.first().ok_or("no credential")?;

    // The context of all credentials. `watch` replaces tokens before they expire and adopts those stored by others.
    let transport = HttpTransport::new(settings.tls.build()?);
    let context = Context::new(settings.store.build()?, Arc::new(transport));
    tokio::spawn(context.cache.clone().watch(context.clone()));

    let slot = Slot::open(credential.token.clone(), &context).await;
    slot.activate();

    let token = slot.token().await?;
    println!("a token:        {}, generation {}", masked(token.access_token()), token.generation.0);
    let again = slot.token().await?;
    println!(
        "from memory:    {}, {} token request",
        masked(again.access_token()),
        server.token_requests()
    );

    // Call `slot.rejected` instead if an API answered 401: it refreshes once, however many requests were rejected.
    let status = slot.refresh_now().await?;
    let token = slot.token().await?;
    println!(
        "a new token:    {}, generation {}",
        masked(token.access_token()),
        status.generation.0
    );
    println!("the newest refresh token is in {}", state.path().join("state/api.json").display());

    // The response to a token request may hold the only copy of a refresh token: wait for it.
    context.tasks.flights.close();
    context.tasks.flights.wait().await;
    assert_eq!((server.token_requests(), server.reuse_count()), (2, 0), "two refreshes, no reuse");
    Ok(())
}

/// Returns the identifying prefix of a token without its secret part.
fn masked(token: &str) -> String {
    let start: String = token.chars().take(5).collect();
    format!("{start}… ({} characters)", token.len())
}

/// Writes a private file, because bearerd warns about secrets that other users can read.
fn write_secret(directory: &Path, name: &str, value: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(directory.join(name))?;
    file.write_all(value.as_bytes())
}
