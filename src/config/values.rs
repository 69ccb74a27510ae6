//! The types that a value of the file can have.
//!
//! A message names what is expected and the type that was found, never the value: a password may stand where a number
//! belongs.

use std::net::IpAddr;
use std::ops::{Deref, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::reader::{Fault, FromToml, TomlValue};
use crate::secret::SecretSource;
use crate::token::Margin;

/// Implements [`FromToml`]: what is expected, the schema, whose keys a value has, and how it is read. `Type from Other`
/// is read as `Other` and then checked.
macro_rules! value {
    (
        impl [$($generic:tt)*] $type:ty, $expected:expr, $schema:expr, $(keys $table:ty,)?
        |$value:ident, $reader:ident| $read:expr $(,)?
    ) => {
        impl<$($generic)*> $crate::config::reader::FromToml for $type {
            fn expected() -> std::borrow::Cow<'static, str> {
                $expected.into()
            }

            fn schema() -> serde_json::Value {
                $schema
            }

            $(fn keys() -> &'static [$crate::config::reader::Key] {
                <$table>::keys()
            })?

            fn read_value(
                $value: &$crate::config::reader::TomlValue<'_>,
                $reader: &mut $crate::config::reader::Reader,
            ) -> Result<Self, $crate::config::reader::Fault> {
                $read
            }
        }
    };
    (impl [$($generic:tt)*] $type:ty, $expected:expr, $schema:expr, |$value:ident| $read:expr $(,)?) => {
        value!(impl [$($generic)*] $type, $expected, $schema, |$value, _reader| $read);
    };
    ($type:ident from $other:ty, |$read:ident| $checked:expr) => {
        value!(
            impl [] $type, <$other>::expected(), <$other>::schema(), keys $other,
            |value, reader| <$other>::read_value(value, reader).and_then(|$read| $checked)
        );
    };
    ($type:ty, $($rest:tt)*) => {
        value!(impl [] $type, $($rest)*);
    };
}
pub(super) use value;

/// Reads a string with `parse`, which returns `None` for a string that is not what `T` expects.
pub(super) fn text<T: FromToml>(
    value: &TomlValue<'_>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Fault> {
    let text = value.get_ref().as_str().ok_or_else(T::wrong_type)?;
    parse(text).ok_or_else(T::wrong_value)
}

pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// Returns the value of an integer, whatever its radix, if it is not negative.
fn unsigned(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Returns the value of an integer, whatever its radix.
pub(super) fn signed(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Reads a whole number in `range`.
fn number<T: FromToml>(value: &TomlValue<'_>, range: RangeInclusive<u64>) -> Result<u64, Fault> {
    let integer = value.get_ref().as_integer().ok_or_else(T::wrong_type)?;
    unsigned(integer).filter(|number| range.contains(number)).ok_or_else(T::wrong_value)
}

value!(String, "a string", json!({ "type": "string" }), |value| text(value, |text| Some(
    text.into()
)));

value!(
    PathBuf,
    "a path that is not empty and contains no NUL",
    json!({ "type": "string", "minLength": 1 }),
    |value| text(value, |text| is_path(text).then(|| text.into()))
);

value!(bool, "true or false, without quotes", json!({ "type": "boolean" }), |value| {
    value.get_ref().as_bool().ok_or_else(Self::wrong_type)
});

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count<const MIN: u64, const MAX: u64>(pub usize);

value!(
    impl [const MIN: u64, const MAX: u64] Count<MIN, MAX>,
    format!("a whole number from {MIN} to {MAX}"),
    json!({ "type": "integer", "minimum": MIN, "maximum": MAX }),
    |value| number::<Self>(value, MIN..=MAX).map(|number| Self(usize::try_from(number).unwrap_or(usize::MAX)))
);

value!(
    u16,
    "a port from 1 to 65535",
    json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
    |value| {
        let port = number::<Self>(value, 1..=65535)?;
        Self::try_from(port).map_err(|_| Self::wrong_value())
    }
);

value!(
    StatusCode,
    "a status from 200 to 599",
    json!({ "type": "integer", "minimum": 200, "maximum": 599 }),
    |value| {
        let status = u16::try_from(number::<Self>(value, 200..=599)?).ok();
        status.and_then(|status| Self::from_u16(status).ok()).ok_or_else(Self::wrong_value)
    }
);

value!(
    IpNet,
    "an address or a network such as \"10.0.0.0/8\"",
    json!({ "type": "string" }),
    |value| {
        let address = |text: &str| text.parse().ok().map(|address: IpAddr| Self::from(address));
        text(value, |text| text.parse().ok().or_else(|| address(text)))
    }
);

/// The longest time that the file may say: ten years. A longer one is a mistake, and adding it to a clock could
/// overflow.
const LONGEST: Duration = Duration::from_secs(3653 * 24 * 3600);

fn duration_schema() -> Json {
    json!({ "anyOf": [
        { "type": "string", "pattern": "^\\s*([0-9]+\\s*[A-Za-z]+\\s*)+$" },
        { "type": "integer", "minimum": 0 },
    ] })
}

fn seconds(integer: &DeInteger<'_>) -> Option<Duration> {
    unsigned(integer).map(Duration::from_secs).filter(|time| *time <= LONGEST)
}

fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|time| *time <= LONGEST)
}

