//! The main job, to watch: an application that knows no OAuth, an API that wants a fresh token, and
//! bearerd between them.
//!
//! `cargo run --example demo` starts an authorization server whose access tokens live five seconds and
//! whose refresh tokens work once, an API that checks them, and the real proxy. It drives requests
//! through the proxy, prints what the application saw beside what happened underneath, and stays up
//! for you to try. With `--once` it ends after the tour.
#![allow(clippy::print_stdout, reason = "printing is what a demo does")]

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

/// Short enough to see several expire within a tour.
const LIFETIME: Duration = Duration::from_secs(5);

/// A short tour needs no error type of its own.
type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let once = std::env::args().any(|argument| argument == "--once");
    let stage = Stage::set().await?;
    stage.introduce();
    let failures = Tour::new(&stage)?.walk().await?;
    stage.conclude(failures);
    if !once {
        stage.invite();
        tokio::signal::ctrl_c().await?;
    }
    stage.app.shutdown().await;
    if failures > 0 {
        return Err("the application saw a failure".into());
    }
    Ok(())
}

/// The servers and the proxy.
struct Stage {
    authorization_server: AuthorizationServer,
    api: OriginServer,
    app: App,
    dir: TempDir,
}

impl Stage {
    async fn set() -> Outcome<Self> {
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
        println!("{:>6}  {:<34} {:<6} underneath", "time", "the application asked for", "saw");
    }

    fn conclude(&self, failures: usize) {
        let rejected = self.api.rejected();
        println!();
        println!(
            "The application saw {failures} failures. Underneath: {} token requests, each with the \
             newest refresh token; {rejected} answers 401 from the API, none of which it noticed; {} \
             refresh tokens used twice.",
            self.authorization_server.token_requests(),
            self.authorization_server.reuse_count(),
        );
    }

    fn invite(&self) {
        let (proxy, authority) = (self.proxy(), self.api.authority());
        let ca = self.dir.path().join("certs/ca.pem");
        println!();
        println!("It goes on running. Try, in another terminal:");
        println!();
        println!("  # without bearerd: 401");
        println!(
            "  curl --cacert {}/api-ca.pem https://{authority}/orders",
            self.dir.path().display()
        );
        println!("  # plain http to bearerd, https to the API: nothing to install");
        println!("  curl -x {proxy} http://{authority}/orders");
        println!("  # https all the way: the application trusts bearerd's CA");
        println!(
            "  curl -x {proxy} --cacert {} https://{authority}/orders -d '{{\"n\":1}}'",
            ca.display()
        );
        if let Some(admin) = self.app.admin_address() {
            println!("  # what bearerd says of itself");
            println!("  curl http://{admin}/readyz");
        }
        println!();
        println!("Ctrl-C ends it.");
    }
}

/// On port 8080 like the real one, or on a free port if that is taken.
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

/// TLS as the application does it, once it has been given bearerd's CA.
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

/// The application, and what is going on while it runs.
struct Tour<'a> {
    stage: &'a Stage,
    client: reqwest::Client,
    began: Instant,
    failures: usize,
    /// At the last line that was printed.
    last: Marks,
}

/// How far the servers have come.
#[derive(Clone, Copy)]
struct Marks {
    token_requests: usize,
    sent: usize,
}

impl<'a> Tour<'a> {
    fn new(stage: &'a Stage) -> Outcome<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(trust(stage.app.ca().as_deref())?)
            .proxy(reqwest::Proxy::all(stage.proxy())?)
            .build()?;
        let last = Marks { token_requests: 0, sent: 0 };
        Ok(Self { stage, client, began: Instant::now(), failures: 0, last })
    }

    async fn walk(mut self) -> Outcome<usize> {
        self.ask("http", "/orders", "").await?;
        for scheme in ["https", "http", "https", "http", "https", "http"] {
            tokio::time::sleep(Duration::from_millis(900)).await;
            self.ask(scheme, "/orders", "").await?;
        }
        self.note("the API revokes every access token");
        self.stage.authorization_server.tokens().revoke_all_access_tokens();
        self.ask("http", "/orders/17", "").await?;
        self.note("and once more, while the application posts");
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.stage.authorization_server.tokens().revoke_all_access_tokens();
        self.ask("https", "/orders", r#"{"article":"shoe","size":43}"#).await?;
        self.note("the application is idle until the token has expired");
        tokio::time::sleep(LIFETIME + Duration::from_millis(500)).await;
        self.ask("https", "/orders", "").await?;
        self.note("forty requests at once, again after an expiry");
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

    fn marks(&self) -> Marks {
        Marks {
            token_requests: self.stage.authorization_server.token_requests(),
            sent: self.stage.api.requests().len(),
        }
    }

    /// One request; a `POST` if there is content.
    async fn ask(&mut self, scheme: &str, path: &str, content: &'static str) -> Outcome<()> {
        let before = self.marks();
        let url = format!("{scheme}://{}{path}", self.stage.api.authority());
        let (method, request) = match content {
            "" => ("GET", self.client.get(url)),
            content => ("POST", self.client.post(url).body(content)),
        };
        let status = request.send().await?.status();
        self.failures += usize::from(!status.is_success());
        let asked = format!("{method} {scheme}://…{path}");
        let underneath = self.underneath(before);
        println!("{:>6}  {asked:<34} {:<6} {underneath}", self.time(), status.as_u16());
        Ok(())
    }

    async fn burst(&mut self, count: usize) -> Outcome<()> {
        let before = self.marks();
        let url = format!("http://{}/orders", self.stage.api.authority());
        let requests: Vec<_> =
            (0..count).map(|_| tokio::spawn(self.client.get(&url).send())).collect();
        let mut succeeded = 0;
        for request in requests {
            succeeded += usize::from(request.await??.status().is_success());
        }
        self.failures += count - succeeded;
        let asked = format!("{count} x GET http://…/orders");
        let saw = format!("{succeeded}x200");
        let underneath = self.underneath(before);
        println!("{:>6}  {asked:<34} {saw:<6} {underneath}", self.time());
        Ok(())
    }

    /// What the servers saw since `before`, and in the background since the last line.
    fn underneath(&mut self, before: Marks) -> String {
        let meanwhile = before.token_requests - self.last.token_requests;
        self.last = self.marks();
        let server = &self.stage.authorization_server;
        let sent = self.stage.api.requests();
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
                format!("near expiry: replaced in the background meanwhile; sent with {last}")
            }
            (0, 0) => format!("sent with {last}"),
            (0, _) if before.sent == 0 => format!("no token yet: {refreshed}; sent with {last}"),
            (0, _) => format!("{refreshed}; sent with {last}"),
            (_, 0) => format!("{rejected} rejected (401); sent again with {last}"),
            (_, _) => format!("{rejected} rejected (401); {refreshed}; sent again with {last}"),
        }
    }
}
