//! `bearerd logout`: revokes tokens and forgets them, in every process, leaving a tombstone.
//!
//! Through the running proxy if there is one, which may know tokens that are not stored yet; else on the
//! store itself.

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::{AdminClient, Trouble, listed};
use super::{EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, complain, complain_of, say};
use crate::app::{OfflineError, log_out_offline};
use crate::clock::Clock;
use crate::settings::{Inputs, Locator, Settings};

/// What became of each token, by its name.
type Done = Vec<(String, Result<Value, String>)>;

/// What a description says of the revocations.
#[derive(Debug, Deserialize)]
struct Revocations {
    revocations: Vec<Revocation>,
}

#[derive(Debug, Deserialize)]
struct Revocation {
    token: String,
    revoked: bool,
    why: Option<String>,
}

pub(super) fn logout(locator: &Locator, name: &str, json: bool) -> ExitCode {
    let (settings, inputs) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let done = match through_proxy(&settings, name) {
        Ok(done) => done,
        Err(Trouble::Unavailable(why)) => match on_store(locator, &inputs, name, &why) {
            Ok(done) => done,
            Err(code) => return code,
        },
        Err(trouble) => return trouble.complain(),
    };
    report(name, &done, json)
}

fn through_proxy(settings: &Settings, name: &str) -> Result<Done, Trouble> {
    let client = AdminClient::new(settings)?;
    let tokens = client.tokens(name)?;
    let limit = limit(settings);
    let change = |token| client.change(token, "logout", limit).map_err(|it| it.to_string());
    Ok(tokens.iter().map(|token| (token.name.clone(), change(token))).collect())
}

/// Without a proxy that could be asked; `why` says why.
fn on_store(locator: &Locator, inputs: &Inputs, name: &str, why: &str) -> Result<Done, ExitCode> {
    // To revoke takes what the OAuth client proves itself with.
    let (settings, _) = Settings::load_again(locator, inputs);
    let settings = settings.map_err(|problems| {
        complain(format!("no proxy was asked ({why}), and on its own:"));
        complain_of(&problems);
        ExitCode::from(EX_CONFIG)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        complain(format!("error: cannot start the runtime: {error}"));
        ExitCode::FAILURE
    })?;
    let done = runtime.block_on(log_out_offline(&settings, name, Clock::system()));
    let done = done.map_err(|error| {
        complain(format!("error: {error}"));
        match error {
            OfflineError::Memory => {
                complain(why);
                ExitCode::from(EX_UNAVAILABLE)
            }
            OfflineError::Unknown { known, .. } => {
                complain(format!("known are: {}", listed(&known)));
                ExitCode::from(EX_USAGE)
            }
            OfflineError::Start(error) if error.is_configuration() => ExitCode::from(EX_CONFIG),
            _ => ExitCode::FAILURE,
        }
    })?;
    let dir = settings.store.dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    complain(format!("done in the store {dir}, without a running proxy ({why})"));
    Ok(done)
}

fn report(name: &str, done: &Done, json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut described = Vec::new();
    for (name, result) in done {
        match result {
            Ok(token) => {
                if !json {
                    say(format!("{name}: logged out; {}", told(token)));
                }
                described.push(token.clone());
            }
            Err(why) => {
                complain(format!("error: {name} was not logged out: {why}"));
                described.push(json!({ "name": name, "error": why }));
                code = ExitCode::FAILURE;
            }
        }
    }
    match json {
        true => say(json!({ "credentials": described })),
        false if done.is_empty() => say(format!("{name}: no token is in use or in the store")),
        false => {}
    }
    code
}

/// What was revoked, and what was not and why.
fn told(token: &Value) -> String {
    let Ok(Revocations { revocations }) = Revocations::deserialize(token) else {
        return "the proxy's log says what was revoked".to_owned();
    };
    let each = revocations.iter().map(|Revocation { token, revoked, why }| {
        let token = token.replace('_', " ");
        match revoked {
            true => format!("{token} revoked"),
            false => {
                let why = why.as_deref().unwrap_or("no reason given");
                format!("{token} not revoked, the server may go on accepting it ({why})")
            }
        }
    });
    match each.collect::<Vec<_>>() {
        each if each.is_empty() => "there was no token to revoke".to_owned(),
        each => each.join("; "),
    }
}

/// Up to four tokens are revoked, one after the other.
fn limit(settings: &Settings) -> Duration {
    const MARGIN: Duration = Duration::from_secs(30);
    let timeouts = settings.credentials.iter().map(|credential| credential.token.oauth.timeout);
    timeouts.max().unwrap_or_default().saturating_mul(4).saturating_add(MARGIN)
}
