//! Reads malformed JSON: surrounded by text, truncated, with invalid UTF-8 or invalid escapes. Only
//! values that are certainly complete count: a closed string, or a number followed by something.

use serde_json::{Map, Number, Value};

use super::candidates::{Candidates, is_refresh_token, is_successor_name};

/// The maximum nesting depth.
const MAX_DEPTH: usize = 64;
/// How many starting points are tried in text.
const MAX_BEGINNINGS: usize = 64;
/// How many levels of JSON in JSON strings are read.
const MAX_QUOTED: usize = 2;

/// Replaces unreadable characters of a string. No token contains it.
pub(super) const UNREADABLE: char = char::REPLACEMENT_CHARACTER;

/// The readable parts of a body.
#[derive(Default)]
pub(super) struct LenientJson {
    /// The members of the first object, or of the first one with tokens or an error.
    pub(super) pairs: Vec<(String, Value)>,
    /// That object is complete.
    pub(super) is_whole: bool,
    /// The members of all objects at any depth, including those in strings, except members that are
    /// objects; for a refresh token in an object or array, its candidates.
    pub(super) objects: Vec<Vec<(String, Value)>>,
}

/// Reads all objects in `bytes`.
pub(super) fn read(bytes: &[u8]) -> LenientJson {
    let mut text = LenientJson::default();
    read_into(&mut text, bytes, MAX_QUOTED);
    text
}

fn read_into(text: &mut LenientJson, bytes: &[u8], quoted: usize) {
    let mut parser = JsonParser { bytes, at: 0, objects: Vec::new(), keeps_numbers: false };
    let mut is_relevant = false;
    for _ in 0..MAX_BEGINNINGS {
        let rest = bytes.get(parser.at..).unwrap_or_default();
        let Some(begin) = rest.iter().position(|byte| matches!(byte, b'{' | b'"')) else { break };
        let before = parser.at + begin;
        parser.at = before + 1;
        if bytes.get(before) == Some(&b'"') {
            // The whole body may be a JSON string with JSON inside.
            let is_first = rest.get(..begin).is_some_and(|before| before.trim_ascii().is_empty());
            let string = is_first.then(|| parser.string()).flatten();
            if let Some(string) = string.filter(|string| string.contains('{')) {
                parser.objects.push(vec![(String::new(), string.into())]);
            } else {
                parser.at = before + 1;
            }
            continue;
        }
        let known = parser.objects.len();
        let (pairs, is_whole) = parser.object(MAX_DEPTH);
        if pairs.is_empty() {
            parser.at = before + 1;
            continue;
        }
        let of_this = parser.objects.get(known..).unwrap_or_default();
        let is_relevant_now = of_this.iter().flatten().any(|(name, _)| is_token_or_error(name));
        if text.pairs.is_empty() || (is_relevant_now && !is_relevant) {
            (text.pairs, text.is_whole, is_relevant) = (pairs, is_whole, is_relevant_now);
        }
    }
    let objects = std::mem::take(&mut parser.objects);
    if quoted > 0 {
        for string in objects.iter().flatten().filter_map(|(_, value)| value.as_str()) {
            if string.trim_start().starts_with('{') {
                let mut inner = LenientJson::default();
                read_into(&mut inner, string.as_bytes(), quoted - 1);
                text.objects.append(&mut inner.objects);
                if text.pairs.is_empty() {
                    (text.pairs, text.is_whole) = (inner.pairs, inner.is_whole);
                }
            }
        }
    }
    text.objects.extend(objects);
}

fn is_token_or_error(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("token") || name.contains("error")
}

struct JsonParser<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Vec<(String, Value)>>,
    /// Keep a number that does not fit an integer as text, because it is a token.
    keeps_numbers: bool,
}

