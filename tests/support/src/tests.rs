//! Tests of the servers themselves, each over real sockets.

mod authorization_server;
mod client;
mod origin_server;
