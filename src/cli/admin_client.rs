//! The client of the running proxy's admin API, which commands find through `admin.listen` and the
//! admin token of the same configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{EX_UNAVAILABLE, EX_USAGE, print_error};
use crate::admin::AdminTokenError;
use crate::settings::Settings;
use crate::tls;

/// The timeout for reads. The listener is local and answers them without further work.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one admin listener.
pub(super) struct AdminClient<'a> {
    settings: &'a Settings,
    address: SocketAddr,
    http: reqwest::Client,
    runtime: Runtime,
}

/// Why a command got no usable response.
#[derive(Debug)]
pub(super) enum AdminError {
    /// No proxy can be reached.
    Unavailable(String),
    /// No token has this name.
    Unknown(String),
    /// The proxy refused the request, or something else responded.
    Refused(String),
    /// The action failed; the response says why.
    Failed(Box<ActionFailure>),
}

/// Why a token could not be changed.
#[derive(Debug, Deserialize)]
pub(super) struct ActionFailure {
    error: String,
    retry_after: Option<u64>,
    credential: Option<TokenStatus>,
    /// The existing names, if the requested one does not exist.
    known: Option<Vec<String>>,
}

/// The admin API's description of a token. Unknown members come from a newer proxy.
#[derive(Debug, Deserialize)]
pub(super) struct TokenStatus {
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
struct TokenList {
    credentials: Vec<TokenStatus>,
}

/// The response to a probe.
#[derive(Debug, Deserialize)]
struct ProbeStatus {
    status: String,
}

impl<'a> AdminClient<'a> {
    pub(super) fn new(settings: &'a Settings) -> Result<Self, AdminError> {
        let unavailable = |why: String| AdminError::Unavailable(why);
        let Some(listen) = settings.admin.listen else {
            return Err(unavailable(
                "there is no admin listener: admin.listen is \"\"; set listen = \
                 \"127.0.0.1:9090\" in [admin] and restart the proxy"
                    .to_owned(),
            ));
        };
        if listen.port() == 0 {
            return Err(unavailable(
                "the port of the admin listener is unknown: admin.listen has port 0; choose a \
                 port and restart the proxy"
                    .to_owned(),
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| unavailable(format!("cannot start the runtime: {error}")))?;
        // Connections are plain http to this machine; the client requires roots anyway.
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

    /// Checks that the proxy is ready. Sends no token, so no secret is read and no command is run.
    pub(super) fn probe(&self) -> Result<(), AdminError> {
        self.ask(Method::GET, "/readyz", None, TIMEOUT).map(drop)
    }

    /// Reads a path that any client on this machine may read.
    pub(super) fn read(&self, path: &str) -> Result<String, AdminError> {
        let listen = self.settings.admin.listen;
        let is_open = listen.is_some_and(|listen| !listen.ip().to_canonical().is_loopback());
        // Only listeners beyond loopback require the token. On loopback, it is withheld in case
        // another process has taken the port.
        self.ask(Method::GET, path, is_open.then(|| self.authorization()), TIMEOUT)
    }

    /// The tokens that a name stands for.
    pub(super) fn tokens(&self, name: &str) -> Result<Vec<TokenStatus>, AdminError> {
        let text = self.read(&path_of(name))?;
        let tokens = serde_json::from_str::<TokenList>(&text).map_err(invalid_response)?;
        Ok(tokens.credentials)
    }

    /// Performs an action on a token, waiting at most `limit`.
    pub(super) fn change(
        &self,
        token: &TokenStatus,
        change: &str,
        limit: Duration,
    ) -> Result<Value, AdminError> {
        // A key is unambiguous for all values.
        let path = path_of(token.key.as_ref().unwrap_or(&token.name));
        let path = format!("{path}/{change}");
        let text = self.ask(Method::POST, &path, Some(self.authorization()), limit)?;
        serde_json::from_str(&text).map_err(invalid_response)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        authorization: Option<Result<HeaderValue, AdminTokenError>>,
        limit: Duration,
    ) -> Result<String, AdminError> {
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
                true => AdminError::Unavailable(format!(
                    "no bearerd responds at {address} (admin.listen): {error}; check that `bearerd run` \
                     is running"
                )),
                false => AdminError::Refused(format!(
                    "{address} (admin.listen) accepts connections but does not respond: {error}"
                )),
            }
        })?;
        if status.is_success() {
            return Ok(text);
        }
        let Ok(failure) = serde_json::from_str::<ActionFailure>(&text) else {
            let said = serde_json::from_str::<ProbeStatus>(&text).map(|health| health.status);
            let said: String = said.unwrap_or(text).trim().chars().take(200).collect();
            let message = format!("{address} (admin.listen) responded {status}: {said}");
            return Err(AdminError::Refused(message));
        };
        Err(match (status.as_u16(), &failure.known, authorization) {
            (404, Some(known), _) => AdminError::Unknown(format!(
                "{}; known names: {}",
                failure.error,
                join_names(known)
            )),
            (503, ..) => AdminError::Failed(Box::new(failure)),
            (401, _, Some(Err(error))) => AdminError::Refused(error.to_string()),
            (401, ..) => AdminError::Refused(format!(
                "bearerd at {address} (admin.listen) does not accept {}: it runs with another \
                 configuration or state directory, or with the previous token",
                self.settings.admin.token
            )),
            _ => AdminError::Refused(format!("{address} responded {status}: {}", failure.error)),
        })
    }

    fn authorization(&self) -> Result<HeaderValue, AdminTokenError> {
        let token = self.settings.admin.token.to_present()?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| AdminTokenError::InvalidCharacters)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl AdminError {
    /// Prints the message and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            Self::Unavailable(message) => (message.clone(), EX_UNAVAILABLE),
            Self::Unknown(message) => (message.clone(), EX_USAGE),
            Self::Refused(message) => (message.clone(), 1),
            Self::Failed(failure) => (failure.error.clone(), 1),
        };
        print_error(format!("error: {message}"));
        ExitCode::from(code)
    }
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(message) | Self::Unknown(message) | Self::Refused(message) => {
                f.write_str(message)
            }
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::fmt::Display for ActionFailure {
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
                write!(f, "; bearerd retries automatically, in {pause} at the earliest")?;
            }
            (None, None) => {}
        }
        match token.usable {
            true => write!(f, " (the current token stays in use: {})", token.validity()),
            false => Ok(()),
        }
    }
}

impl TokenStatus {
    /// For example `number 7, expires in 41s`.
    pub(super) fn validity(&self) -> String {
        let validity = match self.expires_in {
            _ if self.generation == 0 => return "none yet".to_owned(),
            Some(seconds) if seconds <= 0 => "expired".to_owned(),
            Some(seconds) => {
                let validity = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                format!("expires in {}", humantime::format_duration(validity))
            }
            None => "valid until rejected".to_owned(),
        };
        format!("number {}, {validity}", self.generation)
    }
}

fn path_of(name: &str) -> String {
    format!("/api/v1/credentials/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

pub(super) fn join_names(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn invalid_response(error: serde_json::Error) -> AdminError {
    AdminError::Refused(format!("cannot read the response of the proxy: {error}"))
}

/// Replaces an unspecified address with loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
