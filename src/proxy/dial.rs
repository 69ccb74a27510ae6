//! From an authority to a TCP connection: resolve, judge the addresses, connect.
//!
//! The addresses that are judged are those that are dialled, so a name that changes between two look-ups gains
//! nothing.

mod address_policy;
mod embedded_addresses;
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
use race::{RaceWinner, order, race};
pub(super) use socket_budget::OriginSocket;
use socket_budget::SocketBudget;

/// How long an address that worked where another did not is tried first. After that the system's order counts
/// again, which costs 250 ms if nothing has changed.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Authorities of which that is remembered.
const MOST_REMEMBERED: u64 = 1024;

/// What is known of the network: shared by all cores, and kept over reloads.
#[derive(Clone, Debug)]
pub(crate) struct NetworkState {
    resolver: Resolver,
    /// The address of an authority that worked when the one before it failed or was slow.
    worked: Cache<Authority, IpAddr>,
    own: Arc<ListenerAddresses>,
    sockets: SocketBudget,
}

impl NetworkState {
    /// Looks names up with `resolver`; bearerd itself listens on `own`. There may be so many `sockets` at once.
    pub(crate) fn new(resolver: Resolver, own: ListenerAddresses, sockets: usize) -> Self {
        let worked = Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED);
        let sockets = SocketBudget::new(sockets);
        Self { resolver, worked: worked.build(), own: Arc::new(own), sockets }
    }
}

/// Connects to authorities, as far as the policy allows.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    policy: AddressPolicy,
    network: NetworkState,
}

impl Dialer {
    pub(super) fn new(policy: AddressPolicy, network: NetworkState) -> Self {
        Self { policy, network }
    }

    /// Connects to `authority`, trying its addresses as RFC 8305 says.
    ///
    /// # Errors
    ///
    /// [`OriginError`]: name, denied or own address, refused, unreachable, no descriptor, or `deadline` has passed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends every attempt.
    pub(super) async fn connect(
        &self,
        authority: &Authority,
        deadline: Instant,
    ) -> Result<OriginSocket, OriginError> {
        let resolving = timeout_at(deadline, self.resolve(authority, deadline)).await;
        let addresses = resolving.unwrap_or(Err(NameError::Timeout)).map_err(OriginError::Name)?;
        let is_loopback = authority.host.name().is_some_and(is_loopback);
        self.network.own.judge_all(&addresses)?;
        let allowed = self.policy.judge_all(&addresses, is_loopback)?;
        let place = self.network.sockets.obtain(deadline).await?;
        let ordered = order(allowed, self.network.worked.get(authority));
        let RaceWinner { stream, address, is_first } = race(ordered, deadline).await?;
        if !is_first {
            self.network.worked.insert(authority.clone(), address.ip());
        }
        self.network.own.judge_connected(&stream, address)?;
        socket_options::configure_origin(&stream);
        Ok(OriginSocket::new(stream, place))
    }

    /// Does somebody wait for a descriptor?
    pub(super) fn is_short_of_sockets(&self) -> bool {
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
                // RFC 6761 §6.3, also with the dot that says that the name is complete.
                let name = if &**name == "localhost." { "localhost" } else { name };
                let found = self.network.resolver.addresses(name, deadline).await?;
                found.iter().map(|address| SocketAddr::from((*address, port))).collect()
            }
        })
    }
}
