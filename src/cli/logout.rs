//! `bearerd logout`: revokes and deletes tokens in every process, and leaves a tombstone.
//!
//! It uses the running proxy if there is one, because that may hold tokens that are not stored yet;
//! otherwise it works directly on the store.

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminError, join_names};
use super::{EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, print_error, print_problems, print_result};
use crate::app::{OfflineError, log_out_offline};
use crate::clock::Clock;
use crate::inputs::Inputs;
use crate::settings::{Locator, Settings};

/// The result for each token, by name.
type LogoutResults = Vec<(String, Result<Value, String>)>;

/// The revocations in a token's description.
#[derive(Debug, Deserialize)]
struct RevocationResults {
    revocations: Vec<RevocationResult>,
}

#[derive(Debug, Deserialize)]
struct RevocationResult {
    token: String,
    revoked: bool,
    why: Option<String>,
}

pub(super) fn logout(locator: &Locator, name: &str, json: bool) -> ExitCode {
    let (settings, inputs) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            print_problems(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let done = match through_proxy(&settings, name) {
        Ok(done) => done,
        Err(AdminError::Unavailable(why)) => match on_store(locator, &inputs, name, &why) {
            Ok(done) => done,
            Err(code) => return code,
        },
        Err(error) => return error.report(),
    };
    report(name, &done, json)
}

fn through_proxy(settings: &Settings, name: &str) -> Result<LogoutResults, AdminError> {
    let client = AdminClient::new(settings)?;
    let tokens = client.tokens(name)?;
    let limit = response_timeout(settings);
    let change = |token| client.change(token, "logout", limit).map_err(|it| it.to_string());
    Ok(tokens.iter().map(|token| (token.name.clone(), change(token))).collect())
}

/// Logs out on the store, because no proxy could be reached for the reason `why`.
fn on_store(
    locator: &Locator,
    inputs: &Inputs,
    name: &str,
    why: &str,
) -> Result<LogoutResults, ExitCode> {
    // Revocation requires the OAuth client's credentials.
    let (settings, _) = Settings::load_again(locator, inputs);
    let settings = settings.map_err(|problems| {
        print_error(format!("no proxy was reached ({why}); without it:"));
        print_problems(&problems);
        ExitCode::from(EX_CONFIG)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        print_error(format!("error: cannot start the runtime: {error}"));
        ExitCode::FAILURE
    })?;
    let done = runtime.block_on(log_out_offline(&settings, name, Clock::system()));
    let done = done.map_err(|error| {
        print_error(format!("error: {error}"));
        match error {
            OfflineError::Memory => {
                print_error(why);
                ExitCode::from(EX_UNAVAILABLE)
            }
            OfflineError::Unknown { known, .. } => {
                print_error(format!("known names: {}", join_names(&known)));
                ExitCode::from(EX_USAGE)
            }
            OfflineError::Start(error) if error.is_configuration() => ExitCode::from(EX_CONFIG),
            _ => ExitCode::FAILURE,
        }
    })?;
    let dir = settings.store.dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    print_error(format!("logged out in the store {dir}, without a running proxy ({why})"));
    Ok(done)
}

fn report(name: &str, done: &LogoutResults, json: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let mut described = Vec::new();
    for (name, result) in done {
        match result {
            Ok(token) => {
                if !json {
                    print_result(format!("{name}: logged out; {}", describe_result(token)));
                }
                described.push(token.clone());
            }
            Err(why) => {
                print_error(format!("error: {name} was not logged out: {why}"));
                described.push(json!({ "name": name, "error": why }));
                code = ExitCode::FAILURE;
            }
        }
    }
    match json {
        true => print_result(json!({ "credentials": described })),
        false if done.is_empty() => print_result(format!("{name}: no token is in use or stored")),
        false => {}
    }
    code
}

/// The results of the revocations.
fn describe_result(token: &Value) -> String {
    let Ok(RevocationResults { revocations }) = RevocationResults::deserialize(token) else {
        return "see the proxy's log for revocations".to_owned();
    };
    let each = revocations.iter().map(|RevocationResult { token, revoked, why }| {
        let token = token.replace('_', " ");
        match revoked {
            true => format!("{token} revoked"),
            false => {
                let why = why.as_deref().unwrap_or("no reason given");
                format!("{token} not revoked, the server may still accept it ({why})")
            }
        }
    });
    match each.collect::<Vec<_>>() {
        each if each.is_empty() => "there was no token to revoke".to_owned(),
        each => each.join("; "),
    }
}

/// Up to four tokens are revoked, one after the other.
fn response_timeout(settings: &Settings) -> Duration {
    const MARGIN: Duration = Duration::from_secs(30);
    let timeouts = settings.credentials.iter().map(|credential| credential.token.oauth.timeout);
    timeouts.max().unwrap_or_default().saturating_mul(4).saturating_add(MARGIN)
}
