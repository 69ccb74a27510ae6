//! Reads tables of the file into structs and turns every fault into a [`Problem`].
//!
//! `keys!` declares a table once: for each key its documentation, type, default or example, the reason for it, and
//! whether its value may be a secret. From this one declaration come the struct, its reader, the JSON Schema, the
//! page `docs/settings.md` and the comments of `proxy.toml` (see [`reference`](super::reference)).
//!
//! Reading never stops at a problem. A key with an unusable value becomes [`Field::Broken`], so that later checks do
//! not also report it as missing. Serde's derive is not used, because it stops at the first problem and quotes values
//! in its messages.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::field::{Field, Member};
use super::problem::Problem;

/// A value of the file with its place.
pub(super) type TomlValue<'i> = Spanned<DeValue<'i>>;

/// A type that a key can have.
pub(super) trait FromToml: Sized {
    /// Returns what the value must be, as the end of a sentence that begins with "must be".
    fn expected() -> Cow<'static, str>;

    /// Returns the JSON Schema of the value.
    fn schema() -> Json;

    /// Returns the keys of the tables that the value consists of.
    fn keys() -> &'static [Key] {
        &[]
    }

    /// Reads `value`. What is wrong with values inside it is reported to `reader`.
    fn read_value(value: &TomlValue<'_>, reader: &mut Reader) -> Result<Self, Fault>;

    /// Reads `value`. Returns `None` after reporting to `reader` everything that is wrong with it.
    fn from_toml(value: &TomlValue<'_>, reader: &mut Reader) -> Option<Self> {
        let read = Self::read_value(value, reader);
        reader.accept(value, read)
    }

    fn wrong_type() -> Fault {
        Fault::Type(Self::expected())
    }

    fn wrong_value() -> Fault {
        Fault::Value(Self::expected())
    }
}

/// The declaration of one key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The documentation, a line each.
    pub(super) doc: &'static [&'static str],
    /// The default or, if there is none, an example, as the file would have it.
    pub(super) text: &'static str,
    pub(super) has_default: bool,
    /// The reason for the default or, if there is none, what applies without the key.
    pub(super) note: &'static str,
    /// Whether the value may be a secret or contain one. Reports do not show it.
    pub(super) is_secret: bool,
    /// The first version that has the key.
    pub(super) since: &'static str,
    pub(super) expected: fn() -> Cow<'static, str>,
    pub(super) schema: fn() -> Json,
    pub(super) keys: fn() -> &'static [Self],
}

/// A struct that `keys!` declares.
pub(super) trait Table: Default {
    /// What the table is for, a line each.
    const DOC: &'static [&'static str];
    const KEYS: &'static [Key];

    /// Reads the value of the key `key`.
    fn read_key(&mut self, key: &'static Key, value: &TomlValue<'_>, reader: &mut Reader);
}

/// A table that is the value of a key. It is unusable as a whole if one of its values is.
impl<T: Table> FromToml for T {
    fn expected() -> Cow<'static, str> {
        let first = T::KEYS.first().map(|key| format!("{} = {}", key.name, key.text));
        format!("a table such as {{ {} }}", first.unwrap_or_default()).into()
    }

    fn schema() -> Json {
        table_schema(T::KEYS)
    }

    fn keys() -> &'static [Key] {
        T::KEYS
    }

    fn read_value(value: &TomlValue<'_>, reader: &mut Reader) -> Result<Self, Fault> {
        let table = value.get_ref().as_table().ok_or_else(Self::wrong_type)?;
        let before = reader.problems.len();
        let read = reader.read_keys(table, |reader, key| {
            let names = T::KEYS.iter().map(|key| key.name);
            let fix = known_keys(key.get_ref(), &names.collect::<Vec<_>>());
            reader.report(key.span(), "has an unknown key", Some(fix));
        });
        if reader.problems.len() == before { Ok(read) } else { Err(Fault::Reported) }
    }
}

/// Reads one value that stands alone in `text`.
pub(super) fn parse<T: FromToml>(text: &str) -> Option<T> {
    let text = format!("value = {text}");
    let document = DeTable::parse(&text).ok()?;
    T::from_toml(document.get_ref().get("value")?, &mut Reader::default())
}

/// Returns the value that stands alone in `text` as JSON has it.
pub(super) fn parse_json(text: &str) -> Option<Json> {
    toml::from_str::<Json>(&format!("value = {text}")).ok()?.get("value").cloned()
}

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It has another type than this.
    Type(Cow<'static, str>),
    /// It has the type, but must be this.
    Value(Cow<'static, str>),
    /// What is wrong, and what to write instead.
    Other(String, String),
    /// It contains something unusable, which has been reported.
    Reported,
}

impl Fault {
    pub(super) fn other(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Other(message.into(), fix.into())
    }
}

/// What is wrong with an empty list of what a credential matches.
const UNUSED: &str = "is empty, so the credential would never be used";

/// Collects what is found while a file is read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    /// Values that a report may show.
    pub(super) public: Vec<Range<usize>>,
    /// True after a syntax error: a value may stand anywhere, so nothing is quoted.
    pub(super) is_quiet: bool,
    /// The dotted name of the key that is being read.
    path: String,
    /// The key that is being read.
    key: Option<&'static Key>,
    /// Whether the key, or one around it, may hold a secret.
    is_hidden: bool,
}

