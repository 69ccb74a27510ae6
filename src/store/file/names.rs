//! The names of files, and the keys of the records in them: pure.

/// What temporary files end with.
pub(super) const TEMPORARY: &str = ".tmp";
/// What stands between the stem and the time in the name of what was set aside.
pub(super) const ASIDE: &str = ".corrupt-";
/// A name of 64 bytes and values of 160. What is put around it fits into the 255 bytes of a file's name.
pub(super) const LONGEST_STEM: usize = 224;

pub(super) fn record_name(key: &str) -> String {
    format!("{}.json", stem_of(key))
}

/// The stem of a record's name or of one that was set aside, and what follows. Temporary files begin with a dot.
pub(super) fn split_name(name: &str) -> Option<(&str, &str)> {
    let aside = || {
        let (stem, time) = name.rsplit_once(ASIDE)?;
        time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-').then_some(stem)
    };
    let stem = name.strip_suffix(".json").or_else(aside)?;
    (!stem.starts_with('.')).then(|| name.split_at_checked(stem.len()))?
}

/// When it was set aside: the second, and the number within it.
pub(super) fn time_of(name: &str) -> (u64, u64) {
    let (_, time) = name.rsplit_once(ASIDE).unwrap_or_default();
    let (seconds, number) = time.split_once('-').unwrap_or((time, ""));
    (seconds.parse().unwrap_or(0), number.parse().unwrap_or(1))
}

/// A dot, so that a credential's name (which starts with a letter or digit) never begins like it.
pub(super) fn temporary_prefix(key: &str) -> String {
    format!(".{}.json.", stem_of(key))
}

/// Keys are made of credentials' names and percent-encoded values, so neither has an `@` or a comma of its
/// own. The digits of an escape stay as they are: they are capitals always. So do all capitals of a key that
/// would become too long: no disk may refuse it, and few take capitals for small letters.
pub(super) fn stem_of(key: &str) -> String {
    let escaped = escaped(key);
    if escaped.len() <= LONGEST_STEM { escaped } else { key.replace('/', "@") }
}

pub(super) fn escaped(key: &str) -> String {
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

/// The key of the record in a file of this name, if it is one.
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
