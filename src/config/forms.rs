//! The values of the file that have several forms, and those that describe responses.

use std::path::PathBuf;

use http::{HeaderName, StatusCode};
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::DeValue;

use super::field::Field;
use super::keys::{AnswerRuleTable, ChosenVariable, RejectionRuleTable};
use super::reader::{Fault, FromToml, Reader, TomlValue};
use super::values::{signed, text, value};
use crate::credential::{RejectionEvidence, RejectionRule};
use crate::oauth::{AnswerRule, Comparison, MemberPath};
use crate::secret::SecretSource;

/// Names that the operator chose, each with a value, in alphabetical order.
#[derive(Clone, Debug, Default)]
pub struct Entries<T>(pub Vec<(Spanned<String>, Spanned<T>)>);

impl<T> Field<Entries<T>> {
    /// Returns the entries, none if there is no table.
    pub fn entries(&self) -> &[(Spanned<String>, Spanned<T>)] {
        self.get().map_or(&[], |entries| entries.0.as_slice())
    }
}

value!(
    impl [T: FromToml] Entries<T>,
    "a table such as { name = \"text\" }",
    json!({ "type": "object", "additionalProperties": T::schema() }),
    keys T,
    |value, reader| {
        let table = value.get_ref().as_table().ok_or_else(Self::wrong_type)?;
        let mut entries = Vec::new();
        for (name, value) in table {
            let read = T::from_toml(value, reader);
            let name = Spanned::new(name.span(), name.get_ref().to_string());
            entries.push(read.map(|read| (name, Spanned::new(value.span(), read))));
        }
        let entries: Option<Vec<_>> = entries.into_iter().collect();
        let mut entries = entries.ok_or(Fault::Reported)?;
        entries.sort_by(|(one, _), (other, _)| one.get_ref().cmp(other.get_ref()));
        Ok(Self(entries))
    }
);

/// A value of the file that is either plain text or the place of a secret.
#[derive(Clone, Debug)]
pub enum TextOrSecret {
    /// The text.
    Text(String),
    /// The place of the secret.
    Secret(SecretSource),
}

value!(
    TextOrSecret,
    "a string or the place of a secret",
    json!({ "anyOf": [{ "type": "string" }, SecretSource::schema()] }),
    |value, reader| match value.get_ref() {
        DeValue::Table(_) => SecretSource::read_value(value, reader).map(Self::Secret),
        _ => text(value, |text| Some(Self::Text(text.to_owned()))),
    }
);

/// The secret of the OAuth client. `""` is `None`: some servers want Basic with nothing after the colon.
#[derive(Clone, Debug)]
pub struct ClientSecret(pub Option<SecretSource>);

value!(
    ClientSecret,
    "the place of a secret, or \"\"",
    json!({ "anyOf": [{ "const": "" }, SecretSource::schema()] }),
    |value, reader| secret_unless("", value, reader).map(Self)
);

/// An entry of `store.old_keys`. `"plain"` is `None`: records in plain text are read as well.
#[derive(Clone, Debug)]
pub struct OldKey(pub Option<SecretSource>);

value!(
    OldKey,
    "the place of a secret, or \"plain\"",
    json!({ "anyOf": [{ "const": "plain" }, SecretSource::schema()] }),
    |value, reader| secret_unless("plain", value, reader).map(Self)
);

/// Reads the place of a secret, or returns `None` for the text `word`.
fn secret_unless(
    word: &str,
    value: &TomlValue<'_>,
    reader: &mut Reader,
) -> Result<Option<SecretSource>, Fault> {
    match value.get_ref().as_str() == Some(word) {
        true => Ok(None),
        false => SecretSource::read_value(value, reader).map(Some),
    }
}

/// A private key: the path of a file, or the place of a secret.
#[derive(Clone, Debug)]
pub struct KeyPlace(pub SecretSource);

value!(
    KeyPlace,
    "the path of a file, or the place of a secret",
    json!({ "anyOf": [PathBuf::schema(), SecretSource::schema()] }),
    |value, reader| match value.get_ref() {
        DeValue::String(_) =>
            PathBuf::read_value(value, reader).map(|path| Self(SecretSource::File(path))),
        _ => SecretSource::read_value(value, reader).map(Self),
    }
);

