//! `bearerd run`: the proxy, until SIGTERM or SIGINT.

mod watch;

use std::io::IsTerminal;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::watch::Watch;
use super::{EX_CONFIG, RunArguments, colors, complain, complain_of};
use crate::app::App;
use crate::clock::Clock;
use crate::log::{DroppedLines, Log};
use crate::settings::{Inputs, Listen, Locator, LogFormat, Problems, Settings, Severity};

pub(super) fn run(locator: &Locator, arguments: RunArguments, log_level: Option<&str>) -> ExitCode {
    harden();
    let (settings, inputs) = Settings::load_again(locator, &Inputs::default());
    let mut settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            complain_of(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    if let Err(message) = apply(&mut settings, &arguments) {
        complain(format!("error: {message}"));
        return ExitCode::from(2);
    }
    let log = Log::new();
    if let Err(message) = start_log(&log, settings.log.format, log_level) {
        complain(format!("error: {message}"));
        return ExitCode::from(2);
    }
    let dropped_lines = log.dropped_lines();
    let invocation = Invocation { locator, arguments: &arguments, format: settings.log.format };
    log_problems(&settings.warnings, invocation.format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(&invocation, settings, inputs, dropped_lines));
            // What has to be finished is. A secret on a file system that does not answer may hold a thread
            // for ever.
            runtime.shutdown_background();
            crate::secret::kill_commands();
            log.finish();
            code
        }
        Err(error) => {
            complain(format!("error: cannot start the runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Where the settings come from, and how it is said what is wrong with them.
struct Invocation<'a> {
    locator: &'a Locator,
    arguments: &'a RunArguments,
    /// The log's, which only a restart changes.
    format: LogFormat,
}

async fn serve(
    invocation: &Invocation<'_>,
    settings: Settings,
    inputs: Inputs,
    dropped_lines: DroppedLines,
) -> ExitCode {
    let unix_sockets = unix_paths(&settings.listen);
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start(settings, Clock::system()).await {
        Ok(app) => app,
        Err(error) => {
            match invocation.format {
                LogFormat::Text => complain(format!("error: {error}")),
                LogFormat::Json => tracing::error!(%error, "bearerd cannot start"),
            }
            return match error.is_configuration() {
                true => ExitCode::from(EX_CONFIG),
                false => ExitCode::FAILURE,
            };
        }
    };
    app.promise_to_read_secrets();
    announce(&app, &unix_sockets);
    let metrics = app.metrics();
    tokio::spawn(dropped_lines.run(move |lines| metrics.record_dropped_log_lines(lines)));
    let mut watch = Watch::new(inputs);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => {}
                Signal::Stop => break,
            },
            changed = watch.changed(&app) => {
                let changed = changed.join(", ");
                tracing::info!(changed, "reading the configuration again");
            }
        }
        // A secret may take its time, or never come.
        let inputs = tokio::select! {
            inputs = reload(&app, invocation, watch.inputs()) => inputs,
            () = signals.stop() => break,
        };
        watch.renew(inputs, &app);
    }
    tracing::info!("stopping: finishing the requests under way");
    // Terminals and wrappers send one signal twice.
    let again = async {
        let first = tokio::time::Instant::now();
        loop {
            signals.stop().await;
            if first.elapsed() >= TWICE {
                break;
            }
        }
        tracing::warn!(
            "told to stop once more: requests under way are cut off; the answers of token requests are waited for, \
             because they may hold the only tokens that work"
        );
    };
    let saved = app.shutdown_until(again).await;
    tracing::info!("stopped");
    if saved { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Signals so close together are one.
const TWICE: std::time::Duration = std::time::Duration::from_millis(300);

/// What a person or a supervisor wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM, SIGINT or SIGQUIT: finish and end.
    Stop,
}

struct Signals {
    hangup: signal::unix::Signal,
    terminate: signal::unix::Signal,
    interrupt: signal::unix::Signal,
    quit: signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.quit.recv() => Signal::Stop,
        }
    }

    /// Waits for [`Signal::Stop`] alone; a reload that is wanted meanwhile is not forgotten.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Reads the configuration again, for the same command line; one that is wrong changes nothing.