// `"30s"`, `"5m"`, `"1h"`, `"365d"`, or whole seconds as a number.
value!(
    Duration,
    "a duration such as \"30s\", \"5m\" or \"1h\", at most ten years",
    duration_schema(),
    |value| {
        match value.get_ref() {
            DeValue::Integer(integer) => seconds(integer).ok_or_else(Self::wrong_value),
            _ => text(value, parse_duration),
        }
    }
);

/// A duration that is longer than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

value!(Period from Duration, |time| match time.is_zero() {
    true => Err(Fault::Value("longer than zero".into())),
    false => Ok(Self(time)),
});

/// A number of bytes from `MIN` to `MAX`: `"64KiB"`, `"1MiB"`, `"1GiB"`, or the number itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: u64 = 0, const MAX: u64 = { u64::MAX }>(pub u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// Returns the number of bytes.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

value!(
    impl [const MIN: u64, const MAX: u64] Size<MIN, MAX>,
    "a size such as \"64KiB\", \"1MiB\" or a number of bytes",
    json!({ "anyOf": [
        { "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)?$" },
        { "type": "integer", "minimum": MIN },
    ] }),
    |value| {
        let read = match value.get_ref() {
            DeValue::String(text) => parse_bytes(text),
            DeValue::Integer(bytes) => unsigned(bytes),
            _ => return Err(Self::wrong_type()),
        };
        let bytes = read.ok_or_else(Self::wrong_value)?;
        let range = || Fault::Value(format!("from {MIN} to {MAX} bytes").into());
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes)).ok_or_else(range)
    }
);

fn parse_bytes(text: &str) -> Option<u64> {
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

value!(
    Margin,
    "\"auto\", a duration such as \"30s\", or a share from \"0%\" to \"100%\"",
    json!({ "anyOf": [
        { "type": "string", "pattern": "^(auto|[0-9.]+%|\\s*([0-9]+\\s*[A-Za-z]+\\s*)+)$" },
        { "type": "integer", "minimum": 0 },
    ] }),
    |value| match value.get_ref() {
        DeValue::Integer(integer) => {
            seconds(integer).map(Self::Fixed).ok_or_else(Self::wrong_value)
        }
        _ => text(value, |text| match text.strip_suffix('%') {
            _ if text == "auto" => Some(Self::Auto),
            Some(share) => {
                let share = share.parse::<f64>().ok().map(|share| share / 100.0);
                share.filter(|share| (0.0..=1.0).contains(share)).map(Self::Share)
            }
            None => parse_duration(text).map(Self::Fixed),
        }),
    }
);

// One value, or a list of values, each with its place. Unusable items are reported and left out.
value!(
    impl [T: FromToml] Vec<Spanned<T>>,
    format!("{}, or a list", T::expected()),
    json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] }),
    keys T,
    |value, reader| {
        let DeValue::Array(items) = value.get_ref() else {
            return Ok(vec![Spanned::new(value.span(), T::read_value(value, reader)?)]);
        };
        let read: Self = items.iter().filter_map(|item| reader.item(item)).collect();
        (items.is_empty() || !read.is_empty()).then_some(read).ok_or(Fault::Reported)
    }
);

