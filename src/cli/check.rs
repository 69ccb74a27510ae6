//! `bearerd check`: is the configuration right, and what does it say?
//!
//! It finds exactly what `bearerd run` would find before it binds a listener, and changes nothing.

use std::process::ExitCode;

use super::{EX_CONFIG, complain, complain_of, say};
use crate::settings::{Locator, Settings};

/// Prints every problem of the configuration, or a line for each credential.
pub(super) fn check(locator: &Locator) -> ExitCode {
    match Settings::load(locator) {
        Ok(settings) => {
            complain_of(&settings.warnings);
            if let Err(error) = settings.examine_store() {
                complain(format!("error: {error}"));
                return ExitCode::from(EX_CONFIG);
            }
            settings.summary().iter().for_each(say);
            say(settings.storage());
            say(format!("{}: ok", settings.source));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            complain_of(&problems);
            ExitCode::from(EX_CONFIG)
        }
    }
}
