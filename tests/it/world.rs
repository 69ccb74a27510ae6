//! The set-up of one test: an authorization server, an API, and bearerd in between.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bearerd::app::App;
use bearerd::clock::Clock;
use bearerd::settings::{Environment, Settings};
use bearerd::token::Status;
use bearerd_test_support::{
    AuthorizationServer, AuthorizationServerConfig, OriginConfig, OriginServer, TestCa,
};
use tempfile::TempDir;

use super::wire::{DEADLINE, Reply, Wire};

/// Longer than the propagation delay of a new token.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// Longer than a token lives.
pub(crate) const HOURS: Duration = Duration::from_secs(2 * 3600);
/// Moves a settled token of an hour into its margin, which begins 240 to 300 s before its end.
pub(crate) const TO_MARGIN: Duration = Duration::from_secs(3400 - 60);

/// The configuration of a [`World`]; the defaults are those of a careful operator.
pub(crate) struct WorldBuilder {
    authorization_server: AuthorizationServerConfig,
    origin: OriginConfig,
    credential: String,
    sections: String,
    seed: bool,
    tls: bool,
    secure_token_endpoint: bool,
    listen: String,
    proxy: String,
    certificate: Certificate,
}

/// Makes the certificate of the API, signed by the authority that the proxy trusts.
type Certificate = Box<dyn FnOnce(&TestCa) -> Arc<rustls::ServerConfig> + Send>;

/// Another proxy on the same configuration, state and clock as a world's.
pub(crate) struct Sibling {
    app: App,
}

/// Everything running. Dropping it stops everything; the state directory goes with it.
pub(crate) struct World {
    pub(crate) authorization_server: AuthorizationServer,
    pub(crate) origin: OriginServer,
    /// bearerd's clock; the servers use the real time.
    pub(crate) clock: Clock,
    pub(crate) dir: TempDir,
    configuration: String,
    app: Option<App>,
}

impl World {
    /// A world with an https API, a strictly rotating server, and a credential named `api`.
    pub(crate) fn builder() -> WorldBuilder {
        WorldBuilder {
            authorization_server: AuthorizationServerConfig::default(),
            origin: OriginConfig::default(),
            credential: String::new(),
            sections: String::new(),
            seed: true,
            tls: true,
            secure_token_endpoint: false,
            listen: r#""127.0.0.1:0""#.to_owned(),
            proxy: String::new(),
            certificate: Box::new(|ca| ca.server_config(&["localhost", "127.0.0.1"])),
        }
    }

    /// A world whose API speaks plain http and is allowed to receive tokens.
    pub(crate) fn plain() -> WorldBuilder {
        Self::builder().plain_origin().credential("allow_http = true")
    }

    /// As [`World::builder`], with nothing changed.
    pub(crate) async fn new() -> Self {
        Self::builder().start().await
    }

    /// As [`World::new`], [settled](WorldBuilder::settled).
    pub(crate) async fn settled() -> Self {
        Self::builder().settled().await
    }

    pub(crate) fn proxy_address(&self) -> SocketAddr {
        self.app().proxy_addresses()[0]
    }

