//! A record on disk: refused, or read and written the same every time.
#![no_main]

use bearerd::secret::Fingerprint;
use bearerd::store::TokenRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // As if the checksum were right, which no fuzzer ever guesses.
    if let Ok(text) = std::str::from_utf8(bytes).map(str::trim) {
        let sum = Fingerprint::of(text.as_bytes());
        let sum = sum.as_str();
        check(format!("{{\"bearerd\":1,\"sha256\":\"{sum}\",\"record\":{text}}}").as_bytes());
    }
});

fn check(bytes: &[u8]) {
    if let Ok(record) = TokenRecord::from_bytes(bytes) {
        // Times are written in milliseconds: the second writing is what has to be the first.
        let written = record.to_bytes();
        let again = TokenRecord::from_bytes(&written).expect("what was written can be read");
        assert_eq!(again.to_bytes(), written);
    }
}
