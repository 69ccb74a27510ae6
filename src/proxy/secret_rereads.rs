//! Requests to read again the secrets that an API has rejected.
//!
//! A credential without tokens puts secrets on requests as they were when the settings were read. If an API rejects
//! them, their source may hold new ones by now. Requests do not read the source themselves: they ask here, and wait
//! until the owner of the settings, who is notified through [`App`](crate::app::App), has read it and any change is in
//! effect.
//!
//! Invariant: requests cause the secrets of one credential to be read at most once in [`MIN_INTERVAL`], however many
//! are rejected. A secret may come from a command that queries a vault or creates a key at each run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Moment;

/// The shortest time between two reads of one credential's secrets.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// The queue of credentials whose secrets have to be read again.
#[derive(Debug, Default)]
pub(crate) struct SecretRereads(watch::Sender<RereadQueue>);

/// The credentials whose secrets an API has rejected.
#[derive(Debug)]
pub struct RejectedSecrets {
    /// The names of the credentials.
    pub credentials: Vec<Arc<str>>,
    last_ticket: u64,
}

#[derive(Debug, Default)]
struct RereadQueue {
    /// The owner of the settings has promised to read.
    is_served: bool,
    /// The number of the newest request. The first one is 1.
    last_requested: u64,
    /// The requests up to this number are completed.
    last_completed: u64,
    pending: Vec<(u64, Arc<str>)>,
    /// Each credential's newest request and its time.
    newest: HashMap<Arc<str>, (u64, Moment)>,
}

impl SecretRereads {
    /// Requests a read of `credential`'s secrets, or joins a request that is pending. Returns the ticket to wait for.
    ///
    /// Returns `None` if the secrets have just been read, or if nobody reads them.
    pub(super) fn request(&self, credential: &Arc<str>, now: Moment) -> Option<u64> {
        let mut ticket = None;
        self.0.send_if_modified(|queue| {
            let newest = queue.newest.get(credential).copied();
            match newest {
                _ if !queue.is_served => return false,
                Some((pending, _)) if pending > queue.last_completed => ticket = Some(pending),
                Some((_, at)) if at.elapsed(now) < MIN_INTERVAL => {}
                _ => {
                    queue.last_requested += 1;
                    let number = queue.last_requested;
                    queue.newest.insert(Arc::clone(credential), (number, now));
                    queue.pending.push((number, Arc::clone(credential)));
                    ticket = Some(number);
                    return true;
                }
            }
            false
        });
        ticket
    }

    /// Waits until the request with this ticket is completed.
    pub(super) async fn wait_until_completed(&self, ticket: u64) {
        // `self` holds the sender, so the channel stays open.
        let mut queue = self.0.subscribe();
        let _completed = queue.wait_for(|queue| queue.last_completed >= ticket).await;
    }

    /// Promises that [`SecretRereads::next_rejected`] will be called repeatedly.
    pub(crate) fn mark_served(&self) {
        self.0.send_if_modified(|queue| {
            queue.is_served = true;
            false
        });
    }

    /// Waits until a request is pending, and returns the credentials of all pending requests.
    ///
    /// # Cancellation
    ///
    /// Dropping the future or its result loses no request.
    pub(crate) async fn next_rejected(&self) -> RejectedSecrets {
        self.mark_served();
        let mut queue = self.0.subscribe();
        let rejected = queue.wait_for(|queue| !queue.pending.is_empty()).await.map(|queue| {
            let credentials = queue.pending.iter().map(|(_, name)| Arc::clone(name)).collect();
            RejectedSecrets { credentials, last_ticket: queue.last_requested }
        });
        rejected.unwrap_or(RejectedSecrets { credentials: Vec::new(), last_ticket: 0 })
    }

    /// Completes the requests that `rejected` stands for: the secrets have been read, and any change is in effect.
    pub(crate) fn complete(&self, rejected: &RejectedSecrets) {
        self.0.send_modify(|queue| {
            queue.last_completed = queue.last_completed.max(rejected.last_ticket);
            queue.pending.retain(|(number, _)| *number > rejected.last_ticket);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn many_requests_cause_one_read_and_the_next_read_has_to_wait() {
        let (rereads, now) = (SecretRereads::default(), Clock::system().moment());
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        assert_eq!(rereads.request(&one, now), None, "queued although nobody reads");
        rereads.mark_served();
        assert_eq!(rereads.request(&one, now), Some(1));
        assert_eq!(rereads.request(&one, now), Some(1), "did not join the pending request");
        let dropped = rereads.next_rejected().await;
        assert_eq!(dropped.credentials, ["one".into()]);
        let rejected = rereads.next_rejected().await;
        assert_eq!(rejected.credentials, ["one".into()], "lost with the dropped result");
        // Requested while the first credential is read.
        assert_eq!(rereads.request(&other, now), Some(2));
        rereads.complete(&rejected);
        rereads.wait_until_completed(1).await;
        assert_eq!(rereads.request(&one, now.after(MIN_INTERVAL / 2)), None, "read again too soon");
        assert_eq!(rereads.request(&other, now), Some(2));
        let rejected = rereads.next_rejected().await;
        assert_eq!(rejected.credentials, ["other".into()]);
        rereads.complete(&rejected);
        assert_eq!(rereads.request(&one, now.after(MIN_INTERVAL)), Some(3));
        let rejected = rereads.next_rejected().await;
        assert_eq!(rejected.credentials, ["one".into()]);
    }
}
