//! Decides whether a response rejects the access token of its request, from `WWW-Authenticate` (RFC 9110 §11.6.1,
//! RFC 6750 §3) and from the content if the credential has rules for it.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, Response};

use super::response_body::{ResponseBody, UninspectedReason};
use crate::coding;
use crate::credential::{CONTENT_LIMIT, HeadMatch, Rejections};

/// Errors that a new token of the same kind does not fix: RFC 6750 §3.1 and RFC 9470 §3 (the user has to authenticate
/// again or with a stronger method).
const INSUFFICIENT_TOKEN_ERRORS: [&str; 2] =
    ["insufficient_scope", "insufficient_user_authentication"];

/// Returns true if `response` rejects the access token of its request, so that a new token may help.
///
/// The credential's rules decide, unless a challenge asks for another kind of token. `is_bound` says whether the token is
/// bound to a key: only then do DPoP challenges apply to it (RFC 9449 §7.1). The content is inspected only if a rule needs
/// it, and stays unchanged.
///
/// # Errors
///
/// [`UninspectedReason`] if the content would decide but cannot be inspected.
pub(super) async fn is_rejection(
    rejections: &Rejections,
    is_bound: bool,
    response: &mut Response<ResponseBody>,
) -> Result<bool, UninspectedReason> {
    let status = response.status();
    let head = rejections.check_head(status, response.headers());
    if head == HeadMatch::None || requires_other_token(response.headers(), is_bound) {
        return Ok(false);
    }
    match head {
        HeadMatch::NeedsContent => {
            Ok(rejections.matches_content(status, &inspect_content(response).await?))
        }
        _ => Ok(true),
    }
}

/// Returns the decoded content, if it is short.
async fn inspect_content(
    response: &mut Response<ResponseBody>,
) -> Result<Vec<u8>, UninspectedReason> {
    let media_type = response.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if media_type.is_some_and(|media_type| media_type.starts_with(b"text/event-stream")) {
        return Err(UninspectedReason::EventStream);
    }
    let lines = response.headers().get_all(CONTENT_ENCODING).iter();
    let codings: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let codings = codings.join(",");
    if !coding::is_known(&codings) {
        return Err(UninspectedReason::UnknownCoding);
    }
    let coded = Box::pin(response.body_mut().inspect(CONTENT_LIMIT)).await?;
    match coding::decode(&codings, &coded, CONTENT_LIMIT) {
        Some(content) if content.complete => Ok(content.bytes),
        Some(content) if content.bytes.len() >= CONTENT_LIMIT => Err(UninspectedReason::TooLong),
        _ => Err(UninspectedReason::Broken),
    }
}

fn requires_other_token(fields: &HeaderMap, is_bound: bool) -> bool {
    let is_insufficient =
        |scheme| INSUFFICIENT_TOKEN_ERRORS.iter().any(|error| has_challenge(fields, scheme, error));
    is_insufficient("bearer") || is_bound && is_insufficient("dpop")
}

/// Returns true if a challenge requires a nonce in the DPoP proof (RFC 9449 §9). This does not reject the token.
pub(super) fn requires_nonce(fields: &HeaderMap) -> bool {
    has_challenge(fields, "dpop", "use_dpop_nonce")
}

/// Returns true if `WWW-Authenticate` has a challenge of this scheme with this error.
fn has_challenge(fields: &HeaderMap, scheme: &str, error: &str) -> bool {
    let mut lines = fields.get_all(WWW_AUTHENTICATE).iter();
    // Error descriptions may contain bytes outside ASCII.
    lines.any(|line| line_has_challenge(&String::from_utf8_lossy(line.as_bytes()), scheme, error))
}

/// Returns true if one field line has a challenge of this scheme with this error.
pub(super) fn line_has_challenge(line: &str, scheme: &str, error: &str) -> bool {
    let mut is_in_challenge = false;
    for item in items(line) {
        let (new_scheme, parameter) = split_scheme(item);
        if let Some(new_scheme) = new_scheme {
            is_in_challenge = new_scheme.eq_ignore_ascii_case(scheme);
        }
        if let (true, Some((name, value))) = (is_in_challenge, parameter.split_once('='))
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

/// Splits off the scheme: `Bearer realm="x"` starts a challenge, `realm="x"` and `realm = "x"` continue one.
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

    fn rejects(
        rejections: &Rejections,
        is_bound: bool,
        mut response: Response<ResponseBody>,
    ) -> bool {
        let mut future = std::pin::pin!(is_rejection(rejections, is_bound, &mut response));
        let waker = std::task::Waker::noop();
        match future.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Ready(is_rejected) => is_rejected.unwrap(),
            std::task::Poll::Pending => panic!("waits for content that no rule needs"),
        }
    }

    fn response(status: u16, lines: &[&str]) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            response.headers_mut().append(WWW_AUTHENTICATE, value);
        }
        response
    }

    #[test]
    fn every_401_rejects_the_token_unless_a_challenge_requires_another_kind() {
        let step_up = "Bearer error=\"insufficient_user_authentication\", acr_values=\"gold\"";
        // Whether a bearer token is rejected, and whether a bound one is.
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
                let is_rejected = rejects(&Rejections::default(), is_bound, response(401, lines));
                assert_eq!(is_rejected, expected, "{lines:?} is_bound: {is_bound}");
            }
        }
    }

    #[test]
    fn only_a_dpop_challenge_requires_a_nonce() {
        for (line, expected) in [
            ("DPoP error=\"use_dpop_nonce\", error_description=\"x\"", true),
            ("Bearer realm=\"x\", DPoP algs=\"ES256\", error=\"use_dpop_nonce\"", true),
            ("DPoP error=\"invalid_token\"", false),
            ("Bearer error=\"use_dpop_nonce\"", false),
            ("DPoP error=\"insufficient_scope\"", false),
        ] {
            assert_eq!(requires_nonce(response(401, &[line]).headers()), expected, "{line}");
        }
    }

    #[test]
    fn other_statuses_do_not_reject_the_token() {
        for status in [200, 400, 403, 407, 500] {
            let response = response(status, &["Bearer error=\"invalid_token\""]);
            assert!(!rejects(&Rejections::default(), false, response), "{status}");
        }
    }
}
