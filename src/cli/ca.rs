//! `bearerd ca`: manages the certificate that clients trust.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use super::{CaCommand, EX_CONFIG, print_error, print_problems, print_result};
use crate::ca::{self, CaError, CertificateAuthority};
use crate::settings::{Locator, Settings};

/// The format of `ca export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ExportFormat {
    /// Text, for most programs.
    Pem,
    /// Binary, for Windows and Java's keytool.
    Der,
}

pub(super) fn ca(locator: &Locator, command: &CaCommand) -> ExitCode {
    let settings = match Settings::load(locator) {
        Ok(settings) => settings,
        Err(problems) => {
            print_problems(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    match execute(&settings.ca, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(config: &ca::Config, command: &CaCommand) -> Result<(), String> {
    match command {
        CaCommand::Init => {
            let created = !config.exists();
            let ca = open(config)?;
            print_result(format!(
                "{} {}",
                if created { "created" } else { "already exists:" },
                path_of(config)
            ));
            for (fingerprint, _) in ca.fingerprints() {
                print_result(format!("sha256 fingerprint {}", fingerprint.as_str()));
            }
            Ok(())
        }
        CaCommand::Renew => renew(config),
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
        return Err(format!("there is no CA at {path}; `bearerd ca init` creates one"));
    }
    open(config)
}

fn path_of(config: &ca::Config) -> String {
    let path = config.certificate_path();
    std::path::absolute(&path).unwrap_or(path).display().to_string()
}

fn renew(config: &ca::Config) -> Result<(), String> {
    existing(config)?;
    let now = SystemTime::now();
    let ca = config.renew(now).map_err(|error| error.to_string())?;
    describe(config, &ca);
    let from = match ca.handover_time(now) {
        Some(at) => format!("from {}", humantime::format_rfc3339_seconds(at)),
        None => "from now on".to_owned(),
    };
    print_result(format!(
        "
The newest certificate signs {from}. Before that, make the clients trust the new ca.pem, then make a
running proxy load it with SIGHUP or a restart."
    ));
    Ok(())
}

fn describe(config: &ca::Config, ca: &CertificateAuthority) {
    print_result(format!("certificates        {}", path_of(config)));
    for (fingerprint, not_after) in ca.fingerprints() {
        print_result(format!(
            "valid until         {}
sha256 fingerprint  {}",
            humantime::format_rfc3339_seconds(not_after),
            fingerprint.as_str()
        ));
    }
}

fn show(config: &ca::Config, ca: &CertificateAuthority) -> Result<(), String> {
    let path = path_of(config);
    describe(config, ca);
    if ca.needs_renewal(SystemTime::now()) {
        print_result(
            "It expires soon: `bearerd ca renew` creates its successor, and clients have to trust both for a while.",
        );
    }
    print_result(format!(
        "
To trust it:
  curl, Python (urllib, httpx), Go, Ruby   SSL_CERT_FILE={path}
  Python requests, pip                     REQUESTS_CA_BUNDLE={path}
  Node.js                                  NODE_EXTRA_CA_CERTS={path}
  git                                      GIT_SSL_CAINFO={path}
  wget                                     wget --ca-certificate={path}
  Java                                     keytool -importcert -noprompt -file {path} \\
                                             -keystore trust.p12 -storepass changeit, then
                                             -Djavax.net.ssl.trustStore=trust.p12"
    ));
    Ok(())
}

fn export(ca: &CertificateAuthority, format: ExportFormat) -> Result<(), String> {
    let bytes = match format {
        ExportFormat::Pem => ca.pem().as_bytes(),
        ExportFormat::Der => ca.der(SystemTime::now()),
    };
    std::io::stdout().write_all(bytes).map_err(|error| format!("cannot write: {error}"))
}
