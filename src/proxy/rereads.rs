//! Secrets that an API did not accept, and that are to be read again.
//!
//! A credential without tokens puts secrets on requests as they were when the settings were read. Where an
//! API rejects them, the place that they came from may hold others by now. Requests do not read it: they
//! ask here, and wait until whoever reads the settings ([`App`](crate::app::App) is told of it) has looked
//! and a change is in force.
//!
//! The invariant: on behalf of requests the secrets of one credential are read at most once in [`PAUSE`],
//! however many were rejected; a command may ask a vault, or mint a key at each run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Moment;

/// The least time between two readings of one credential's secrets.
const PAUSE: Duration = Duration::from_secs(5);

/// What is to be read, and what has been.
#[derive(Debug, Default)]
pub(crate) struct Rereads(watch::Sender<State>);

/// The credentials whose secrets an API has rejected.
#[derive(Debug)]
pub struct RejectedSecrets {
    /// Their names.
    pub credentials: Vec<Arc<str>>,
    upto: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody reads.
    is_served: bool,
    /// The number of the last question, and up to which they are answered.
    asked: u64,
    answered: u64,
    open: Vec<(u64, Arc<str>)>,
    last: HashMap<Arc<str>, (u64, Moment)>,
}

impl Rereads {
    /// Asks for the secrets of a credential to be read, or joins those who have. Returns what to wait for;
    /// `None`: they have just been read, or nobody reads them.
    pub(super) fn ask(&self, credential: &Arc<str>, now: Moment) -> Option<u64> {
        let mut number = None;
        self.0.send_if_modified(|state| {
            let last = state.last.get(credential).copied();
            match last {
                _ if !state.is_served => return false,
                Some((asked, _)) if asked > state.answered => number = Some(asked),
                Some((_, at)) if at.elapsed(now) < PAUSE => {}
                _ => {
                    state.asked += 1;
                    state.last.insert(Arc::clone(credential), (state.asked, now));
                    state.open.push((state.asked, Arc::clone(credential)));
                    number = Some(state.asked);
                    return true;
                }
            }
            false
        });
        number
    }

    /// Waits until a question is answered.
    pub(super) async fn answer(&self, number: u64) {
        // The sender is here, so that it is not gone.
        let mut state = self.0.subscribe();
        let _answered = state.wait_for(|state| state.answered >= number).await;
    }

    /// Somebody is going to read what is asked for.
    pub(crate) fn serve(&self) {
        self.0.send_if_modified(|state| {
            state.is_served = true;
            false
        });
    }

    /// Waits until there are questions. Dropping the future, or what it gives, forgets none.
    pub(crate) async fn wanted(&self) -> RejectedSecrets {
        self.serve();
        let mut state = self.0.subscribe();
        let wanted = state.wait_for(|state| !state.open.is_empty()).await.map(|state| {
            let credentials = state.open.iter().map(|(_, name)| Arc::clone(name)).collect();
            RejectedSecrets { credentials, upto: state.asked }
        });
        wanted.unwrap_or(RejectedSecrets { credentials: Vec::new(), upto: 0 })
    }

    /// They have been read, and what was new is in force.
    pub(crate) fn read(&self, rejected: &RejectedSecrets) {
        self.0.send_modify(|state| {
            state.answered = state.answered.max(rejected.upto);
            state.open.retain(|(number, _)| *number > rejected.upto);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn many_questions_cost_one_reading_and_the_next_a_pause() {
        let (rereads, now) = (Rereads::default(), Clock::system().moment());
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        assert_eq!(rereads.ask(&one, now), None, "nobody reads");
        rereads.serve();
        assert_eq!(rereads.ask(&one, now), Some(1));
        assert_eq!(rereads.ask(&one, now), Some(1), "the same reading");
        let dropped = rereads.wanted().await;
        assert_eq!(dropped.credentials, ["one".into()]);
        let rejected = rereads.wanted().await;
        assert_eq!(rejected.credentials, ["one".into()]);
        // Asked while the first is read.
        assert_eq!(rereads.ask(&other, now), Some(2));
        rereads.read(&rejected);
        rereads.answer(1).await;
        assert_eq!(rereads.ask(&one, now.after(PAUSE / 2)), None, "just now");
        assert_eq!(rereads.ask(&other, now), Some(2));
        let rejected = rereads.wanted().await;
        assert_eq!(rejected.credentials, ["other".into()]);
        rereads.read(&rejected);
        assert_eq!(rereads.ask(&one, now.after(PAUSE)), Some(3));
        let rejected = rereads.wanted().await;
        assert_eq!(rejected.credentials, ["one".into()]);
    }
}
