//! Trailer fields: which are announced, and which are removed (RFC 9110 §6.5).

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};

/// The trailers of gRPC, which gRPC peers do not announce.
pub(super) const GRPC_TRAILERS: &str = "grpc-status, grpc-message, grpc-status-details-bin";

/// Removes from `Trailer` the fields that must not be trailers. The trailers of gRPC are added, because
/// hyper writes only announced trailers in HTTP/1.1.
pub(super) fn announce_trailers(fields: &mut HeaderMap) {
    let is_grpc = fields
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !fields.contains_key(TRAILER) {
        if is_grpc {
            fields.insert(TRAILER, HeaderValue::from_static(GRPC_TRAILERS));
        }
        return;
    }
    let lines = fields.get_all(TRAILER).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = members.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let kept: Vec<String> =
        names.filter(may_be_trailer).map(|name| name.as_str().to_owned()).collect();
    fields.remove(TRAILER);
    if let (false, Ok(kept)) = (kept.is_empty(), HeaderValue::try_from(kept.join(", "))) {
        fields.insert(TRAILER, kept);
    }
}

/// Removes the fields that must not be trailers (RFC 9110 §6.5.1): a recipient that merges trailers into
/// the head would treat them as header fields.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    if trailers.keys().all(may_be_trailer) {
        return;
    }
    let forbidden: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_be_trailer(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// Fields for framing, routing, authentication, request modifiers, response control data and content
/// format (RFC 9110 §6.5.1).
const FORBIDDEN_TRAILERS: [&str; 44] = [
    "accept",
    "accept-encoding",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "authentication-info",
    "http2-settings",
];

fn may_be_trailer(name: &HeaderName) -> bool {
    !FORBIDDEN_TRAILERS.contains(&name.as_str()) && !name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use http::header::{SET_COOKIE, TE};

    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn fields_that_belong_in_the_head_are_removed_from_trailers() {
        let mut trailers = fields(
            &[
                ("authorization", "Bearer stolen"),
                ("Cookie", "a=b"),
                ("content-length", "5"),
                ("transfer-encoding", "chunked"),
                ("host", "evil"),
                ("x-forwarded-for", "1.2.3.4"),
                ("grpc-status", "0"),
                ("x-checksum", "1"),
                ("etag", "\"a\""),
                ("server-timing", "a"),
            ]
            .map(|(name, value)| (if name == "Cookie" { "cookie" } else { name }, value)),
        );
        for name in [SET_COOKIE, TE] {
            trailers.insert(name, HeaderValue::from_static("x"));
        }
        clean_trailers(&mut trailers);
        let mut names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["etag", "grpc-status", "server-timing", "x-checksum"]);
    }
}
