//! A token endpoint to test OAuth clients against: refresh tokens work once, and presenting one twice revokes the grant.
//!
//! `cargo run --example token_endpoint -- [--listen 127.0.0.1:9000] [--lifetime SECONDS] [--once]` prints the
//! configuration for a client, and a line for each token request. With `--once` it sends itself two requests and exits.
#![allow(clippy::print_stdout, reason = "an example prints its output")]

use std::error::Error;
use std::time::Duration;

use bearerd_test_support::{AuthorizationServer, AuthorizationServerConfig, ExpiresIn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mut config, mut once) = (AuthorizationServerConfig::default(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        match option.as_str() {
            "--once" => once = true,
            "--listen" => config.listen = Some(arguments.next().ok_or("an address")?.parse()?),
            "--lifetime" => {
                let seconds = arguments.next().ok_or("a number of seconds")?.parse()?;
                config.access_token_lifetime = Duration::from_secs(seconds);
                config.expires_in = ExpiresIn::Seconds(seconds);
            }
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let server = AuthorizationServer::start(config.clone()).await;
    println!("token_url     {}", server.token_url());
    println!("client_id     {}", config.client_id);
    println!("client_secret {}", config.client_secret);
    println!("refresh_token {}", config.initial_refresh_token);
    if once {
        return try_out(&server, &config).await;
    }
    for number in 1.. {
        server.wait_for_answered(number).await;
        let presented = server.requests().pop();
        let presented = presented.as_ref().and_then(|request| request.param("refresh_token"));
        println!(
            "{number}: presented {}, current is {}, used twice: {}",
            presented.unwrap_or("no refresh token"),
            server.current_refresh_token(),
            server.reuse_count()
        );
    }
    Ok(())
}

/// Presents the first refresh token twice: the first request returns a new one, the second revokes the grant.
async fn try_out(
    server: &AuthorizationServer,
    config: &AuthorizationServerConfig,
) -> Result<(), Box<dyn Error>> {
    let first = &config.initial_refresh_token;
    let response = refresh(server, config, first).await?;
    println!("\nthe first time:\n{response}");
    assert!(response.starts_with("HTTP/1.1 200"), "a refresh token works once");
    assert_ne!(&server.current_refresh_token(), first, "and is replaced");
    let response = refresh(server, config, first).await?;
    println!("\nthe second time:\n{response}");
    assert!(response.contains("invalid_grant"), "a second presentation is refused");
    assert_eq!(server.reuse_count(), 1, "and counted");
    Ok(())
}

/// Sends one token request and returns the response as on the wire.
async fn refresh(
    server: &AuthorizationServer,
    config: &AuthorizationServerConfig,
    refresh_token: &str,
) -> Result<String, Box<dyn Error>> {
    let AuthorizationServerConfig { client_id, client_secret, token_path, .. } = config;
    let form = format!(
        "grant_type=refresh_token&refresh_token={refresh_token}&client_id={client_id}\
         &client_secret={client_secret}"
    );
    let request = format!(
        "POST {token_path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        server.addr(),
        form.len()
    );
    let mut connection = TcpStream::connect(server.addr()).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    connection.read_to_string(&mut response).await?;
    Ok(response)
}
