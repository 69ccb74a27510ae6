//! Request variables that select one of a credential's tokens.
//!
//! A variable's value comes from the request's path, from a field, or from the client's name.
//! Values are untrusted and become parts of URLs, file names and record keys, so a value must
//! either be listed by the operator or be a short text without special characters.

use std::borrow::Cow;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::matching::PathPrefix;
use crate::secret::SecretSource;
use crate::template::{Template, Values, Variables};

/// The maximum length of a value in bytes.
pub const MAX_VALUE_LEN: usize = 64;

/// One variable of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialVariable {
    /// The name, used as `${…}`.
    pub name: String,
    /// The part of a request that holds the value.
    pub from: VariableSource,
    /// The allowed values; `None`: all that [`is_safe_value`] accepts.
    pub allowed: Option<Vec<String>>,
}

/// The part of a request that holds a variable's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableSource {
    /// The path segment with the variable's name in the credential's `paths`.
    Path,
    /// This field, which is removed before the request is forwarded.
    Field(HeaderName),
    /// The name that the client gives to this proxy: the user name in `Proxy-Authorization`, of the
    /// request or of the CONNECT that carried it. It is not verified; like a field, it selects a
    /// token and proves nothing.
    Client,
}

/// Why a request selects no token. Messages never repeat the request's values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// The field is missing.
    #[error("is chosen by the request field \"{0}\", which this request does not have")]
    Missing(HeaderName),
    /// The field occurs more than once, so its value is ambiguous.
    #[error("is chosen by the request field \"{0}\", which this request has more than once")]
    Repeated(HeaderName),
    /// The field's value has characters with a special meaning in URLs or file names.
    #[error(
        "is chosen by the request field \"{0}\", whose value has to be 1 to 64 letters, digits, \
         \"-\", \".\", \"_\" or \"~\", and neither \".\" nor \"..\""
    )]
    InvalidField(HeaderName),
    /// The client gave no name.
    #[error(
        "is chosen by the client's name, which it gives as the user name of its proxy URL: \
         http://NAME:any@127.0.0.1:8080"
    )]
    NoClientName,
    /// The client's name has characters with a special meaning in URLs or file names.
    #[error(
        "is chosen by the client's name, which has to be 1 to 64 letters, digits, \"-\", \".\", \
         \"_\" or \"~\", and neither \".\" nor \"..\""
    )]
    InvalidClientName,
    /// The value is not listed.
    #[error(
        "does not allow this value of \"{0}\"; an operator can add it to the credential's `vars`"
    )]
    NotAllowed(String),
}

impl CredentialVariable {
    /// The variable's value in a request.
    fn value<'a>(
        &self,
        prefix: Option<&PathPrefix>,
        path: &'a str,
        sender: RequestSender<'a>,
    ) -> Result<Cow<'a, str>, VariableError> {
        let not_allowed = || VariableError::NotAllowed(self.name.clone());
        let value = match &self.from {
            VariableSource::Path => {
                let value = prefix.and_then(|prefix| prefix.value(&self.name, path));
                Cow::Borrowed(value.ok_or_else(not_allowed)?)
            }
            VariableSource::Field(name) => Cow::Borrowed(only_value(name, sender.fields)?),
            VariableSource::Client => match sender.client {
                Some(name) => Cow::Borrowed(name),
                None => Cow::Owned(client_name(sender.fields).ok_or(VariableError::NoClientName)?),
            },
        };
        match (&self.allowed, &self.from) {
            (Some(allowed), _) if allowed.iter().any(|one| *one == value) => Ok(value),
            (Some(_), _) => Err(not_allowed()),
            (None, _) if is_safe_value(&value) => Ok(value),
            (None, VariableSource::Field(name)) => Err(VariableError::InvalidField(name.clone())),
            (None, VariableSource::Client) => Err(VariableError::InvalidClientName),
            (None, VariableSource::Path) => Err(not_allowed()),
        }
    }
}

/// The sender of a request: its fields, and the client's name from the CONNECT that carried it.
#[derive(Clone, Copy)]
pub(super) struct RequestSender<'a> {
    pub(super) fields: &'a HeaderMap,
    pub(super) client: Option<&'a str>,
}

