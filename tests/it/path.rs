//! Tests of the request path by case. Test names begin with the number of the case.

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
