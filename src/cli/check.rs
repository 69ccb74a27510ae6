//! `bearerd check`: is the configuration right, and what does it say?
//!
//! It finds exactly what `bearerd run` would find before it binds a listener, and changes nothing.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output and the rest to standard error: this command's work"
)]

use std::process::ExitCode;

use crate::settings::{Locator, Settings};

/// sysexits' EX_CONFIG.
const CONFIGURATION_ERROR: u8 = 78;

/// Prints every problem of the configuration, or a line for each credential.
pub(super) fn check(locator: &Locator, color: bool) -> ExitCode {
    match Settings::load(locator) {
        Ok(settings) => {
            eprint!("{}", settings.warnings.render(color));
            settings.summary().iter().for_each(|line| println!("{line}"));
            println!("{}: ok", settings.source);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprint!("{}", problems.render(color));
            ExitCode::from(CONFIGURATION_ERROR)
        }
    }
}
