//! `bearerd check`: is the configuration right, and what does it say?
//!
//! It finds exactly what `bearerd run` would find before it binds a listener, and changes nothing.

use std::process::ExitCode;

use super::{EX_CONFIG, complain_of, say};
use crate::settings::{Locator, Settings};

/// Prints every problem of the configuration, or a line for each credential.
pub(super) fn check(locator: &Locator) -> ExitCode {
    match Settings::load(locator) {
        Ok(settings) => {
            complain_of(&settings.warnings);
            settings.summary().iter().for_each(say);
            say(format!("{}: ok", settings.source));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            complain_of(&problems);
            ExitCode::from(EX_CONFIG)
        }
    }
}
