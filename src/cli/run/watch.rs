//! Notices that the configuration or a secret has changed, without being told.
//!
//! A look at a handful of small files each second costs nothing that could be measured, and works where
//! notifications do not: on NFS, through the links of a Kubernetes volume, with every editor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::app::{App, ChangedSecret, RejectedSecrets};

use crate::settings::Inputs;

/// How often the files are looked at: a new seed is in use within three seconds.
const LOOK: Duration = Duration::from_secs(1);
/// How long nothing must change before a change is believed: a file may be written in pieces, and
/// several belong together.
const SETTLE: Duration = Duration::from_millis(150);
/// How often it is waited for that; a file that changes all the time is taken as it is.
const SETTLES: usize = 8;
/// The least time between two runs of the commands that give secrets: they may ask a vault, or a person.
const COMMANDS: Duration = Duration::from_secs(60);

/// Compares what was read with what is there now.
#[derive(Debug)]
pub(super) struct Watch {
    inputs: Inputs,
    /// The changed secrets of requests' tokens that were named already: a reload may not take them over.
    named: Vec<ChangedSecret>,
    pace: Interval,
    commands_ran: Option<Instant>,
    /// For whom the change that was named last is.
    rejected: Option<RejectedSecrets>,
}

/// Which commands that give secrets are run.
#[derive(Clone, Debug)]
enum Commands {
    None,
    All,
    Of(Vec<Arc<str>>),
}

impl Watch {
    /// A watch over what the settings in force were made from.
    pub(super) fn new(inputs: Inputs) -> Self {
        let mut pace = interval(LOOK);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inputs, named: Vec::new(), pace, commands_ran: None, rejected: None }
    }

    /// What was read last.
    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Watches over what has just been read, whether it was good or not: what is wrong is said once.
    pub(super) fn renew(&mut self, inputs: Inputs, app: &App) {
        self.inputs = inputs;
        if let Some(rejected) = self.rejected.take() {
            app.secrets_are_read(&rejected);
        }
    }

    /// Waits until something has changed, and names it. Dropping the future forgets nothing.
    pub(super) async fn changed(&mut self, app: &App) -> Vec<String> {
        loop {
            // An API that rejects a secret is the best of signs.
            let rejected = tokio::select! {
                rejected = app.rejected_secrets() => Some(rejected),
                _ = self.pace.tick() => None,
            };
            let commands = match &rejected {
                Some(rejected) => Commands::Of(rejected.credentials.clone()),
                None if self.are_commands_due(|| app.has_refused_client()) => {
                    self.commands_ran = Some(Instant::now());
                    Commands::All
                }
                None => Commands::None,
            };
            let mut inputs = self.inputs.clone();
            let mut changed = BTreeSet::new();
            for settled in 0..SETTLES {
                let commands = if settled == 0 { commands.clone() } else { Commands::None };
                let (seen, news) = look(inputs, commands).await;
                inputs = seen;
                if news.is_empty() {
                    break;
                }
                changed.extend(news);
                tokio::time::sleep(SETTLE).await;
            }
            let own = changed_secrets(app).await;
            let news = self.news(&own);
            if !news.is_empty() {
                tokio::time::sleep(SETTLE).await;
                changed.extend(news);
            }
            self.named = own;
            if !changed.is_empty() {
                self.inputs = inputs;
                self.rejected = rejected;
                return changed.into_iter().collect();
            }
            if let Some(rejected) = rejected {
                app.secrets_are_read(&rejected);
            }
        }
    }

    /// The places of those that were not like this when they were looked at last.
    fn news(&self, own: &[ChangedSecret]) -> Vec<String> {
        let news = own.iter().filter(|own| !self.named.contains(own));
        news.map(|news| news.location.clone()).collect()
    }

    /// The authorization server has refused the OAuth client: a command may know a newer secret.
    fn are_commands_due(&self, is_refused: impl FnOnce() -> bool) -> bool {
        self.inputs.has_commands()
            && self.commands_ran.is_none_or(|ran| ran.elapsed() >= COMMANDS)
            && is_refused()
    }
}

/// One look, where it may block: a file may be on a network that does not answer.
async fn look(mut inputs: Inputs, commands: Commands) -> (Inputs, Vec<String>) {
    let before = inputs.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let mut changed = inputs.changes();
        match commands {
            Commands::None => {}
            Commands::All => changed.extend(inputs.changes_of_commands(None)),
            Commands::Of(names) => changed.extend(inputs.changes_of_commands(Some(&names))),
        }
        (inputs, changed)
    });
    looking.await.unwrap_or_else(|_panicked| (before, Vec::new()))
}

/// The secrets of tokens that requests have asked for, of which the settings know nothing.
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
    async fn commands_run_again_once_a_minute_and_only_while_the_client_is_refused() {
        let mut watch = Watch::new(inputs("{ cmd = [\"printf\", \"s\"] }"));
        assert!(!watch.are_commands_due(|| false));
        assert!(watch.are_commands_due(|| true));
        watch.commands_ran = Some(Instant::now());
        tokio::time::advance(COMMANDS - LOOK).await;
        assert!(!watch.are_commands_due(|| true));
        tokio::time::advance(LOOK).await;
        assert!(watch.are_commands_due(|| true) && !watch.are_commands_due(|| false));
        // A reload runs them anyway, and does not count.
        watch.inputs = inputs("{ file = \"/nonexistent\" }");
        assert!(!watch.are_commands_due(|| true));
    }

    /// As where the configuration is wrong meanwhile: a reload every second would change nothing.
    #[tokio::test]
    async fn a_secret_that_no_reload_takes_over_is_named_once_for_each_content() {
        let mut watch = Watch::new(Inputs::default());
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
            assert_eq!(watch.news(&own), expected);
            watch.named = own;
        }
    }
}
