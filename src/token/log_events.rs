//! The log events of a credential, with its generation where that helps and never with a token. Some are counted in
//! metrics as well.

use std::time::{Duration, SystemTime};

use super::cache_entry::{CacheEntry, EntryInner};
use super::resolved_config::ResolvedConfig;
use crate::oauth::GrantError;
use crate::secret::Secret;
use crate::store::{StoreError, TerminalReason, TokenRecord};

impl CacheEntry {
    pub(super) fn report_store(&self, error: &StoreError) {
        self.metrics.record_store_error(error.label());
        tracing::error!(key = self.key, %error, "token store error");
    }

    pub(super) fn report_unsaved(&self) {
        self.lock().has_save_failed = true;
        tracing::error!(
            key = self.key,
            "the new token is in use but not saved, so that a crash would lose it; saving is retried until it succeeds"
        );
    }

    pub(super) fn report_volatile(&self, inner: &EntryInner) {
        tracing::warn!(
            credential = &*inner.resolved.title,
            "the server replaces refresh tokens, and the store is `memory:`: the next restart loses this one. \
             Set url = \"file:DIR\" in [store]"
        );
    }

    pub(super) fn report_saved(&self, stored: bool) {
        tracing::warn!(
            key = self.key,
            stored,
            "the unsaved record is now stored, or superseded by a newer one"
        );
    }

    pub(super) fn report_superseded(&self, inner: &EntryInner) {
        tracing::warn!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            "another process changed the record in the meantime"
        );
    }

    pub(super) fn report_adopted(&self, inner: &EntryInner) {
        self.metrics.record_adoption();
        tracing::info!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            "adopted a newer token from the store"
        );
    }

    pub(super) fn report_store_went_back(&self, inner: &EntryInner, stored: Option<&TokenRecord>) {
        tracing::warn!(
            credential = &*inner.resolved.title,
            stored = stored.map(|stored| stored.generation.0),
            generation = inner.record.generation.0,
            "the stored record is missing or older than the one in memory, which is written back; was it \
             deleted, or restored from a backup?"
        );
    }

    /// Logs why a changed seed is not used.
    pub(super) fn report_ignored_seed(&self, inner: &EntryInner, resolved: &ResolvedConfig) {
        let Some(seed) = &resolved.seed else { return };
        let current = inner.record.refresh_token.as_ref().map(Secret::fingerprint);
        let why = if current.as_ref() == Some(seed) {
            return;
        } else if inner.record.has_superseded(seed) {
            "the server has replaced it with a newer one"
        } else if inner.record.seeds.contains(seed) {
            "it was tried before"
        } else {
            return;
        };
        tracing::warn!(
            credential = &*resolved.title,
            why,
            "the configured refresh_token is not used; the stored one stays in use"
        );
    }

    pub(super) fn report_refreshed(&self, asked_at: SystemTime, now: SystemTime) {
        let mut inner = self.lock();
        // An error from before this refresh is resolved.
        inner.last_error.take_if(|(at, _)| *at < asked_at);
        let record = &inner.record;
        tracing::info!(
            credential = &*inner.resolved.title,
            generation = record.generation.0,
            expires_at =
                record.expires_at.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            took_ms = now.duration_since(asked_at).unwrap_or_default().as_millis(),
            "access token refreshed"
        );
    }

    pub(super) fn report_refused(&self, error: &GrantError) {
        let inner = self.lock();
        tracing::warn!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            class = %error.class,
            status = error.status,
            %error,
            "token request refused"
        );
    }

    pub(super) fn report_retry(&self, error: &GrantError, again_in: Duration) {
        let inner = self.lock();
        tracing::warn!(
            credential = &*inner.resolved.title,
            class = %error.class,
            %error,
            ?again_in,
            "token request failed"
        );
    }

    pub(super) fn report_bootstrap(&self, inner: &EntryInner) {
        tracing::info!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            "requesting a new grant with the bootstrap"
        );
    }

    pub(super) fn report_doubts(&self, inner: &EntryInner, error: &GrantError) {
        self.metrics.record_outage();
        tracing::error!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            %error,
            "the server keeps refusing the request, possibly because of the refresh token: check its error \
             message. The request is repeated at long intervals"
        );
    }

    pub(super) fn report_seed_refused(
        &self,
        inner: &EntryInner,
        reason: TerminalReason,
        error: &GrantError,
    ) {
        tracing::error!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            %reason,
            %error,
            "the new seed was refused; the previous grant stays in use"
        );
    }

    pub(super) fn report_grant_dead(
        &self,
        inner: &EntryInner,
        reason: TerminalReason,
        error: &GrantError,
    ) {
        let can_recover =
            inner.resolved.sources().can_bootstrap && reason != TerminalReason::UserNeeded;
        let message = match can_recover {
            true => "the grant is dead; the bootstrap requests a new one",
            false => {
                "the grant is dead; no token request is made until there is a new refresh token"
            }
        };
        tracing::error!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            %reason,
            %error,
            "{message}"
        );
    }

    pub(super) fn report_needs_login(
        &self,
        inner: &EntryInner,
        reason: TerminalReason,
        error: Option<&GrantError>,
    ) {
        tracing::error!(
            credential = &*inner.resolved.title,
            generation = inner.record.generation.0,
            %reason,
            error = error.map(ToString::to_string),
            "the credential needs a new refresh token; no token request is made until it has one"
        );
    }

    pub(super) fn report_outage(&self, inner: &EntryInner) {
        self.metrics.record_outage();
        tracing::error!(
            credential = &*inner.resolved.title,
            "no token request has succeeded for 15 minutes"
        );
    }

    pub(super) fn report_grant_end(&self, inner: &EntryInner) {
        let end = inner.record.grant_expires_at;
        self.metrics.record_outage();
        tracing::error!(
            credential = &*inner.resolved.title,
            end = end.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            "the grant ends soon and refreshing does not extend it: sign in again before that"
        );
    }
}
