//! `bearerd check`: validates the configuration and summarizes it.
//!
//! It finds exactly what `bearerd run` would find before it binds a listener, and changes nothing.

use std::process::ExitCode;

use super::{EX_CONFIG, print_error, print_problems, print_result};
use crate::settings::{Locator, Settings};

/// Prints every problem of the configuration, or a line for each credential.
pub(super) fn check(locator: &Locator) -> ExitCode {
    match Settings::load(locator) {
        Ok(settings) => {
            print_problems(&settings.warnings);
            if let Err(error) = settings.examine_store() {
                print_error(format!("error: {error}"));
                return ExitCode::from(EX_CONFIG);
            }
            settings.summary().iter().for_each(print_result);
            print_result(settings.storage());
            print_result(format!("{}: ok", settings.source));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            print_problems(&problems);
            ExitCode::from(EX_CONFIG)
        }
    }
}
