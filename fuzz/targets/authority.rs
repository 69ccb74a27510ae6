//! Parses authorities and the patterns of `hosts` and `paths`. An accepted authority must survive
//! formatting and parsing again.
#![no_main]

use bearerd::credential::{HostPattern, PathPrefix};
use bearerd::origin::{Authority, Scheme};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = HostPattern::parse(text);
    let _ = PathPrefix::parse(text);
    if let Ok(authority) = Authority::parse(text, Some(443)) {
        let written = authority.to_string();
        assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Authority::parse(&written, None).as_ref(), Ok(&authority));
        assert!(authority.agrees_with(text, Scheme::Https));
    }
});