/// The value of a variable, or where it comes from.
#[derive(Clone, Debug)]
pub enum VariableValue {
    /// A fixed text.
    Text(String),
    /// The place of a secret.
    Secret(SecretSource),
    /// The path of a request chooses one of these.
    List(Vec<Spanned<String>>),
    /// Something else of a request chooses the value.
    Chosen(Box<ChosenVariable>),
}

value!(
    VariableValue,
    "a string, a list of strings or the place of a secret",
    json!({ "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" } },
        SecretSource::schema(),
        ChosenVariable::schema(),
    ] }),
    keys ChosenVariable,
    |value, reader| match value.get_ref() {
        DeValue::String(text) => Ok(Self::Text(text.to_string())),
        DeValue::Array(_) => Vec::read_value(value, reader).map(Self::List),
        DeValue::Table(table) if table.contains_key("from") => {
            ChosenVariable::read_value(value, reader).map(|it| Self::Chosen(Box::new(it)))
        }
        DeValue::Table(_) => SecretSource::read_value(value, reader).map(Self::Secret),
        _ => Err(Self::wrong_type()),
    }
);

/// The value of a claim: any value but a date.
#[derive(Clone, Debug)]
pub enum ClaimValue {
    /// A text, which may contain names.
    Text(Spanned<String>),
    /// A number or a truth value.
    Plain(Json),
    /// A list.
    List(Vec<Self>),
    /// A table.
    Table(Vec<(String, Self)>),
}

value!(
    ClaimValue,
    "a text, a number, true or false, a list or a table of these",
    json!({}),
    |value, reader| match value.get_ref() {
        DeValue::String(text) => {
            Ok(Self::Text(Spanned::new(value.span(), text.to_string())))
        }
        DeValue::Array(items) => {
            items
                .iter()
                .map(|item| Self::from_toml(item, reader).ok_or(Fault::Reported))
                .collect::<Result<_, _>>()
                .map(Self::List)
        }
        DeValue::Table(table) => {
            let entries = table.iter().map(|(name, value)| {
                Ok((
                    name.get_ref().to_string(),
                    Self::from_toml(value, reader).ok_or(Fault::Reported)?,
                ))
            });
            entries.collect::<Result<_, _>>().map(Self::Table)
        }
        DeValue::Datetime(_) => Err(Self::wrong_type()),
        other => literal(other).map(Self::Plain).ok_or_else(Self::wrong_value),
    }
);