/// A list that is not empty.
#[derive(Clone, Debug)]
pub struct NonEmpty<T>(Vec<Spanned<T>>);

impl<T> Deref for NonEmpty<T> {
    type Target = [Spanned<T>];

    fn deref(&self) -> &[Spanned<T>] {
        &self.0
    }
}

value!(
    impl [T: FromToml] NonEmpty<T>,
    Vec::<Spanned<T>>::expected(),
    json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema(), "minItems": 1 }] }),
    |value, reader| {
        let items = Vec::read_value(value, reader)?;
        if items.is_empty() { Err(reader.empty()) } else { Ok(Self(items)) }
    }
);

/// How to write a secret.
const SECRET_FORMS: &str = "write { file = \"PATH\" }, { env = \"NAME\" }, { cmd = [\"prog\", \"arg\"] } or { credential = \"NAME\" }";

/// The keys that name the place of a secret.
pub(super) const SECRET_KEYS: [&str; 4] = ["env", "file", "cmd", "credential"];

value!(
    SecretSource,
    "the place of a secret, such as { file = \"PATH\" } or { env = \"NAME\" }",
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
        "properties": {
            "env": { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "description": "an environment variable" },
            "file": { "type": "string", "minLength": 1, "description": "a file" },
            "cmd": { "type": "array", "items": { "type": "string" }, "minItems": 1,
                     "description": "a program and its arguments; it prints the secret" },
            "credential": { "type": "string", "minLength": 1, "description": "a systemd credential" },
        },
    }),
    |value| {
        let message = match value.get_ref() {
            DeValue::Table(table) => match secret_source(table) {
                Ok(source) => return Ok(source),
                Err(message) => message,
            },
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) => {
                "must say where the secret is kept; the secret itself does not belong in this file"
            }
            _ => "must say where the secret is kept",
        };
        Err(Fault::other(message, SECRET_FORMS))
    }
);

fn secret_source(table: &DeTable<'_>) -> Result<SecretSource, &'static str> {
    let (Some((key, value)), 1) = (table.iter().next(), table.len()) else {
        return Err("must name exactly one place for the secret");
    };
    let text =
        |is_usable: fn(&str) -> bool| value.get_ref().as_str().filter(|text| is_usable(text));
    match key.get_ref().as_ref() {
        "env" => text(is_variable).map(|name| SecretSource::Env(name.to_owned())).ok_or(
            "needs the name of an environment variable, of letters, digits and `_`, after `env`",
        ),
        "file" => text(is_path)
            .map(|path| SecretSource::File(path.into()))
            .ok_or("needs a path after `file`"),
        "credential" => text(|name| is_path(name) && !name.contains('/'))
            .map(|name| SecretSource::Credential(name.to_owned()))
            .ok_or("needs the name of a systemd credential after `credential`"),
        "cmd" => value
            .get_ref()
            .as_array()
            .and_then(command)
            .ok_or("needs a list of a program and its arguments after `cmd`"),
        _ => Err("names an unknown kind of place for a secret"),
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn command(items: &DeArray<'_>) -> Option<SecretSource> {
    let words =
        items.iter().map(|item| item.get_ref().as_str().filter(|word| !word.contains('\0')));
    let argv: Vec<String> = words.map(|word| word.map(str::to_owned)).collect::<Option<_>>()?;
    argv.first().is_some_and(|program| !program.is_empty()).then_some(SecretSource::Cmd(argv))
}
