//! Was a request refused because of its access token? Reading `WWW-Authenticate` (RFC 9110 §11.6.1,
//! RFC 6750 §3), and content where a credential has rules about it.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};

use super::body::{Body, Unread};
use crate::coding;
use crate::credential::{CONTENT_LIMIT, Rejections, Suspicion};

/// Errors that a newer token of the same kind does not mend: RFC 6750 §3.1, RFC 9470 §3 (the person has to
/// authenticate again, or better).
const ASKS_FOR_MORE: [&str; 2] = ["insufficient_scope", "insufficient_user_authentication"];

/// Was the request refused because of its access token, so that a new one may help?
///
/// The credential's rules say so, except where a challenge asks for another kind of token. `is_bound`: the
/// token is bound to a key, so that DPoP challenges are about it as well (RFC 9449 §7.1); of others they say
/// nothing. Content is looked at only where a rule asks for it, and passes on byte for byte.
///
/// # Errors
///
/// [`Unread`]: the content would decide, and cannot be looked at.
pub(super) async fn is_rejection(
    rejections: &Rejections,
    is_bound: bool,
    response: &mut Response<Body>,
) -> Result<bool, Unread> {
    let status = response.status();
    let suspicion = rejections.suspect(status, response.headers());
    if suspicion == Suspicion::None || asks_for_more(response.headers(), is_bound) {
        return Ok(false);
    }
    match suspicion {
        Suspicion::Content => Ok(rejections.convict(status, &content(response).await?)),
        _ => Ok(true),
    }
}

/// Short content without its codings.
async fn content(response: &mut Response<Body>) -> Result<Vec<u8>, Unread> {
    let kind = response.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
        return Err(Unread::Stream);
    }
    let lines = response.headers().get_all(CONTENT_ENCODING).iter();
    let codings: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let codings = codings.join(",");
    if !coding::is_known(&codings) {
        return Err(Unread::Coded);
    }
    let coded = Box::pin(response.body_mut().look(CONTENT_LIMIT)).await?;
    match coding::decode(&codings, &coded, CONTENT_LIMIT) {
        Some(content) if content.complete => Ok(content.bytes),
        Some(content) if content.bytes.len() >= CONTENT_LIMIT => Err(Unread::Long),
        _ => Err(Unread::Broken),
    }
}

fn asks_for_more(fields: &HeaderMap, is_bound: bool) -> bool {
    let asks = |scheme| ASKS_FOR_MORE.iter().any(|error| is_challenged(fields, scheme, error));
    asks("bearer") || is_bound && asks("dpop")
}

/// Does a challenge ask for a nonce in the proof (RFC 9449 §9)? Then the token is as good as before.
pub(super) fn wants_nonce(fields: &HeaderMap) -> bool {
    is_challenged(fields, "dpop", "use_dpop_nonce")
}

/// Is there a challenge of this scheme with this error?
fn is_challenged(fields: &HeaderMap, scheme: &str, error: &str) -> bool {
    let mut lines = fields.get_all(WWW_AUTHENTICATE).iter();
    // Descriptions are written in languages that need more than ASCII.
    lines.any(|line| challenges(&String::from_utf8_lossy(line.as_bytes()), scheme, error))
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
            && value.trim().trim_matches('"').eq_ignore_ascii_case(error)
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

    fn rejects(rejections: &Rejections, is_bound: bool, mut response: Response<Body>) -> bool {
        let mut judging = std::pin::pin!(is_rejection(rejections, is_bound, &mut response));
        let waker = std::task::Waker::noop();
        match judging.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(verdict) => verdict.unwrap(),
            std::task::Poll::Pending => panic!("nothing to wait for"),
        }
    }

    fn answer(status: u16, lines: &[&str]) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            response.headers_mut().append(WWW_AUTHENTICATE, value);
        }
        response
    }

    #[test]
    fn every_401_is_about_the_token_unless_a_challenge_asks_for_another_kind() {
        let step_up = "Bearer error=\"insufficient_user_authentication\", acr_values=\"gold\"";
        // Whether a bearer's token is meant, and one that is bound to a key.
        for (lines, bearer, bound) in [
            (&[][..], true, true),
            (&["Bearer"], true, true),
            (&["Bearer realm=\"x\",error=\"invalid_token\""], true, true),
            (&["Basic realm=\"x\""], true, true),
            (&["Bearer error=\"insufficient_scope\""], false, false),
            (&["bearer realm=\"a, b\", error=insufficient_scope"], false, false),
            (&["Bearer error=\"Insufficient_Scope\""], false, false),
            (
                &["Basic realm=\"x\", Bearer error=\"insufficient_scope\", scope=\"a\""],
                false,
                false,
            ),
            (&["Bearer realm=\"x\"", "Bearer error = \"insufficient_scope\""], false, false),
            (
                &["Bearer error_description=\"zu schwach: ü\", error=\"insufficient_scope\""],
                false,
                false,
            ),
            (&[step_up], false, false),
            (&["Bearer max_age=\"5\", error=insufficient_user_authentication"], false, false),
            (&["Bearer error_description=\"insufficient_user_authentication\""], true, true),
            (&["Basic error=\"insufficient_user_authentication\""], true, true),
            (&["DPoP error=\"insufficient_user_authentication\", algs=\"ES256\""], true, false),
            (&["Bearer realm=\"x\", DPoP error=\"insufficient_scope\""], true, false),
            (&["Bearer realm=\"error=insufficient_scope\""], true, true),
            (&["Bearer realm=\"a\\\", error=insufficient_scope\""], true, true),
        ] {
            for (is_bound, expected) in [(false, bearer), (true, bound)] {
                let verdict = rejects(&Rejections::default(), is_bound, answer(401, lines));
                assert_eq!(verdict, expected, "{lines:?} {is_bound}");
            }
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
            assert!(!rejects(&Rejections::default(), false, answer));
        }
    }
}
