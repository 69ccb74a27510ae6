//! `bearerd refresh`: makes the running proxy replace a token now, even if it is still valid.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::admin_client::{AdminClient, TokenStatus};
use super::{EX_CONFIG, print_error, print_problems, print_result};
use crate::settings::{Locator, Settings};

pub(super) fn refresh(locator: &Locator, name: &str, json: bool) -> ExitCode {
    let (settings, _) = Settings::load_without_secrets(locator);
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            print_problems(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let asked = AdminClient::new(&settings).and_then(|client| Ok((client.tokens(name)?, client)));
    let (tokens, client) = match asked {
        Ok(asked) => asked,
        Err(error) => return error.report(),
    };
    if tokens.is_empty() {
        print_error(format!(
            "error: no token of `{name}` is in use or stored; to request the first token of a value, use \
             {name}[VALUE]"
        ));
        return ExitCode::FAILURE;
    }
    let (mut done, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for token in &tokens {
        match client.change(token, "refresh", response_timeout(&settings)) {
            Ok(described) => {
                if !json {
                    print_result(describe_result(token, &described));
                }
                done.push(described);
            }
            Err(error) => {
                print_error(format!("error: {} was not refreshed: {error}", token.name));
                done.push(json!({ "name": token.name, "error": error.to_string() }));
                code = ExitCode::FAILURE;
            }
        }
    }
    if json {
        print_result(json!({ "credentials": done }));
    }
    code
}

/// For example `api: refreshed; token number 8, expires in 59m 58s`.
fn describe_result(token: &TokenStatus, described: &Value) -> String {
    match serde_json::from_value::<TokenStatus>(described.clone()) {
        Ok(now) => format!("{}: refreshed; token {}", token.name, now.validity()),
        Err(_) => format!("{}: refreshed", token.name),
    }
}

/// The proxy waits as long as for a request, and then responds.
fn response_timeout(settings: &Settings) -> Duration {
    const MARGIN: Duration = Duration::from_secs(10);
    let waits = settings.credentials.iter().map(|credential| credential.token.wait);
    waits.max().unwrap_or_default().saturating_add(MARGIN)
}
