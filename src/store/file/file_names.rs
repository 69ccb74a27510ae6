//! Conversion between keys and file names. Pure functions.

/// The suffix of temporary files.
pub(super) const TEMPORARY: &str = ".tmp";
/// Separates the stem from the time in the name of a quarantined file.
pub(super) const QUARANTINE_INFIX: &str = ".corrupt-";
/// A credential name of 64 bytes and values of 160. With the affixes, the name stays below 255
/// bytes.
pub(super) const MAX_STEM_LEN: usize = 224;

pub(super) fn record_name(key: &str) -> String {
    format!("{}.json", stem_of(key))
}

/// Splits the name of a record or quarantined file into its stem and the rest. Temporary files
/// start with a dot and are excluded.
pub(super) fn split_name(name: &str) -> Option<(&str, &str)> {
    let aside = || {
        let (stem, time) = name.rsplit_once(QUARANTINE_INFIX)?;
        time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-').then_some(stem)
    };
    let stem = name.strip_suffix(".json").or_else(aside)?;
    (!stem.starts_with('.')).then(|| name.split_at_checked(stem.len()))?
}

/// When a file was quarantined: the second, and the number within that second.
pub(super) fn quarantine_time(name: &str) -> (u64, u64) {
    let (_, time) = name.rsplit_once(QUARANTINE_INFIX).unwrap_or_default();
    let (seconds, number) = time.split_once('-').unwrap_or((time, ""));
    (seconds.parse().unwrap_or(0), number.parse().unwrap_or(1))
}

/// Starts with a dot, unlike the name of any credential.
pub(super) fn temporary_prefix(key: &str) -> String {
    format!(".{}.json.", stem_of(key))
}

/// The stem of a key's file names. Keys consist of credential names and percent-encoded values, so
/// they contain neither `@` nor commas. The digits of percent escapes stay unchanged, because they
/// are always capitals. If the escaped stem would be too long, capitals stay unchanged: no file
/// system may refuse the name, and few are case-insensitive.
pub(super) fn stem_of(key: &str) -> String {
    let escaped = escape(key);
    if escaped.len() <= MAX_STEM_LEN { escaped } else { key.replace('/', "@") }
}

pub(super) fn escape(key: &str) -> String {
    let mut stem = String::with_capacity(key.len());
    let mut digits = 0;
    for c in key.chars() {
        match c {
            '/' => stem.push('@'),
            c if c.is_ascii_uppercase() && digits == 0 => {
                stem.extend([',', c.to_ascii_lowercase()]);
            }
            c => stem.push(c),
        }
        digits = if c == '%' { 2 } else { u8::saturating_sub(digits, 1) };
    }
    stem
}

/// The key of the record in the file `name`, if it is a record file.
pub(super) fn key_of_name(name: &str) -> Option<String> {
    split_name(name).filter(|(_, rest)| *rest == ".json").map(|(stem, _)| key_of(stem))
}

pub(super) fn key_of(stem: &str) -> String {
    let mut key = String::with_capacity(stem.len());
    let mut chars = stem.chars();
    while let Some(c) = chars.next() {
        match c {
            '@' => key.push('/'),
            ',' => key.extend(chars.next().map(|c| c.to_ascii_uppercase())),
            c => key.push(c),
        }
    }
    key
}
