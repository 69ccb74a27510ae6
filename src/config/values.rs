//! The types that a value in the file can have, and what is said when it has another.
//!
//! A message names what is expected and the kind of thing that was found, never the value: a
//! password may stand where a number belongs.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::problem::Problem;
use super::section::known_keys;
use crate::secret::SecretSource;

/// What can be read from one value of the file.
pub(super) trait FromToml: Sized {
    /// Reads `value`, or says everything that is wrong with it.
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>>;
}

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The keys inside of the value that lead to it, each after a dot.
    below: String,
    span: Range<usize>,
    message: String,
    fix: Option<String>,
}

impl Wrong {
    /// Something other than `expected` was found.
    pub(super) fn kind(value: &Spanned<DeValue<'_>>, expected: &str) -> Vec<Self> {
        Self::text(value, format!("must be {expected}, not {}", described(value.get_ref())), None)
    }

    /// The right kind of value, but not a usable one.
    pub(super) fn value(value: &Spanned<DeValue<'_>>, expected: &str) -> Vec<Self> {
        Self::text(value, format!("must be {expected}"), None)
    }

    fn text(value: &Spanned<DeValue<'_>>, message: String, fix: Option<&str>) -> Vec<Self> {
        let below = String::new();
        vec![Self { below, span: value.span(), message, fix: fix.map(str::to_owned) }]
    }

    /// A key that a table inside of the value does not have.
    pub(super) fn unknown(key: &Spanned<DeString<'_>>, known: &[&str]) -> Self {
        let (span, fix) = (key.span(), Some(known_keys(key.get_ref(), known)));
        Self { below: String::new(), span, message: "has an unknown key".to_owned(), fix }
    }

    /// The finding as one about `key` of the table around it.
    pub(super) fn within(self, key: &str) -> Self {
        Self { below: format!(".{key}{}", self.below), ..self }
    }

    /// A part of the value, what is wrong with it and what to write.
    pub(super) fn part(span: Range<usize>, message: &str, fix: String) -> Self {
        Self { below: String::new(), span, message: message.to_owned(), fix: Some(fix) }
    }

    /// The finding about the key that holds the value.
    pub(super) fn of_key(self, path: &str, key: &str) -> Problem {
        let problem =
            Problem::error(format!("`{path}.{key}{}` {}", self.below, self.message)).at(self.span);
        match self.fix {
            Some(fix) => problem.fix(fix),
            None => problem,
        }
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl FromToml for String {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        value.get_ref().as_str().map(Self::from).ok_or_else(|| Wrong::kind(value, "a string"))
    }
}

impl FromToml for PathBuf {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref().as_str() {
            Some(text) if is_path(text) => Ok(Self::from(text)),
            Some(_) => Err(Wrong::value(value, "a path, which is not empty and has no NUL in it")),
            None => Err(Wrong::kind(value, "a path in quotes")),
        }
    }
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

impl FromToml for bool {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        value.get_ref().as_bool().ok_or_else(|| Wrong::kind(value, "true or false, without quotes"))
    }
}

impl FromToml for u64 {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::Integer(_) => integer(value.get_ref()).ok_or_else(|| {
                Wrong::value(value, "a whole number that is not negative and not huge")
            }),
            _ => Err(Wrong::kind(value, "a whole number")),
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl FromToml for u16 {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let number = u64::from_toml(value)?;
        let port = Self::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| Wrong::value(value, "a port from 1 to 65535"))
    }
}

impl FromToml for IpNet {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let expected = "an address or a network such as \"10.0.0.0/8\"";
        let text = value.get_ref().as_str().ok_or_else(|| Wrong::kind(value, expected))?;
        let address = || text.parse().ok().map(|address: std::net::IpAddr| Self::from(address));
        text.parse().ok().or_else(address).ok_or_else(|| Wrong::value(value, expected))
    }
}

/// One value or a list of them, each with its place.
impl<T: FromToml> FromToml for Vec<Spanned<T>> {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::Array(items) => read_items(items),
            _ => T::from_toml(value).map(|one| vec![Spanned::new(value.span(), one)]),
        }
    }
}

