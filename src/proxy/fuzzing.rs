//! Pure functions of the proxy that `fuzz/` calls. Only there is this module compiled.
#![allow(missing_docs)]

use http::request::Parts;

use super::message::{self, Target, Via};

pub fn lacks_scope(line: &str) -> bool {
    super::challenge::challenges(line, "bearer", "insufficient_scope")
}

/// What would be sent to an origin server for a client's head, if anything would.
pub fn to_origin(mut parts: Parts) -> Option<Parts> {
    match message::target(&parts, None) {
        Ok(Target::Origin(origin)) => {
            message::prepare_for_origin(&mut parts, &origin, &Via::new());
            Some(parts)
        }
        _ => None,
    }
}
