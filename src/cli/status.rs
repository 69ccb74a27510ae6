//! `bearerd status`: what the running proxy says of its credentials.
//!
//! It finds the proxy through the same configuration: `admin.listen`, and `admin.token` if there is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;

use super::{EX_CONFIG, complain, complain_of, say};
use crate::settings::{Locator, Settings};
use crate::tls;

/// sysexits' EX_UNAVAILABLE: no proxy answers.
const EX_UNAVAILABLE: u8 = 69;
/// The admin listener is on this machine and does no work of its own.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the admin listener says; unknown members are those of a newer proxy.
#[derive(Debug, Deserialize)]
struct Answer {
    credentials: Vec<Credential>,
}

#[derive(Debug, Deserialize)]
struct Credential {
    name: String,
    state: String,
    reason: Option<String>,
    generation: u64,
    expires_in: Option<i64>,
    refreshed_at: Option<String>,
    last_error: Option<LastError>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LastError {
    at: String,
    text: String,
}

pub(super) fn status(locator: &Locator, json: bool, probe: bool) -> ExitCode {
    let loaded = match probe {
        // A health check runs every few seconds: it reads no secret and runs no command.
        true => Settings::load_without_secrets(locator).0,
        false => Settings::load(locator),
    };
    let settings = match loaded {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let path = if probe { "/readyz" } else { "/api/v1/credentials" };
    match ask(&settings, path) {
        Ok(_) if probe => ExitCode::SUCCESS,
        Ok(text) if json => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(text) => show(&text),
        Err(message) => {
            complain(format!("error: {message}"));
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

fn ask(settings: &Settings, path: &str) -> Result<String, String> {
    let Some(listen) = settings.admin.listen else {
        return Err("there is no admin listener: admin.listen is \"\"".to_owned());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(fetch(settings, reachable(listen), path))
}

async fn fetch(settings: &Settings, address: SocketAddr, path: &str) -> Result<String, String> {
    // Plain http to this machine; the roots are only there because the client wants some.
    let roots = tls::Config { roots: tls::Roots::Bundled, extra_roots: Vec::new() };
    let tls = roots.build().map_err(|error| error.to_string())?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let mut request = client.get(format!("http://{address}{path}"));
    if let Ok(token) = settings.admin.token.to_present() {
        request = request.bearer_auth(token.expose());
    }
    let absent = |error: reqwest::Error| {
        let error = error.without_url();
        format!(
            "no bearerd answers at {address} (admin.listen): {error}; is `bearerd run` running?"
        )
    };
    let response = request.send().await.map_err(absent)?;
    let status = response.status();
    let text = response.text().await.map_err(absent)?;
    match status.is_success() {
        true => Ok(text),
        false => Err(format!("{address} answers {status}: {}", text.trim())),
    }
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

fn show(text: &str) -> ExitCode {
    let answer: Answer = match serde_json::from_str(text) {
        Ok(answer) => answer,
        Err(error) => {
            complain(format!("error: the proxy's answer cannot be read: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if answer.credentials.is_empty() {
        say("no credential is active");
    }
    for credential in &answer.credentials {
        say(describe(credential).trim_end());
    }
    ExitCode::SUCCESS
}

fn describe(credential: &Credential) -> String {
    let Credential { name, state, generation, .. } = credential;
    let reason =
        credential.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut text = format!("{name}: {state}{reason}\n");
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("  {label:<13} {value}\n"));
    };
    line("token", &token(credential, *generation));
    if let Some(at) = &credential.refreshed_at {
        line("last refresh", at);
    }
    if let Some(error) = &credential.last_error {
        line("last error", &format!("{} ({})", error.text, error.at));
    }
    if let Some(next) = &credential.next {
        line("next step", next);
    }
    text
}

fn token(credential: &Credential, generation: u64) -> String {
    let lasts = match credential.expires_in {
        _ if generation == 0 => return "none yet".to_owned(),
        Some(seconds) if seconds <= 0 => "expired".to_owned(),
        Some(seconds) => {
            let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            format!("expires in {}", humantime::format_duration(lasts))
        }
        None => "lasts until it is rejected".to_owned(),
    };
    format!("number {generation}, {lasts}")
}
