//! Tables inside a credential: what it is bootstrapped with, its assertion, certificate and steps.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::choices::{Encoding, Grant};
use super::section::Field;
use super::tables::Entries;
use super::values::{FromToml, Wrong};
use crate::secret::SecretSource;

/// Declares a table that is the value of a key: a struct of [`Field`]s, read like a section. It is
/// broken as a whole if one of its values is.
macro_rules! nested {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $key:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $key: Field<$type>,)*
        }

        impl $name {
            /// The keys of this table.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];
        }

        impl FromToml for $name {
            fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
                let Some(table) = value.get_ref().as_table() else {
                    return Err(Wrong::kind(value, "a table such as { key = \"value\" }"));
                };
                let (mut read, mut wrong) = (Self::default(), Vec::new());
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        $(stringify!($key) => match FromToml::from_toml(value) {
                            Ok(found) => {
                                read.$key = Field::Given(Spanned::new(value.span(), found));
                            }
                            Err(more) => wrong.extend(
                                more.into_iter().map(|wrong| wrong.within(stringify!($key))),
                            ),
                        },)*
                        _ => wrong.push(Wrong::unknown(key, Self::KEYS)),
                    }
                }
                if wrong.is_empty() { Ok(read) } else { Err(wrong) }
            }
        }
    };
}

nested! {
    /// `bootstrap`: where the first refresh token comes from without a person.
    BootstrapTable {
        /// Which grant.
        grant: Grant,
        /// A person's name at the authorization server.
        username: String,
        /// The password.
        password: SecretSource,
        /// The token that is exchanged.
        subject_token: SecretSource,
        /// What kind it is.
        subject_token_type: String,
        /// The token of the acting party.
        actor_token: SecretSource,
        /// What kind it is.
        actor_token_type: String,
        /// The scope to ask for.
        scope: String,
        /// Further parameters.
        params: Entries<Vec<Spanned<String>>>,
    }
}

nested! {
    /// `assertion`: a signed statement.
    AssertionTable {
        /// The algorithm.
        alg: String,
        /// The private key.
        key: SecretSource,
        /// The key's name at the authorization server.
        kid: String,
        /// Who says it.
        iss: String,
        /// Of whom.
        sub: String,
        /// To whom.
        aud: String,
        /// How long it is valid.
        ttl: Duration,
        /// How long ago it seems to have been made.
        backdate: Duration,
        /// Further claims.
        claims: Entries<ClaimValue>,
        /// Further members of its header.
        header: Entries<ClaimValue>,
        /// The certificate of the key.
        cert: PathBuf,
    }
}

nested! {
    /// `client_cert`: the certificate shown in TLS.
    ClientCertTable {
        /// The certificate, and those between it and its root, PEM.
        cert: PathBuf,
        /// Its private key, PEM.
        key: KeyFile,
        /// It is shown to the API's hosts as well.
        bind: bool,
    }
}

nested! {
    /// One of `steps`: a call that follows the token request.
    StepTable {
        /// Where to.
        url: String,
        /// How the parameters travel.
        encoding: Encoding,
        /// The parameters.
        params: Entries<Vec<Spanned<String>>>,
        /// The fields.
        headers: Entries<String>,
        /// Where in the answer things are.
        response: StepResponse,
    }
}

nested! {
    /// `response` of a step.
    StepResponse {
        /// The place of the access token.
        access_token: String,
        /// The place of the seconds that it lives.
        expires_in: String,
    }
}

/// A private key: the path of a file, or the place of a secret.
#[derive(Clone, Debug)]
pub struct KeyFile(pub SecretSource);

impl FromToml for KeyFile {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::String(_) => PathBuf::from_toml(value).map(SecretSource::File).map(Self),
            _ => SecretSource::from_toml(value).map(Self),
        }
    }
}

/// The identifier of the OAuth client: a text, or the place of one that is a secret.
#[derive(Clone, Debug)]
pub enum ClientId {
    /// It stands in the file.
    Text(String),
    /// It is kept elsewhere.
    Secret(SecretSource),
}

impl FromToml for ClientId {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::String(text) => Ok(Self::Text(text.to_string())),
            DeValue::Table(_) => SecretSource::from_toml(value).map(Self::Secret),
            _ => Err(Wrong::kind(value, "a string or the place of a secret")),
        }
    }
}

/// The secret of the OAuth client.
#[derive(Clone, Debug)]
pub enum ClientSecret {
    /// `""`, for servers that want Basic with nothing after the colon.
    Empty,
    /// It is kept there.
    Kept(SecretSource),
}

impl FromToml for ClientSecret {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        match value.get_ref().as_str() {
            Some("") => Ok(Self::Empty),
            _ => SecretSource::from_toml(value).map(Self::Kept),
        }
    }
}

/// The value of a claim, of any type but a date.
#[derive(Clone, Debug)]
pub enum ClaimValue {
    /// A text, which may have names in it.
    Text(Spanned<String>),
    /// A number or a truth value.
    Plain(Value),
    /// Several.
    List(Vec<Self>),
    /// Named ones.
    Table(Vec<(String, Self)>),
}

impl FromToml for ClaimValue {
    fn from_toml(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<Wrong>> {
        let expected = "a text, a number, true or false, a list or a table of these";
        match value.get_ref() {
            DeValue::String(text) => Ok(Self::Text(Spanned::new(value.span(), text.to_string()))),
            DeValue::Boolean(truth) => Ok(Self::Plain((*truth).into())),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(|number| Self::Plain(number.into()))
                .map_err(|_| Wrong::value(value, expected)),
            DeValue::Float(number) => {
                let number: Option<f64> = number.as_str().replace('_', "").parse().ok();
                let number = number.and_then(serde_json::Number::from_f64);
                number
                    .map(|number| Self::Plain(Value::Number(number)))
                    .ok_or_else(|| Wrong::value(value, expected))
            }
            DeValue::Datetime(_) => Err(Wrong::kind(value, expected)),
            DeValue::Array(items) => {
                items.iter().map(Self::from_toml).collect::<Result<_, _>>().map(Self::List)
            }
            DeValue::Table(table) => {
                let entry = |(name, value): (&Spanned<toml::de::DeString<'_>>, _)| {
                    Ok((name.get_ref().to_string(), Self::from_toml(value)?))
                };
                let entries: Result<Vec<_>, Vec<Wrong>> = table.iter().map(entry).collect();
                entries.map(Self::Table)
            }
        }
    }
}
