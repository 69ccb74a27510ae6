//! Parses `WWW-Authenticate` of an origin server.
#![no_main]

use bearerd::proxy::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    if fuzzing::lacks_scope(line) {
        let line = line.to_ascii_lowercase();
        assert!(line.contains("bearer"));
        assert!(line.contains("insufficient_scope"));
    }
});
