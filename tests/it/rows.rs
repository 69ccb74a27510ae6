//! The behaviours of `docs/behaviours.md` that no test by subject shows: [`crashes`] at every named point of a refresh,
//! [`replicas`] on one store, [`answers`] of the token endpoint, and [`requests`] through one proxy.
//!
//! Numbers are those of that page.

mod answers;
mod crashes;
mod replicas;
mod requests;