impl JsonParser<'_> {
    /// Parses an object after its brace. Returns its members and whether it is complete.
    fn object(&mut self, depth: usize) -> (Vec<(String, Value)>, bool) {
        let mut pairs = Vec::new();
        let is_whole = self.members(&mut pairs, depth);
        let plain = pairs.iter().flat_map(|(name, value)| match value {
            Value::Object(_) | Value::Array(_) => {
                let is_one = is_refresh_token(name) || is_successor_name(name);
                let texts = is_one.then(|| Candidates::named(name, value).into_texts());
                let texts = texts.unwrap_or_default().into_iter();
                texts.map(|text| (name.clone(), text.into())).collect()
            }
            _ => vec![(name.clone(), value.clone())],
        });
        self.objects.push(plain.collect());
        (pairs, is_whole)
    }

    fn members(&mut self, pairs: &mut Vec<(String, Value)>, depth: usize) -> bool {
        loop {
            match self.next_after(b",") {
                Some(b'}') => return true,
                Some(b'"') => {}
                _ => return false,
            }
            let Some(name) = self.string() else { return false };
            if self.next_after(b"") != Some(b':') {
                return false;
            }
            let before = self.keeps_numbers;
            self.keeps_numbers |= is_refresh_token(&name);
            let (value, is_whole) = self.value(depth);
            self.keeps_numbers = before;
            pairs.extend(value.map(|value| (name, value)));
            if !is_whole {
                return false;
            }
        }
    }

    /// Parses a value. Returns false if the input ended in it.
    fn value(&mut self, depth: usize) -> (Option<Value>, bool) {
        let below = depth.checked_sub(1);
        match (self.next_after(b""), below) {
            (Some(b'"'), _) => {
                let string = self.string().map(Value::String);
                let is_closed = string.is_some();
                (string, is_closed)
            }
            (Some(b'{'), Some(below)) => {
                let (pairs, is_whole) = self.object(below);
                (Some(Value::Object(Map::from_iter(pairs))), is_whole)
            }
            (Some(b'['), Some(below)) => {
                let mut items = Vec::new();
                loop {
                    match self.next_after(b",") {
                        Some(b']') => return (Some(Value::Array(items)), true),
                        None => return (Some(Value::Array(items)), false),
                        Some(_) => self.at -= 1,
                    }
                    let (value, is_whole) = self.value(below);
                    items.extend(value);
                    if !is_whole {
                        return (Some(Value::Array(items)), false);
                    }
                }
            }
            (Some(b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'), _) => {
                self.at -= 1;
                self.word()
            }
            _ => (None, false),
        }
    }

    /// Parses a number or a literal such as `true`.
    fn word(&mut self) -> (Option<Value>, bool) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        // At the end of the input, the rest of the word may be missing.
        let Some(length) = rest.iter().position(|byte| !is_part(byte)) else {
            return (None, false);
        };
        self.at += length;
        let word = rest.get(..length).and_then(|word| std::str::from_utf8(word).ok());
        let value = match word.unwrap_or_default() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number => match number.parse::<Number>() {
                Ok(it) if self.keeps_numbers && it.is_f64() => number.into(),
                parsed => parsed.map_or(Value::Null, Value::Number),
            },
        };
        (Some(value), true)
    }

    /// Parses a string after its opening quote. `None` if it has no end.
    fn string(&mut self) -> Option<String> {
        let mut out = Vec::new();
        loop {
            match self.step()? {
                b'"' => return Some(String::from_utf8_lossy(&out).into_owned()),
                b'\\' => {
                    let character = self.escaped()?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => out.push(byte),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.step()? {
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let Some(high) = self.hexadecimal() else { return Some(UNREADABLE) };
                if !(0xd800..0xdc00).contains(&high) {
                    return Some(char::from_u32(high).unwrap_or(UNREADABLE));
                }
                let before = self.at;
                let is_pair = self.step()? == b'\\' && self.step()? == b'u';
                let low = if is_pair { self.hexadecimal() } else { None };
                let Some(low) = low.filter(|low| (0xdc00..0xe000).contains(low)) else {
                    self.at = before;
                    return Some(UNREADABLE);
                };
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                    .unwrap_or(UNREADABLE)
            }
            _ => {
                self.at -= 1;
                UNREADABLE
            }
        })
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = std::str::from_utf8(self.bytes.get(self.at..self.at + 4)?).ok()?;
        let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, 16).ok().filter(|_| is_hexadecimal)?;
        self.at += 4;
        Some(number)
    }

    fn step(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    /// Returns the next byte that is neither white space nor one of `skipped`.
    fn next_after(&mut self, skipped: &[u8]) -> Option<u8> {
        loop {
            let byte = self.step()?;
            if !byte.is_ascii_whitespace() && !skipped.contains(&byte) {
                return Some(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn members(bytes: &[u8]) -> (Value, bool) {
        let LenientJson { pairs, is_whole, .. } = read(bytes);
        (Value::Object(pairs.into_iter().collect()), is_whole)
    }

    #[test]
    fn only_complete_values_are_read() {
        for (text, expected, is_whole) in [
            // Valid JSON.
            (
                r#"{"a":"b","c":[1,-2.5e3,true,null,{"d":{}}]}"#,
                json!({"a":"b","c":[1,-2.5e3,true,null,{"d":{}}]}),
                true,
            ),
            (
                r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}"#,
                json!({"a":"\"\\/\u{8}\u{c}\n\r\té😀"}),
                true,
            ),
            // Surrounding text.
            ("\u{feff}\n{\"a\":1 }", json!({"a":1}), true),
            (")]}',\n{\"a\":\"b\"}", json!({"a":"b"}), true),
            ("callback({\"a\":\"b\"});", json!({"a":"b"}), true),
            ("Warning: {x} in <b>a.php</b>\n{\"a\":\"b\"}\n0", json!({"a":"b"}), true),
            ("{\"x\":1} {\"access_token\":\"b\"} {\"error\":1}", json!({"access_token":"b"}), true),
            // Truncated.
            (r#"{"a":"b","c":"d"#, json!({"a":"b"}), false),
            (r#"{"a":"b","c":"d\"#, json!({"a":"b"}), false),
            (r#"{"a":"b","c":36"#, json!({"a":"b"}), false),
            (r#"{"a":"b","c":36,"#, json!({"a":"b","c":36}), false),
            (r#"{"a":"b","c":tr"#, json!({"a":"b"}), false),
            (r#"{"a":{"b":"c","d":["e","f"#, json!({"a":{"b":"c","d":["e"]}}), false),
            (r#"{"a":"b","c"#, json!({"a":"b"}), false),
            // Hand-written JSON.
            (r#"{"a":"b" "c":"d",}"#, json!({"a":"b","c":"d"}), true),
            (
                r#"{"a":"b\q","c":"\ud800x","d":"\u12"}"#,
                json!({"a":"b\u{fffd}q","c":"\u{fffd}x","d":"\u{fffd}12"}),
                true,
            ),
            (r#"{"a":NaN,"b":undefined}"#, json!({"a":null,"b":null}), true),
            (r#"{"a":"b",x:1}"#, json!({"a":"b"}), false),
            // JSON in a string.
            (r#""{\"a\":\"b\"}""#, json!({"a":"b"}), true),
            ("", json!({}), false),
            ("no {JSON} {} at \"all\"", json!({}), false),
        ] {
            assert_eq!(members(text.as_bytes()), (expected, is_whole), "{text}");
        }
        let bytes = b"{\"a\":\"\xff\",\"b\":\"c\"}";
        assert_eq!(members(bytes), (json!({"a":"\u{fffd}","b":"c"}), true));
    }

    #[test]
    fn every_object_is_found() {
        let text = r#"{"a":{"b":"1"},"body":"{\"c\":\"{\\\"d\\\":\\\"2\\\"}\"}"} {"e":"3"}"#;
        let text = read(text.as_bytes());
        let found: Vec<_> = text.objects.iter().flatten().map(|(name, _)| name.as_str()).collect();
        for name in ["b", "body", "c", "d", "e"] {
            assert!(found.contains(&name), "{name} in {found:?}");
        }
    }

    #[test]
    fn hostile_text_uses_little_time_and_stack() {
        for text in [
            "{\"a\":".repeat(100_000),
            "[{".repeat(100_000),
            "{".repeat(1_000_000),
            "\"{".repeat(300_000),
        ] {
            read(text.as_bytes());
        }
    }
}