/// Returns what has been read.
async fn reload(app: &App, invocation: &Invocation<'_>, before: &Inputs) -> Inputs {
    let (locator, known) = (invocation.locator.clone(), before.clone());
    // Secrets may come from commands, which block.
    let loaded = tokio::task::spawn_blocking(move || Settings::load_again(&locator, &known)).await;
    let (mut settings, inputs) = match loaded {
        Ok((Ok(settings), inputs)) => (settings, inputs),
        Ok((Err(problems), inputs)) => {
            log_problems(&problems, invocation.format);
            tracing::error!("the new configuration has problems; the one before stays in force");
            app.reload_failed();
            return inputs;
        }
        Err(error) => {
            tracing::error!(%error, "the configuration could not be read again");
            return before.clone();
        }
    };
    if let Err(problem) = apply(&mut settings, invocation.arguments) {
        tracing::error!(problem, "the configuration before stays in force");
        app.reload_failed();
        return inputs;
    }
    log_problems(&settings.warnings, invocation.format);
    match app.reload(settings).await {
        Ok(later) if later.is_empty() => tracing::info!("the new configuration is in force"),
        Ok(later) => {
            let keys = later.join(", ");
            tracing::warn!(keys, "the new configuration is in force, but these need a restart");
        }
        Err(error) => {
            tracing::error!(%error, "the configuration before stays in force");
        }
    }
    inputs
}

/// Says what was found in the configuration: as a report for people, or a line for each finding.
fn log_problems(problems: &Problems, format: LogFormat) {
    if format == LogFormat::Text {
        let problems = problems.clone();
        // Nobody may be reading; see `log`.
        let printing = std::thread::Builder::new().spawn(move || complain_of(&problems));
        let _unsaid = printing;
        return;
    }
    for problem in problems.iter() {
        let (place, fix) = (problems.place(problem), problem.fix.as_deref());
        match problem.severity {
            Severity::Error => tracing::error!(place, fix, "{}", problem.message),
            Severity::Warning => tracing::warn!(place, fix, "{}", problem.message),
        }
    }
}

fn unix_paths(listen: &[Listen]) -> Vec<String> {
    let path = |listen: &Listen| match listen {
        Listen::Unix(path) => Some(format!("unix:{}", path.display())),
        Listen::Tcp(_) => None,
    };
    listen.iter().filter_map(path).collect()
}

fn announce(app: &App, unix_sockets: &[String]) {
    for address in app.proxy_addresses() {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, "bearerd is listening");
    }
    for address in unix_sockets {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), address, "bearerd is listening");
    }
    if let Some(address) = app.admin_address() {
        tracing::info!(%address, "probes are at /livez and /readyz");
    }
    for credential in app.credentials().all() {
        let statuses = credential.statuses();
        if statuses.is_empty() {
            tracing::info!(credential = &*credential.name, "credential: one token for each value");
        }
        for status in statuses {
            tracing::info!(credential = &*status.name, state = %status.condition, "credential");
        }
    }
}

fn apply(settings: &mut Settings, arguments: &RunArguments) -> Result<(), String> {
    if !arguments.listen.is_empty() {
        let parse = |text: &String| {
            Listen::parse(text).map_err(|problem| format!("--listen `{text}` {problem}"))
        };
        settings.listen = arguments.listen.iter().map(parse).collect::<Result<_, _>>()?;
        if !settings.open && !settings.listen.iter().all(Listen::is_local) {
            return Err("--listen beyond loopback needs `open = true` in [proxy]: anyone who \
                        reaches the port could use every credential"
                .to_owned());
        }
    }
    if let Some(format) = arguments.log_format {
        settings.log.format = format.into();
    }
    Ok(())
}

/// `RUST_LOG`, then `--log-level`, else bearerd's own messages from `info` on.
fn start_log(log: &Log, format: LogFormat, level: Option<&str>) -> Result<(), String> {
    let given = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let text = level.or(given.as_deref()).unwrap_or("info");
    let filter =
        EnvFilter::try_new(text).map_err(|error| format!("log level `{text}`: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.writer())
        .with_target(false);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal() && colors()).init(),
    }
    Ok(())
}

/// No core dump holds a token, no other process of the same user reads this one's memory, and there
/// are as many descriptors as the system allows.
fn harden() {
    let _unsupported =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let core = getrlimit(Resource::Core);
    let _forbidden = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: core.maximum });
    let files = getrlimit(Resource::Nofile);
    let _forbidden = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
}
