//! The request path, a file for each part of it. A test named `pNN_…` shows the case with that number in the design of
//! the path. What an origin server or a client does wrong belongs here; what operators see belongs to the files beside
//! this one.

mod clients;
mod connections;
mod faulty_answers;
mod framing;
mod http2_origins;
mod operations;
mod origin_connections;
mod raw_api;
mod repetitions;
mod sessions;
mod waits;
