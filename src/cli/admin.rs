//! How commands talk to the running proxy: through its admin listener, which they find by the same
//! configuration, with `admin.listen` and the admin token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{EX_UNAVAILABLE, EX_USAGE, complain};
use crate::admin::AdminTokenError;
use crate::settings::Settings;
use crate::tls;

/// The admin listener is on this machine and does no work of its own to answer what is only read.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one admin listener.
pub(super) struct AdminClient<'a> {
    settings: &'a Settings,
    address: SocketAddr,
    http: reqwest::Client,
    runtime: Runtime,
}

/// Why there is no answer that is of use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No proxy can be asked.
    Unavailable(String),
    /// There is no token of that name.
    Unknown(String),
    /// It answers, and refuses; or it is something else that answers.
    Refused(String),
    /// This did not work, and the answer says why.
    Failed(Box<Failure>),
}

/// Why a token could not be changed.
#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    error: String,
    retry_after: Option<u64>,
    credential: Option<Token>,
    /// The names there are, where one was asked for that is not.
    known: Option<Vec<String>>,
}

/// What the admin listener says of one token; unknown members are those of a newer proxy.
#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) name: String,
    #[serde(default)]
    pub(super) key: Option<String>,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    #[serde(default, rename = "token")]
    usable: bool,
    generation: u64,
    expires_in: Option<i64>,
    pub(super) refreshed_at: Option<String>,
    pub(super) last_error: Option<LastError>,
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LastError {
    pub(super) at: String,
    pub(super) text: String,
}

#[derive(Debug, Deserialize)]
struct Tokens {
    credentials: Vec<Token>,
}

/// What a probe says.
#[derive(Debug, Deserialize)]
struct Health {
    status: String,
}

