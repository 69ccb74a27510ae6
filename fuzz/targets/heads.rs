//! Parses request lines and response heads split at any byte. The result must not depend on the split, and must not
//! contain anything that two parsers read differently.
#![no_main]

use bearerd::proxy::fuzzing;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, usize, u16, Vec<(u8, Vec<u8>)>)| {
    let (bytes, cut, status, lines) = input;
    let (first, second) = bytes.split_at(cut % (bytes.len() + 1));
    let line = fuzzing::request_line([first, second]);
    assert_eq!(line, fuzzing::request_line([&bytes, b""]));
    assert_eq!(line, fuzzing::request_line([&line, b""]), "percent-encoding is not idempotent");

    let (heads, interim) = fuzzing::response_heads([first, second]);
    assert_eq!((heads.clone(), interim), fuzzing::response_heads([&bytes, b""]));
    assert_eq!(heads.len(), bytes.len());
    let is_changed_well = |(before, after): (&u8, &u8)| {
        before == after || (before.is_ascii_control() && *after == b' ')
    };
    assert!(bytes.iter().zip(&heads).all(is_changed_well));

    let Ok(status) = StatusCode::from_u16(200 + status % 400) else { return };
    let mut fields = HeaderMap::new();
    for (name, value) in lines {
        let name = ["content-length", "transfer-encoding", "trailer", "content-type"]
            [usize::from(name % 4)];
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            fields.append(HeaderName::from_static(name), value);
        }
    }
    let Some(fields) = fuzzing::normalised(&Method::GET, status, fields) else { return };
    let lengths: Vec<_> = fields.get_all("content-length").iter().collect();
    assert!(
        lengths.len() <= 1 && !(lengths.len() == 1 && fields.contains_key("transfer-encoding"))
    );
    assert!(lengths.iter().all(|length| length.as_bytes().iter().all(u8::is_ascii_digit)));
});
