//! Opens TCP connections: resolves the name, checks the addresses, connects.
//!
//! The name is resolved once, and exactly the addresses that were checked are used, so a name whose
//! addresses change between two lookups (DNS rebinding) cannot bypass the check.

mod address_policy;
mod effective_addresses;
mod race;
mod socket_budget;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::{Instant, timeout_at};

use super::origin_error::OriginError;
use super::socket_options;
use crate::origin::{Authority, Host};
use crate::resolver::{NameError, Resolver, is_loopback};
pub(super) use address_policy::AddressPolicy;
pub(crate) use address_policy::ListenerAddresses;
use race::{RaceWinner, attempt_order, connect_first};
pub(super) use socket_budget::OriginSocket;
use socket_budget::SocketBudget;

/// How long an address is preferred after it worked when an earlier one did not. After that the
/// system's order applies again, which costs 250 ms if the earlier address still fails.
const PREFERENCE_LIFETIME: Duration = Duration::from_secs(600);
/// The most authorities with a preferred address.
const MAX_PREFERENCES: u64 = 1024;

/// What is needed to open connections. All cores share it, and it survives reloads.
#[derive(Clone, Debug)]
pub(crate) struct NetworkState {
    resolver: Resolver,
    /// The address of an authority that worked when an earlier one failed or was slow.
    preferred: Cache<Authority, IpAddr>,
    listeners: Arc<ListenerAddresses>,
    sockets: SocketBudget,
}

impl NetworkState {
    /// Resolves names with `resolver` and refuses connections to `listeners`. `sockets` is the most
    /// sockets that may be open at once.
    pub(crate) fn new(resolver: Resolver, listeners: ListenerAddresses, sockets: usize) -> Self {
        let preferred =
            Cache::builder().max_capacity(MAX_PREFERENCES).time_to_live(PREFERENCE_LIFETIME);
        let sockets = SocketBudget::new(sockets);
        Self { resolver, preferred: preferred.build(), listeners: Arc::new(listeners), sockets }
    }
}

/// Opens connections that the address policy allows.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    policy: AddressPolicy,
    network: NetworkState,
}

impl Dialer {
    pub(super) fn new(policy: AddressPolicy, network: NetworkState) -> Self {
        Self { policy, network }
    }

    /// Connects to `authority`, trying its addresses as RFC 8305 describes.
    ///
    /// # Errors
    ///
    /// Any [`OriginError`] of name resolution, the address check and TCP, or
    /// [`OriginError::ConnectTimeout`] at `deadline`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels every attempt.
    pub(super) async fn connect(
        &self,
        authority: &Authority,
        deadline: Instant,
    ) -> Result<OriginSocket, OriginError> {
        let resolving = timeout_at(deadline, self.resolve(authority, deadline)).await;
        let addresses = resolving.unwrap_or(Err(NameError::Timeout)).map_err(OriginError::Name)?;
        let is_loopback = authority.host.name().is_some_and(is_loopback);
        self.network.listeners.check_all(&addresses)?;
        let allowed = self.policy.check_all(&addresses, is_loopback)?;
        let permit = self.network.sockets.acquire(deadline).await?;
        let ordered = attempt_order(allowed, self.network.preferred.get(authority));
        let RaceWinner { stream, address, is_first } = connect_first(ordered, deadline).await?;
        if !is_first {
            self.network.preferred.insert(authority.clone(), address.ip());
        }
        self.network.listeners.check_connected(&stream, address)?;
        socket_options::configure_origin(&stream);
        Ok(OriginSocket::new(stream, permit))
    }

    /// Returns true if all sockets are in use, so that idle ones should be closed.
    pub(super) fn is_out_of_sockets(&self) -> bool {
        self.network.sockets.is_exhausted()
    }

    async fn resolve(
        &self,
        authority: &Authority,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, NameError> {
        let port = authority.port;
        Ok(match &authority.host {
            Host::V4(address) => vec![SocketAddr::from((*address, port))],
            Host::V6(address) => vec![SocketAddr::from((*address, port))],
            Host::Name(name) => {
                // RFC 6761 §6.3, also for the fully qualified form.
                let name = if &**name == "localhost." { "localhost" } else { name };
                let resolved = self.network.resolver.addresses(name, deadline).await?;
                resolved.iter().map(|address| SocketAddr::from((*address, port))).collect()
            }
        })
    }
}
