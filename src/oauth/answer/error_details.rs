//! Extracts the error details of an answer from the places where servers put them.

use http::StatusCode;
use serde_json::Value;

use super::format::MemberPath;
use super::markup::is_page;
use super::members::{Members, text};
use crate::content_match::value_at;

/// Places of error codes, in order of precedence after the configured one. The first step ignores
/// case, underscores and hyphens.
const CODES: [&str; 17] = [
    "error",
    "error.type",
    "error.code",
    "error.status",
    "code",
    "errorCode",
    "__type",
    "errors.0.errorType",
    "errors.0.code",
    "errors.0",
    "fault.code",
    "fault.errorcode",
    "fault.faultcode",
    "fault.detail.errorcode",
    "fault.name",
    "error.error",
    "errcode",
];
/// Places of an error number that is 0 for success. `code` is also used for other codes.
const NUMBERS: [&str; 2] = ["errcode", "code"];
/// Places of error messages. The first one present is shown.
const TEXTS: [&str; 20] = [
    "error_description",
    "message",
    "error.message",
    "errors.0.message",
    "reason",
    "detail",
    "title",
    "fault.faultstring",
    "fault.message",
    "error.error_description",
    "error.reason",
    "error_message",
    "errors.0.detail",
    "errors.0",
    "hint",
    "error_hint",
    "error_debug",
    "errmsg",
    "err_msg",
    "msg",
];
/// The definition of `invalid_request` in RFC 6749 §5.2, which many servers repeat for any error.
const STOCK_PHRASE: (&str, &str) = ("request is missing a required parameter", "malformed");
/// Places of the name of an invalid parameter.
const FIELDS: [&str; 5] =
    ["field", "errors.0.field", "errors.0.resource", "error.field", "error.param"];
/// The maximum length of a plain-text error message in bytes. Longer text is a document.
const MAX_TEXT: usize = 1024;

/// The error codes and texts of an answer.
#[derive(Debug, Default)]
pub(super) struct ErrorDetails {
    /// Codes as written, the most specific place first.
    pub(super) codes: Vec<String>,
    /// The message to show.
    pub(super) description: Option<String>,
    /// A number that signals failure, from servers that answer everything with status 200.
    pub(super) number: Option<ErrorNumber>,
    /// The secondary error code.
    pub(super) suberror: Option<String>,
    /// All texts in lower case, with words such as `refresh_token` split, without paths and URLs.
    pub(super) words: String,
    /// A text reports an unknown path.
    pub(super) names_path: bool,
    /// The body is HTML or XML.
    pub(super) is_page: bool,
    /// The body had members.
    pub(super) parsed: bool,
}

/// A failure number; see [`ErrorDetails::number`].
#[derive(Debug)]
pub(super) struct ErrorNumber {
    /// The member's name proves that the number is an error.
    pub(super) is_error: bool,
}

impl ErrorDetails {
    pub(super) fn of(body: &[u8], members: &Members, mapped: Option<&MemberPath>) -> Self {
        let is_page = !members.is_strict && is_page(body);
        if is_page {
            let description = Some("it is an HTML or XML page".to_owned());
            return Self { is_page, description, ..Self::default() };
        }
        let mapped = mapped.and_then(|path| Members::code_of(members.at(path)?));
        let usual = CODES.iter().filter_map(|place| Members::code_of(at(members, place)?));
        let mut codes: Vec<String> = mapped.into_iter().chain(usual).collect();
        // `error` stands for an object without a code and carries no information.
        codes.sort_by_key(|code| code == "error");
        let found = |places: &[&'static str]| -> Vec<String> {
            let found = places.iter().filter_map(|place| text(at(members, place)?));
            found.map(str::to_owned).collect()
        };
        let mut texts = found(&TEXTS);
        let description = texts.first().filter(|text| !codes.contains(text)).cloned();
        if !members.parsed && body.len() <= MAX_TEXT {
            texts.extend(std::str::from_utf8(body).map(str::to_owned));
        }
        texts.extend(found(&FIELDS));
        // Some codes are texts, or describe what is wrong with a field.
        let is_text = |code: &&String| {
            code.contains(' ') || ["invalid", "expired", "revoked"].contains(&plain(code).as_str())
        };
        texts.extend(codes.iter().filter(is_text).cloned());
        let names_path = texts.iter().any(|text| names_path(text));
        Self {
            number: NUMBERS.iter().find_map(|place| number(at(members, place)?, place)),
            suberror: at(members, "suberror").and_then(text).map(str::to_owned),
            words: texts.iter().map(|text| words(text)).collect::<Vec<_>>().join(" ; "),
            codes,
            description,
            names_path,
            is_page,
            parsed: members.parsed,
        }
    }

