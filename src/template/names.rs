//! The names that templates may use.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;

use crate::secret::Secret;

/// A name whose value is known only when a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeferredName {
    /// `${access_token}`: in injected fields, and in token requests that replace it.
    AccessToken,
    /// `${assertion}`: the signed JWT of a token request.
    Assertion,
    /// `${refresh_token}`: the refresh token of a token request, for servers that use another
    /// parameter name.
    RefreshToken,
    /// `${token_url}`: the token endpoint.
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

/// The names that a template may use, with the constant values.
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
    /// Names that have a meaning, now or in the future. No variable may use them.
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

    /// Adds a constant.
    pub fn insert(&mut self, name: &str, value: &str) {
        let value = Secret::new(value.to_owned());
        self.fixed.insert(name.to_owned(), ConstantValue { value, hidden: false });
    }

    /// Adds a secret constant.
    pub fn insert_secret(&mut self, name: &str, value: Secret) {
        self.fixed.insert(name.to_owned(), ConstantValue { value, hidden: true });
    }

    /// Adds a variable with a value per request.
    pub fn insert_variable(&mut self, name: &str) {
        self.variables.insert(name.to_owned());
    }

    /// Allows header fields of the request, `${field.X-Club}`: variables named `field.x-club`.
    pub fn insert_fields(&mut self) {
        self.fields = true;
    }

    /// Returns these names and a deferred one.
    #[must_use]
    pub fn with(&self, late: DeferredName) -> Self {
        let mut names = self.clone();
        names.late.insert(late);
        names
    }

    /// Returns these names and the members of the token answer, `${raw.a.b}`.
    #[must_use]
    pub fn with_raw(&self) -> Self {
        Self { raw: true, ..self.clone() }
    }
}

/// Returns the header field of a name such as `field.X-Club`.
pub fn field_name(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.strip_prefix("field.")?.as_bytes()).ok()
}

/// Returns true for `raw.` and a dotted path.
pub(super) fn is_raw(name: &str) -> bool {
    name.strip_prefix("raw.").is_some_and(|path| path.split('.').all(|step| !step.is_empty()))
}
