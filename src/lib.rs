//! bearerd is an authenticating forward proxy.
//!
//! A legacy application sets it as its `HTTP_PROXY`. For the API hosts that an operator has
//! configured, bearerd adds `Authorization: Bearer …` to each request. When a token is about to
//! expire, or the API answers 401, bearerd gets a new one and, after a 401, sends the request
//! again. The application never sees a secret and never sees an expired token.
//!
//! # Running the proxy
//!
//! The `bearerd` program is [`cli::main`]. To run the proxy inside another program, load
//! [`settings::Settings`] and pass them to [`app::App::start`].
//!
//! # Embedding the token engine without the proxy
//!
//! The engine that obtains, refreshes and stores tokens works without any HTTP proxying. It needs
//! three parts:
//!
//! 1. a [`store::Config`], whose [`build`](store::Config::build) opens the token store;
//! 2. a [`token::Context`], which holds the store, the transport to token endpoints, the clock,
//!    the metrics and the runtime that refreshes run on;
//! 3. a [`token::Config`] for each token.
//!
//! [`token::Slot::open`] then returns a [`token::Slot`]. [`Slot::token`](token::Slot::token)
//! returns a valid token and waits for the token endpoint only if there is none;
//! [`Slot::rejected`](token::Slot::rejected) reports a token that an API rejected and returns the
//! one to retry with. A rotated refresh token is on stable storage before its access token is used;
//! while the storage fails, the token is used from memory and written as soon as possible.
//! `examples/embed.rs` is a complete program.
//!
//! # Modules
//!
//! ```text
//! main ─▶ cli ─▶ app ─▶ settings ─▶ config
//!                 ├─▶ admin ───────────────┐
//!                 └─▶ proxy ─▶ credential ─▶ token ─▶ oauth
//!                       │                      └────▶ store
//!                       └─▶ ca
//!     below everything: secret  clock  origin  template  tls  dpop  jwt  metrics  log  crash  coding
//!                       content_match  inputs  resolver
//! ```
//!
//! An arrow means "may use". `tests/architecture.rs` enforces it, and `docs/architecture.md` gives
//! the reasons.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`cli`] | the command line: run, check, status, refresh, logout, ca, schema |
//! | [`app`] | the composition root: builds all parts, accepts connections, reloads, shuts down |
//! | [`settings`], [`config`] | the configuration file, validated, and each part's configuration |
//! | [`proxy`] | forwarding of requests, interception, connections to origin servers |
//! | [`credential`] | which credential a request uses, and how its token is injected |
//! | [`token`] | the token engine: when a token is refreshed, and who waits for it |
//! | [`oauth`] | the protocol of authorization servers |
//! | [`store`] | durable token records, one per credential |
//! | [`ca`] | the local certificate authority for intercepted connections |
//! | [`admin`] | probes, metrics and the admin API |
//!
//! # Where to read on
//!
//! `docs/architecture.md` is the place to start in the source, followed by
//! [`app::App::start`] and the module documentation of [`proxy`] and [`token`]. The settings are
//! described in `docs/settings.md`.

pub mod admin;
pub mod app;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod coding;
pub mod config;
mod content_match;
pub mod crash;
pub mod credential;
pub mod dpop;
pub mod inputs;
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