    /// `http://localhost:PORT/path` of the API: what an application that knows no TLS asks for.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.origin.authority())
    }

    /// `https://localhost:PORT/path` of the API: goes through CONNECT.
    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://{}{path}", self.origin.authority())
    }

    /// An HTTP client configured like an application's, with the proxy and bearerd's CA.
    pub(crate) fn client(&self) -> reqwest::Client {
        client_of(self.app())
    }

    /// The same, with this name towards the proxy.
    pub(crate) fn client_named(&self, name: &str) -> reqwest::Client {
        let proxy = format!("http://{name}:any@{}", self.proxy_address());
        client_by(&proxy, roots_of(self.app()))
    }

    /// One `GET` of an https path in plain http.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        get(self.client().get(self.http(path))).await
    }

    /// The status of the credential.
    pub(crate) fn status(&self) -> Status {
        self.app().credentials().all()[0].statuses().remove(0)
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    /// One `GET` at the admin listener.
    pub(crate) async fn ask_admin(&self, path: &str) -> Reply {
        let request = format!("GET {path} HTTP/1.1");
        let mut admin = Wire::to_address(self.app().admin_address().unwrap()).await;
        admin.ask(&[&*request, "Host: localhost"]).await
    }

    /// The directory of the file store.
    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    /// The record of credential `api`, as it is on the disk.
    pub(crate) fn record(&self) -> serde_json::Value {
        let text = std::fs::read(self.state().join("api.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["record"].clone()
    }

    /// The terminal reason in the record.
    pub(crate) fn terminal_reason(&self) -> serde_json::Value {
        self.record()["terminal"]["reason"].clone()
    }

    /// Asserts that the record holds the server's current refresh token, and this generation.
    #[track_caller]
    pub(crate) fn assert_stored(&self, generation: u64) {
        self.assert_newest_refresh_token_is_stored();
        let record = self.record();
        assert_eq!(record["generation"], generation, "another generation is stored: {record:#}");
        assert!(record["attempt"].is_null(), "the record still has an open attempt: {record:#}");
        assert!(record["terminal"].is_null(), "the record says that a login is needed: {record:#}");
        self.authorization_server.assert_no_reuse();
    }

    /// Asserts that the record holds the server's current refresh token.
    #[track_caller]
    pub(crate) fn assert_newest_refresh_token_is_stored(&self) {
        let (record, newest) = (self.record(), self.authorization_server.current_refresh_token());
        assert_eq!(
            record["refresh_token"], newest,
            "the newest refresh token is not in the record: {record:#}"
        );
    }

    /// Asserts that the record says that a person has to log in, and why.
    #[track_caller]
    pub(crate) fn assert_needs_login(&self, reason: &str) {
        let record = self.record();
        assert_eq!(
            record["terminal"]["reason"], reason,
            "the record does not say why a login is needed: {record:#}"
        );
    }

    /// `n` requests at once over as many connections.
    pub(crate) async fn get_many(&self, n: usize) -> Vec<Reply> {
        get_many(&self.client(), &self.http("/"), n).await
    }

    /// Starts another proxy on the configuration as it is now, with the state and the clock of this
    /// world.
    pub(crate) async fn sibling(&self) -> Sibling {
        Sibling { app: App::start(self.settings(), self.clock.clone()).await.unwrap() }
    }

    /// The configuration as it is now, read again with its secrets.
    pub(crate) fn settings(&self) -> Settings {
        let environment = Environment::of_process();
        Settings::from_text("proxy.toml", self.dir.path(), &self.configuration, &environment)
            .unwrap_or_else(|problems| panic!("{}", problems.render(false)))
    }

    /// Reloads the configuration of the running proxy; returns the keys that need a restart.
    pub(crate) async fn reload(&self) -> Vec<&'static str> {
        self.app().reload(self.settings()).await.unwrap()
    }

    /// One request in the background, for tests that look at what happens meanwhile.
    pub(crate) fn spawn_get(&self) -> tokio::task::JoinHandle<Reply> {
        tokio::spawn(get(self.client().get(self.http("/"))))
    }

    /// One request in the background that needs a new token; the authorization server has received the
    /// token request and holds it until `release_all`.
    pub(crate) async fn begin_refresh(&self) -> tokio::task::JoinHandle<Reply> {
        let server = &self.authorization_server;
        let before = server.token_requests();
        server.hold();
        let request = self.spawn_get();
        server.wait_for_token_requests(before + 1).await;
        request
    }

    /// The access tokens that the API saw, in the order of arrival.
    pub(crate) fn tokens_seen(&self) -> Vec<String> {
        let bearer = |request: &bearerd_test_support::ReceivedRequest| {
            request.bearer().unwrap_or_default().to_owned()
        };
        self.origin.requests().iter().map(bearer).collect()
    }

    /// Writes another seed; it takes effect with the next start or reload.
    pub(crate) fn write_seed(&self, refresh_token: &str) {
        self.write_secret("seed", refresh_token);
    }

    /// Writes another client secret; it takes effect with the next start or reload.
    pub(crate) fn write_client_secret(&self, secret: &str) {
        self.write_secret("secret", secret);
    }

    /// Writes a file that the configuration can name as a secret's.
    pub(crate) fn write_secret(&self, name: &str, secret: &str) {
        write_secret(&self.dir.path().join(name), secret);
    }

    /// Changes the configuration; it takes effect with the next start or reload.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&str) -> String) {
        self.configuration = change(&self.configuration);
    }

    /// The same, and in the file that the real program reads.
    pub(crate) fn configure_file(&mut self, change: impl FnOnce(&str) -> String) {
        self.configure(change);
        std::fs::write(self.dir.path().join("proxy.toml"), &self.configuration).unwrap();
    }

    /// Shuts the proxy down and starts another on the same state.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_proxy().await;
    }

    /// Shuts the proxy down.
    pub(crate) async fn stop(&mut self) {
        if let Some(app) = self.app.take() {
            app.shutdown().await;
        }
    }

    /// The proxy itself, for tests that end it in their own way.
    pub(crate) fn take_app(&mut self) -> App {
        self.app.take().unwrap()
    }

    /// Starts the proxy on the state that is there.
    pub(crate) async fn start_proxy(&mut self) {
        self.app = Some(App::start(self.settings(), self.clock.clone()).await.unwrap());
    }
}