/// The client's name: the user name of `Proxy-Authorization: Basic` (RFC 7617), if there is exactly
/// one such field.
pub fn client_name(fields: &HeaderMap) -> Option<String> {
    let mut lines = fields.get_all(PROXY_AUTHORIZATION).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let (scheme, encoded) = line.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(name, _)| name.to_owned())
}

fn only_value<'a>(name: &HeaderName, fields: &'a HeaderMap) -> Result<&'a str, VariableError> {
    let mut values = fields.get_all(name).iter();
    let value = values.next().ok_or_else(|| VariableError::Missing(name.clone()))?;
    if values.next().is_some() {
        return Err(VariableError::Repeated(name.clone()));
    }
    value.to_str().map_err(|_| VariableError::InvalidField(name.clone()))
}

/// Returns true if `value` has no special meaning in URLs, fields, forms and file names: 1 to 64
/// unreserved characters (RFC 3986 §2.3), except `.` and `..`.
pub fn is_safe_value(value: &str) -> bool {
    (1..=MAX_VALUE_LEN).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        && !matches!(value, "." | "..")
}

/// The values of all `variables` in a request. Does not allocate if there are none.
pub(super) fn variable_values(
    variables: &[CredentialVariable],
    prefix: Option<&PathPrefix>,
    path: &str,
    sender: RequestSender<'_>,
) -> Result<Variables, VariableError> {
    let value = |variable: &CredentialVariable| {
        let value = variable.value(prefix, path, sender)?;
        Ok((variable.name.clone(), value.into_owned()))
    };
    variables.iter().map(value).collect()
}

/// A secret file whose path contains variables, so that each token has its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretTemplate {
    /// Which secret it is.
    pub secret: InstanceSecret,
    /// The directory that relative paths start from.
    pub base: PathBuf,
    /// The path template.
    pub path: Template,
}

/// The secrets that each token of a credential can have separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceSecret {
    /// The first refresh token.
    RefreshToken,
    /// The OAuth client's secret.
    ClientSecret,
    /// The password of the `password` grant, or of a `bootstrap` that uses it.
    Password,
}

impl SecretTemplate {
    /// The file for these values.
    pub fn source_for(&self, variables: &Variables) -> SecretSource {
        let values =
            Values { variables: Some(variables), ..Values::at(std::time::SystemTime::UNIX_EPOCH) };
        SecretSource::File(self.base.join(self.path.expand(values)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    const CLUB: HeaderName = HeaderName::from_static("x-club");

    fn by_field(allowed: Option<&[&str]>) -> [CredentialVariable; 1] {
        let allowed = allowed.map(|list| list.iter().map(|one| (*one).to_owned()).collect());
        [CredentialVariable { name: "club".to_owned(), from: VariableSource::Field(CLUB), allowed }]
    }

    fn chosen(variables: &[CredentialVariable], values: &[&[u8]]) -> Result<String, VariableError> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(CLUB, HeaderValue::from_bytes(value).unwrap());
        }
        variable_values(variables, None, "/", RequestSender { fields: &fields, client: None })
            .map(|mut chosen| chosen.remove("club").unwrap())
    }

    #[test]
    fn a_field_without_a_list_accepts_only_safe_values() {
        let longest = [b'a'; 64];
        for value in [&b"paris"[..], b"a", b"A-1._~", b"...", b".x", b"1.2", &longest] {
            let text = std::str::from_utf8(value).unwrap();
            assert_eq!(chosen(&by_field(None), &[value]).unwrap(), text);
        }
        let longer = [b'a'; 65];
        for value in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"..\\x",
            b"a b",
            b"a%2fb",
            b"a,b",
            b"a?b",
            b"a#b",
            b"a&b",
            b"${x}",
            b"\xe9",
            "é".as_bytes(),
            b"a\tb",
            &longer,
        ] {
            assert_eq!(chosen(&by_field(None), &[value]), Err(VariableError::InvalidField(CLUB)));
        }
    }

