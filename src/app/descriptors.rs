//! Division of the process's file descriptors, so that no use can starve another.

use rustix::process::{Resource, getrlimit};

/// Assumed if the system reports no limit.
const MAX_DESCRIPTORS: usize = 1 << 20;
/// The minimum reserved for the store, reloads, token requests and the log.
const MIN_RESERVE: usize = 32;

/// The number of descriptors per use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DescriptorBudget {
    pub(super) clients: usize,
    pub(super) origins: usize,
    pub(super) admin: usize,
}

impl DescriptorBudget {
    /// Divides the system's limit. `connections` is the configured number of clients.
    pub(super) fn divide(connections: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let all = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MAX_DESCRIPTORS);
        let divided = Self::of(all.min(MAX_DESCRIPTORS), connections);
        if divided.clients < connections {
            tracing::warn!(
                wanted = connections,
                clients = divided.clients,
                "limits.connections exceeds half of the open file limit; raise ulimit -n (LimitNOFILE)"
            );
        }
        divided
    }

    fn of(all: usize, connections: usize) -> Self {
        let share = all / 16;
        let (reserve, admin) = (share.max(MIN_RESERVE), share.clamp(4, 64));
        let rest = all.saturating_sub(reserve + admin).max(8);
        let clients = connections.min(rest / 2);
        Self { clients, admin, origins: rest - clients }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_the_limit_and_none_is_empty() {
        for (all, connections, clients, origins) in [
            (300, 100, 100, 150),
            (1024, 10_000, 448, 448),
            (1 << 20, 10_000, 10_000, 972_976),
            (64, 1000, 14, 14),
        ] {
            let divided = DescriptorBudget::of(all, connections);
            assert_eq!((divided.clients, divided.origins), (clients, origins), "{all}");
            assert!(
                divided.clients + divided.origins + divided.admin + MIN_RESERVE <= all,
                "{all}"
            );
        }
    }
}
