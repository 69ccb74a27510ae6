//! Demonstrates bearerd between an application without OAuth and an API that requires a fresh token.
//!
//! `cargo run --example demo` starts an authorization server whose access tokens live five seconds and
//! whose refresh tokens work once, an API that checks them, and the real proxy. It drives requests
//! through the proxy, prints the status that the application received and what bearerd did, and keeps
//! running for you to try. With `--once` it exits after the tour.
#![allow(clippy::print_stdout, reason = "a demo prints its output")]

use std::error::Error;
use std::time::{Duration, Instant};

use bearerd::app::{App, StartError};
use bearerd::ca::CertificateAuthority;
use bearerd::clock::Clock;
use bearerd::settings::{Environment, Settings};
use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, ExpiresIn, OriginConfig, OriginServer, TestCa,
};
use tempfile::TempDir;

/// The access token lifetime, short enough for several to expire within a tour.
const LIFETIME: Duration = Duration::from_secs(5);

/// The demo does not need its own error type.
type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let once = std::env::args().any(|argument| argument == "--once");
    let test_bed = TestBed::set_up().await?;
    test_bed.introduce();
    let failures = Tour::new(&test_bed)?.walk().await?;
    test_bed.conclude(failures);
    if !once {
        test_bed.invite();
        tokio::signal::ctrl_c().await?;
    }
    test_bed.app.shutdown().await;
    if failures > 0 {
        return Err("the application saw a failure".into());
    }
    Ok(())
}

/// The servers and the proxy.
struct TestBed {
    authorization_server: AuthorizationServer,
    api: OriginServer,
    app: App,
    dir: TempDir,
}

impl TestBed {
    async fn set_up() -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let ca = TestCa::new();
        let authorization_server = AuthorizationServer::start(AuthorizationServerConfig {
            access_token_lifetime: LIFETIME,
            expires_in: ExpiresIn::Seconds(LIFETIME.as_secs()),
            ..AuthorizationServerConfig::default()
        })
        .await;
        let api = OriginServer::start(OriginConfig {
            tls: Some(ca.server_config(&["localhost", "127.0.0.1"])),
            tokens: Some(authorization_server.tokens()),
            ..OriginConfig::default()
        })
        .await;
        std::fs::write(dir.path().join("api-ca.pem"), ca.pem())?;
        write_secret(&dir, "client_secret", &AuthorizationServerConfig::default().client_secret)?;
        write_secret(&dir, "first_refresh_token", &authorization_server.current_refresh_token())?;
        let app = start_proxy(&dir, &authorization_server, &api).await?;
        Ok(Self { authorization_server, api, app, dir })
    }

    fn proxy(&self) -> String {
        let address = self.app.proxy_addresses().first().copied();
        address.map(|address| format!("http://{address}")).unwrap_or_default()
    }

    fn introduce(&self) {
        println!("authorization server  {}", self.authorization_server.token_url());
        println!(
            "                      access tokens live {} s, refresh tokens work once,",
            LIFETIME.as_secs()
        );
        println!("                      and using one twice revokes everything");
        println!(
            "API                   https://{}  (401 without a valid token)",
            self.api.authority()
        );
        println!(
            "bearerd               {}  configured by {}/proxy.toml",
            self.proxy(),
            self.dir.path().display()
        );
        println!();
        println!("{:>6}  {:<34} {:<6} what bearerd did", "time", "application request", "status");
    }

    fn conclude(&self, failures: usize) {
        let rejected = self.api.rejected();
        println!();
        println!(
            "The application saw {failures} failures. bearerd sent {} token requests, each with the newest \
             refresh token. The API sent {rejected} 401 answers, none of which reached the application. \
             {} refresh tokens were used twice.",
            self.authorization_server.token_requests(),
            self.authorization_server.reuse_count(),
        );
    }

    fn invite(&self) {
        let (proxy, authority) = (self.proxy(), self.api.authority());
        let ca = self.dir.path().join("certs/ca.pem");
        println!();
        println!("The demo keeps running. Try in another terminal:");
        println!();
        println!("  # without bearerd: 401");
        println!(
            "  curl --cacert {}/api-ca.pem https://{authority}/orders",
            self.dir.path().display()
        );
        println!("  # plain http to bearerd, https to the API: no CA to install");
        println!("  curl -x {proxy} http://{authority}/orders");
        println!("  # https on both sides: the application trusts bearerd's CA");
        println!(
            "  curl -x {proxy} --cacert {} https://{authority}/orders -d '{{\"n\":1}}'",
            ca.display()
        );
        if let Some(admin) = self.app.admin_address() {
            println!("  # bearerd's readiness");
            println!("  curl http://{admin}/readyz");
        }
        println!();
        println!("Press Ctrl-C to stop.");
    }
}

