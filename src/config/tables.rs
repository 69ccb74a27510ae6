//! Values that are tables of the operator's own: names with texts, variables, and the answers that
//! count as rejections.

use http::HeaderName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::{FromToml, Wrong};
use crate::secret::SecretSource;

/// Names that the operator chose, each with a value, in alphabetical order.
#[derive(Clone, Debug, Default)]
pub struct Entries<T>(pub Vec<(Spanned<String>, Spanned<T>)>);

impl<T: FromToml> FromToml for Entries<T> {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let table = value.get_ref().as_table();
        let table =
            table.ok_or_else(|| Wrong::kind(value, "a table such as { name = \"text\" }"))?;
        let (mut entries, mut wrong) = (Vec::new(), Vec::new());
        for (name, value) in table {
            match T::from_toml(value) {
                Ok(read) => {
                    let name = Spanned::new(name.span(), name.get_ref().to_string());
                    entries.push((name, Spanned::new(value.span(), read)));
                }
                Err(more) => wrong.extend(more),
            }
        }
        entries.sort_by(|(one, _), (other, _)| one.get_ref().cmp(other.get_ref()));
        if wrong.is_empty() { Ok(Self(entries)) } else { Err(wrong) }
    }
}

/// The value of a variable, or where it comes from.
#[derive(Clone, Debug)]
pub enum Variable {
    /// It stands in the file.
    Text(String),
    /// It is kept elsewhere.
    Secret(SecretSource),
    /// A request chooses one of these by its path.
    List(Vec<Spanned<String>>),
    /// A request chooses it by what `from` names; one of `values`, if there are any.
    From {
        /// Such as `${field.X-Club}`.
        from: Spanned<String>,
        /// What is allowed.
        values: Option<Vec<Spanned<String>>>,
    },
}

impl Variable {
    /// The keys of its table.
    pub(super) const KEYS: [&str; 2] = ["from", "values"];
}

impl FromToml for Variable {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Self::Text(text.to_string())),
            DeValue::Table(table) if table.contains_key("from") => chosen(value, table),
            DeValue::Table(_) => SecretSource::from_toml(value).map(Self::Secret),
            DeValue::Array(_) => Vec::from_toml(value).map(Self::List),
            _ => Err(Wrong::kind(value, "a string, a list of strings or the place of a secret")),
        }
    }
}

fn chosen(whole: &Spanned<DeValue<'_>>, table: &DeTable<'_>) -> Result<Variable, Vec<Wrong>> {
    const EXPECTED: &str = "such as { from = \"${field.X-Club}\", values = [\"paris\", \"lyon\"] }";
    let is_key = |key: &str| Variable::KEYS.contains(&key);
    match table.get("from") {
        Some(from) if table.iter().all(|(key, _)| is_key(key.get_ref())) => {
            let text = String::from_toml(from)?;
            let values = table.get("values").map(Vec::from_toml).transpose()?;
            Ok(Variable::From { from: Spanned::new(from.span(), text), values })
        }
        _ => Err(Wrong::value(whole, EXPECTED)),
    }
}

/// One of `store.old_keys`.
#[derive(Clone, Debug)]
pub enum OldKey {
    /// No key: records in plain text are read as well.
    Plain,
    /// A key, which is kept elsewhere.
    Kept(SecretSource),
}

impl FromToml for OldKey {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref().as_str() {
            Some("plain") => Ok(Self::Plain),
            _ => SecretSource::from_toml(value).map(Self::Kept),
        }
    }
}

/// An answer of an API that means that the token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshOn {
    /// Its status.
    pub status: u16,
    /// What it says; `None`: anything.
    pub evidence: Option<Evidence>,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// This text is in this field.
    Field(HeaderName, String),
    /// It ends a call of gRPC with this status.
    Grpc(u8),
    /// This text is in it.
    Body(String),
    /// At this place of its JSON stands this value.
    Json(Vec<String>, Literal),
}

/// A value in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A truth value.
    Bool(bool),
}

impl RefreshOn {
    /// The keys of its table.
    pub(super) const KEYS: [&str; 7] =
        ["status", "body", "json", "is", "field", "has", "grpc_status"];
}

impl FromToml for RefreshOn {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str = "a status such as 401, or { status = 403, body = \"text\" }, or \
                                { status = 400, json = \"error.code\", is = 190 }, or { status = 403, \
                                field = \"x-error\", has = \"text\" }, or { grpc_status = 16 }";
        let read = match value.get_ref() {
            DeValue::Integer(_) => {
                status(value.get_ref()).map(|status| Self { status, evidence: None })
            }
            DeValue::Table(table) => rule(table),
            _ => return Err(Wrong::kind(value, EXPECTED)),
        };
        read.ok_or_else(|| Wrong::value(value, EXPECTED))
    }
}

/// Each form has its keys and no others.
fn rule(table: &DeTable<'_>) -> Option<RefreshOn> {
    let value = |key: &str| table.get(key).map(Spanned::get_ref);
    let text = |key| Some(value(key)?.as_str().filter(|text| !text.is_empty())?.to_owned());
    let mut keys: Vec<&str> = table.keys().map(|key| key.get_ref().as_ref()).collect();
    keys.sort_unstable();
    if keys == ["grpc_status"] {
        // 0 is a success, and gRPC knows no status beyond 16. HTTP has nothing to say of it.
        let status = number(value("grpc_status")?)?;
        let status = u8::try_from(status).ok().filter(|status| (1..=16).contains(status))?;
        return Some(RefreshOn { status: 200, evidence: Some(Evidence::Grpc(status)) });
    }
    let evidence = match keys.as_slice() {
        ["status"] => None,
        ["body", "status"] => Some(Evidence::Body(text("body")?)),
        ["is", "json", "status"] => {
            Some(Evidence::Json(place(value("json")?.as_str()?)?, literal(value("is")?)?))
        }
        ["field", "has", "status"] => {
            let name = HeaderName::from_bytes(text("field")?.as_bytes()).ok()?;
            Some(Evidence::Field(name, text("has")?))
        }
        _ => return None,
    };
    Some(RefreshOn { status: status(value("status")?)?, evidence })
}

pub(super) fn status(value: &DeValue<'_>) -> Option<u16> {
    let number = number(value)?;
    u16::try_from(number).ok().filter(|status| (200..600).contains(status))
}

pub(super) fn number(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Dotted names and indexes. What other notations have (`$.a`, `a[0]`, spaces) would never be found.
pub(super) fn place(text: &str) -> Option<Vec<String>> {
    let steps: Vec<String> = text.split('.').map(str::to_owned).collect();
    let usable = |step: &String| {
        !step.is_empty() && step != "$" && !step.contains(['[', ']']) && step.trim() == step
    };
    steps.iter().all(usable).then_some(steps)
}

pub(super) fn literal(value: &DeValue<'_>) -> Option<Literal> {
    match value {
        DeValue::String(text) => Some(Literal::Text(text.to_string())),
        DeValue::Boolean(truth) => Some(Literal::Bool(*truth)),
        DeValue::Integer(_) => number(value).map(Literal::Number),
        _ => None,
    }
}