/// Returns a text, number or truth value as JSON has it.
fn literal(value: &DeValue<'_>) -> Option<Json> {
    match value {
        DeValue::String(text) => Some(Json::from(text.as_ref())),
        DeValue::Boolean(truth) => Some(Json::from(*truth)),
        DeValue::Integer(number) => signed(number).map(Json::from),
        DeValue::Float(number) => {
            let number: f64 = number.as_str().replace('_', "").parse().ok()?;
            serde_json::Number::from_f64(number).map(Json::Number)
        }
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// A value that JSON is compared with: a text, a whole number, true or false.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal(pub Json);

value!(
    Literal,
    "a text, a whole number, true or false",
    json!({ "type": ["string", "integer", "boolean"] }),
    |value| match value.get_ref() {
        DeValue::Float(_) => Err(Self::wrong_type()),
        other => literal(other).map(Self).ok_or_else(Self::wrong_type),
    }
);

/// A text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub String);

value!(
    Words,
    "a text that is not empty: every answer contains the empty one",
    json!({ "type": "string", "minLength": 1 }),
    |value| text(value, |text| (!text.is_empty()).then(|| Self(text.to_owned())))
);

value!(HeaderName, "the name of a field", json!({ "type": "string", "minLength": 1 }), |value| {
    text(value, |text| Self::from_bytes(text.as_bytes()).ok())
});

value!(
    MemberPath,
    "a path of names and indexes with dots between, such as \"data.0.token\"",
    json!({ "type": "string", "minLength": 1 }),
    |value| text(value, member_path)
);

/// Reads dotted names and indexes. Other notations (`$.a`, `a[0]`, spaces) would never be found.
fn member_path(text: &str) -> Option<MemberPath> {
    let is_usable = |step: &str| step != "$" && !step.contains(['[', ']']) && step.trim() == step;
    text.split('.').all(is_usable).then(|| MemberPath::parse(text)).flatten()
}

value!(
    Comparison,
    "one comparison such as \"result == '0000'\", \"code != 0\" or \"ok == true\": a path, == or !=, and a text in \
     quotes, a whole number, true or false",
    json!({ "type": "string", "pattern": "(==|!=)" }),
    |value| text(value, comparison)
);

fn comparison(text: &str) -> Option<Comparison> {
    let (left, right) = text.split_at_checked(text.find(['=', '!'])?)?;
    let (equal, right) = match right.strip_prefix("==") {
        Some(right) => (true, right.trim()),
        None => (false, right.strip_prefix("!=")?.trim()),
    };
    let quoted = ['\'', '"'].into_iter().find_map(|quote| {
        let inner = right.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then(|| Json::from(inner))
    });
    let plain = || match right {
        "true" | "false" => Some(Json::from(right == "true")),
        _ => right.parse::<i64>().ok().map(Json::from),
    };
    Some(Comparison { path: member_path(left.trim())?, equal, literal: quoted.or_else(plain)? })
}

/// Returns what a rule says about JSON: a path and the value there.
fn json_rule(json: &Field<MemberPath>, is: &Field<Literal>) -> Option<(MemberPath, Json)> {
    json.get().cloned().zip(is.get().map(|literal| literal.0.clone()))
}

fn words(field: &Field<Words>) -> Option<String> {
    field.get().map(|words| words.0.clone())
}

value!(AnswerRule from AnswerRuleTable, |given| {
    let rule = Self {
        status: given.status.get().copied(),
        error: words(&given.error),
        body: words(&given.body),
        json: json_rule(&given.json, &given.is),
    };
    let only_a_status = Self { status: rule.status, ..Self::default() };
    if given.json.is_absent() != given.is.is_absent() {
        Err(Fault::other("needs both `json` and `is`, or neither", "add the other one"))
    } else if rule == Self::default() {
        let message = "needs at least one of status, error, body, or json and is";
        Err(Fault::other(message, "write what distinguishes the answer"))
    } else if rule == only_a_status && rule.status.is_some_and(|status| status.is_success()) {
        let fix = "add error, body, or json and is, to distinguish it from a success";
        Err(Fault::other("would treat every success as an error", fix))
    } else {
        Ok(rule)
    }
});

value!(
    RejectionRule,
    "a status such as 401, or { status = 403, body = \"text\" }, or { status = 400, json = \"error.code\", is = 190 }, \
     or { status = 403, field = \"x-error\", has = \"text\" }, or { grpc_status = 16 }",
    json!({ "anyOf": [StatusCode::schema(), RejectionRuleTable::schema()] }),
    keys RejectionRuleTable,
    |value, reader| match value.get_ref() {
        DeValue::Integer(_) => {
            Ok(Self { status: StatusCode::read_value(value, reader)?, evidence: None })
        }
        DeValue::Table(_) => {
            let given = RejectionRuleTable::read_value(value, reader)?;
            rejection_rule(&given).ok_or_else(Self::wrong_value)
        }
        _ => Err(Self::wrong_type()),
    }
);

/// Returns the rule if its keys are those of one of the forms.
fn rejection_rule(given: &RejectionRuleTable) -> Option<RejectionRule> {
    let has_half_a_pair = given.json.is_absent() != given.is.is_absent()
        || given.field.is_absent() != given.has.is_absent();
    let json = json_rule(&given.json, &given.is)
        .map(|(path, is)| RejectionEvidence::Json { path: path.steps().to_vec(), is });
    let field = given.field.get().cloned().zip(words(&given.has));
    let grpc = given.grpc_status.get().and_then(|status| u8::try_from(status.0).ok());
    let conditions = [
        words(&given.body).map(RejectionEvidence::Contains),
        json,
        field.map(|(name, has)| RejectionEvidence::Field { name, has }),
        grpc.map(RejectionEvidence::Grpc),
    ];
    let mut conditions = conditions.into_iter().flatten();
    let (evidence, another) = (conditions.next(), conditions.next());
    let status = match (&evidence, given.status.get()) {
        // A gRPC call has the HTTP status 200 whatever its result.
        (Some(RejectionEvidence::Grpc(_)), None) => StatusCode::OK,
        (Some(RejectionEvidence::Grpc(_)), Some(_)) => return None,
        (_, status) => *status?,
    };
    (another.is_none() && !has_half_a_pair).then_some(RejectionRule { status, evidence })
}
