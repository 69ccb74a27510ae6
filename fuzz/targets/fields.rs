//! Converts a client's request head for an origin server. It is refused, or valid and without
//! hop-by-hop fields.
#![no_main]

use bearerd::proxy::fuzzing;
use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, Vec<(&str, &[u8])>)| {
    let (method, target, lines) = input;
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in lines {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        request = request.header(name, value);
    }
    let Ok(request) = request.body(()) else { return };
    let Some(sent) = fuzzing::to_origin(request.into_parts().0) else { return };
    for name in ["connection", "proxy-authorization", "transfer-encoding", "upgrade", "keep-alive"]
    {
        assert!(!sent.headers.contains_key(name), "{name}");
    }
    assert_eq!(sent.headers.get_all("host").iter().count(), 1);
    assert!(sent.uri.authority().is_none() && sent.uri.scheme().is_none());
});