/// Starts the proxy on port 8080, the default, or on a free port if 8080 is in use.
async fn start_proxy(
    dir: &TempDir,
    authorization_server: &AuthorizationServer,
    api: &OriginServer,
) -> Outcome<App> {
    let configuration = |port: u16| {
        format!(
            r#"[proxy]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:0"

[tls]
extra_roots = ["api-ca.pem"]

[credential.api]
hosts         = ["{host}"]
token_url     = "{token_url}"
client_id     = "{client_id}"
client_secret = {{ file = "client_secret" }}
refresh_token = {{ file = "first_refresh_token" }}
"#,
            host = api.authority(),
            token_url = authorization_server.token_url(),
            client_id = AuthorizationServerConfig::default().client_id,
        )
    };
    match start_with(dir, &configuration(8080)).await {
        Err(error) if matches!(error.downcast_ref(), Some(StartError::Listen { .. })) => {
            start_with(dir, &configuration(0)).await
        }
        started => started,
    }
}

async fn start_with(dir: &TempDir, configuration: &str) -> Outcome<App> {
    std::fs::write(dir.path().join("proxy.toml"), configuration)?;
    let environment = Environment::of_process();
    let settings = Settings::from_text("proxy.toml", dir.path(), configuration, &environment)?;
    Ok(App::start(settings, Clock::system()).await?)
}

fn write_secret(dir: &TempDir, name: &str, value: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join(name);
    std::fs::write(&path, value)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
}