impl<'a> AdminClient<'a> {
    pub(super) fn new(settings: &'a Settings) -> Result<Self, Trouble> {
        let unavailable = |why: String| Trouble::Unavailable(why);
        let Some(listen) = settings.admin.listen else {
            return Err(unavailable(
                "there is no admin listener: admin.listen is \"\"; write listen = \
                 \"127.0.0.1:9090\" in [admin] and restart the proxy"
                    .to_owned(),
            ));
        };
        if listen.port() == 0 {
            return Err(unavailable(
                "the port of the admin listener is not known: admin.listen has port 0; write a \
                 port of your choice and restart the proxy"
                    .to_owned(),
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| unavailable(format!("cannot start the runtime: {error}")))?;
        // Plain http to this machine; the roots are only there because the client wants some.
        let roots = tls::Config { roots: tls::Roots::Bundled, extra_roots: Vec::new() };
        let tls = roots.build().map_err(|error| unavailable(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .build()
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Self { settings, address: reachable(listen), http, runtime })
    }

    /// Is the proxy ready? Asks without the token: no secret is read, no command run.
    pub(super) fn probe(&self) -> Result<(), Trouble> {
        self.ask(Method::GET, "/readyz", None, TIMEOUT).map(drop)
    }

    /// What is at a path that anybody on this machine may read.
    pub(super) fn read(&self, path: &str) -> Result<String, Trouble> {
        let listen = self.settings.admin.listen;
        let is_open = listen.is_some_and(|listen| !listen.ip().to_canonical().is_loopback());
        // Only beyond loopback is the token of use; here it is kept from whoever else took the port.
        self.ask(Method::GET, path, is_open.then(|| self.authorization()), TIMEOUT)
    }

    /// The tokens that a name stands for.
    pub(super) fn tokens(&self, name: &str) -> Result<Vec<Token>, Trouble> {
        let text = self.read(&path_of(name))?;
        let tokens = serde_json::from_str::<Tokens>(&text).map_err(unreadable)?;
        Ok(tokens.credentials)
    }

    /// Has a token changed, which may take until `limit`.
    pub(super) fn change(
        &self,
        token: &Token,
        change: &str,
        limit: Duration,
    ) -> Result<Value, Trouble> {
        // A key is exact whatever the values are.
        let path = path_of(token.key.as_ref().unwrap_or(&token.name));
        let path = format!("{path}/{change}");
        let text = self.ask(Method::POST, &path, Some(self.authorization()), limit)?;
        serde_json::from_str(&text).map_err(unreadable)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        authorization: Option<Result<HeaderValue, AdminTokenError>>,
        limit: Duration,
    ) -> Result<String, Trouble> {
        let address = self.address;
        let mut request = self.http.request(method, format!("http://{address}{path}"));
        if let Some(Ok(authorization)) = &authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let asked = self.runtime.block_on(async {
            let response = request.timeout(limit).send().await?;
            Ok((response.status(), response.text().await?))
        });
        let (status, text) = asked.map_err(|error: reqwest::Error| {
            let absent = error.is_connect();
            let error = error.without_url();
            match absent {
                true => Trouble::Unavailable(format!(
                    "no bearerd answers at {address} (admin.listen): {error}; is `bearerd run` \
                     running?"
                )),
                false => Trouble::Refused(format!(
                    "{address} (admin.listen) accepts the connection and does not answer: {error}"
                )),
            }
        })?;
        if status.is_success() {
            return Ok(text);
        }
        let Ok(failure) = serde_json::from_str::<Failure>(&text) else {
            let said = serde_json::from_str::<Health>(&text).map(|health| health.status);
            let said: String = said.unwrap_or(text).trim().chars().take(200).collect();
            let message = format!("{address} (admin.listen) answers {status}: {said}");
            return Err(Trouble::Refused(message));
        };
        Err(match (status.as_u16(), &failure.known, authorization) {
            (404, Some(known), _) => {
                Trouble::Unknown(format!("{}; known are: {}", failure.error, listed(known)))
            }
            (503, ..) => Trouble::Failed(Box::new(failure)),
            (401, _, Some(Err(error))) => Trouble::Refused(error.to_string()),
            (401, ..) => Trouble::Refused(format!(
                "bearerd at {address} (admin.listen) does not take {}: it runs with another \
                 configuration or state directory, or with the token of before",
                self.settings.admin.token
            )),
            _ => Trouble::Refused(format!("{address} answers {status}: {}", failure.error)),
        })
    }

    fn authorization(&self) -> Result<HeaderValue, AdminTokenError> {
        let token = self.settings.admin.token.to_present()?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| AdminTokenError::Unfit)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Trouble {
    /// Says what is wrong and returns the exit code for it.
    pub(super) fn complain(&self) -> ExitCode {
        let (message, code) = match self {
            Self::Unavailable(message) => (message.clone(), EX_UNAVAILABLE),
            Self::Unknown(message) => (message.clone(), EX_USAGE),
            Self::Refused(message) => (message.clone(), 1),
            Self::Failed(failure) => (failure.error.clone(), 1),
        };
        complain(format!("error: {message}"));
        ExitCode::from(code)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(message) | Self::Unknown(message) | Self::Refused(message) => {
                f.write_str(message)
            }
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)?;
        let Some(token) = &self.credential else { return Ok(()) };
        if let Some(error) = &token.last_error {
            write!(f, ": {}", error.text)?;
        }
        match (&token.next, self.retry_after) {
            (Some(next), _) => write!(f, "; {next}")?,
            (None, Some(seconds)) => {
                let pause = humantime::format_duration(Duration::from_secs(seconds));
                write!(f, "; bearerd tries again by itself, not before {pause} have passed")?;
            }
            (None, None) => {}
        }
        match token.usable {
            true => write!(f, " (the token before stays in use: {})", token.lasts()),
            false => Ok(()),
        }
    }
}

impl Token {
    /// `number 7, expires in 41s`.
    pub(super) fn lasts(&self) -> String {
        let lasts = match self.expires_in {
            _ if self.generation == 0 => return "none yet".to_owned(),
            Some(seconds) if seconds <= 0 => "expired".to_owned(),
            Some(seconds) => {
                let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                format!("expires in {}", humantime::format_duration(lasts))
            }
            None => "lasts until it is rejected".to_owned(),
        };
        format!("number {}, {lasts}", self.generation)
    }
}

fn path_of(name: &str) -> String {
    format!("/api/v1/credentials/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn unreadable(error: serde_json::Error) -> Trouble {
    Trouble::Refused(format!("the proxy's answer cannot be read: {error}"))
}

/// A listener on every address is reached on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
