//! Masks secrets in the messages of servers.
//!
//! Servers repeat what they were sent, as it was or escaped for the place where they put it.

use std::collections::HashSet;
use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::secret::Secret;

/// Makes a server's text safe for one line of a log: masked, without control characters, and
/// truncated to `limit` characters.
pub(super) fn printable(text: &str, limit: usize, secrets: &[&Secret]) -> String {
    // Characters that are invisible, break lines or change the text direction.
    let is_hidden = |c: char| {
        let format = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
        c.is_control() || c == '\u{feff}' || format.iter().any(|range| range.contains(&c))
    };
    let clean = |c: char| if is_hidden(c) { ' ' } else { c };
    // Mask again after cleaning, because the removed characters may have split a secret.
    let text: String = masked(text.to_owned(), secrets).chars().map(clean).collect();
    let text = masked(text, secrets);
    let mut line: String = text.chars().take(limit).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// Replaces each of `secrets`, in any spelling, with an ellipsis.
fn masked(mut text: String, secrets: &[&Secret]) -> String {
    for secret in secrets.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty()) {
        for spelling in spellings(secret) {
            text = text.replace(&spelling, "…");
        }
    }
    text
}

/// The length of a part of a secret that is masked in a damaged answer, in characters. Longer parts
/// hardly occur by chance.
const PART: usize = 6;

/// Masks parts of secrets in the text of a truncated or damaged answer.
pub(super) fn masked_in_parts(text: &str, secrets: &[&Secret]) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut is_secret = vec![false; chars.len()];
    for spelling in secrets.iter().flat_map(|secret| spellings(secret.expose())) {
        let secret: Vec<char> = spelling.chars().collect();
        let parts: HashSet<&[char]> = secret.windows(PART).collect();
        for (at, window) in chars.windows(PART).enumerate() {
            if parts.contains(window) {
                is_secret.iter_mut().skip(at).take(PART).for_each(|it| *it = true);
            }
        }
    }
    let mut masked = String::with_capacity(text.len());
    for (c, is_secret) in chars.into_iter().zip(is_secret) {
        match is_secret {
            true if masked.ends_with('…') => {}
            true => masked.push('…'),
            false => masked.push(c),
        }
    }
    masked
}

/// Returns the spellings of a secret: plain, in a form, in a URL, in JSON, in HTML, in base64 and
/// in hexadecimal.
fn spellings(secret: &str) -> Vec<String> {
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let url = form.replace('+', "%20");
    let (small_form, small_url) = (with_small_escapes(&form), with_small_escapes(&url));
    let mut spellings = vec![secret.to_owned(), form, url, small_form, small_url];
    for (ascii, slash) in [(false, false), (false, true), (true, false), (true, true)] {
        spellings.push(in_json(secret, ascii, slash));
    }
    spellings.push(in_html(secret));
    spellings.push(in_html(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"));
    // RFC 3986 encoding, which differs from form encoding, with and without encoded slashes, and
    // encoded twice.
    let percent = crate::template::percent_encode(secret).to_string();
    spellings.push(with_small_escapes(&percent));
    spellings.push(percent.replace("%2F", "/"));
    spellings.push(percent.replace('%', "%25"));
    spellings.push(percent);
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        spellings.push(engine.encode(secret));
    }
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    spellings.push(hexadecimal.to_uppercase());
    spellings.push(hexadecimal);
    // Longest first, because replacing a part of a longer spelling would leave the rest.
    spellings.sort_by_key(|spelling| std::cmp::Reverse(spelling.len()));
    spellings.dedup();
    spellings
}

/// Lowers the case of percent escapes: `%2F` becomes `%2f`.
fn with_small_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut digits = 0;
    for c in text.chars() {
        out.push(if digits > 0 { c.to_ascii_lowercase() } else { c });
        digits = if c == '%' { 2 } else { u8::saturating_sub(digits, 1) };
    }
    out
}

/// Escapes for JSON, optionally to ASCII only and with escaped slashes.
fn in_json(text: &str, ascii: bool, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '/' if slash => out.push_str("\\/"),
            c if ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn in_html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#x27;")
}
