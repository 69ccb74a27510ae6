//! Which responses of an origin server mean that it rejected the token.
//!
//! Rules are checked in two steps, because the response head alone is usually enough.

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;

use crate::content_match::{contains, equals, value_at};

/// The longest content in bytes that is checked. Longer responses are not error messages.
pub const CONTENT_LIMIT: usize = 64 * 1024;

/// The gRPC status of a call. It is in the response head if the call ended before its first message
/// ("Trailers-Only").
const GRPC_STATUS: &str = "grpc-status";
/// UNAUTHENTICATED, the gRPC equivalent of 401.
const UNAUTHENTICATED: u8 = 16;

/// The responses that count as a rejection.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejections(Vec<RejectionRule>);

/// One kind of response.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionRule {
    /// The status code.
    pub status: StatusCode,
    /// A further condition; `None`: the status is enough.
    pub evidence: Option<RejectionEvidence>,
}

/// A condition on a response.
#[derive(Clone, Debug, PartialEq)]
pub enum RejectionEvidence {
    /// A line of this field contains the text.
    Field {
        /// The field.
        name: HeaderName,
        /// The text.
        has: String,
    },
    /// The response is a gRPC call that ended at once with this status.
    Grpc(u8),
    /// The content contains this text.
    Contains(String),
    /// The content is JSON and has this value at this path.
    Json {
        /// Object members and array indexes.
        path: Vec<String>,
        /// A string, number or boolean.
        is: Value,
    },
}

/// What the head of a response says about the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadMatch {
    /// The token was not rejected.
    None,
    /// The content decides.
    NeedsContent,
    /// The token was rejected.
    Rejected,
}

impl Default for Rejections {
    /// Every 401.
    fn default() -> Self {
        Self(vec![RejectionRule { status: StatusCode::UNAUTHORIZED, evidence: None }])
    }
}

impl Rejections {
    /// Uses exactly these rules.
    pub fn new(rules: Vec<RejectionRule>) -> Self {
        Self(rules)
    }

    /// Checks the head of a response.
    pub fn check_head(&self, status: StatusCode, fields: &HeaderMap) -> HeadMatch {
        let head_match = |rule: &RejectionRule| match &rule.evidence {
            None => HeadMatch::Rejected,
            Some(RejectionEvidence::Contains(_) | RejectionEvidence::Json { .. }) => {
                HeadMatch::NeedsContent
            }
            Some(RejectionEvidence::Field { name, has }) => {
                let mut lines = fields.get_all(name).iter();
                rejected_if(lines.any(|line| contains(line.as_bytes(), has.as_bytes())))
            }
            Some(RejectionEvidence::Grpc(status)) => {
                rejected_if(grpc_status(fields) == Some(*status))
            }
        };
        self.of(status).map(head_match).max().unwrap_or(HeadMatch::None)
    }

    /// Returns true if the content of a response means that the token was rejected.
    pub fn matches_content(&self, status: StatusCode, content: &[u8]) -> bool {
        // RFC 8259 §8.1 allows parsers to ignore a byte order mark.
        let plain = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let json = std::cell::OnceCell::new();
        let json = || json.get_or_init(|| serde_json::from_slice::<Value>(plain).ok()).as_ref();
        self.of(status).any(|rule| match &rule.evidence {
            // Decided by the head.
            None | Some(RejectionEvidence::Field { .. } | RejectionEvidence::Grpc(_)) => false,
            Some(RejectionEvidence::Contains(text)) => contains(content, text.as_bytes()),
            Some(RejectionEvidence::Json { path, is }) => json()
                .and_then(|whole| value_at(whole, path))
                .is_some_and(|found| equals(found, is)),
        })
    }

    fn of(&self, status: StatusCode) -> impl Iterator<Item = &RejectionRule> {
        self.0.iter().filter(move |rule| rule.status == status)
    }
}

/// Returns true if the request was refused before it had any effect, so that repeating it is safe:
/// a 401 (RFC 9110 §15.5.2), or gRPC's UNAUTHENTICATED if no message came before it.
pub fn is_unauthorized(status: StatusCode, fields: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED || grpc_status(fields) == Some(UNAUTHENTICATED)
}

fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn rejected_if(holds: bool) -> HeadMatch {
    if holds { HeadMatch::Rejected } else { HeadMatch::None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(status: u16, evidence: Option<RejectionEvidence>) -> RejectionRule {
        RejectionRule { status: StatusCode::from_u16(status).unwrap_or_default(), evidence }
    }

    fn says(text: &str) -> Option<RejectionEvidence> {
        Some(RejectionEvidence::Contains(text.to_owned()))
    }

    fn holds(path: &str, is: Value) -> Option<RejectionEvidence> {
        Some(RejectionEvidence::Json { path: path.split('.').map(str::to_owned).collect(), is })
    }

    fn status(status: u16) -> StatusCode {
        StatusCode::from_u16(status).unwrap_or_default()
    }

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, http::HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn the_head_decides_or_the_content_is_needed() {
        let field = || {
            Some(RejectionEvidence::Field {
                name: HeaderName::from_static("x-why"),
                has: "ired".into(),
            })
        };
        let rules = Rejections::new(vec![
            rule(403, says("x")),
            rule(403, field()),
            rule(400, None),
            rule(400, says("x")),
            rule(410, field()),
            rule(200, Some(RejectionEvidence::Grpc(16))),
        ]);
        use HeadMatch::{NeedsContent, Rejected};
        for (number, lines, expected) in [
            (200, &[][..], HeadMatch::None),
            (200, &[("grpc-status", "16")], Rejected),
            (200, &[("grpc-status", "7")], HeadMatch::None),
            (200, &[("grpc-status", "160")], HeadMatch::None),
            (200, &[("grpc-status", "")], HeadMatch::None),
            (401, &[("grpc-status", "16")], HeadMatch::None),
            (403, &[], NeedsContent),
            (403, &[("x-why", "fine")], NeedsContent),
            (403, &[("x-why", "fine"), ("x-why", "token expired: x")], Rejected),
            (400, &[], Rejected),
            (410, &[], HeadMatch::None),
            (410, &[("x-other", "expired")], HeadMatch::None),
            (410, &[("x-why", "Expired")], Rejected),
            (410, &[("x-why", "EXPIRED")], HeadMatch::None),
        ] {
            let found = rules.check_head(status(number), &fields(lines));
            assert_eq!(found, expected, "{number} {lines:?}");
        }
        let default = |number| Rejections::default().check_head(status(number), &HeaderMap::new());
        assert_eq!((default(401), default(403)), (Rejected, HeadMatch::None));
    }

    #[test]
    fn a_401_and_grpc_unauthenticated_had_no_effect() {
        for (number, lines, expected) in [
            (401, &[][..], true),
            (200, &[], false),
            (403, &[], false),
            (200, &[("grpc-status", "16")], true),
            (200, &[("grpc-status", "7")], false),
        ] {
            assert_eq!(is_unauthorized(status(number), &fields(lines)), expected, "{number}");
        }
    }

    #[test]
    fn content_is_compared_as_text_or_as_json() {
        let meta = r#"{"error":{"code":190,"ok":false,"list":[{"id":"a"}]}}"#;
        for (evidence, content, expected) in [
            (says("expired"), "token expired", true),
            (says("expired"), "Expired", false),
            (says("expired"), "", false),
            (holds("error.code", json!(190)), meta, true),
            (holds("error.code", json!("190")), meta, false),
            (holds("error.code", json!(19)), meta, false),
            (holds("error.code", json!(190)), r#"{"error":{"code":190.0}}"#, true),
            (holds("error.ok", json!(false)), meta, true),
            (holds("error.list.0.id", json!("a")), meta, true),
            (holds("error.list.1.id", json!("a")), meta, false),
            (holds("error.nothing", json!("a")), meta, false),
            (
                holds("error", json!("token_expired")),
                r#"{"ok":false,"error":"token_expired"}"#,
                true,
            ),
            (holds("a", json!(1)), "\u{feff}{\"a\":1}", true),
            (holds("error", json!("x")), "{", false),
            (holds("error", json!("x")), "", false),
        ] {
            let rules = Rejections::new(vec![rule(400, evidence.clone())]);
            assert_eq!(
                rules.matches_content(status(400), content.as_bytes()),
                expected,
                "{evidence:?}"
            );
            assert!(!rules.matches_content(status(403), content.as_bytes()));
        }
    }
}
