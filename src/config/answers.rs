//! Values that describe the answers of a token endpoint: where they have their members (`response`),
//! and which of them mean something special (`dead`, `busy`).

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::choices::Unit;
use super::section::closest;
use super::tables::{Literal, literal, place, status};
use super::values::{FromToml, Wrong};

/// Where a value stands in JSON: names of members and indexes of arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Vec<String>);

impl FromToml for Place {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str =
            "a path of names and indexes with dots between, such as \"data.0.token\"";
        let text = value.get_ref().as_str().ok_or_else(|| Wrong::kind(value, EXPECTED))?;
        place(text).map(Self).ok_or_else(|| Wrong::value(value, EXPECTED))
    }
}

/// `result == '0000'`: one comparison of a value in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Where the value is.
    pub place: Place,
    /// `==`; otherwise `!=`.
    pub equal: bool,
    /// What it is compared with.
    pub literal: Literal,
}

impl FromToml for Comparison {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str = "one comparison such as \"result == '0000'\", \"code != 0\" or \
                                \"ok == true\": a path, == or !=, and a text in quotes, a whole number, \
                                true or false";
        let text = value.get_ref().as_str().ok_or_else(|| Wrong::kind(value, EXPECTED))?;
        comparison(text).ok_or_else(|| Wrong::value(value, EXPECTED))
    }
}

fn comparison(text: &str) -> Option<Comparison> {
    let at = text.find(['=', '!'])?;
    let (left, right) = text.split_at_checked(at)?;
    let (equal, right) = match (right.strip_prefix("=="), right.strip_prefix("!=")) {
        (Some(right), _) => (true, right),
        (None, Some(right)) => (false, right),
        (None, None) => return None,
    };
    let place = Place(place(left.trim())?);
    let right = right.trim();
    let literal = match right {
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        _ => quoted(right)
            .map(|text| Literal::Text(text.to_owned()))
            .or_else(|| right.parse().ok().map(Literal::Number))?,
    };
    Some(Comparison { place, equal, literal })
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| {
        let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains(quote)).then_some(inner)
    })
}

/// Declares a table of optional values: the struct, its keys and its reader.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $name:ident, $example:literal {
            $($(#[$doc:meta])* $key:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $key: Option<Spanned<$type>>,)*
        }

        impl $name {
            /// The keys of its table.
            pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
                let (mut read, mut wrong) = (Self::default(), Vec::new());
                for (key, value) in table(value, $example)? {
                    match key.get_ref().as_ref() {
                        $(stringify!($key) => match FromToml::from_toml(value) {
                            Ok(given) => read.$key = Some(Spanned::new(value.span(), given)),
                            Err(more) => wrong.extend(more),
                        },)*
                        _ => wrong.push(unknown(key, Self::KEYS)),
                    }
                }
                if wrong.is_empty() { Ok(read) } else { Err(wrong) }
            }
        }
    };
}

fn table<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    example: &str,
) -> Result<&'a DeTable<'i>, Vec<Wrong>> {
    value.get_ref().as_table().ok_or_else(|| Wrong::kind(value, example))
}

fn unknown(key: &Spanned<DeString<'_>>, known: &[&str]) -> Wrong {
    let fix = match closest(key.get_ref(), known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the keys here are {}", known.join(", ")),
    };
    Wrong::part(key.span(), "has an unknown key", fix)
}

table! {
    /// `response`: where a token response has its members.
    Response, "a table such as { access_token = \"data.token\", expires_in = \"data.ttl\" }" {
        /// The access token.
        access_token: Place,
        /// The refresh token.
        refresh_token: Place,
        /// How long the access token lives.
        expires_in: Place,
        /// When it expires.
        expires_at: Place,
        /// What the numbers of both count.
        unit: Unit,
        /// How the access token is presented.
        token_type: Place,
        /// What holds for every success.
        ok: Comparison,
        /// The error code.
        error: Place,
        /// A success without an access token prolongs the one there is.
        keep_access_token: bool,
        /// How long the refresh token lives.
        refresh_expires_in: Place,
        /// How long an error asks to be left alone.
        retry_after: Place,
    }
}

impl FromToml for Response {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        Self::read(value)
    }
}

table! {
    /// One of `dead` or `busy`: a kind of answer, by all that is given.
    AnswerRule, "a table such as { status = 404, error = \"not_found_error\" }" {
        /// Its status.
        status: Status,
        /// Its error code.
        error: Words,
        /// A text in its body.
        body: Words,
        /// A place in its JSON.
        json: Place,
        /// What stands there.
        is: Literal,
    }
}

impl FromToml for AnswerRule {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let rule = Self::read(value)?;
        let wrong = |expected| Err(Wrong::value(value, expected));
        match (&rule.json, &rule.is) {
            (Some(_), None) | (None, Some(_)) => wrong("given both `json` and `is`, or neither"),
            (None, None)
                if rule.status.is_none() && rule.error.is_none() && rule.body.is_none() =>
            {
                wrong("told at least one of status, error, body, or json and is")
            }
            _ => Ok(rule),
        }
    }
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl FromToml for Status {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        const EXPECTED: &str = "a status from 200 to 599";
        match value.get_ref() {
            DeValue::Integer(_) => {
                status(value.get_ref()).map(Self).ok_or_else(|| Wrong::value(value, EXPECTED))
            }
            _ => Err(Wrong::kind(value, EXPECTED)),
        }
    }
}

/// A text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub String);

impl FromToml for Words {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let text = String::from_toml(value)?;
        if text.is_empty() {
            return Err(Wrong::value(value, "a text that is not empty: every answer has that"));
        }
        Ok(Self(text))
    }
}

impl FromToml for Literal {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        literal(value.get_ref())
            .ok_or_else(|| Wrong::kind(value, "a text, a whole number, true or false"))
    }
}
