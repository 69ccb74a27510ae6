//! Access tokens: caching, refreshing and persisting them, one refresh at a time per credential.
//!
//! Start with [`Slot`]: it serves the token of one credential under one configuration. Reading a fresh
//! token is one atomic load and takes no lock. Everything else lives in the cache entry of the record key
//! (`cache_entry.rs`): the token record, the configuration in force and the refresh state machine, behind
//! one mutex that is never held across an `await`.
//!
//! A refresh runs as a *flight* (as in Go's `singleflight`: at most one at a time per credential). It is a
//! detached task on the control runtime. A client that disconnects cannot cancel it, because the response
//! of a token endpoint may hold the only copy of a rotated refresh token.
//!
//! | to find | read |
//! | --- | --- |
//! | how a request gets a token or waits for one | `slot.rs` |
//! | when a token is refreshed and what a rejection triggers | `refresh_state.rs` (pure) |
//! | how often rejections may cause a refresh | `refresh_state/forced_refresh.rs` (pure) |
//! | what a refresh does, step by step | `refresh.rs` |
//! | which grant to use next, or why none | `next_action.rs` (pure) |
//! | how a token response changes the record | `record_update.rs` (pure) |
//! | which of two records is newer | `record_order.rs` (pure) |
//! | how records are saved and retried | `cache_entry/write_back.rs` |
//! | the timer, and what other processes store | `cache.rs` |
//! | login, logout and revocation | `login_logout.rs` |

mod access_token;
mod cache;
mod cache_entry;
mod config;
mod context;
mod error;
mod log_events;
mod login_logout;
mod margin;
mod next_action;
mod record_key;
mod record_order;
mod record_update;
mod refresh;
mod refresh_state;
mod resolved_config;
mod runtime;
mod slot;
mod status;

pub use crate::store::Generation;

pub use access_token::AccessToken;
pub use cache::TokenCache;
pub use config::{Config, Seed};
pub use context::{Context, Tasks};
pub use error::{FailureReason, TokenError};
pub use login_logout::TokenRevocation;
pub use margin::Margin;
pub use slot::{ResendState, Slot};
pub use status::{Condition, Status};

#[cfg(test)]
mod tests;
