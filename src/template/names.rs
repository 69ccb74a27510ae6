//! The names that templates may use.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;

use crate::secret::Secret;

/// A name whose value exists only at some points, each with values of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeferredName {
    /// `${access_token}`: in what is put on requests, and in token requests that renew it.
    AccessToken,
    /// `${assertion}`: the signed JWT of a token request.
    Assertion,
    /// `${refresh_token}`: what a token request presents, for servers that call it something else.
    RefreshToken,
    /// `${token_url}`: where a token request goes.
    TokenUrl,
}

impl DeferredName {
    pub(super) const ALL: [Self; 4] =
        [Self::AccessToken, Self::Assertion, Self::RefreshToken, Self::TokenUrl];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Assertion => "assertion",
            Self::RefreshToken => "refresh_token",
            Self::TokenUrl => "token_url",
        }
    }
}

/// The names that a template may use, with the values that are known already.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub(super) late: BTreeSet<DeferredName>,
    pub(super) raw: bool,
    pub(super) fields: bool,
    pub(super) variables: BTreeSet<String>,
    pub(super) fixed: BTreeMap<String, ConstantValue>,
}

#[derive(Clone, Debug)]
pub(super) struct ConstantValue {
    pub(super) value: Secret,
    pub(super) hidden: bool,
}

impl Names {
    /// Names that mean something of their own, now or in the design: no variable may have one.
    pub const RESERVED: [&str; 10] = [
        "access_token",
        "assertion",
        "client",
        "client_id",
        "field",
        "now",
        "raw",
        "refresh_token",
        "token_url",
        "uuid",
    ];

    /// A name whose value is plain text.
    pub fn insert(&mut self, name: &str, value: &str) {
        let value = Secret::new(value.to_owned());
        self.fixed.insert(name.to_owned(), ConstantValue { value, hidden: false });
    }

    /// A name whose value is a secret.
    pub fn insert_secret(&mut self, name: &str, value: Secret) {
        self.fixed.insert(name.to_owned(), ConstantValue { value, hidden: true });
    }

    /// A variable whose value each request brings along.
    pub fn insert_variable(&mut self, name: &str) {
        self.variables.insert(name.to_owned());
    }

    /// Fields of the request, `${field.X-Club}`: variables whose names are `field.x-club`.
    pub fn insert_fields(&mut self) {
        self.fields = true;
    }

    /// The same names and a late one.
    #[must_use]
    pub fn with(&self, late: DeferredName) -> Self {
        let mut names = self.clone();
        names.late.insert(late);
        names
    }

    /// The same names and the members of the token answer, `${raw.a.b}`.
    #[must_use]
    pub fn with_raw(&self) -> Self {
        Self { raw: true, ..self.clone() }
    }
}

/// The field that `field.X-Club` names.
pub fn field_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.strip_prefix("field.")?.as_bytes()).ok()
}

/// `raw.` and dotted names behind it.
pub(super) fn is_raw(name: &str) -> bool {
    name.strip_prefix("raw.").is_some_and(|path| path.split('.').all(|step| !step.is_empty()))
}
