//! Tests of the test servers over real sockets.

mod authorization_server;
mod client;
mod origin_server;
