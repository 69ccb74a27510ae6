//! How the process's descriptors are divided, so that none can take those of another.

use rustix::process::{Resource, getrlimit};

/// No system allows more, and nobody needs them.
const MOST: usize = 1 << 20;
/// At least so many are for the store, for reloading, for token requests and the log.
const RESERVE: usize = 32;

/// How many descriptors are for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    pub(super) clients: usize,
    pub(super) origins: usize,
    pub(super) admin: usize,
}

impl Descriptors {
    /// Divides what the system allows. `connections` is what the settings want for clients.
    pub(super) fn divide(connections: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let all = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MOST);
        let divided = Self::of(all.min(MOST), connections);
        if divided.clients < connections {
            tracing::warn!(
                wanted = connections,
                clients = divided.clients,
                "limits.connections is more than half of the open files allow; raise ulimit -n (LimitNOFILE)"
            );
        }
        divided
    }

    fn of(all: usize, connections: usize) -> Self {
        let share = all / 16;
        let (reserve, admin) = (share.max(RESERVE), share.clamp(4, 64));
        let rest = all.saturating_sub(reserve + admin).max(8);
        let clients = connections.min(rest / 2);
        Self { clients, admin, origins: rest - clients }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_are_no_more_than_there_are_and_each_has_some() {
        for (all, connections, clients, origins) in [
            (300, 100, 100, 150),
            (1024, 10_000, 448, 448),
            (1 << 20, 10_000, 10_000, 972_976),
            (64, 1000, 14, 14),
        ] {
            let divided = Descriptors::of(all, connections);
            assert_eq!((divided.clients, divided.origins), (clients, origins), "{all}");
            assert!(divided.clients + divided.origins + divided.admin + RESERVE <= all, "{all}");
        }
    }
}
