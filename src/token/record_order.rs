//! Which of two records of one credential is newer: a pure function.

use std::cmp::Ordering;
use std::time::SystemTime;

use crate::secret::{Fingerprint, Secret};
use crate::store::TokenRecord;

/// How the record in memory relates to the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordOrder {
    /// The record in memory is newer, or nothing is stored: it has to be written.
    OursNewer,
    /// The stored record is newer.
    StoredNewer,
    /// Both hold the same tokens. Their other fields may differ.
    Same,
}

/// Compares the record in memory with the stored one.
///
/// If the history of one record contains the refresh token of the other, it is newer. That order was set by the
/// authorization server and does not depend on clocks, counters or backups. A tombstone has the tokens of the logged-out
/// grant in its history, and a login has the tombstone in its own. Only records without a common line of descent are
/// compared by time. For any two records both processes choose the same one; otherwise they would overwrite each other
/// forever.
pub(super) fn compare_records(ours: &TokenRecord, stored: Option<&TokenRecord>) -> RecordOrder {
    let nothing = TokenRecord::default();
    let stored = stored.unwrap_or(&nothing);
    if ours.generation == stored.generation && tokens(ours) == tokens(stored) {
        return RecordOrder::Same;
    }
    let hashes = (ours.lineage_hash(), stored.lineage_hash());
    let is_in_history = |hash: &Option<Fingerprint>, of: &TokenRecord| {
        hash.as_ref().is_some_and(|it| of.history.contains(it) || of.parent.as_ref() == Some(it))
    };
    let ordering = match (is_in_history(&hashes.1, ours), is_in_history(&hashes.0, stored)) {
        _ if hashes.0 == hashes.1 => by_generation(ours).cmp(&by_generation(stored)),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // The server has issued an earlier refresh token again.
        (true, true) => by_generation(ours).cmp(&by_generation(stored)),
        (false, false) => match (tombstone_covers(ours, stored), tombstone_covers(stored, ours)) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            // Two unrelated grants: one process has started over without the other record.
            _ => by_time(ours).cmp(&by_time(stored)),
        },
    };
    if ordering.is_gt() { RecordOrder::OursNewer } else { RecordOrder::StoredNewer }
}

/// Returns true if the logout `tombstone` applies to `other` as well: `other` was obtained with a refresh token from
/// before the logout, by a process that did not know of it. When the response came does not matter.
fn tombstone_covers(tombstone: &TokenRecord, other: &TokenRecord) -> bool {
    let is_covered = |it: &Fingerprint| tombstone.history.contains(it);
    tombstone.is_tombstone()
        && (other.parent.as_ref().is_some_and(is_covered)
            || tombstone.history.intersects(&other.history))
}

/// The order of records with a common line of descent.
fn by_generation(record: &TokenRecord) -> impl Ord + use<> {
    (record.generation, issued_at(record), tokens(record))
}

/// The order of unrelated records. A record with a refresh token, even a dead one, is newer than one without: a
/// process that had discarded that token would have it in its history.
fn by_time(record: &TokenRecord) -> impl Ord + use<> {
    (record.lineage_hash().is_some(), issued_at(record), record.generation, tokens(record))
}

/// In milliseconds, the precision of stored times.
fn issued_at(record: &TokenRecord) -> Option<u128> {
    let logout = record.terminal.as_ref().filter(|_| record.is_tombstone()).map(|it| it.at);
    let at = logout.max(record.issued_at)?;
    Some(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis())
}

fn tokens(record: &TokenRecord) -> [Option<String>; 2] {
    let access_token = record.access_token.as_ref().map(Secret::fingerprint);
    [record.lineage_hash(), access_token].map(|it| it.map(|it| it.as_str().to_owned()))
}

#[cfg(test)]
#[path = "record_order/tests.rs"]
mod tests;
