//! Counts that can be awaited, and gates that hold requests.
//!
//! Both use watch channels, so a wait does not miss an event that happened before it
//! began. A request takes its `Pass` at the moment it is recorded: a test that sees the
//! request in the record can release it without a race.

use tokio::sync::watch;

/// A counter that tests can wait for.
pub(crate) struct Count(watch::Sender<usize>);

impl Count {
    pub(crate) fn new() -> Count {
        Count(watch::Sender::new(0))
    }

    pub(crate) fn increment(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    pub(crate) fn get(&self) -> usize {
        *self.0.borrow()
    }

    pub(crate) fn reset(&self) {
        self.0.send_replace(0);
    }

    /// Waits until the count is at least `wanted`.
    pub(crate) async fn wait_for(&self, wanted: usize) {
        let mut counts = self.0.subscribe();
        // `self` owns the sender, so the channel cannot close during the wait.
        let _ = counts.wait_for(|count| *count >= wanted).await;
    }
}

#[derive(Clone, Copy, Default)]
struct GateState {
    held: bool,
    releases: u64,
}

/// A gate that is open until it is held. A release opens it for all waiters.
pub(crate) struct Gate(watch::Sender<GateState>);

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate(watch::Sender::new(GateState::default()))
    }

    pub(crate) fn hold(&self) {
        self.0.send_modify(|state| state.held = true);
    }

    /// Releases every pass taken so far and leaves the gate open.
    pub(crate) fn release(&self) {
        self.0.send_modify(|state| {
            state.held = false;
            state.releases += 1;
        });
    }

    /// Takes a pass, which records whether the gate is held now.
    pub(crate) fn pass(&self) -> Pass {
        let state = *self.0.borrow();
        Pass { states: self.0.subscribe(), taken: state }
    }
}

/// The state of a gate at the arrival of one request.
pub(crate) struct Pass {
    states: watch::Receiver<GateState>,
    taken: GateState,
}

impl Pass {
    /// Waits for a release if the gate was held when the pass was taken.
    pub(crate) async fn wait_if_held(&mut self) {
        if self.taken.held {
            self.wait_for_release().await;
        }
    }

    /// Waits for the first release after the pass was taken, held or not.
    pub(crate) async fn wait_for_release(&mut self) {
        let taken = self.taken.releases;
        let _ = self.states.wait_for(|state| state.releases > taken).await;
    }
}