/// Returns the TLS configuration of an application that trusts bearerd's CA.
fn trust(ca: Option<&CertificateAuthority>) -> Outcome<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(ca) = ca {
        roots.add(ca.der(std::time::SystemTime::now()).to_vec().into())?;
    }
    Ok(rustls::ClientConfig::builder_with_provider(bearerd::tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The application, and its view of the servers while it runs.
struct Tour<'a> {
    test_bed: &'a TestBed,
    client: reqwest::Client,
    began: Instant,
    failures: usize,
    /// The counts at the last printed line.
    last: Counts,
}

/// Request counts of the servers.
#[derive(Clone, Copy)]
struct Counts {
    token_requests: usize,
    sent: usize,
}

impl<'a> Tour<'a> {
    fn new(test_bed: &'a TestBed) -> Outcome<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(trust(test_bed.app.ca().as_deref())?)
            .proxy(reqwest::Proxy::all(test_bed.proxy())?)
            .build()?;
        let last = Counts { token_requests: 0, sent: 0 };
        Ok(Self { test_bed, client, began: Instant::now(), failures: 0, last })
    }

    async fn walk(mut self) -> Outcome<usize> {
        self.ask("http", "/orders", "").await?;
        for scheme in ["https", "http", "https", "http", "https", "http"] {
            tokio::time::sleep(Duration::from_millis(900)).await;
            self.ask(scheme, "/orders", "").await?;
        }
        self.note("the API revokes every access token");
        self.test_bed.authorization_server.tokens().revoke_all_access_tokens();
        self.ask("http", "/orders/17", "").await?;
        self.note("and again, before the application sends a POST");
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.test_bed.authorization_server.tokens().revoke_all_access_tokens();
        self.ask("https", "/orders", r#"{"article":"shoe","size":43}"#).await?;
        self.note("the application is idle until the token has expired");
        tokio::time::sleep(LIFETIME + Duration::from_millis(500)).await;
        self.ask("https", "/orders", "").await?;
        self.note("forty concurrent requests, again after an expiry");
        tokio::time::sleep(LIFETIME + Duration::from_millis(500)).await;
        self.burst(40).await?;
        Ok(self.failures)
    }

    fn note(&self, text: &str) {
        println!("{:>6}  -- {text}", self.time());
    }

    fn time(&self) -> String {
        format!("{:.1} s", self.began.elapsed().as_secs_f64())
    }

    fn counts(&self) -> Counts {
        Counts {
            token_requests: self.test_bed.authorization_server.token_requests(),
            sent: self.test_bed.api.requests().len(),
        }
    }

    /// Sends one request, a `POST` if there is content.
    async fn ask(&mut self, scheme: &str, path: &str, content: &'static str) -> Outcome<()> {
        let before = self.counts();
        let url = format!("{scheme}://{}{path}", self.test_bed.api.authority());
        let (method, request) = match content {
            "" => ("GET", self.client.get(url)),
            content => ("POST", self.client.post(url).body(content)),
        };
        let status = request.send().await?.status();
        self.failures += usize::from(!status.is_success());
        let asked = format!("{method} {scheme}://…{path}");
        let activity = self.activity(before);
        println!("{:>6}  {asked:<34} {:<6} {activity}", self.time(), status.as_u16());
        Ok(())
    }

    async fn burst(&mut self, count: usize) -> Outcome<()> {
        let before = self.counts();
        let url = format!("http://{}/orders", self.test_bed.api.authority());
        let requests: Vec<_> =
            (0..count).map(|_| tokio::spawn(self.client.get(&url).send())).collect();
        let mut succeeded = 0;
        for request in requests {
            succeeded += usize::from(request.await??.status().is_success());
        }
        self.failures += count - succeeded;
        let asked = format!("{count} x GET http://…/orders");
        let saw = format!("{succeeded}x200");
        let activity = self.activity(before);
        println!("{:>6}  {asked:<34} {saw:<6} {activity}", self.time());
        Ok(())
    }

    /// Describes the requests that the servers received since `before`, and in the background since the last line.
    fn activity(&mut self, before: Counts) -> String {
        let meanwhile = before.token_requests - self.last.token_requests;
        self.last = self.counts();
        let server = &self.test_bed.authorization_server;
        let sent = self.test_bed.api.requests();
        let sent = sent.get(before.sent..).unwrap_or_default();
        let token = |bearer: Option<&str>| {
            let mut parts = bearer.unwrap_or("none").splitn(3, '-');
            format!("{}-{}", parts.next().unwrap_or(""), parts.next().unwrap_or(""))
        };
        let rejected = sent.iter().filter(|request| request.accepted == Some(false)).count();
        let last = sent.last().map(|request| token(request.bearer())).unwrap_or_default();
        let refreshes = server.token_requests() - before.token_requests;
        let refreshed = format!("{refreshes} token request, refresh token replaced");
        match (rejected, refreshes) {
            (0, 0) if meanwhile > 0 => {
                format!("replaced in the background near expiry; sent with {last}")
            }
            (0, 0) => format!("sent with {last}"),
            (0, _) if before.sent == 0 => format!("no token yet: {refreshed}; sent with {last}"),
            (0, _) => format!("{refreshed}; sent with {last}"),
            (_, 0) => format!("{rejected} rejected (401); sent again with {last}"),
            (_, _) => format!("{rejected} rejected (401); {refreshed}; sent again with {last}"),
        }
    }
}
