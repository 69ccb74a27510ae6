//! `bearerd run`: runs the proxy until SIGTERM or SIGINT.

mod input_watcher;

use std::io::IsTerminal;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::input_watcher::InputWatcher;
use super::{EX_CONFIG, RunArguments, colors, print_error, print_problems};
use crate::app::App;
use crate::clock::Clock;
use crate::inputs::Inputs;
use crate::log::{DroppedLines, Log};
use crate::settings::{Listen, Locator, LogFormat, Problems, Settings, Severity};

pub(super) fn run(locator: &Locator, arguments: RunArguments, log_level: Option<&str>) -> ExitCode {
    harden();
    let (settings, inputs) = Settings::load_again(locator, &Inputs::default());
    let mut settings = match settings {
        Ok(settings) => settings,
        Err(problems) => {
            print_problems(&problems);
            return ExitCode::from(EX_CONFIG);
        }
    };
    if let Err(message) = apply_arguments(&mut settings, &arguments) {
        print_error(format!("error: {message}"));
        return ExitCode::from(2);
    }
    let log = Log::new();
    if let Err(message) = start_log(&log, settings.log.format, log_level) {
        print_error(format!("error: {message}"));
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
            // Everything that has to finish is finished. Reading a secret from a hung file system
            // may block a thread forever.
            runtime.shutdown_background();
            crate::secret::kill_commands();
            log.finish();
            code
        }
        Err(error) => {
            print_error(format!("error: cannot start the runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The source of the settings, and how to report problems with them.
struct Invocation<'a> {
    locator: &'a Locator,
    arguments: &'a RunArguments,
    /// The log format, which changes only with a restart.
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
            tracing::error!(%error, "cannot receive signals");
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start(settings, Clock::system()).await {
        Ok(app) => app,
        Err(error) => {
            match invocation.format {
                LogFormat::Text => print_error(format!("error: {error}")),
                LogFormat::Json => tracing::error!(%error, "bearerd cannot start"),
            }
            return match error.is_configuration() {
                true => ExitCode::from(EX_CONFIG),
                false => ExitCode::FAILURE,
            };
        }
    };
    app.enable_secret_rereads();
    announce(&app, &unix_sockets);
    let metrics = app.metrics();
    tokio::spawn(dropped_lines.run(move |lines| metrics.record_dropped_log_lines(lines)));
    let mut watch = InputWatcher::new(inputs);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => {}
                Signal::Stop => break,
            },
            changed = watch.changed(&app) => {
                let changed = changed.join(", ");
                tracing::info!(changed, "reloading the configuration");
            }
        }
        // Reading a secret may take long, or never end.
        let inputs = tokio::select! {
            inputs = reload(&app, invocation, watch.inputs()) => inputs,
            () = signals.stop() => break,
        };
        watch.set_inputs(inputs, &app);
    }
    tracing::info!("stopping: finishing requests in progress");
    // Terminals and wrappers may send a signal twice.
    let again = async {
        let first = tokio::time::Instant::now();
        loop {
            signals.stop().await;
            if first.elapsed() >= SIGNAL_DEBOUNCE {
                break;
            }
        }
        tracing::warn!(
            "second stop signal: requests in progress are cut off; token requests are still awaited, \
             because their responses may contain the only valid tokens"
        );
    };
    let saved = app.shutdown_until(again).await;
    tracing::info!("stopped");
    if saved { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Signals closer together than this count as one.
const SIGNAL_DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(300);

/// A request from a person or a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGTERM, SIGINT or SIGQUIT: drain and exit.
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

    /// Waits for [`Signal::Stop`] only; a pending reload is kept.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Reloads the configuration for the same command line. An invalid one changes nothing. Returns the
/// inputs that were read.
async fn reload(app: &App, invocation: &Invocation<'_>, before: &Inputs) -> Inputs {
    let (locator, known) = (invocation.locator.clone(), before.clone());
    // Secrets may come from commands, which block.
    let loaded = tokio::task::spawn_blocking(move || Settings::load_again(&locator, &known)).await;
    let (mut settings, inputs) = match loaded {
        Ok((Ok(settings), inputs)) => (settings, inputs),
        Ok((Err(problems), inputs)) => {
            log_problems(&problems, invocation.format);
            tracing::error!("the new configuration has problems; the previous one stays in force");
            app.record_reload_failure();
            return inputs;
        }
        Err(error) => {
            tracing::error!(%error, "cannot reload the configuration");
            return before.clone();
        }
    };
    if let Err(problem) = apply_arguments(&mut settings, invocation.arguments) {
        tracing::error!(problem, "the previous configuration stays in force");
        app.record_reload_failure();
        return inputs;
    }
    log_problems(&settings.warnings, invocation.format);
    match app.reload(settings).await {
        Ok(later) if later.is_empty() => tracing::info!("the new configuration is in force"),
        Ok(later) => {
            let keys = later.join(", ");
            tracing::warn!(
                keys,
                "the new configuration is in force, but these keys need a restart"
            );
        }
        Err(error) => {
            tracing::error!(%error, "the previous configuration stays in force");
        }
    }
    inputs
}

/// Reports configuration problems: as text, or as one log line per problem.
fn log_problems(problems: &Problems, format: LogFormat) {
    if format == LogFormat::Text {
        let problems = problems.clone();
        // Printing may block if nothing reads standard error; see `log`.
        let printing = std::thread::Builder::new().spawn(move || print_problems(&problems));
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
            tracing::info!(credential = &*credential.name, "credential: one token per value");
        }
        for status in statuses {
            tracing::info!(credential = &*status.name, state = %status.condition, "credential");
        }
    }
}

fn apply_arguments(settings: &mut Settings, arguments: &RunArguments) -> Result<(), String> {
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

/// The filter comes from `--log-level`, then `RUST_LOG`; the default is `info`.
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

/// Disables core dumps and debugging by other processes of the same user, so that neither can
/// reveal a token, and raises the limit of file descriptors to the maximum.
fn harden() {
    let _unsupported =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let core = getrlimit(Resource::Core);
    let _forbidden = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: core.maximum });
    let files = getrlimit(Resource::Nofile);
    let _forbidden = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
}
