//! What the file says about one key.

use std::ops::{Deref, Range};

use toml::Spanned;

use super::reader::{FromToml, parse};

/// What the file says about a key without a default.
#[derive(Clone, Debug, Default)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something unusable, which has been reported.
    Broken,
    /// This value, at this place.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// Returns the value with its place.
    pub fn given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Broken => None,
        }
    }

    /// Returns the value.
    pub fn get(&self) -> Option<&T> {
        self.given().map(Spanned::get_ref)
    }

    /// Returns true if the file does not name this key.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns true if the value is unusable.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }

    /// Returns the place of the value, or `otherwise` if there is none.
    pub fn place_or(&self, otherwise: &Range<usize>) -> Range<usize> {
        self.given().map_or_else(|| otherwise.clone(), Spanned::span)
    }
}

impl<T> Field<Vec<T>> {
    /// Returns the items of a list, none if there is no list.
    pub fn items(&self) -> &[T] {
        self.get().map_or(&[], Vec::as_slice)
    }
}

/// The value of a key with a default: what the file says, or the default. Dereferences to the value.
#[derive(Clone, Debug)]
pub struct Setting<T> {
    field: Field<T>,
    default: T,
}

impl<T> Setting<T> {
    /// Returns the value with its place if the file has a usable one.
    pub fn given(&self) -> Option<&Spanned<T>> {
        self.field.given()
    }

    /// Returns true if the value in the file is unusable, so that the default applies.
    pub fn is_broken(&self) -> bool {
        self.field.is_broken()
    }

    /// Returns the place of the value in the file, or `otherwise` if there is none.
    pub fn place_or(&self, otherwise: &Range<usize>) -> Range<usize> {
        self.field.place_or(otherwise)
    }
}

impl<T> Deref for Setting<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.field.get().unwrap_or(&self.default)
    }
}

/// A member of a struct that `keys!` declares.
pub(super) trait Member {
    type Value: FromToml;
    fn absent(default: &str) -> Self;
    fn set(&mut self, field: Field<Self::Value>);
}

impl<T: FromToml> Member for Field<T> {
    type Value = T;

    fn absent(_: &str) -> Self {
        Self::Absent
    }

    fn set(&mut self, field: Self) {
        *self = field;
    }
}

impl<T: FromToml> Member for Setting<T> {
    type Value = T;

    fn absent(default: &str) -> Self {
        let default = parse(default);
        Self { field: Field::Absent, default: default.expect("a test reads every default") }
    }

    fn set(&mut self, field: Field<T>) {
        self.field = field;
    }
}
