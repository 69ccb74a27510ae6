//! A record on disk: refused, or read and written back as it is.
#![no_main]

use bearerd::store::TokenRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = TokenRecord::from_bytes(bytes) {
        let again = TokenRecord::from_bytes(&record.to_bytes());
        assert_eq!(again.expect("what was written can be read"), record);
    }
});
