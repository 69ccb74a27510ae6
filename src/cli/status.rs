//! `bearerd status`: shows the state of the running proxy's credentials.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin_client::{AdminClient, AdminError, TokenStatus};
use super::{EX_CONFIG, EX_UNAVAILABLE, print_error, print_problems, print_result};
use crate::settings::{Locator, Settings};

/// The response of the admin API.
#[derive(Debug, Deserialize)]
struct StatusResponse {
    credentials: Vec<TokenStatus>,
    ca: Option<Ca>,
}

/// The local CA in it.
#[derive(Debug, Deserialize)]
struct Ca {
    expires_at: String,
    next: Option<String>,
}

pub(super) fn status(locator: &Locator, json: bool, probe: bool) -> ExitCode {
    // Only the address of the proxy is needed, so the operator's shell does not need the proxy's
    // secrets.
    let (settings, _) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            print_problems(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    match ask(&settings, probe) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(text)) if json => {
            print_result(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Some(text)) => show(&text),
        Err(error) => {
            error.report();
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

/// The response; `None` for a probe.
fn ask(settings: &Settings, probe: bool) -> Result<Option<String>, AdminError> {
    let client = AdminClient::new(settings)?;
    match probe {
        true => client.probe().map(|()| None),
        false => client.read("/api/v1/credentials").map(Some),
    }
}

fn show(text: &str) -> ExitCode {
    let answer: StatusResponse = match serde_json::from_str(text) {
        Ok(answer) => answer,
        Err(error) => {
            print_error(format!("error: cannot read the response of the proxy: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if answer.credentials.is_empty() {
        print_result("no credentials are configured");
    }
    for credential in &answer.credentials {
        print_result(describe(credential).trim_end());
    }
    if let Some(Ca { expires_at, next: Some(next) }) = answer.ca {
        print_result(format!("local CA: expires {expires_at}\n  next step     {next}"));
    }
    ExitCode::SUCCESS
}

fn describe(credential: &TokenStatus) -> String {
    let TokenStatus { name, state, .. } = credential;
    let reason =
        credential.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut text = format!("{name}: {state}{reason}\n");
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("  {label:<13} {value}\n"));
    };
    line("token", &credential.validity());
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
