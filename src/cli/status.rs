//! `bearerd status`: what the running proxy says of its credentials.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin::{AdminClient, Token, Trouble};
use super::{EX_CONFIG, EX_UNAVAILABLE, complain, complain_of, say};
use crate::settings::{Locator, Settings};

/// What the admin listener says.
#[derive(Debug, Deserialize)]
struct Answer {
    credentials: Vec<Token>,
    ca: Option<Ca>,
}

/// What it says of the local CA.
#[derive(Debug, Deserialize)]
struct Ca {
    expires_at: String,
    next: Option<String>,
}

pub(super) fn status(locator: &Locator, json: bool, probe: bool) -> ExitCode {
    // It only asks where the proxy is: the shell of an operator need not have the proxy's secrets.
    let (settings, _) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    match ask(&settings, probe) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(text)) if json => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Some(text)) => show(&text),
        Err(trouble) => {
            trouble.complain();
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

/// The answer; none to a probe.
fn ask(settings: &Settings, probe: bool) -> Result<Option<String>, Trouble> {
    let client = AdminClient::new(settings)?;
    match probe {
        true => client.probe().map(|()| None),
        false => client.read("/api/v1/credentials").map(Some),
    }
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
    if let Some(Ca { expires_at, next: Some(next) }) = answer.ca {
        say(format!("local CA: ends {expires_at}\n  next step     {next}"));
    }
    ExitCode::SUCCESS
}

fn describe(credential: &Token) -> String {
    let Token { name, state, .. } = credential;
    let reason =
        credential.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut text = format!("{name}: {state}{reason}\n");
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("  {label:<13} {value}\n"));
    };
    line("token", &credential.lasts());
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
