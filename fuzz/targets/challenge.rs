//! `WWW-Authenticate` of an origin server.
#![no_main]

use bearerd::proxy::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if fuzzing::lacks_scope(line) {
        assert!(line.to_ascii_lowercase().contains("bearer"));
        assert!(line.contains("insufficient_scope"));
    }
});
