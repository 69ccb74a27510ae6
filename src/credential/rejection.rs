//! Which answers of an origin server mean that it did not accept the token.
//!
//! The rules are looked at in two steps, because most need no content: the head alone may settle it.

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::Value;

/// Content up to this length is looked at; longer answers are no error messages.
pub const CONTENT_LIMIT: usize = 64 * 1024;

/// Where a server of gRPC says how a call ended; in the head if it ended before its first message
/// ("Trailers-Only").
const GRPC_STATUS: &str = "grpc-status";
/// UNAUTHENTICATED: what 401 is elsewhere.
const UNAUTHENTICATED: u8 = 16;

/// What counts as a rejection.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejections(Vec<RejectionRule>);

/// One kind of answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionRule {
    /// Its status.
    pub status: StatusCode,
    /// What else it has to say; `None`: the status is enough.
    pub evidence: Option<Evidence>,
}

/// What an answer has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// This text is in a line of this field.
    Field {
        /// The field.
        name: HeaderName,
        /// The text.
        has: String,
    },
    /// It is a call of gRPC that ended at once, with this status.
    Grpc(u8),
    /// This text is in its content.
    Contains(String),
    /// Its content is JSON, and this value is at this place.
    Json {
        /// Names of members and indexes of arrays.
        path: Vec<String>,
        /// A text, a number or a truth value.
        is: Value,
    },
}

/// What the head of an answer says about the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspicion {
    /// Nothing.
    None,
    /// The content decides.
    Content,
    /// It was not accepted.
    Certain,
}

impl Default for Rejections {
    /// Every 401.
    fn default() -> Self {
        Self(vec![RejectionRule { status: StatusCode::UNAUTHORIZED, evidence: None }])
    }
}

impl Rejections {
    /// These and no others.
    pub fn new(rules: Vec<RejectionRule>) -> Self {
        Self(rules)
    }

    /// What the head of an answer says.
    pub fn suspect(&self, status: StatusCode, fields: &HeaderMap) -> Suspicion {
        let suspicion = |rule: &RejectionRule| match &rule.evidence {
            None => Suspicion::Certain,
            Some(Evidence::Contains(_) | Evidence::Json { .. }) => Suspicion::Content,
            Some(Evidence::Field { name, has }) => {
                let mut lines = fields.get_all(name).iter();
                certain_if(lines.any(|line| contains(line.as_bytes(), has.as_bytes())))
            }
            Some(Evidence::Grpc(status)) => certain_if(grpc_status(fields) == Some(*status)),
        };
        self.of(status).map(suspicion).max().unwrap_or(Suspicion::None)
    }

    /// Does the content of an answer say that the token was not accepted?
    pub fn convict(&self, status: StatusCode, content: &[u8]) -> bool {
        // RFC 8259 §8.1 allows to ignore a byte order mark.
        let plain = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let json = std::cell::OnceCell::new();
        let json = || json.get_or_init(|| serde_json::from_slice::<Value>(plain).ok()).as_ref();
        self.of(status).any(|rule| match &rule.evidence {
            // The head would have settled it.
            None | Some(Evidence::Field { .. } | Evidence::Grpc(_)) => false,
            Some(Evidence::Contains(text)) => contains(content, text.as_bytes()),
            Some(Evidence::Json { path, is }) => {
                json().and_then(|whole| at(whole, path)).is_some_and(|found| same(found, is))
            }
        })
    }

    fn of(&self, status: StatusCode) -> impl Iterator<Item = &RejectionRule> {
        self.0.iter().filter(move |rule| rule.status == status)
    }
}

/// Was the request refused before anything was done? A 401 says so (RFC 9110 §15.5.2), and gRPC's word for
/// it where no message came before it. Other answers say nothing of the kind.
pub fn is_unauthorized(status: StatusCode, fields: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED || grpc_status(fields) == Some(UNAUTHENTICATED)
}

fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn certain_if(holds: bool) -> Suspicion {
    if holds { Suspicion::Certain } else { Suspicion::None }
}

fn contains(content: &[u8], text: &[u8]) -> bool {
    content.windows(text.len().max(1)).any(|window| window == text)
}

/// A member of an object or an element of an array.
fn at<'a>(whole: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(whole, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })
}

/// 190 and 190.0 are one number; 190 and "190" are not the same.
fn same(found: &Value, is: &Value) -> bool {
    found == is || found.as_f64().is_some_and(|number| is.as_f64() == Some(number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(status: u16, evidence: Option<Evidence>) -> RejectionRule {
        RejectionRule { status: StatusCode::from_u16(status).unwrap_or_default(), evidence }
    }

    fn says(text: &str) -> Option<Evidence> {
        Some(Evidence::Contains(text.to_owned()))
    }

    fn holds(path: &str, is: Value) -> Option<Evidence> {
        Some(Evidence::Json { path: path.split('.').map(str::to_owned).collect(), is })
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
    fn the_head_settles_it_or_asks_for_the_content() {
        let field =
            || Some(Evidence::Field { name: HeaderName::from_static("x-why"), has: "ired".into() });
        let rules = Rejections::new(vec![
            rule(403, says("x")),
            rule(403, field()),
            rule(400, None),
            rule(400, says("x")),
            rule(410, field()),
            rule(200, Some(Evidence::Grpc(16))),
        ]);
        use Suspicion::{Certain, Content};
        for (number, lines, expected) in [
            (200, &[][..], Suspicion::None),
            (200, &[("grpc-status", "16")], Certain),
            (200, &[("grpc-status", "7")], Suspicion::None),
            (200, &[("grpc-status", "160")], Suspicion::None),
            (200, &[("grpc-status", "")], Suspicion::None),
            (401, &[("grpc-status", "16")], Suspicion::None),
            (403, &[], Content),
            (403, &[("x-why", "fine")], Content),
            (403, &[("x-why", "fine"), ("x-why", "token expired: x")], Certain),
            (400, &[], Certain),
            (410, &[], Suspicion::None),
            (410, &[("x-other", "expired")], Suspicion::None),
            (410, &[("x-why", "Expired")], Certain),
            (410, &[("x-why", "EXPIRED")], Suspicion::None),
        ] {
            let found = rules.suspect(status(number), &fields(lines));
            assert_eq!(found, expected, "{number} {lines:?}");
        }
        let default = |number| Rejections::default().suspect(status(number), &HeaderMap::new());
        assert_eq!((default(401), default(403)), (Certain, Suspicion::None));
    }

    #[test]
    fn a_401_was_not_applied_and_neither_was_a_call_that_grpc_calls_unauthenticated() {
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
            assert_eq!(rules.convict(status(400), content.as_bytes()), expected, "{evidence:?}");
            assert!(!rules.convict(status(403), content.as_bytes()));
        }
    }
}
