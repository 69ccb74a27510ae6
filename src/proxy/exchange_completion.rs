//! When a connection to an origin server can be used again: when both the request and its response are complete.
//!
//! An origin server may respond before it has the whole request. The direction that ends last returns the connection
//! to its pool. If one direction fails or is aborted, the connection closes.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::task::AbortOnDropHandle;

/// A connection that knows its pool.
pub(super) trait ReturnToPool {
    /// Returns the connection to its pool, because both directions are complete.
    fn return_to_pool(self);
}

/// Tracks the two directions of one exchange.
#[derive(Debug)]
pub(super) struct ExchangeCompletion<C> {
    state: Mutex<ExchangeState<C>>,
    /// The task that sends the request, if the connection does not do so itself (HTTP/2).
    sender: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
enum ExchangeState<C> {
    InProgress,
    RequestComplete,
    ResponseComplete(C),
    Aborted,
}

impl<C> Default for ExchangeCompletion<C> {
    fn default() -> Self {
        Self { state: Mutex::new(ExchangeState::InProgress), sender: OnceLock::new() }
    }
}

impl<C> ExchangeCompletion<C> {
    /// Sets the task that sends the request. [`ExchangeCompletion::abort`] aborts it.
    pub(super) fn set_sender(&self, task: AbortOnDropHandle<()>) {
        // A request is sent by one task only.
        let _already_set = self.sender.set(task);
    }

    /// Aborts the exchange, because the request will not be completed or nobody reads its response. The connection
    /// closes now, or when the response ends.
    pub(super) fn abort(&self) {
        let aborted = std::mem::replace(&mut *self.lock(), ExchangeState::Aborted);
        if let Some(sender) = self.sender.get() {
            sender.abort();
        }
        drop(aborted);
    }

    /// Aborts the exchange unless its request is complete, because another attempt sends the content now.
    pub(super) fn supersede(&self) {
        if !matches!(*self.lock(), ExchangeState::RequestComplete) {
            self.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ExchangeState<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: ReturnToPool> ExchangeCompletion<C> {
    /// Records that the end of the request has been handed to the connection.
    pub(super) fn complete_request(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, ExchangeState::RequestComplete) {
            ExchangeState::ResponseComplete(connection) => {
                drop(state);
                connection.return_to_pool();
            }
            ExchangeState::Aborted => *state = ExchangeState::Aborted,
            ExchangeState::InProgress | ExchangeState::RequestComplete => {}
        }
    }

    /// Records that the response has been read to its end. `connection` returns to its pool now or when the request
    /// is complete.
    pub(super) fn complete_response(&self, connection: C) {
        let mut state = self.lock();
        match &*state {
            ExchangeState::InProgress => *state = ExchangeState::ResponseComplete(connection),
            ExchangeState::RequestComplete => {
                drop(state);
                connection.return_to_pool();
            }
            ExchangeState::ResponseComplete(_) | ExchangeState::Aborted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is returned.
    struct CountedConnection<'a>(&'a AtomicUsize);

    impl ReturnToPool for CountedConnection<'_> {
        fn return_to_pool(self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_direction_that_ends_last_returns_the_connection_once() {
        let count = AtomicUsize::new(0);
        let completion = ExchangeCompletion::default();
        completion.complete_response(CountedConnection(&count));
        assert_eq!(count.load(Ordering::Relaxed), 0, "returned while the request is incomplete");
        completion.complete_request();
        completion.complete_request();
        assert_eq!(count.load(Ordering::Relaxed), 1, "not returned exactly once");

        let completion = ExchangeCompletion::default();
        completion.complete_request();
        completion.complete_response(CountedConnection(&count));
        assert_eq!(count.load(Ordering::Relaxed), 2, "not returned by the end of the response");
    }

    #[test]
    fn a_superseded_exchange_returns_its_connection_only_if_its_request_was_complete() {
        let count = AtomicUsize::new(0);
        for (was_complete, expected) in [(false, 0), (true, 1)] {
            let completion = ExchangeCompletion::default();
            if was_complete {
                completion.complete_request();
            }
            completion.supersede();
            completion.complete_response(CountedConnection(&count));
            completion.complete_request();
            assert_eq!(count.load(Ordering::Relaxed), expected, "complete: {was_complete}");
        }
    }

    #[test]
    fn an_aborted_exchange_never_returns_its_connection() {
        let count = AtomicUsize::new(0);
        for completed in ["neither", "request", "response"] {
            let completion = ExchangeCompletion::default();
            match completed {
                "request" => completion.complete_request(),
                "response" => completion.complete_response(CountedConnection(&count)),
                _ => {}
            }
            completion.abort();
            completion.complete_request();
            completion.complete_response(CountedConnection(&count));
            assert_eq!(count.load(Ordering::Relaxed), 0, "complete before the abort: {completed}");
        }
    }
}
