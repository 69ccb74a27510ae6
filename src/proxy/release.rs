//! When a connection to an origin server is free again: when both the request and its response are over.
//!
//! An origin server may answer before it has the whole request. Whichever direction ends last gives the
//! connection back; one that breaks off, or is given up, closes it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::task::AbortOnDropHandle;

/// What can be given back.
pub(super) trait GiveBack {
    /// Both directions are over.
    fn give_back(self);
}

/// Brings the ends of one request and of its response together.
#[derive(Debug)]
pub(super) struct Release<C> {
    state: Mutex<State<C>>,
    /// What sends the request, where that is not the connection itself.
    sending: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
enum State<C> {
    BothUnderWay,
    RequestOver,
    ResponseOver(C),
    GivenUp,
}

impl<C> Default for Release<C> {
    fn default() -> Self {
        Self { state: Mutex::new(State::BothUnderWay), sending: OnceLock::new() }
    }
}

impl<C> Release<C> {
    /// The request is sent by `task`, which ends when the request is given up.
    pub(super) fn is_sent_by(&self, task: AbortOnDropHandle<()>) {
        // A request is sent once.
        let _already = self.sending.set(task);
    }

    /// The request will not be finished, or nobody waits for its response any more: the connection closes, now or
    /// when the response comes to its end.
    pub(super) fn give_up(&self) {
        let given_up = std::mem::replace(&mut *self.lock(), State::GivenUp);
        if let Some(sending) = self.sending.get() {
            sending.abort();
        }
        drop(given_up);
    }

    /// Its content is sent elsewhere now: what is left of it here will not be.
    pub(super) fn supersede(&self) {
        if !matches!(*self.lock(), State::RequestOver) {
            self.give_up();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: GiveBack> Release<C> {
    /// The last of the request has been handed over.
    pub(super) fn request_is_over(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::RequestOver) {
            State::ResponseOver(connection) => {
                drop(state);
                connection.give_back();
            }
            State::GivenUp => *state = State::GivenUp,
            State::BothUnderWay | State::RequestOver => {}
        }
    }

    /// The response has been read to its end.
    pub(super) fn response_is_over(&self, connection: C) {
        let mut state = self.lock();
        match &*state {
            State::BothUnderWay => *state = State::ResponseOver(connection),
            State::RequestOver => {
                drop(state);
                connection.give_back();
            }
            State::ResponseOver(_) | State::GivenUp => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted<'a>(&'a AtomicUsize);

    impl GiveBack for Counted<'_> {
        fn give_back(self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_later_end_gives_the_connection_back_once() {
        let count = AtomicUsize::new(0);
        let release = Release::default();
        release.response_is_over(Counted(&count));
        assert_eq!(count.load(Ordering::Relaxed), 0, "the request is under way");
        release.request_is_over();
        release.request_is_over();
        assert_eq!(count.load(Ordering::Relaxed), 1);

        let release = Release::default();
        release.request_is_over();
        release.response_is_over(Counted(&count));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_superseded_request_gives_its_connection_back_if_all_of_it_was_sent() {
        let count = AtomicUsize::new(0);
        for (was_sent, expected) in [(false, 0), (true, 1)] {
            let release = Release::default();
            if was_sent {
                release.request_is_over();
            }
            release.supersede();
            release.response_is_over(Counted(&count));
            release.request_is_over();
            assert_eq!(count.load(Ordering::Relaxed), expected);
        }
    }

    #[test]
    fn a_request_that_is_given_up_gives_nothing_back() {
        let count = AtomicUsize::new(0);
        for ends in 0..3 {
            let release = Release::default();
            if ends == 1 {
                release.request_is_over();
            }
            if ends == 2 {
                release.response_is_over(Counted(&count));
            }
            release.give_up();
            release.request_is_over();
            release.response_is_over(Counted(&count));
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
