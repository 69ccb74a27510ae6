//! The request path: from a client's request to its response.
//!
//! A request takes the same path whether it is plain, arrives in an intercepted TLS session, or
//! arrives in clear text after CONNECT; `request_path` lists the steps in order. There is one
//! `Proxy` per core, with its own pool of origin connections. State shared by the cores is
//! immutable or atomic.
//!
//! The files of this folder, by what they are about:
//!
//! - **The path of a request:** `request_path`, `request_context`, `snapshot`, `config`,
//!   `shared_state`.
//! - **The client's connection:** `connection_lifecycle`, `client_connection`, `client_stream`, `activity`,
//!   `http1_server`, `http1_stream`, `http2`, `connect`, `client_handshake`.
//! - **Rules for messages, as pure functions:** `request_target`, `request_line_scanner`, `fields`,
//!   `framing`, `trailers`, `head_sanitizer`, `plain_http_rewrite`, `challenge`.
//! - **Sending a request:** `forward`, `client_content`, `request_body`, `upload_progress`,
//!   `replay`, `interim`, `exchange_completion`, `secret_rereads`.
//! - **The origin server's connection:** `origin_pools`, `origin_connection`, `connector`, `dial`,
//!   `origin_tls`, `reset_tolerant_stream`, `response_head_stream`.
//! - **Responses and reports:** `response_body`, `local_response`, `local_resources`,
//!   `unparsable_request`, `error`, `request_record`, `access_log`.
//!
//! This module does not know where tokens come from ([`token`](crate::token)) or how sockets are
//! accepted ([`app`](crate::app)).

mod access_log;
mod activity;
mod challenge;
mod client_connection;
mod client_content;
mod client_handshake;
pub(crate) mod client_stream;
mod config;
mod connect;
mod connection_lifecycle;
pub mod connector;
mod dedicated_connections;
mod dial;
mod error;
mod exchange_completion;
mod fields;
mod forward;
mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head_sanitizer;
mod http1_server;
mod http1_stream;
mod http2;
mod incoming_body;
mod interim;
mod local_resources;
mod local_response;
mod origin_connection;
mod origin_error;
mod origin_pools;
mod origin_tls;
mod plain_http_rewrite;
mod replay;
mod request_body;
mod request_context;
mod request_id;
mod request_line_scanner;
mod request_path;
mod request_record;
mod request_target;
mod reset_tolerant_stream;
mod response_body;
mod response_head_stream;
mod secret_rereads;
mod shared_state;
mod snapshot;
mod socket_options;
mod trailers;
mod unparsable_request;
mod upload_progress;

pub use config::{Config, Limits, Unmatched};
pub(crate) use dial::{ListenerAddresses, NetworkState};
pub(crate) use request_path::Proxy;
pub use secret_rereads::RejectedSecrets;
pub(crate) use shared_state::SharedState;
pub(crate) use snapshot::Snapshot;
