//! `bearerd refresh`: has the running proxy replace a token now, although it is still good.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::admin::{AdminClient, Token};
use super::{EX_CONFIG, complain, complain_of, say};
use crate::settings::{Locator, Settings};

pub(super) fn refresh(locator: &Locator, name: &str, json: bool) -> ExitCode {
    let (settings, _) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let asked = AdminClient::new(&settings).and_then(|client| Ok((client.tokens(name)?, client)));
    let (tokens, client) = match asked {
        Ok(asked) => asked,
        Err(trouble) => return trouble.complain(),
    };
    if tokens.is_empty() {
        complain(format!(
            "error: no token of `{name}` is in use or in the store; name one of them, as \
             {name}[VALUE], to have its first one asked for"
        ));
        return ExitCode::FAILURE;
    }
    let (mut done, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for token in &tokens {
        match client.change(token, "refresh", limit(&settings)) {
            Ok(described) => {
                if !json {
                    say(told(token, &described));
                }
                done.push(described);
            }
            Err(trouble) => {
                complain(format!("error: {} was not refreshed: {trouble}", token.name));
                done.push(json!({ "name": token.name, "error": trouble.to_string() }));
                code = ExitCode::FAILURE;
            }
        }
    }
    if json {
        say(json!({ "credentials": done }));
    }
    code
}

/// `api: refreshed; token number 8, expires in 59m 58s`.
fn told(token: &Token, described: &Value) -> String {
    match serde_json::from_value::<Token>(described.clone()) {
        Ok(now) => format!("{}: refreshed; token {}", token.name, now.lasts()),
        Err(_) => format!("{}: refreshed", token.name),
    }
}

/// The proxy waits as long as it would for a request, and then says so.
fn limit(settings: &Settings) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    let waits = settings.credentials.iter().map(|credential| credential.token.wait);
    waits.max().unwrap_or_default().saturating_add(MARGIN)
}