    #[test]
    fn a_field_must_occur_once_and_be_listed() {
        let listed = by_field(Some(&["paris", "lyon"]));
        assert_eq!(chosen(&listed, &[b"lyon"]).unwrap(), "lyon");
        let not_allowed = Err(VariableError::NotAllowed("club".to_owned()));
        for other in [&b"Lyon"[..], b"berlin", b"", b"paris, lyon"] {
            assert_eq!(chosen(&listed, &[other]), not_allowed);
        }
        assert_eq!(chosen(&listed, &[]), Err(VariableError::Missing(CLUB)));
        assert_eq!(chosen(&listed, &[b"paris", b"paris"]), Err(VariableError::Repeated(CLUB)));
    }

    #[test]
    fn no_error_repeats_the_request_s_value() {
        let all = [&[][..], &[&b"geheim/"[..]], &[b"geheim", b"x"]];
        for values in all {
            let text = chosen(&by_field(None), values).unwrap_err().to_string();
            assert!(text.contains("x-club") && !text.contains("geheim"), "{text}");
        }
        let text = chosen(&by_field(Some(&["a"])), &[b"geheim"]).unwrap_err().to_string();
        assert!(!text.contains("geheim"), "{text}");
    }

    #[test]
    fn the_client_name_comes_from_a_single_basic_credential() {
        let by_client = [CredentialVariable {
            name: "club".into(),
            from: VariableSource::Client,
            allowed: None,
        }];
        let chosen = |lines: &[&str], connect| {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(PROXY_AUTHORIZATION, HeaderValue::from_str(line).unwrap());
            }
            let sender = RequestSender { fields: &fields, client: connect };
            variable_values(&by_client, None, "/", sender)
                .map(|mut chosen| chosen.remove("club").unwrap())
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!(chosen(&[&basic("paris:x")], None).unwrap(), "paris");
        assert_eq!(chosen(&["bAsIc cGFyaXM6"], None).unwrap(), "paris");
        assert_eq!(chosen(&[], Some("lyon")).unwrap(), "lyon");
        let nameless: [&[&str]; 6] = [
            &[],
            &["Basic"],
            &["Basic %%%"],
            &["Bearer cGFyaXM6"],
            &[&basic("paris")],
            &[&basic("a:x"), &basic("b:x")],
        ];
        for lines in nameless {
            assert_eq!(chosen(lines, None), Err(VariableError::NoClientName), "{lines:?}");
        }
        for name in ["", "..", "a/b", "a b", "é"] {
            let line = basic(&format!("{name}:x"));
            assert_eq!(chosen(&[&line], None), Err(VariableError::InvalidClientName), "{name}");
        }
    }

    #[test]
    fn a_path_segment_must_be_listed() {
        let prefix = PathPrefix::parse("/v1/${club}/").unwrap();
        let variables = [CredentialVariable {
            name: "club".to_owned(),
            from: VariableSource::Path,
            allowed: Some(vec!["paris".to_owned()]),
        }];
        let fields = HeaderMap::new();
        let sender = RequestSender { fields: &fields, client: None };
        let chosen = |path| variable_values(&variables, Some(&prefix), path, sender);
        assert_eq!(chosen("/v1/paris/x").unwrap().get("club").unwrap(), "paris");
        for path in ["/v1/Paris/x", "/v1//x", "/v1/parisx/", "/v1/paris;a/", "/v1/lyon/paris/"] {
            assert_eq!(chosen(path), Err(VariableError::NotAllowed("club".to_owned())), "{path}");
        }
    }

    #[test]
    fn the_path_of_a_secret_contains_the_values() {
        let mut names = crate::template::Names::default();
        names.insert_variable("club");
        let path = |text| SecretTemplate {
            secret: InstanceSecret::RefreshToken,
            base: "/etc/bearerd".into(),
            path: Template::parse(text, &names).unwrap(),
        };
        let paris = Variables::from([("club".to_owned(), "paris".to_owned())]);
        let file = |text: &str| SecretSource::File(text.into());
        assert_eq!(path("seeds/${club}").source_for(&paris), file("/etc/bearerd/seeds/paris"));
        assert_eq!(path("/run/${club}_x").source_for(&paris), file("/run/paris_x"));
    }
}
