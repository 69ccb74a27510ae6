//! `[limits]`: how much of everything, each within bounds that the parts below can live with.

use std::ops::RangeInclusive;

use super::defaults;
use super::review::Review;
use crate::config::{Field, LimitsSection, Size};
use crate::proxy::Limits;

/// More would overflow what the runtime counts with, or is not meant.
const COUNTS: RangeInclusive<u64> = 1..=1_000_000;

/// A message's head is held in memory at once; below 1 KiB ordinary requests fail.
const HEAD: RangeInclusive<u64> = (1 << 10)..=(16 << 20);

impl Review<'_> {
    /// The limits of the proxy.
    pub(super) fn limits(&mut self, limits: &LimitsSection) -> Limits {
        let most = defaults::CONNECTIONS.min(self.environment.open_files / 3).max(1);
        Limits {
            connections: self.count("connections", &limits.connections, most, COUNTS),
            connections_per_peer: self.count(
                "connections_per_peer",
                &limits.connections_per_peer,
                0,
                0..=1_000_000,
            ),
            request_line: self.size("request_line", &limits.request_line, defaults::REQUEST_LINE),
            header_bytes: self.size("header_bytes", &limits.header_bytes, defaults::HEADER_BYTES),
            header_count: self.count(
                "header_count",
                &limits.header_count,
                defaults::HEADER_COUNT,
                1..=10_000,
            ),
            header_read_timeout: self.time(
                "limits.header_read_timeout",
                &limits.header_read_timeout,
                defaults::HEADER_READ_TIMEOUT,
            ),
            handshake_timeout: self.time(
                "limits.handshake_timeout",
                &limits.handshake_timeout,
                defaults::HANDSHAKE_TIMEOUT,
            ),
            idle_timeout: self.time(
                "limits.idle_timeout",
                &limits.idle_timeout,
                defaults::IDLE_TIMEOUT,
            ),
            tunnel_idle_timeout: self.time(
                "limits.tunnel_idle_timeout",
                &limits.tunnel_idle_timeout,
                defaults::TUNNEL_IDLE_TIMEOUT,
            ),
            send_timeout: self.time(
                "limits.send_timeout",
                &limits.send_timeout,
                defaults::SEND_TIMEOUT,
            ),
            stall_timeout: limits.stall_timeout.or(defaults::STALL_TIMEOUT),
            replay_bytes: limits.replay_bytes.or(Size(defaults::REPLAY_BYTES)).0,
            body_bytes: limits.body_bytes.or(Size(0)).0,
        }
    }

    /// The longest access token.
    pub(super) fn token_bytes(&mut self, limits: &LimitsSection) -> usize {
        self.size("token_bytes", &limits.token_bytes, defaults::TOKEN_BYTES)
    }

    fn count(
        &mut self,
        key: &str,
        field: &Field<u64>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> usize {
        let given = field.given().map(|count| (*count.get_ref(), count.span()));
        as_usize(self.number(&format!("limits.{key}"), given, default, range))
    }

    fn size(&mut self, key: &str, field: &Field<Size>, default: u64) -> usize {
        let given = field.given().map(|size| (size.get_ref().0, size.span()));
        as_usize(self.number(&format!("limits.{key}"), given, default, HEAD))
    }
}

/// A number that has been checked against a range far below either limit.
fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
