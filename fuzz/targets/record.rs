//! Parses stored records. A record is refused, or it survives writing and reading unchanged; a record of another key
//! is always refused.
#![no_main]

use bearerd::secret::Fingerprint;
use bearerd::store::{RecordError, TokenRecord};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "api";

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Adds a valid checksum, which a fuzzer cannot guess.
    if let Ok(text) = std::str::from_utf8(bytes).map(str::trim) {
        let sum = Fingerprint::of(format!("{KEY}\n1\nw\n{text}").as_bytes());
        let sum = sum.as_str();
        check(
            format!(
                "{{\"bearerd\":4,\"sha256\":\"{sum}\",\"key\":\"{KEY}\",\"revision\":1,\
                 \"writer\":\"w\",\"record\":{text}}}"
            )
            .as_bytes(),
        );
        let sum = Fingerprint::of(text.as_bytes());
        let sum = sum.as_str();
        check(format!("{{\"bearerd\":3,\"sha256\":\"{sum}\",\"record\":{text}}}").as_bytes());
    }
});

fn check(bytes: &[u8]) {
    if let Ok((record, write)) = TokenRecord::from_bytes(KEY, bytes) {
        // Writing truncates times to milliseconds, so compare the second output with the first.
        let written = record.to_bytes(KEY, &write);
        let (again, write) =
            TokenRecord::from_bytes(KEY, &written).expect("what was written can be read");
        assert_eq!(again.to_bytes(KEY, &write), written);
        assert_eq!(TokenRecord::from_bytes("other", &written), Err(RecordError::OtherKey));
    }
}
