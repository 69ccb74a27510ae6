//! `bearerd ca`: the certificate that clients are to trust.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use super::{CaCommand, EX_CONFIG, complain, complain_of, say};
use crate::ca::{self, CaError, CertificateAuthority};
use crate::settings::{Locator, Settings};

/// What `ca export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ExportFormat {
    /// Text, for nearly everything.
    Pem,
    /// Binary, for Windows and Java's keytool.
    Der,
}

pub(super) fn ca(locator: &Locator, command: &CaCommand) -> ExitCode {
    let settings = match Settings::load(locator) {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    match perform(&settings.ca, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(config: &ca::Config, command: &CaCommand) -> Result<(), String> {
    match command {
        CaCommand::Init => {
            let made = !config.exists();
            let ca = open(config)?;
            say(format!("{} {}", if made { "made" } else { "already there:" }, path_of(config)));
            say(format!("sha256 fingerprint {}", ca.fingerprint().as_str()));
            Ok(())
        }
        CaCommand::Show => show(config, &existing(config)?),
        CaCommand::Export { format } => export(&existing(config)?, *format),
    }
}

fn open(config: &ca::Config) -> Result<CertificateAuthority, String> {
    config.open(SystemTime::now()).map_err(|error: CaError| error.to_string())
}

fn existing(config: &ca::Config) -> Result<CertificateAuthority, String> {
    if !config.exists() {
        let path = path_of(config);
        return Err(format!("there is no CA at {path}; `bearerd ca init` makes one"));
    }
    open(config)
}

fn path_of(config: &ca::Config) -> String {
    let path = config.certificate_path();
    std::path::absolute(&path).unwrap_or(path).display().to_string()
}

fn show(config: &ca::Config, ca: &CertificateAuthority) -> Result<(), String> {
    let path = path_of(config);
    let until = humantime::format_rfc3339_seconds(ca.not_after());
    let fingerprint = ca.fingerprint();
    say(format!(
        "certificate         {path}
valid until         {until}
sha256 fingerprint  {}

To trust it:
  curl, Python (urllib, httpx), Go, Ruby   SSL_CERT_FILE={path}
  Python requests, pip                     REQUESTS_CA_BUNDLE={path}
  Node.js                                  NODE_EXTRA_CA_CERTS={path}
  git                                      GIT_SSL_CAINFO={path}
  wget                                     wget --ca-certificate={path}
  Java                                     keytool -importcert -noprompt -file {path} \\
                                             -keystore trust.p12 -storepass changeit, then
                                             -Djavax.net.ssl.trustStore=trust.p12",
        fingerprint.as_str()
    ));
    Ok(())
}

fn export(ca: &CertificateAuthority, format: ExportFormat) -> Result<(), String> {
    let bytes = match format {
        ExportFormat::Pem => ca.pem().as_bytes(),
        ExportFormat::Der => ca.der(),
    };
    std::io::stdout().write_all(bytes).map_err(|error| format!("cannot write: {error}"))
}