impl Reader {
    /// Reads the section called `path`.
    pub(super) fn section<T: Table>(&mut self, path: &str, value: &TomlValue<'_>) -> T {
        let Some(table) = self.table(path, value) else { return T::default() };
        path.clone_into(&mut self.path);
        self.read_keys(table, |reader, key| {
            reader.unknown_key(path, key, T::KEYS.iter().map(|key| key.name))
        })
    }

    /// Returns the entries of a section; reports anything else.
    pub(super) fn table<'a, 'i>(
        &mut self,
        path: &str,
        value: &'a TomlValue<'i>,
    ) -> Option<&'a DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let fix = format!("write `[{path}]` on a line of its own and its keys below");
            let problem = Problem::error(format!("`{path}` is a section")).at(value.span());
            self.problems.push(problem.fix(fix));
        }
        table
    }

    /// Reads the keys of a table. Those that it does not have are passed to `unknown`.
    fn read_keys<T: Table>(
        &mut self,
        table: &DeTable<'_>,
        mut unknown: impl FnMut(&mut Self, &Spanned<DeString<'_>>),
    ) -> T {
        let mut read = T::default();
        for (name, value) in table {
            match T::KEYS.iter().find(|key| key.name == name.get_ref()) {
                Some(key) => read.read_key(key, value, self),
                None => unknown(self, name),
            }
        }
        read
    }

    /// Reads the value of a known key into `member`.
    pub(super) fn member<M: Member>(
        &mut self,
        key: &'static Key,
        value: &TomlValue<'_>,
        member: &mut M,
    ) {
        let around = (self.path.len(), self.key.replace(key), self.is_hidden);
        self.path.push('.');
        self.path.push_str(key.name);
        self.is_hidden |= key.is_secret;
        if !self.is_hidden {
            self.show(value);
        }
        let read = M::Value::from_toml(value, self);
        member
            .set(read.map_or(Field::Broken, |read| Field::Given(Spanned::new(value.span(), read))));
        self.path.truncate(around.0);
        (self.key, self.is_hidden) = (around.1, around.2);
    }

    /// Allows reports to show `value`, unless it could be like `https://user:password@host?key=…`.
    fn show(&mut self, value: &TomlValue<'_>) {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| self.show(item)),
            DeValue::Table(_) => {}
            DeValue::String(text) if text.contains(['@', '?']) => {}
            _ => self.public.push(value.span()),
        }
    }

    /// Returns what was read from `value`, or reports why it could not be read.
    pub(super) fn accept<T>(&mut self, value: &TomlValue<'_>, read: Result<T, Fault>) -> Option<T> {
        let (message, fix) = match read {
            Ok(read) => return Some(read),
            Err(Fault::Type(expected)) => {
                (format!("must be {expected}, not {}", described(value.get_ref())), None)
            }
            Err(Fault::Value(expected)) => {
                let fix = self.key.map(|key| match key.has_default {
                    true => format!("leave it out for the default, {}", key.text.trim_matches('"')),
                    false => format!("write {} = {}, for example", key.name, key.text),
                });
                (format!("must be {expected}"), fix)
            }
            Err(Fault::Other(message, fix)) => (message, Some(fix)),
            Err(Fault::Reported) => return None,
        };
        self.report(value.span(), &message, fix);
        None
    }

    /// Returns what is wrong with a list without items.
    pub(super) fn empty(&self) -> Fault {
        let Some(key) = self.key else { return Fault::other("is empty", "remove it") };
        let write = format!("write {} = {}", key.name, key.text);
        match key.has_default {
            true => Fault::other("is empty", write),
            false if key.note.starts_with("an error") => Fault::other(UNUSED, write),
            false => Fault::other(UNUSED, format!("leave it out for {}, or {write}", key.note)),
        }
    }

    /// Reads an item of a list. What is wrong with it says nothing about the key's default.
    pub(super) fn item<T: FromToml>(&mut self, value: &TomlValue<'_>) -> Option<Spanned<T>> {
        let key = self.key.take();
        let read = T::from_toml(value, self);
        self.key = key;
        Some(Spanned::new(value.span(), read?))
    }

    /// Reports something about the key that is being read.
    pub(super) fn report(&mut self, span: Range<usize>, message: &str, fix: Option<String>) {
        let problem = Problem::error(format!("`{}` {message}", self.path)).at(span);
        self.problems.push(match fix {
            Some(fix) => problem.fix(fix),
            None => problem,
        });
    }

    /// Reports a key that a section, or the file, does not have.
    pub(super) fn unknown_key(
        &mut self,
        path: &str,
        key: &Spanned<DeString<'_>>,
        known: impl Iterator<Item = &'static str>,
    ) {
        let name = key.get_ref().as_ref();
        let section = path.split_once('.').map_or(path, |(section, _)| section);
        let problem = if super::keys::is_planned(section, name) {
            Problem::error(format!("`{name}` is not available in this version"))
                .fix("remove it, or use a version of bearerd that has it")
        } else if self.is_quiet {
            Problem::error("unknown key")
        } else {
            let place = match path {
                "" => "at the top of the file".to_owned(),
                path => format!("in [{path}]"),
            };
            let fix = known_keys(name, &known.collect::<Vec<_>>());
            Problem::error(format!("unknown key {place}")).fix(fix)
        };
        self.public.push(key.span());
        self.problems.push(problem.at(key.span()));
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

/// Returns the key that was probably meant, or all keys.
fn known_keys(key: &str, known: &[&str]) -> String {
    // A long key is no misspelling, and comparing it would take time that grows with its length.
    let comparable = known.iter().filter(|_| key.len() <= 64);
    let scored = comparable.map(|name| (strsim::damerau_levenshtein(key, name), *name));
    let near = scored.filter(|(distance, name)| *distance <= name.len().div_ceil(3)).min();
    match near {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

/// Returns the JSON Schema of a table with these keys.
pub(super) fn table_schema(keys: &[Key]) -> Json {
    let properties = keys.iter().map(|key| {
        let mut schema = (key.schema)();
        if let (Some(schema), Some(text)) = (schema.as_object_mut(), parse_json(key.text)) {
            schema.insert("description".to_owned(), super::reference::paragraph(key).into());
            match key.has_default {
                true => schema.insert("default".to_owned(), text),
                false => schema.insert("examples".to_owned(), Json::Array(vec![text])),
            };
        }
        (key.name.to_owned(), schema)
    });
    let properties: serde_json::Map<String, Json> = properties.collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// Declares a table of the file. See the module's documentation.
///
/// - A key with a default is written `key: Type = default("TOML", "the reason")` and becomes a
///   [`Setting`](super::field::Setting).
/// - A key without one is written `key: Type = unset("what applies then", "an example in TOML")` and becomes a [`Field`].
/// - `[secret]` marks values that may be secrets or contain some.
/// - A key that 0.1.0 did not have names its first version: `default("TOML", "the reason", since "0.2.0")`.
macro_rules! keys {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $([$secret:ident])?
                $key:ident: $type:ty = $kind:ident($first:literal, $second:literal $(, since $since:literal)?),
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[doc = $doc])* pub $key: $crate::config::reader::keys!(@member $kind $type),)*
        }

        impl Default for $name {
            fn default() -> Self {
                use $crate::config::field::Member;
                Self { $($key: Member::absent($first),)* }
            }
        }

        impl $crate::config::reader::Table for $name {
            const DOC: &'static [&'static str] = &[$($about),*];

            const KEYS: &'static [$crate::config::reader::Key] = &[$(
                $crate::config::reader::Key {
                    name: stringify!($key),
                    doc: &[$($doc),*],
                    text: $crate::config::reader::keys!(@text $kind $first $second),
                    has_default: $crate::config::reader::keys!(@has_default $kind),
                    note: $crate::config::reader::keys!(@note $kind $first $second),
                    is_secret: $crate::config::reader::keys!(@secret $($secret)?),
                    since: $crate::config::reader::keys!(@since $($since)?),
                    expected: <$type as $crate::config::reader::FromToml>::expected,
                    schema: <$type as $crate::config::reader::FromToml>::schema,
                    keys: <$type as $crate::config::reader::FromToml>::keys,
                }
            ),*];

            fn read_key(
                &mut self,
                key: &'static $crate::config::reader::Key,
                value: &$crate::config::reader::TomlValue<'_>,
                reader: &mut $crate::config::reader::Reader,
            ) {
                match key.name {
                    $(stringify!($key) => reader.member(key, value, &mut self.$key),)*
                    _ => {}
                }
            }
        }
    };
    (@member default $type:ty) => { $crate::config::field::Setting<$type> };
    (@member unset $type:ty) => { $crate::config::field::Field<$type> };
    (@has_default default) => { true };
    (@has_default unset) => { false };
    (@text default $text:literal $reason:literal) => { $text };
    (@text unset $applies:literal $example:literal) => { $example };
    (@note default $text:literal $reason:literal) => { $reason };
    (@note unset $applies:literal $example:literal) => { $applies };
    (@secret) => { false };
    (@secret secret) => { true };
    (@since) => { "0.1.0" };
    (@since $since:literal) => { $since };
}
pub(super) use keys;
