//! The command line: one file per command. Results go to standard output, the rest to standard
//! error.

mod admin;
mod ca;
mod check;
mod logout;
mod refresh;
mod run;
mod status;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::{Locator, LogFormat, Problems};

/// sysexits' EX_CONFIG.
const EX_CONFIG: u8 = 78;
/// sysexits' EX_UNAVAILABLE: no proxy answers.
const EX_UNAVAILABLE: u8 = 69;
/// What clap ends with, too.
const EX_USAGE: u8 = 2;

/// A forward proxy that adds OAuth access tokens to the calls of applications that cannot do OAuth.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, about)]
struct Arguments {
    /// The configuration; `-` is standard input [default: ./proxy.toml, then /etc/bearerd/proxy.toml]
    #[arg(long, short, global = true, value_name = "PATH")]
    config: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or a filter such as `bearerd=debug`
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy (the default)
    Run(RunArguments),
    /// Checks the configuration and reports every problem at once
    Check,
    /// Shows the credentials of the running proxy: state, expiry, last error, next step
    Status {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// Prints nothing; exit code 0 if the proxy is ready: a health check without a shell
        #[arg(long, conflicts_with = "json")]
        probe: bool,
    },
    /// Has the running proxy replace a token now, although it is still good
    #[command(long_about = REFRESH)]
    Refresh {
        /// The credential as `bearerd status` shows it; without values: each of its tokens
        name: String,
        /// What came of it as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Revokes a credential's tokens and forgets them; only a new seed brings others
    #[command(long_about = LOGOUT)]
    Logout {
        /// The credential as `bearerd status` shows it; without values: each of its tokens
        name: String,
        /// What came of it as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// The local certificate authority that clients are to trust
    #[command(subcommand)]
    Ca(CaCommand),
}

const REFRESH: &str = "Has the running proxy replace a token now, although it is still good.

The proxy is found by the same configuration: admin.listen and admin.token, or the token that the proxy keeps \
as admin.token in its state directory. NAME is `api`, `resamania[paris]` or `resamania/paris`; `resamania` \
stands for all of its tokens.

Exit codes: 0 refreshed, 1 not (standard error says why), 2 no such credential, 69 no running proxy, 78 configuration.";

const LOGOUT: &str = "Revokes a credential's tokens (RFC 7009) and forgets them, in every process and for good: \
only a new seed brings others, or another configuration of a grant that has none.

Through the running proxy, found by admin.listen and the admin token; if there is none, in the store itself. \
NAME is `api`, `resamania[paris]` or `resamania/paris`; `resamania` stands for all of its tokens. Without a \
place at the server for revocations (revoke_url) its tokens stay valid there until they expire.

Exit codes: 0 logged out, 1 not (standard error says why), 2 no such credential, 69 neither a running proxy nor a \
store, 78 configuration.";

#[derive(Debug, Default, clap::Args)]
struct RunArguments {
    /// Where to listen, instead of proxy.listen; may be given more than once
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// How to log, instead of log.format
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

/// How to log.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A line for people.
    Text,
    /// A JSON object on each line.
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Makes the CA if there is none
    Init,
    /// Says where the CA is, until when it lasts and how to trust it
    Show,
    /// Makes the next CA beside the one that ends; clients are to trust both for a while
    Renew,
    /// Writes the certificate to standard output
    Export {
        /// The format
        #[arg(long, default_value = "pem")]
        format: ca::ExportFormat,
    },
}

/// Writes a result. A reader that has gone away (`bearerd check | head -1`) is no failure, and
/// `println!` would make a panic of it.
fn say(text: impl Display) {
    let mut output = std::io::stdout();
    let _closed = writeln!(output, "{text}").and_then(|()| output.flush());
}

/// Writes what is not a result, just as unconcerned about who reads it.
fn complain(text: impl Display) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Writes a report of the configuration, which ends its lines itself; nothing if it is empty.
fn complain_of(problems: &Problems) {
    let _closed = write!(std::io::stderr(), "{}", problems.render(colors()));
}

/// Runs a command line and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Arguments { config, log_level, command } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, errors to standard error; nowhere to complain if not.
            let _closed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let locator = Locator::new(config);
    match command.unwrap_or_else(|| Command::Run(RunArguments::default())) {
        Command::Run(arguments) => run::run(&locator, arguments, log_level.as_deref()),
        Command::Check => check::check(&locator),
        Command::Status { json, probe } => status::status(&locator, json, probe),
        Command::Refresh { name, json } => refresh::refresh(&locator, &name, json),
        Command::Logout { name, json } => logout::logout(&locator, &name, json),
        Command::Ca(command) => ca::ca(&locator, &command),
    }
}

/// Colours where a person looks, unless <https://no-color.org> says no.
fn colors() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
