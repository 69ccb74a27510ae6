//! What a refresh says in the log: each event once, with the generation and never with a token.

use std::time::{Instant, SystemTime};

use super::{Failure, Refresher, Session};
use crate::oauth::GrantError;
use crate::store::{Generation, StoreError, TerminalReason};

impl Refresher {
    pub(super) fn report_flight(&self, ended: Result<bool, &Failure>, began: Instant) {
        let outcome = match ended {
            Ok(true) => "adopted",
            Ok(false) => "success",
            Err(failure) => failure.outcome(),
        };
        self.metrics.refreshed(outcome, began.elapsed());
    }

    pub(super) fn report_store(&self, error: &StoreError) {
        self.metrics.store_failed(store_failure(error));
        tracing::error!(credential = self.name, %error, "token store");
    }

    pub(in crate::token) fn report_adopted(&self, generation: Generation) {
        self.metrics.adopted();
        tracing::info!(
            credential = self.name,
            generation = generation.0,
            "adopted a newer token from the store"
        );
    }

    pub(super) fn report_went_back(&self, stored: Generation, known: Generation) {
        tracing::warn!(
            credential = self.name,
            stored = stored.0,
            generation = known.0,
            "the stored record is older than the one in memory, which is kept: was a backup put back?"
        );
    }

    pub(super) fn report_refreshed(
        &self,
        session: &Session,
        asked_at: SystemTime,
        now: SystemTime,
    ) {
        let took = now.duration_since(asked_at).unwrap_or_default();
        tracing::info!(
            credential = self.name,
            generation = session.record.generation.0,
            expires_at = session
                .record
                .expires_at
                .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            took_ms = took.as_millis(),
            "access token refreshed"
        );
    }

    pub(super) fn report_refused(&self, session: &Session, error: &GrantError) {
        tracing::warn!(
            credential = self.name,
            generation = session.record.generation.0,
            class = %error.class,
            status = error.status,
            %error,
            "token request refused"
        );
    }

    pub(in crate::token) fn report_overdue(&self) {
        self.metrics.overdue();
        tracing::error!(
            credential = self.name,
            "no token request has succeeded for a quarter of an hour"
        );
    }

    /// A grant, or a seed, is over, and no person is needed: `what_follows` says why.
    pub(super) fn report_died(
        &self,
        reason: TerminalReason,
        generation: Generation,
        error: &GrantError,
        what_follows: &str,
    ) {
        tracing::error!(
            credential = self.name,
            generation = generation.0,
            %reason,
            %error,
            "{what_follows}"
        );
    }

    pub(super) fn report_needs_login(
        &self,
        reason: TerminalReason,
        generation: Generation,
        error: Option<&GrantError>,
    ) {
        tracing::error!(
            credential = self.name,
            generation = generation.0,
            %reason,
            error = error.map(ToString::to_string),
            "credential needs a new refresh token; no token request is made until it has one"
        );
    }
}

/// What a failed store operation means to people.
pub(super) fn store_failure(error: &StoreError) -> &'static str {
    match error {
        StoreError::Busy { .. } => "lock_busy",
        StoreError::Io { .. } => "store_io",
        StoreError::Unsafe { .. } => "store_unsafe",
        StoreError::Corrupt { .. } => "store_corrupt",
        StoreError::Sealed { .. } => "store_sealed",
        StoreError::Newer { .. } => "store_newer",
    }
}
