//! Integration tests: the real proxy between real local servers and real clients.
//!
//! One binary, so that everything is linked once. [`world`] starts an authorization server that
//! rotates and detects reuse, an API that checks tokens, and bearerd between them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod world;

mod command_line;
mod connect;
mod durable;
mod fanatics;
mod forwarding;
mod http2;
mod knobs;
mod refresh;
mod reload;
mod replicas;
mod resamania;
mod smoke;
mod status;
mod upkeep;
