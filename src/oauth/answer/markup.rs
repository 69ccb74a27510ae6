//! Finds tokens in HTML and XML. Some servers always answer in XML, and some embed JSON or a form
//! in a page.

use serde_json::Value;

/// The maximum number of elements that are examined.
const MAX_ELEMENTS: usize = 10_000;

/// Returns true for HTML or XML.
pub(super) fn is_page(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    let begins = body.first() == Some(&b'<');
    begins && body.get(1).is_some_and(|byte| byte.is_ascii_alphabetic() || b"!?".contains(byte))
}

/// Replaces character entities.
pub(super) fn unescaped(text: &str) -> String {
    const NAMED: [(&str, &str); 9] = [
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#x22;", "\""),
        ("&#X22;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    NAMED.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

/// Returns the text-only elements, all attributes and the form fields as members.
pub(super) fn elements(body: &[u8]) -> Vec<(String, Value)> {
    let text = String::from_utf8_lossy(body);
    let mut members = Vec::new();
    let mut add = |name: &str, value: &str| {
        members.push((name.to_owned(), Value::String(unescaped(value.trim()))));
    };
    for (at, _) in text.match_indices('<').take(MAX_ELEMENTS) {
        let Some((tag, rest)) = text.get(at + 1..).and_then(|rest| rest.split_once('>')) else {
            break;
        };
        let content = rest.split('<').next().unwrap_or_default();
        let name = tag.split([' ', '\t', '\r', '\n', '/']).next().unwrap_or_default();
        let name = name.rsplit(':').next().unwrap_or_default();
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            add(name, quoted(rest).unwrap_or(content));
        }
        let attributes = attributes(tag);
        for (name, value) in &attributes {
            add(name, value);
        }
        let of = |name: &str| attributes.iter().find(|(it, _)| *it == name).map(|(_, value)| value);
        if let (Some(name), Some(value)) = (of("name"), of("value").or_else(|| of("content"))) {
            add(name, value);
        }
    }
    members
}

/// Returns the contents of a leading CDATA section.
fn quoted(text: &str) -> Option<&str> {
    let inner = text.trim_start().strip_prefix("<![CDATA[")?;
    inner.split_once("]]>").map(|(inner, _)| inner)
}

/// Returns the attributes of a tag, quoted or not.
fn attributes(tag: &str) -> Vec<(&str, &str)> {
    let mut attributes = Vec::new();
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once('=') {
        let name = before.trim_end().rsplit(|c: char| c.is_ascii_whitespace()).next();
        let after = after.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, left) = match quote {
            Some(quote) => {
                after.get(1..).and_then(|it| it.split_once(quote)).unwrap_or((after, ""))
            }
            None => after.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((after, "")),
        };
        attributes.extend(name.map(|name| (name, value)));
        rest = left;
    }
    attributes
}
