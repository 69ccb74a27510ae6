//! Detects changes of the configuration and its secrets by polling.
//!
//! Reading a few small files once a second costs nothing measurable and works where file
//! notifications do not: on NFS, through the symbolic links of Kubernetes volumes, and with every
//! editor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::app::{App, ChangedSecret, RejectedSecrets};

use crate::inputs::Inputs;

/// The polling interval. A new seed is in use within three seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long inputs must stay unchanged before a change is accepted, because files may be written in
/// pieces and several may belong together.
const SETTLE: Duration = Duration::from_millis(150);
/// The maximum number of such waits; a file that keeps changing is then read as it is.
const MAX_SETTLE_WAITS: usize = 8;
/// The minimum time between runs of the commands that provide secrets, because they may ask a vault
/// or a person.
const COMMAND_INTERVAL: Duration = Duration::from_secs(60);

/// Compares the inputs of the current settings with their sources.
#[derive(Debug)]
pub(super) struct InputWatcher {
    inputs: Inputs,
    /// Changed secrets of slots that were already reported, because a reload may not apply them.
    reported: Vec<ChangedSecret>,
    ticks: Interval,
    commands_ran: Option<Instant>,
    /// The rejection that the last reported change answers.
    rejected: Option<RejectedSecrets>,
}

/// Which secret commands to run.
#[derive(Clone, Debug)]
enum CommandSelection {
    None,
    All,
    Of(Vec<Arc<str>>),
}

impl InputWatcher {
    /// Watches the inputs of the current settings.
    pub(super) fn new(inputs: Inputs) -> Self {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inputs, reported: Vec::new(), ticks, commands_ran: None, rejected: None }
    }

    /// The inputs that were read last.
    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Watches new inputs, valid or not, so that each problem is reported once.
    pub(super) fn set_inputs(&mut self, inputs: Inputs, app: &App) {
        self.inputs = inputs;
        if let Some(rejected) = self.rejected.take() {
            app.mark_secrets_reread(&rejected);
        }
    }

    /// Waits for a change and returns the names of the changed inputs. The future may be dropped
    /// without losing a change.
    pub(super) async fn changed(&mut self, app: &App) -> Vec<String> {
        loop {
            // An API that rejects a secret is the best indication of a change.
            let rejected = tokio::select! {
                rejected = app.rejected_secrets() => Some(rejected),
                _ = self.ticks.tick() => None,
            };
            let commands = match &rejected {
                Some(rejected) => CommandSelection::Of(rejected.credentials.clone()),
                None if self.should_run_commands(|| app.has_refused_client()) => {
                    self.commands_ran = Some(Instant::now());
                    CommandSelection::All
                }
                None => CommandSelection::None,
            };
            let mut inputs = self.inputs.clone();
            let mut changed = BTreeSet::new();
            for settled in 0..MAX_SETTLE_WAITS {
                let commands = if settled == 0 { commands.clone() } else { CommandSelection::None };
                let (seen, news) = poll(inputs, commands).await;
                inputs = seen;
                if news.is_empty() {
                    break;
                }
                changed.extend(news);
                tokio::time::sleep(SETTLE).await;
            }
            let own = changed_secrets(app).await;
            let news = self.unreported(&own);
            if !news.is_empty() {
                tokio::time::sleep(SETTLE).await;
                changed.extend(news);
            }
            self.reported = own;
            if !changed.is_empty() {
                self.inputs = inputs;
                self.rejected = rejected;
                return changed.into_iter().collect();
            }
            if let Some(rejected) = rejected {
                app.mark_secrets_reread(&rejected);
            }
        }
    }

    /// The locations of the changed secrets that were not reported yet.
    fn unreported(&self, own: &[ChangedSecret]) -> Vec<String> {
        let news = own.iter().filter(|own| !self.reported.contains(own));
        news.map(|news| news.location.clone()).collect()
    }

    /// Returns true if the commands should run because the authorization server rejects the OAuth
    /// client and they may provide a newer secret.
    fn should_run_commands(&self, is_refused: impl FnOnce() -> bool) -> bool {
        self.inputs.has_commands()
            && self.commands_ran.is_none_or(|ran| ran.elapsed() >= COMMAND_INTERVAL)
            && is_refused()
    }
}

/// Polls on a blocking thread, because a file may be on a hung network file system.
async fn poll(mut inputs: Inputs, commands: CommandSelection) -> (Inputs, Vec<String>) {
    let before = inputs.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let mut changed = inputs.changes();
        match commands {
            CommandSelection::None => {}
            CommandSelection::All => changed.extend(inputs.changes_of_commands(None)),
            CommandSelection::Of(names) => changed.extend(inputs.changes_of_commands(Some(&names))),
        }
        (inputs, changed)
    });
    looking.await.unwrap_or_else(|_panicked| (before, Vec::new()))
}

/// The changed secrets of slots that requests opened, which the settings do not watch.
async fn changed_secrets(app: &App) -> Vec<ChangedSecret> {
    let credentials = app.credentials();
    let looking = tokio::task::spawn_blocking(move || credentials.changed_secrets());
    looking.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::{Locator, Settings};

    fn inputs(client_secret: &str) -> Inputs {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.toml");
        let text = format!(
            "[credential.x]\nhosts = [\"api.test\"]\ntoken_url = \"https://login.test/\"\n\
             client_id = \"x\"\nclient_secret = {client_secret}\n"
        );
        std::fs::write(&path, text).unwrap();
        let locator = Locator { explicit: Some(path), variable: None };
        Settings::load_again(&locator, &Inputs::default()).1
    }

    #[tokio::test(start_paused = true)]
    async fn commands_run_at_most_once_a_minute_while_the_client_is_rejected() {
        let mut watch = InputWatcher::new(inputs("{ cmd = [\"printf\", \"s\"] }"));
        assert!(!watch.should_run_commands(|| false));
        assert!(watch.should_run_commands(|| true));
        watch.commands_ran = Some(Instant::now());
        tokio::time::advance(COMMAND_INTERVAL - POLL_INTERVAL).await;
        assert!(!watch.should_run_commands(|| true));
        tokio::time::advance(POLL_INTERVAL).await;
        assert!(watch.should_run_commands(|| true) && !watch.should_run_commands(|| false));
        // A reload runs the commands regardless and does not count.
        watch.inputs = inputs("{ file = \"/nonexistent\" }");
        assert!(!watch.should_run_commands(|| true));
    }

    /// While the configuration is invalid, a reload every second would achieve nothing.
    #[tokio::test]
    async fn a_secret_that_no_reload_applies_is_reported_once_per_value() {
        let mut watch = InputWatcher::new(Inputs::default());
        let now = |content: &str| {
            let now = Some(crate::secret::Fingerprint::of(content.as_bytes()));
            vec![ChangedSecret { location: "seed-paris".to_owned(), now }]
        };
        for (own, expected) in [
            (now("one"), &["seed-paris"][..]),
            (now("one"), &[]),
            (now("two"), &["seed-paris"]),
            (now("two"), &[]),
            (Vec::new(), &[]),
            (now("two"), &["seed-paris"]),
        ] {
            assert_eq!(watch.unreported(&own), expected);
            watch.reported = own;
        }
    }
}
