//! Answers of an API that was asked by plain http and reached over TLS: what they say about TLS is made true for
//! the client, so that it stays within the proxy.
//!
//! An application that has no TLS would otherwise follow `Location: https://…` past the credential, or refuse to
//! send back a cookie that is `Secure`.

use http::header::{
    CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, SET_COOKIE,
};

use crate::origin::{Authority, Origin, Scheme};

/// Rewrites references to `origin`, and to others that `is_ours` knows, to plain http, and takes `Secure` from
/// cookies.
pub(super) fn to_plain_http(
    fields: &mut HeaderMap,
    origin: &Origin,
    is_ours: impl Fn(&Origin) -> bool,
) {
    let is_within = |other: &Origin| other == origin || is_ours(other);
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite(fields, name, |value| plain(value, &is_within));
    }
    rewrite(fields, LINK, |value| plain_links(value, &is_within));
    rewrite(fields, SET_COOKIE, without_secure);
}

/// Replaces the values of a field for which `change` has another one.
fn rewrite(fields: &mut HeaderMap, name: HeaderName, change: impl Fn(&str) -> Option<String>) {
    let http::header::Entry::Occupied(mut entry) = fields.entry(name) else { return };
    for value in entry.iter_mut() {
        let changed = value.to_str().ok().and_then(&change);
        if let Some(changed) = changed.and_then(|text| HeaderValue::try_from(text).ok()) {
            *value = changed;
        }
    }
}

/// `https://host/…` as `http://host/…`, if the origin is within.
fn plain(reference: &str, is_within: &impl Fn(&Origin) -> bool) -> Option<String> {
    let (scheme, rest) = reference.split_at_checked("https://".len())?;
    if !scheme.eq_ignore_ascii_case("https://") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let authority = Authority::parse(authority, Some(443)).ok()?;
    let origin = Origin { scheme: Scheme::Https, authority };
    // By plain http the default port of TLS is asked for without a port.
    is_within(&origin).then(|| format!("http://{}{path}", origin.host_field()))
}

/// The same for each reference in angle brackets (RFC 8288 §3).
fn plain_links(links: &str, is_within: &impl Fn(&Origin) -> bool) -> Option<String> {
    let mut changed = false;
    let pieces: Vec<String> = links
        .split_inclusive(['<', '>'])
        .map(|piece| match piece.strip_suffix('>').and_then(|link| plain(link, is_within)) {
            Some(link) => {
                changed = true;
                format!("{link}>")
            }
            None => piece.to_owned(),
        })
        .collect();
    changed.then(|| pieces.concat())
}

/// A cookie without its attribute `Secure` (RFC 6265 §5.2.5).
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
        to_plain_http(&mut fields, &origin("api.example"), |it| *it == other);
        fields.get(&name).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn references_within_the_proxy_become_plain_http_and_others_stay() {
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
    fn each_link_is_rewritten_by_itself() {
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
    fn cookies_lose_secure_and_nothing_else() {
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