    /// Returns true if the texts contain any of these phrases.
    pub(super) fn has(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.words.contains(phrase))
    }

    /// Returns true if the texts contain any of these as a whole word.
    pub(super) fn has_word(&self, words: &[&str]) -> bool {
        let mut said = self.words.split(|c: char| !c.is_ascii_alphanumeric());
        said.any(|word| words.contains(&word))
    }

    /// Returns true if one of the codes is among these, which are normalised by [`plain`].
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&plain(code).as_str()))
    }

    /// Returns the most specific code: one that is `known`, else the first that does not just
    /// repeat the status.
    pub(super) fn code(&self, status: StatusCode, known: impl Fn(&str) -> bool) -> Option<&str> {
        let number = status.as_str();
        let phrase = status.canonical_reason().map(plain).unwrap_or_default();
        let tells = |code: &&String| code.as_str() != number && plain(code) != phrase;
        let by_name = self.codes.iter().find(|code| known(&plain(code)));
        let code = by_name.or_else(|| self.codes.iter().find(tells)).or(self.codes.first());
        code.map(String::as_str)
    }
}

/// Normalises a code: removes case, underscores and prefixes. `oauth.v2.InvalidGrant` becomes
/// `invalidgrant`.
pub(super) fn plain(code: &str) -> String {
    let last = code.rsplit(['.', '#', ':', '/']).find(|part| !part.is_empty()).unwrap_or_default();
    let letters = last.chars().filter(char::is_ascii_alphanumeric);
    let plain: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    plain.strip_suffix("exception").map(str::to_owned).unwrap_or(plain)
}

/// Returns the value at a place such as `errors.0.code`.
fn at<'a>(members: &'a Members, place: &'static str) -> Option<&'a Value> {
    let mut steps = place.split('.');
    let first = members.get_ignoring_case(steps.next()?)?;
    value_at(first, steps)
}

fn number(value: &Value, place: &str) -> Option<ErrorNumber> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| ![0, 200].contains(number))?;
    Some(ErrorNumber { is_error: place == "errcode" })
}

/// Converts to lower case, splits `refresh_token` and `refreshToken` into two words, and drops
/// paths and URLs.
fn words(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !is_path(word) && !word.contains("://"));
    let words = words.collect::<Vec<_>>().join(" ").replace(['_', '-', '`', '"', '\''], " ");
    let words = words.to_ascii_lowercase().replace("refreshtoken", "refresh token");
    without_stock_phrase(&words.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn without_stock_phrase(words: &str) -> String {
    let (begin, end) = STOCK_PHRASE;
    let Some((before, rest)) = words.split_once(begin) else { return words.to_owned() };
    let (_, after) = rest.split_once(end).unwrap_or(("", rest));
    format!("{before}{after}")
}

fn is_path(word: &str) -> bool {
    let word = word.trim_start_matches(['\'', '"', '`', '(', '[']);
    word.starts_with('/') && word.as_bytes().get(1).is_some_and(u8::is_ascii_alphanumeric)
}

/// `Cannot POST /oauth/token`
fn names_path(text: &str) -> bool {
    let small = text.to_ascii_lowercase();
    let absent = ["cannot ", "not found", "no route", "no such", "no static", "unable to identify"];
    text.split_whitespace().any(is_path) && absent.iter().any(|phrase| small.contains(phrase))
}
