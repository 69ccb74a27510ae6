//! How a table of the file becomes a struct, and every problem in it a [`Problem`].
//!
//! `section!` declares a section once: its keys, what they mean and their types. From that come the
//! struct, its reader and the list of known keys. Reading never stops at a problem: a key with a
//! wrong value is [`Field::Broken`], so that nothing later complains that it is missing.
//!
//! serde's derive is not used: it stops at the first problem, and its messages quote the value.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::later;
use super::problem::Problem;
use super::values::FromToml;

/// What the file says about one key.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something unusable, which has been reported.
    Broken,
    /// This, at this place.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The value with its place.
    pub fn given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Broken => None,
        }
    }

    /// The value alone.
    pub fn get(&self) -> Option<&T> {
        self.given().map(Spanned::get_ref)
    }

    /// A copy of the value, or `default`.
    pub fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.get().cloned().unwrap_or(default)
    }

    /// Does the file not name this key at all?
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// Keys whose values may be secrets, wherever they stand.
const SECRET_KEYS: [&str; 18] = [
    "client_secret",
    "refresh_token",
    "password",
    "key",
    "old_keys",
    "token",
    "assertion",
    "bootstrap",
    "client_cert",
    "steps",
    "subject_token",
    "actor_token",
    "vars",
    "params",
    "refresh_params",
    "headers",
    "inject",
    "query",
];

/// Keys whose tables describe answers, and what of these is never a secret, not even by mistake.
const OPEN_TABLES: [&str; 4] = ["response", "dead", "busy", "refresh_on"];
const OPEN_KEYS: [&str; 9] = [
    "status",
    "grpc_status",
    "json",
    "unit",
    "ok",
    "keep_access_token",
    "expires_in",
    "expires_at",
    "token_type",
];

/// The findings of one run over a file.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    /// Values that a report may show.
    pub(super) public: Vec<Range<usize>>,
    /// After a syntax error anything may stand anywhere: nothing is quoted.
    pub(super) quiet: bool,
}

impl Reader {
    /// The entries of a section, or none and a problem.
    pub(super) fn table<'a, 'i>(
        &mut self,
        path: &str,
        value: &'a Spanned<DeValue<'i>>,
    ) -> Option<&'a DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let problem = Problem::error(format!("`{path}` is a section")).at(value.span());
            self.problems.push(
                problem.fix(format!("write `[{path}]` on a line of its own and its keys below")),
            );
        }
        table
    }

    /// Reads the value of a known key.
    pub(super) fn field<T: FromToml>(
        &mut self,
        path: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Field<T> {
        if !SECRET_KEYS.contains(&key) {
            self.show(value);
        }
        if OPEN_TABLES.contains(&key) {
            self.show_tables(value);
        }
        match T::from_toml(value) {
            Ok(read) => Field::Given(Spanned::new(value.span(), read)),
            Err(wrong) => {
                self.problems.extend(wrong.into_iter().map(|wrong| wrong.of_key(path, key)));
                Field::Broken
            }
        }
    }

    /// Lets reports show `value`, unless it is like `https://user:password@host?key=…`.
    fn show(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| self.show(item)),
            DeValue::Table(_) => {}
            DeValue::String(text) if text.contains(['@', '?']) => {}
            _ => self.public.push(value.span()),
        }
    }

    fn show_tables(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| self.show_tables(item)),
            DeValue::Table(table) => {
                let open = |key: &&str| OPEN_KEYS.contains(key);
                let open = table.iter().filter(|(key, _)| open(&key.get_ref().as_ref()));
                open.for_each(|(_, value)| self.show(value));
            }
            _ => {}
        }
    }

    /// Reports a key that the section does not have.
    pub(super) fn unknown(&mut self, path: &str, key: &Spanned<DeString<'_>>, known: &[&str]) {
        let section = path.split_once('.').map_or(path, |(section, _)| section);
        let problem = match (self.quiet, later::is_later(section, key.get_ref())) {
            (_, true) => {
                Problem::error(format!("`{}` is not available in this version", key.get_ref()))
                    .fix("remove it, or use a version of bearerd that has it")
            }
            (true, false) => Problem::error("unknown key"),
            (false, false) => unknown_key(path, key.get_ref(), known),
        };
        self.public.push(key.span());
        self.problems.push(problem.at(key.span()));
    }
}

fn unknown_key(path: &str, key: &str, known: &[&str]) -> Problem {
    let top = path.is_empty();
    let place = if top { "at the top of the file".to_owned() } else { format!("in [{path}]") };
    Problem::error(format!("unknown key {place}")).fix(known_keys(key, known))
}

/// The key that was meant, or all that there are.
pub(super) fn known_keys(key: &str, known: &[&str]) -> String {
    match closest(key, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

pub(super) fn closest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if key.len() > 64 {
        return None;
    }
    let scored = known.iter().map(|name| (strsim::damerau_levenshtein(key, name), *name));
    scored
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// Declares a section of the file: a struct of [`Field`]s and `read`, which fills it.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $key:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $key: $crate::config::section::Field<$type>,)*
        }

        impl $name {
            /// The keys of this section.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            /// Reads the section called `path`.
            fn read(
                reader: &mut $crate::config::section::Reader,
                path: &str,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
            ) -> Self {
                let mut read = Self::default();
                for (key, value) in reader.table(path, value).into_iter().flatten() {
                    match key.get_ref().as_ref() {
                        $(stringify!($key) => read.$key = reader.field(path, stringify!($key), value),)*
                        _ => reader.unknown(path, key, Self::KEYS),
                    }
                }
                read
            }
        }
    };
}
pub(super) use section;