fn read_items<T: FromToml>(items: &DeArray<'_>) -> Result<Vec<Spanned<T>>, Vec<Wrong>> {
    let (mut read, mut wrong) = (Vec::new(), Vec::new());
    for item in items {
        match T::from_toml(item) {
            Ok(value) => read.push(Spanned::new(item.span(), value)),
            Err(more) => wrong.extend(more),
        }
    }
    if wrong.is_empty() { Ok(read) } else { Err(wrong) }
}

/// The longest time that can be written: ten years. Longer ones are mistakes, and adding one to a
/// clock could overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(3653 * 24 * 3600);

/// `"30s"`, `"5m"`, `"1h"`, `"365d"`, or whole seconds as a number.
impl FromToml for Duration {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str = "a duration such as \"30s\", \"5m\" or \"1h\", at most ten years";
        let read = match value.get_ref() {
            DeValue::String(text) => duration(text),
            DeValue::Integer(_) => integer(value.get_ref()).map(Self::from_secs),
            _ => return Err(Wrong::kind(value, EXPECTED)),
        };
        read.filter(|time| *time <= LONGEST).ok_or_else(|| Wrong::value(value, EXPECTED))
    }
}

pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// A number of bytes: `"64KiB"`, `"1MiB"`, `"1GiB"`, or the number itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromToml for Size {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str = "a size such as \"64KiB\", \"1MiB\" or a number of bytes";
        let read = match value.get_ref() {
            DeValue::String(text) => bytes(text),
            DeValue::Integer(_) => integer(value.get_ref()),
            _ => return Err(Wrong::kind(value, EXPECTED)),
        };
        read.map(Self).ok_or_else(|| Wrong::value(value, EXPECTED))
    }
}

fn bytes(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit)?;
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// How to write a secret.
const SECRET_FORMS: &str = "write { file = \"PATH\" }, { env = \"NAME\" }, { cmd = [\"prog\", \"arg\"] } or { credential = \"NAME\" }";

impl FromToml for SecretSource {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let message = match value.get_ref() {
            DeValue::Table(table) => return secret_source(value, table),
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) => {
                "must say where the secret is kept; the secret itself does not belong in this file"
            }
            _ => "must say where the secret is kept",
        };
        Err(Wrong::text(value, message.to_owned(), Some(SECRET_FORMS)))
    }
}

fn secret_source(
    whole: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
) -> Result<SecretSource, Vec<Wrong>> {
    let message = match (table.iter().next(), table.len()) {
        (Some((key, value)), 1) => match place(key.get_ref(), value.get_ref()) {
            Ok(source) => return Ok(source),
            Err(message) => message,
        },
        _ => "must name exactly one place for the secret",
    };
    Err(Wrong::text(whole, message.to_owned(), Some(SECRET_FORMS)))
}

fn place(key: &str, value: &DeValue<'_>) -> Result<SecretSource, &'static str> {
    let text = value.as_str();
    match key {
        "env" => text
            .filter(|name| is_variable(name))
            .map(|name| SecretSource::Env(name.to_owned()))
            .ok_or("needs the name of an environment variable, of letters, digits and `_`, after `env`"),
        "file" => text
            .filter(|path| is_path(path))
            .map(|path| SecretSource::File(path.into()))
            .ok_or("needs a path after `file`"),
        "credential" => text
            .filter(|name| is_path(name) && !name.contains('/'))
            .map(|name| SecretSource::Credential(name.to_owned()))
            .ok_or("needs the name of a systemd credential after `credential`"),
        "cmd" => value.as_array().and_then(command).ok_or("needs a list of a program and its arguments after `cmd`"),
        _ => Err("names an unknown kind of place for a secret"),
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn command(items: &DeArray<'_>) -> Option<SecretSource> {
    let argv: Option<Vec<String>> =
        items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
    let argv = argv.filter(|argv| argv.iter().all(|word| !word.contains('\0')))?;
    argv.first().is_some_and(|program| !program.is_empty()).then_some(SecretSource::Cmd(argv))
}
