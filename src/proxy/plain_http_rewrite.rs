//! Rewrites responses to plain-http requests that the proxy sent over TLS, so that the client keeps using plain http
//! through the proxy.
//!
//! An application without TLS would otherwise follow `Location: https://…` past the credential, or refuse to send back a
//! cookie that is marked `Secure`.

use http::header::{
    CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, SET_COOKIE,
};

use crate::origin::{Authority, Origin, Scheme};

/// Rewrites https references to `origin` and to the origins for which `is_intercepted` returns true to plain http, and
/// removes `Secure` from cookies.
pub(super) fn rewrite_to_plain_http(
    fields: &mut HeaderMap,
    origin: &Origin,
    is_intercepted: impl Fn(&Origin) -> bool,
) {
    let is_proxied = |other: &Origin| other == origin || is_intercepted(other);
    for name in [LOCATION, CONTENT_LOCATION] {
        replace_values(fields, name, |value| plain_reference(value, &is_proxied));
    }
    replace_values(fields, LINK, |value| plain_links(value, &is_proxied));
    replace_values(fields, SET_COOKIE, without_secure);
}

/// Replaces each value of the field `name` for which `change` returns a new one.
fn replace_values(
    fields: &mut HeaderMap,
    name: HeaderName,
    change: impl Fn(&str) -> Option<String>,
) {
    let http::header::Entry::Occupied(mut entry) = fields.entry(name) else { return };
    for value in entry.iter_mut() {
        let changed = value.to_str().ok().and_then(&change);
        if let Some(changed) = changed.and_then(|text| HeaderValue::try_from(text).ok()) {
            *value = changed;
        }
    }
}

/// Turns `https://host/…` into `http://host/…` if `is_proxied` returns true for its origin.
fn plain_reference(reference: &str, is_proxied: &impl Fn(&Origin) -> bool) -> Option<String> {
    let (scheme, rest) = reference.split_at_checked("https://".len())?;
    if !scheme.eq_ignore_ascii_case("https://") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let authority = Authority::parse(authority, Some(443)).ok()?;
    let origin = Origin { scheme: Scheme::Https, authority };
    // A plain-http request for port 443 of the origin names no port.
    is_proxied(&origin).then(|| format!("http://{}{path}", origin.host_field()))
}

/// Applies [`plain_reference`] to each reference in angle brackets (RFC 8288 §3).
fn plain_links(links: &str, is_proxied: &impl Fn(&Origin) -> bool) -> Option<String> {
    let mut changed = false;
    let pieces: Vec<String> = links
        .split_inclusive(['<', '>'])
        .map(|piece| {
            match piece.strip_suffix('>').and_then(|link| plain_reference(link, is_proxied)) {
                Some(link) => {
                    changed = true;
                    format!("{link}>")
                }
                None => piece.to_owned(),
            }
        })
        .collect();
    changed.then(|| pieces.concat())
}

/// Returns a cookie without its attribute `Secure`, or `None` if it has none (RFC 6265 §5.2.5).
fn without_secure(cookie: &str) -> Option<String> {
    let is_secure = |part: &&str| part.trim().eq_ignore_ascii_case("secure");
    let (value, attributes) = cookie.split_once(';')?;
    if !attributes.split(';').any(|part| is_secure(&part)) {
        return None;
    }
    let kept = attributes.split(';').filter(|part| !is_secure(part));
    Some(std::iter::once(value).chain(kept).collect::<Vec<_>>().join(";"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(authority: &str) -> Origin {
        let authority = Authority::parse(authority, Some(443)).unwrap();
        Origin { scheme: Scheme::Https, authority }
    }

    fn rewritten(name: HeaderName, value: &str) -> String {
        let mut fields = HeaderMap::from_iter([(name.clone(), value.parse().unwrap())]);
        let other = origin("other.example:8443");
        rewrite_to_plain_http(&mut fields, &origin("api.example"), |it| *it == other);
        fields.get(&name).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn references_to_proxied_origins_become_plain_http_and_others_stay() {
        for (before, after) in [
            ("https://api.example/a?b#c", "http://api.example/a?b#c"),
            ("HTTPS://API.example:443?x", "http://api.example?x"),
            ("https://api.example", "http://api.example"),
            ("https://other.example:8443/a", "http://other.example:8443/a"),
            ("https://other.example/a", "https://other.example/a"),
            ("https://api.example.evil/a", "https://api.example.evil/a"),
            ("https://user@api.example/a", "https://user@api.example/a"),
            ("http://api.example/a", "http://api.example/a"),
            ("/a", "/a"),
            ("https:/a", "https:/a"),
        ] {
            assert_eq!(rewritten(LOCATION, before), after);
        }
    }

    #[test]
    fn each_link_is_rewritten_separately() {
        for (before, after) in [
            (
                "<https://api.example/2>; rel=\"next\", <https://x.example/>; rel=help",
                "<http://api.example/2>; rel=\"next\", <https://x.example/>; rel=help",
            ),
            ("<https://api.example/2", "<https://api.example/2"),
            ("</2>; rel=next", "</2>; rel=next"),
        ] {
            assert_eq!(rewritten(LINK, before), after);
        }
    }

    #[test]
    fn only_the_secure_attribute_is_removed_from_cookies() {
        for (before, after) in [
            ("a=secure; Path=/; Secure; HttpOnly", "a=secure; Path=/; HttpOnly"),
            ("a=b;secure", "a=b"),
            ("secure", "secure"),
            ("a=b; Path=/secure", "a=b; Path=/secure"),
        ] {
            assert_eq!(rewritten(SET_COOKIE, before), after);
        }
    }
}
