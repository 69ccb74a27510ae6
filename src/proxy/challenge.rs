//! Was a request refused because of its access token? Reading `WWW-Authenticate` (RFC 9110 §11.6.1,
//! RFC 6750 §3), and content where a credential has rules about it.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};
use http_body::Body as _;

use super::body::Body;
use crate::credential::{CONTENT_LIMIT, Rejections, Suspicion};

/// How long short content may take to arrive; then it passes unread.
const CONTENT_TIME: Duration = Duration::from_secs(10);

/// Was the request refused because of its access token, so that a new one may help?
///
/// The credential's rules say so, except where a Bearer challenge says `error="insufficient_scope"`:
/// a new token would have the same scope. Content is looked at only where a rule asks for it, only
/// if it is plain, short and of known length, and it passes on byte for byte.
pub(super) async fn is_rejection(rejections: &Rejections, response: &mut Response<Body>) -> bool {
    let status = response.status();
    match rejections.suspect(status) {
        Suspicion::None => false,
        Suspicion::Certain => !is_about_scope(response.headers()),
        Suspicion::Content => {
            if !is_readable(response) || is_about_scope(response.headers()) {
                return false;
            }
            let content = response.body_mut().look(CONTENT_TIME).await;
            content.is_some_and(|content| rejections.convict(status, &content))
        }
    }
}

/// Plain, short, and of known length.
fn is_readable(response: &Response<Body>) -> bool {
    let is_plain = |coding: &http::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    response.body().size_hint().exact().is_some_and(|length| length <= CONTENT_LIMIT)
        && response.headers().get_all(CONTENT_ENCODING).iter().all(is_plain)
}

/// Does a Bearer challenge say that another token is needed, not a newer one?
fn is_about_scope(fields: &HeaderMap) -> bool {
    is_challenged(fields, "bearer", "insufficient_scope")
}

/// Is the same said of a token that is bound to a key (RFC 9449 §7.1)? Of others no DPoP challenge says
/// anything.
pub(super) fn bound_token_lacks_scope(fields: &HeaderMap) -> bool {
    is_challenged(fields, "dpop", "insufficient_scope")
}

/// Does a challenge ask for a nonce in the proof (RFC 9449 §9)? Then the token is as good as before.
pub(super) fn wants_nonce(fields: &HeaderMap) -> bool {
    is_challenged(fields, "dpop", "use_dpop_nonce")
}

/// Is there a challenge of this scheme with this error?
fn is_challenged(fields: &HeaderMap, scheme: &str, error: &str) -> bool {
    let mut lines = fields.get_all(WWW_AUTHENTICATE).iter();
    lines.any(|line| line.to_str().is_ok_and(|line| challenges(line, scheme, error)))
}

/// The same for one line.
pub(super) fn challenges(line: &str, meant: &str, error: &str) -> bool {
    let mut is_meant = false;
    for item in items(line) {
        let (scheme, parameter) = split_scheme(item);
        if let Some(scheme) = scheme {
            is_meant = scheme.eq_ignore_ascii_case(meant);
        }
        if let (true, Some((name, value))) = (is_meant, parameter.split_once('='))
            && name.trim().eq_ignore_ascii_case("error")
            && value.trim().trim_matches('"') == error
        {
            return true;
        }
    }
    false
}

/// Splits a line at the commas outside quoted strings.
fn items(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    line.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    })
    .map(str::trim)
}

/// `Bearer realm="x"` begins a challenge; `realm="x"` and `realm = "x"` continue one.
fn split_scheme(item: &str) -> (Option<&str>, &str) {
    match item.split_once(' ') {
        Some((first, rest)) if !first.contains('=') && !rest.trim_start().starts_with('=') => {
            (Some(first), rest)
        }
        None if !item.contains('=') => (Some(item), ""),
        _ => (None, item),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn rejects(rejections: &Rejections, response: Response<Body>) -> bool {
        let mut response = response;
        let mut judging = std::pin::pin!(is_rejection(rejections, &mut response));
        let waker = std::task::Waker::noop();
        match judging.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(verdict) => verdict,
            std::task::Poll::Pending => panic!("nothing to wait for"),
        }
    }

    fn answer(status: u16, lines: &[&str]) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for line in lines {
            let value = HeaderValue::from_str(line).unwrap();
            response.headers_mut().append(WWW_AUTHENTICATE, value);
        }
        response
    }

    #[test]
    fn every_401_is_about_the_token_unless_a_bearer_challenge_speaks_of_scope() {
        for (lines, expected) in [
            (&[][..], true),
            (&["Bearer"], true),
            (&["Bearer realm=\"x\",error=\"invalid_token\""], true),
            (&["Basic realm=\"x\""], true),
            (&["Bearer error=\"insufficient_scope\""], false),
            (&["bearer realm=\"a, b\", error=insufficient_scope"], false),
            (&["Basic realm=\"x\", Bearer error=\"insufficient_scope\", scope=\"a\""], false),
            (&["Bearer realm=\"x\"", "Bearer error = \"insufficient_scope\""], false),
            (&["Bearer realm=\"x\", DPoP error=\"insufficient_scope\""], true),
            (&["Bearer realm=\"error=insufficient_scope\""], true),
            (&["Bearer realm=\"a\\\", error=insufficient_scope\""], true),
        ] {
            let verdict = rejects(&Rejections::default(), answer(401, lines));
            assert_eq!(verdict, expected, "{lines:?}");
        }
    }

    #[test]
    fn only_a_dpop_challenge_asks_for_a_nonce() {
        for (line, expected) in [
            ("DPoP error=\"use_dpop_nonce\", error_description=\"x\"", true),
            ("Bearer realm=\"x\", DPoP algs=\"ES256\", error=\"use_dpop_nonce\"", true),
            ("DPoP error=\"invalid_token\"", false),
            ("Bearer error=\"use_dpop_nonce\"", false),
            ("DPoP error=\"insufficient_scope\"", false),
        ] {
            assert_eq!(wants_nonce(answer(401, &[line]).headers()), expected, "{line}");
        }
    }

    #[test]
    fn other_statuses_are_not_about_the_token() {
        for status in [200, 400, 403, 407, 500] {
            let answer = answer(status, &["Bearer error=\"invalid_token\""]);
            assert!(!rejects(&Rejections::default(), answer));
        }
    }
}
