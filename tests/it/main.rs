//! Integration tests: the real proxy between real local servers and real clients.
//!
//! One binary, so that everything is linked once. [`world`] starts an authorization server that
//! rotates and detects reuse, an API that checks tokens, and bearerd between them; [`wire`] is a client
//! that writes exactly the bytes a test wants, and [`program`] runs bearerd as a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod program;
mod stopwatch;
mod texts;
mod wire;
mod world;

mod bootstrap;
mod clubs;
mod command_line;
mod connect;
mod connections;
mod dead_grants;
mod dpop;
mod durable;
mod engine;
mod failures;
mod fanatics;
mod forwarding;
mod full_disk;
mod grants;
mod http2;
mod issuers;
mod knobs;
mod message_rules;
mod mutual_tls;
mod operators;
mod path;
mod refresh;
mod refresh_on;
mod rejections;
mod reload;
mod replicas;
mod resamania;
mod rows;
mod sealed;
mod secrets;
mod smoke;
mod static_secrets;
mod status;
mod token_endpoint;
mod upkeep;