impl WorldBuilder {
    /// Changes what the authorization server does.
    pub(crate) fn authorization_server(
        mut self,
        change: impl FnOnce(&mut AuthorizationServerConfig),
    ) -> Self {
        change(&mut self.authorization_server);
        self
    }

    /// Changes what the API does; its tokens and its TLS are added at the start.
    pub(crate) fn origin(mut self, change: impl FnOnce(&mut OriginConfig)) -> Self {
        change(&mut self.origin);
        self
    }

    /// Tokens are bound to a key, everywhere (RFC 9449).
    pub(crate) fn dpop(self) -> Self {
        let bind = |server: &mut AuthorizationServerConfig| {
            server.dpop = true;
            server.token_type = Some("DPoP".to_owned());
        };
        self.authorization_server(bind).origin(|api| api.dpop = true).credential("dpop = true")
    }

    /// Adds lines to `[credential.api]`.
    pub(crate) fn credential(mut self, lines: &str) -> Self {
        self.credential.push_str(lines);
        self.credential.push('\n');
        self
    }

    /// Adds whole sections to the configuration; `@host@` and `@token_url@` become the API's host and
    /// the token endpoint.
    pub(crate) fn sections(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// Leaves `refresh_token` out, for the grants that have none.
    pub(crate) fn without_seed(mut self) -> Self {
        self.seed = false;
        self
    }

    /// An API in plain http; the credential needs `allow_http = true` for it.
    pub(crate) fn plain_origin(mut self) -> Self {
        self.tls = false;
        self
    }

    /// An authorization server in https.
    pub(crate) fn secure_token_endpoint(mut self) -> Self {
        self.secure_token_endpoint = true;
        self
    }

    /// Sets `proxy.listen`, as TOML.
    pub(crate) fn listen(mut self, value: &str) -> Self {
        value.clone_into(&mut self.listen);
        self
    }

    /// Adds lines to `[proxy]`.
    pub(crate) fn proxy(mut self, lines: &str) -> Self {
        self.proxy.push_str(lines);
        self.proxy.push('\n');
        self
    }

    /// Gives the API another certificate; the authority is the one that the proxy trusts.
    pub(crate) fn certificate(
        mut self,
        make: impl FnOnce(&TestCa) -> Arc<rustls::ServerConfig> + Send + 'static,
    ) -> Self {
        self.certificate = Box::new(make);
        self
    }

    /// Starts everything.
    pub(crate) async fn start(self) -> World {
        let mut world = self.start_servers().await;
        world.start_proxy().await;
        world
    }

    /// Starts everything and makes one request: the token is of generation 1 and old enough to get no
    /// propagation delay.
    pub(crate) async fn settled(self) -> World {
        let world = self.start().await;
        world.get("/").await.assert_ok();
        world.authorization_server.assert_token_requests(1, "the first request takes one token");
        world.clock.advance(MINUTE);
        world.origin.clear();
        world
    }

    /// Starts the servers and writes the configuration; the proxy is started by the test.
    pub(crate) async fn start_servers(mut self) -> World {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new();
        if self.secure_token_endpoint {
            self.authorization_server.tls = Some(ca.server_config(&["localhost"]));
        }
        std::fs::write(dir.path().join("origin-ca.pem"), ca.pem()).unwrap();
        let authorization_server =
            AuthorizationServer::start(self.authorization_server.clone()).await;
        let origin = OriginServer::start(OriginConfig {
            tls: self.tls.then(|| (self.certificate)(&ca)),
            tokens: Some(authorization_server.tokens()),
            ..self.origin
        })
        .await;
        let configuration = format!(
            r#"
[proxy]
listen = {listen}
threads = 2
{proxy}
[admin]
listen = "127.0.0.1:0"
[tls]
roots = "origin-ca.pem"
{sections}
[credential.api]
hosts = ["{host}"]
token_url = "{token_url}"
client_id = "{client_id}"
client_secret = {{ file = "secret" }}
{seed}
{credential}
"#,
            listen = self.listen,
            proxy = self.proxy,
            sections = self
                .sections
                .replace("@host@", &origin.authority())
                .replace("@token_url@", &authorization_server.token_url()),
            host = origin.authority(),
            token_url = authorization_server.token_url(),
            client_id = self.authorization_server.client_id,
            seed = if self.seed { r#"refresh_token = { file = "seed" }"# } else { "" },
            credential = self.credential,
        );
        write_secret(&dir.path().join("secret"), &self.authorization_server.client_secret);
        write_secret(&dir.path().join("seed"), &authorization_server.current_refresh_token());
        // For tests that run the real program.
        std::fs::write(dir.path().join("proxy.toml"), &configuration).unwrap();
        World {
            authorization_server,
            origin,
            clock: Clock::adjustable(),
            dir,
            configuration,
            app: None,
        }
    }
}

impl Sibling {
    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// Its status of the credential.
    pub(crate) fn status(&self) -> Status {
        self.app.credentials().all()[0].statuses().remove(0)
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        client_of(&self.app)
    }

    /// One `GET` through it.
    pub(crate) async fn get(&self, world: &World) -> Reply {
        get(self.client().get(world.http("/"))).await
    }

    /// `n` requests at once over as many connections.
    pub(crate) async fn get_many(&self, world: &World, n: usize) -> Vec<Reply> {
        get_many(&self.client(), &world.http("/"), n).await
    }

    /// Shuts it down.
    pub(crate) async fn stop(self) {
        self.app.shutdown().await;
    }
}

/// An HTTP client configured like an application's, with the proxy and bearerd's CA.
fn client_of(app: &App) -> reqwest::Client {
    client_through(app.proxy_addresses()[0], roots_of(app))
}

fn roots_of(app: &App) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(ca) = app.ca() {
        roots.add(ca.der(std::time::SystemTime::now()).to_vec().into()).unwrap();
    }
    roots
}

/// An HTTP client that goes through this proxy and trusts these roots.
pub(crate) fn client_through(proxy: SocketAddr, roots: rustls::RootCertStore) -> reqwest::Client {
    client_by(&format!("http://{proxy}"), roots)
}

/// The same with the whole URL of the proxy.
fn client_by(proxy: &str, roots: rustls::RootCertStore) -> reqwest::Client {
    let tls = rustls::ClientConfig::builder_with_provider(bearerd::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .proxy(reqwest::Proxy::all(proxy).unwrap())
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

/// The whole response to a request.
pub(crate) async fn get(request: reqwest::RequestBuilder) -> Reply {
    Reply::of(request.send().await.unwrap()).await
}

async fn get_many(client: &reqwest::Client, url: &str, n: usize) -> Vec<Reply> {
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..n {
        requests.spawn(get(client.get(url)));
    }
    requests.join_all().await
}

/// Asserts that each answer has this status.
#[track_caller]
pub(crate) fn assert_all(answers: &[Reply], status: u16) {
    for (number, answer) in answers.iter().enumerate() {
        let case = format!("request {number} of {} has another answer", answers.len());
        answer.assert_status(status, case);
    }
}

/// Polls a condition for at most [`DEADLINE`].
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it never came true: {what}");
        pause.tick().await;
    }
}

fn write_secret(path: &Path, value: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, value).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
