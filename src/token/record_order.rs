//! Which of two records of one credential is the newer: the one rule, pure.

use std::cmp::Ordering;
use std::time::SystemTime;

use crate::secret::{Fingerprint, Secret};
use crate::store::TokenRecord;

/// What to make of a stored record, for a process that knows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordOrder {
    /// What is known succeeds what is stored, or nothing is stored: write it back.
    OursNewer,
    /// What is stored succeeds what is known.
    StoredNewer,
    /// They hold the same tokens; what is noted beside them may differ.
    Same,
}

/// Compares what this process knows with what is stored.
///
/// A record whose past contains the refresh token of the other succeeds it: that is a fact of the authorization
/// server's, whatever clocks, counters and backups say. A tombstone has what it buries in its past, and whoever
/// logs in again has the tombstone. Only of tokens that do not descend from each other is it the later one that
/// wins. Of any two records both sides choose the same one: otherwise they would overwrite each other for ever.
pub(super) fn compare_records(ours: &TokenRecord, stored: Option<&TokenRecord>) -> RecordOrder {
    let nothing = TokenRecord::default();
    let stored = stored.unwrap_or(&nothing);
    if ours.generation == stored.generation && tokens(ours) == tokens(stored) {
        return RecordOrder::Same;
    }
    let marks = (ours.lineage_hash(), stored.lineage_hash());
    let is_past = |mark: &Option<Fingerprint>, of: &TokenRecord| {
        mark.as_ref().is_some_and(|it| of.history.contains(it) || of.parent.as_ref() == Some(it))
    };
    let ordering = match (is_past(&marks.1, ours), is_past(&marks.0, stored)) {
        _ if marks.0 == marks.1 => by_generation(ours).cmp(&by_generation(stored)),
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // The server has issued a former refresh token again.
        (true, true) => by_generation(ours).cmp(&by_generation(stored)),
        (false, false) => match (tombstone_covers(ours, stored), tombstone_covers(stored, ours)) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            // Two lines of descent: somebody has begun anew where nothing was known.
            _ => by_time(ours).cmp(&by_time(stored)),
        },
    };
    if ordering.is_gt() { RecordOrder::OursNewer } else { RecordOrder::StoredNewer }
}

/// Does a logout end what `other` is about as well? That was asked for with a refresh token from before it, by somebody
/// who did not know of it, however late the answer came.
fn tombstone_covers(tombstone: &TokenRecord, other: &TokenRecord) -> bool {
    let is_buried = |it: &Fingerprint| tombstone.history.contains(it);
    tombstone.is_tombstone()
        && (other.parent.as_ref().is_some_and(is_buried)
            || tombstone.history.intersects(&other.history))
}

/// Of one line.
fn by_generation(record: &TokenRecord) -> impl Ord + use<> {
    (record.generation, issued_at(record), tokens(record))
}

/// Of two lines. A refresh token, even a dead one, is more than none: whoever has taken one out of use has it in
/// its past.
fn by_time(record: &TokenRecord) -> impl Ord + use<> {
    (record.lineage_hash().is_some(), issued_at(record), record.generation, tokens(record))
}

/// In milliseconds: a store keeps no others.
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
