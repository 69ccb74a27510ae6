//! Is a 401 about the token? Reading `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750 §3).

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};

/// Was the request refused because of its access token, so that a new one may help?
///
/// Every 401 is, except one whose Bearer challenge says `error="insufficient_scope"`: a new token
/// would have the same scope.
pub(super) fn is_rejection(status: StatusCode, fields: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED
        && !fields
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .any(lacks_scope)
}

/// Does a Bearer challenge in this line carry `error=insufficient_scope`?
fn lacks_scope(line: &str) -> bool {
    let mut in_bearer = false;
    for item in items(line) {
        let (scheme, parameter) = split_scheme(item);
        if let Some(scheme) = scheme {
            in_bearer = scheme.eq_ignore_ascii_case("bearer");
        }
        if let (true, Some((name, value))) = (in_bearer, parameter.split_once('='))
            && name.trim().eq_ignore_ascii_case("error")
            && value.trim().trim_matches('"') == "insufficient_scope"
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
    use http::HeaderValue;

    use super::*;

    fn rejects(status: u16, lines: &[&str]) -> bool {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        is_rejection(StatusCode::from_u16(status).unwrap(), &fields)
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
            assert_eq!(rejects(401, lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn other_statuses_are_not_about_the_token() {
        for status in [200, 400, 403, 407, 500] {
            assert!(!rejects(status, &["Bearer error=\"invalid_token\""]));
        }
    }
}
