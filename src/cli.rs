//! The command line, with one file per command. Results go to standard output, messages to standard
//! error.

mod admin_client;
mod ca;
mod check;
mod logout;
mod refresh;
mod run;
mod schema;
mod status;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::{Locator, LogFormat, Problems};

/// EX_CONFIG of sysexits: the configuration has to change.
const EX_CONFIG: u8 = 78;
/// EX_UNAVAILABLE of sysexits: no proxy responds.
const EX_UNAVAILABLE: u8 = 69;
/// A usage error, as in clap.
const EX_USAGE: u8 = 2;

/// A forward proxy that adds OAuth access tokens to the calls of applications that cannot do OAuth.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, about)]
struct Arguments {
    /// The configuration file; `-` reads standard input [default: ./proxy.toml, then /etc/bearerd/proxy.toml]
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
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        /// Print nothing; exit with code 0 if the proxy is ready (a health check without a shell)
        #[arg(long, conflicts_with = "json")]
        probe: bool,
    },
    /// Makes the running proxy replace a token now, even if it is still valid
    #[command(long_about = REFRESH)]
    Refresh {
        /// The credential as shown by `bearerd status`; without values, all of its tokens
        name: String,
        /// Print the result as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Revokes and deletes a credential's tokens; only a new seed can replace them
    #[command(long_about = LOGOUT)]
    Logout {
        /// The credential as shown by `bearerd status`; without values, all of its tokens
        name: String,
        /// Print the result as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Manages the local certificate authority that clients trust
    #[command(subcommand)]
    Ca(CaCommand),
    /// Prints every key of the configuration with its type, default and reason
    Schema {
        /// The format
        #[arg(long, default_value = "json")]
        format: schema::SchemaFormat,
    },
}

const REFRESH: &str = "Makes the running proxy replace a token now, even if it is still valid.

The proxy is found through the same configuration: admin.listen and admin.token, or the token that the proxy \
keeps as admin.token in its state directory. NAME is `api`, `resamania[paris]` or `resamania/paris`; `resamania` \
means all of its tokens.

Exit codes: 0 refreshed, 1 failed (standard error says why), 2 no such credential, 69 no running proxy, 78 \
configuration error.";

const LOGOUT: &str = "Revokes a credential's tokens (RFC 7009) and deletes them in every process. Only a new seed \
can replace them, or a changed configuration if the grant has no seed.

The command uses the running proxy, found through admin.listen and the admin token; if there is none, it works \
directly on the store. NAME is `api`, `resamania[paris]` or `resamania/paris`; `resamania` means all of its tokens. \
If the server has no revocation endpoint (revoke_url), the tokens stay valid there until they expire.

Exit codes: 0 logged out, 1 failed (standard error says why), 2 no such credential, 69 neither a running proxy nor \
a store, 78 configuration error.";

#[derive(Debug, Default, clap::Args)]
struct RunArguments {
    /// The address to listen on, overriding proxy.listen; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// The log format, overriding log.format
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormatArgument>,
}

/// The log format.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormatArgument {
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl From<LogFormatArgument> for LogFormat {
    fn from(format: LogFormatArgument) -> Self {
        match format {
            LogFormatArgument::Text => Self::Text,
            LogFormatArgument::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Creates the CA if there is none
    Init,
    /// Shows where the CA is, when it expires and how to trust it
    Show,
    /// Creates the next CA while the expiring one stays in use; clients have to trust both for a while
    Renew,
    /// Writes the certificate to standard output
    Export {
        /// The format
        #[arg(long, default_value = "pem")]
        format: ca::ExportFormat,
    },
}

/// Prints a result. A closed pipe (`bearerd check | head -1`) is not an error; `println!` would
/// panic.
fn print_result(text: impl Display) {
    let mut output = std::io::stdout();
    let _closed = writeln!(output, "{text}").and_then(|()| output.flush());
}

/// Prints a message to standard error. A closed pipe is not an error.
fn print_error(text: impl Display) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Prints a report of configuration problems, whose lines are complete; nothing if it is empty.
fn print_problems(problems: &Problems) {
    let _closed = write!(std::io::stderr(), "{}", problems.render(colors()));
}

/// Runs a command line and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Arguments { config, log_level, command } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, errors to standard error. A closed pipe is not an
            // error.
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
        Command::Schema { format } => schema::schema(format),
    }
}

/// Returns true if standard error is a terminal and <https://no-color.org> does not apply.
fn colors() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
