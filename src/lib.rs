//! bearerd is an authenticating forward proxy.
//!
//! A legacy application sets it as its `HTTP_PROXY`. For the API hosts that an operator has
//! configured, bearerd adds `Authorization: Bearer …` to the outbound request. Near expiry, or when
//! the API answers 401, it gets a new access token through one token cache and sends the request
//! again. The application never sees a secret and never sees an expired token.
//!
//! # Map
//!
//! ```text
//! main ─▶ cli ─▶ app ─▶ settings ─▶ config
//!                 ├─▶ admin ───────────────┐
//!                 └─▶ proxy ─▶ credential ─▶ token ─▶ oauth
//!                       │                      └────▶ store
//!                       └─▶ ca
//!     below everything: secret   clock   origin   template   tls   metrics   crash   coding
//! ```
//!
//! An arrow means "may use". `tests/architecture.rs` holds the code to it; `docs/architecture.md`
//! says why it is drawn this way.

pub mod admin;
pub mod app;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod coding;
pub mod config;
pub mod crash;
pub mod credential;
pub mod dpop;
mod jwt;
pub mod log;
pub mod metrics;
pub mod oauth;
pub mod origin;
pub mod proxy;
mod resolver;
pub mod secret;
pub mod settings;
pub mod store;
pub mod template;
pub mod tls;
pub mod token;
