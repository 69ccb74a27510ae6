//! Which of two records of one credential is the newer: the one rule, pure.

use super::Generation;
use crate::secret::{Fingerprint, Secret};
use crate::store::TokenRecord;

/// What to make of a stored record, for a process that knows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// What is known succeeds what is stored, or nothing is stored: write it back.
    Ours,
    /// What is stored succeeds what is known.
    Theirs,
    /// They hold the same tokens; what is noted beside them may differ.
    Same,
}

/// Compares what this process knows with what is stored.
///
/// A record whose past contains the refresh token of the other succeeds it: that is a fact of the authorization
/// server's, whatever clocks, counters and backups say. A tombstone has what it buries in its past. Only for
/// tokens that do not descend from each other is it the later one that wins.
pub(super) fn order(known: &TokenRecord, stored: Option<&TokenRecord>) -> Order {
    let nothing = TokenRecord::default();
    let stored = stored.unwrap_or(&nothing);
    if is_same(known, stored) {
        return Order::Same;
    }
    let (known_token, stored_token) = (refresh_token(known), refresh_token(stored));
    let succeeds = |one: &TokenRecord, other: &Option<Fingerprint>| {
        other.as_ref().is_some_and(|token| {
            one.history.contains(token) || one.parent.as_ref() == Some(token)
        })
    };
    if known_token != stored_token {
        match (succeeds(known, &stored_token), succeeds(stored, &known_token)) {
            (true, false) => return Order::Ours,
            (false, true) => return Order::Theirs,
            _ => {}
        }
    }
    let rank = |record: &TokenRecord| {
        let at = record.terminal.as_ref().filter(|_| record.is_tombstone()).map(|it| it.at);
        (record.generation, at.max(record.issued_at))
    };
    match known_token == stored_token {
        true if rank(known) >= rank(stored) => Order::Ours,
        true => Order::Theirs,
        // Two lines of descent: somebody has begun anew where nothing was known.
        false => {
            let by_time = |record| {
                let (generation, at) = rank(record);
                (at, generation)
            };
            if by_time(known) >= by_time(stored) { Order::Ours } else { Order::Theirs }
        }
    }
}

fn is_same(known: &TokenRecord, stored: &TokenRecord) -> bool {
    let tokens = |record: &TokenRecord| -> (Generation, _, _, _) {
        let TokenRecord { generation, access_token, refresh_token, .. } = record.clone();
        (generation, access_token, refresh_token, record.is_tombstone())
    };
    tokens(known) == tokens(stored)
}

fn refresh_token(record: &TokenRecord) -> Option<Fingerprint> {
    record.refresh_token.as_ref().map(Secret::fingerprint)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::store::{Terminal, TerminalReason};

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// The record after so many rotations, each a second after the one before.
    fn rotated(times: u64) -> TokenRecord {
        let mut record = TokenRecord::default();
        for number in 1..=times {
            record.parent = record.refresh_token.as_ref().map(Secret::fingerprint);
            record.supersede(secret(&format!("rt{number}")));
            record.generation = Generation(number);
            record.access_token = Some(secret(&format!("at{number}")));
            record.issued_at = Some(UNIX_EPOCH + Duration::from_secs(number));
        }
        record
    }

    fn logged_out(record: &TokenRecord, at: u64) -> TokenRecord {
        let mut tombstone = TokenRecord { access_token: None, ..record.clone() };
        tombstone.retire();
        tombstone.generation = record.generation.next();
        tombstone.terminal = Some(Terminal {
            reason: TerminalReason::LoggedOut,
            refresh_token: None,
            config: Fingerprint::of(b"config"),
            at: UNIX_EPOCH + Duration::from_secs(at),
        });
        tombstone
    }

    #[test]
    fn descent_decides_before_counters_and_clocks() {
        let backup_with_a_high_counter = TokenRecord { generation: Generation(99), ..rotated(2) };
        let same_token_again =
            TokenRecord { generation: Generation(4), access_token: Some(secret("at4")), ..rotated(3) };
        let other_line = TokenRecord {
            refresh_token: Some(secret("other")),
            issued_at: Some(UNIX_EPOCH + Duration::from_secs(100)),
            generation: Generation(1),
            ..TokenRecord::default()
        };
        for (name, known, stored, expected) in [
            ("nothing stored", rotated(3), None, Order::Ours),
            ("nothing anywhere", rotated(0), None, Order::Same),
            ("the same", rotated(3), Some(rotated(3)), Order::Same),
            ("nothing known", rotated(0), Some(rotated(3)), Order::Theirs),
            ("a sibling rotated", rotated(3), Some(rotated(4)), Order::Theirs),
            ("and rotated often", rotated(3), Some(rotated(40)), Order::Theirs),
            ("a backup", rotated(4), Some(rotated(3)), Order::Ours),
            ("a backup with a counter", rotated(4), Some(backup_with_a_high_counter), Order::Ours),
            ("not rotated", rotated(3), Some(same_token_again.clone()), Order::Theirs),
            ("not rotated, a backup", same_token_again, Some(rotated(3)), Order::Ours),
            ("a logout", rotated(3), Some(logged_out(&rotated(3), 9)), Order::Theirs),
            ("a logout of a later one", rotated(3), Some(logged_out(&rotated(5), 9)), Order::Theirs),
            ("a backup over a logout", logged_out(&rotated(3), 9), Some(rotated(3)), Order::Ours),
            ("a login after it", logged_out(&rotated(3), 9), Some(other_line.clone()), Order::Theirs),
            ("begun anew elsewhere", rotated(3), Some(other_line.clone()), Order::Theirs),
            ("a backup of another line", other_line, Some(rotated(3)), Order::Ours),
        ] {
            assert_eq!(order(&known, stored.as_ref()), expected, "{name}");
        }
    }

    #[test]
    fn what_is_noted_beside_the_tokens_decides_nothing() {
        let noted = TokenRecord { doubts: 2, rejected: true, ..rotated(3) };
        assert_eq!(order(&rotated(3), Some(&noted)), Order::Same);
    }
}
