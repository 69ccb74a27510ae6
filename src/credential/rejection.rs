//! Which answers of an origin server mean that it did not accept the token.
//!
//! The rules are looked at in two steps, because most need no content: the status alone may settle it.

use http::StatusCode;
use serde_json::Value;

/// Content up to this length is looked at; longer answers are no error messages.
pub const CONTENT_LIMIT: u64 = 64 * 1024;

/// What counts as a rejection.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejections(Vec<RejectionRule>);

/// One kind of answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionRule {
    /// Its status.
    pub status: StatusCode,
    /// What its content has to say; `None`: the status is enough.
    pub evidence: Option<Evidence>,
}

/// What content has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// This text is in it.
    Contains(String),
    /// It is JSON, and this value is at this place.
    Json {
        /// Names of members and indexes of arrays.
        path: Vec<String>,
        /// A text, a number or a truth value.
        is: Value,
    },
}

/// What a status says about the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing.
    None,
    /// It was not accepted.
    Certain,
    /// The content decides.
    Content,
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

    /// What the status of an answer says.
    pub fn suspect(&self, status: StatusCode) -> Suspicion {
        self.of(status).fold(Suspicion::None, |found, rule| match rule.evidence {
            None => Suspicion::Certain,
            Some(_) if found == Suspicion::None => Suspicion::Content,
            Some(_) => found,
        })
    }

    /// Does the content of an answer say that the token was not accepted?
    pub fn convict(&self, status: StatusCode, content: &[u8]) -> bool {
        let json = std::cell::OnceCell::new();
        let json = || json.get_or_init(|| serde_json::from_slice::<Value>(content).ok()).as_ref();
        self.of(status).any(|rule| match &rule.evidence {
            None => true,
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

    #[test]
    fn a_status_settles_it_or_asks_for_the_content() {
        let rules =
            Rejections::new(vec![rule(403, says("x")), rule(400, None), rule(400, says("x"))]);
        for (number, expected) in [
            (200, Suspicion::None),
            (401, Suspicion::None),
            (403, Suspicion::Content),
            (400, Suspicion::Certain),
        ] {
            assert_eq!(rules.suspect(status(number)), expected, "{number}");
        }
        assert_eq!(Rejections::default().suspect(status(401)), Suspicion::Certain);
        assert_eq!(Rejections::default().suspect(status(403)), Suspicion::None);
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
            (holds("error", json!("x")), "{", false),
            (holds("error", json!("x")), "", false),
        ] {
            let rules = Rejections::new(vec![rule(400, evidence.clone())]);
            assert_eq!(rules.convict(status(400), content.as_bytes()), expected, "{evidence:?}");
            assert!(!rules.convict(status(403), content.as_bytes()));
        }
    }
}
