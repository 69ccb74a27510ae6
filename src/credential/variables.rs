//! What a request says that chooses among a credential's tokens.
//!
//! A variable's value stands in the request's path or in one of its fields. Values are the bytes of a
//! stranger: they become parts of URLs, of file names and of records' keys, so a value is either one of
//! a list that the operator wrote, or a short text of characters that mean nothing anywhere.

use std::borrow::Cow;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::matching::PathPrefix;
use crate::secret::SecretSource;
use crate::template::{Template, Values, Variables};

/// The longest value of a variable, in bytes.
pub const LONGEST_VALUE: usize = 64;

/// One variable of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The name in `${…}`.
    pub name: String,
    /// Where a request has its value.
    pub from: VariableSource,
    /// The values that are allowed; `None`: all that [`is_harmless`] lets pass.
    pub allowed: Option<Vec<String>>,
}

/// Where a request has the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VariableSource {
    /// It is the segment of the path that the credential's `paths` name.
    Path,
    /// It is the value of this field, which is removed before the request is sent.
    Field(HeaderName),
    /// It is what the client calls itself towards this proxy: the user name in `Proxy-Authorization`, of
    /// the request or of the CONNECT that it came through. Nobody checks it; like a field, it says which
    /// token is wanted and proves nothing.
    Client,
}

/// Why a request chooses none of the tokens. Nothing here repeats what the request said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The field is not there.
    #[error("is chosen by the request field \"{0}\", which this request does not have")]
    Missing(HeaderName),
    /// The field is there more than once, and nothing says which one counts.
    #[error("is chosen by the request field \"{0}\", which this request has more than once")]
    Repeated(HeaderName),
    /// The field's value could mean something in a URL or a file name.
    #[error(
        "is chosen by the request field \"{0}\", whose value has to be 1 to 64 letters, digits, \
         \"-\", \".\", \"_\" or \"~\", and neither \".\" nor \"..\""
    )]
    Unfit(HeaderName),
    /// The client did not say who it is.
    #[error(
        "is chosen by the client's name, which it gives as the user name of its proxy: \
         http://NAME:any@127.0.0.1:8080"
    )]
    Nameless,
    /// The client's name could mean something in a URL or a file name.
    #[error(
        "is chosen by the client's name, which has to be 1 to 64 letters, digits, \"-\", \".\", \
         \"_\" or \"~\", and neither \".\" nor \"..\""
    )]
    UnfitName,
    /// The value is not in the list.
    #[error("is not for this value of \"{0}\"; an operator can add it to the credential's `vars`")]
    NotAllowed(String),
}

impl Variable {
    /// What a request says about it.
    fn value<'a>(
        &self,
        prefix: Option<&PathPrefix>,
        path: &'a str,
        sender: Sender<'a>,
    ) -> Result<Cow<'a, str>, ChoiceError> {
        let not_allowed = || ChoiceError::NotAllowed(self.name.clone());
        let value = match &self.from {
            VariableSource::Path => {
                let value = prefix.and_then(|prefix| prefix.value(&self.name, path));
                Cow::Borrowed(value.ok_or_else(not_allowed)?)
            }
            VariableSource::Field(name) => Cow::Borrowed(only_value(name, sender.fields)?),
            VariableSource::Client => match sender.client {
                Some(name) => Cow::Borrowed(name),
                None => Cow::Owned(client_name(sender.fields).ok_or(ChoiceError::Nameless)?),
            },
        };
        match (&self.allowed, &self.from) {
            (Some(allowed), _) if allowed.iter().any(|one| *one == value) => Ok(value),
            (Some(_), _) => Err(not_allowed()),
            (None, _) if is_harmless(&value) => Ok(value),
            (None, VariableSource::Field(name)) => Err(ChoiceError::Unfit(name.clone())),
            (None, VariableSource::Client) => Err(ChoiceError::UnfitName),
            (None, VariableSource::Path) => Err(not_allowed()),
        }
    }
}

/// Who sends a request: its fields, and the name from the CONNECT that it came through.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) fields: &'a HeaderMap,
    pub(super) client: Option<&'a str>,
}

/// What a client calls itself: the user name of `Proxy-Authorization: Basic` (RFC 7617), if there is
/// exactly one such field.
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

fn only_value<'a>(name: &HeaderName, fields: &'a HeaderMap) -> Result<&'a str, ChoiceError> {
    let mut values = fields.get_all(name).iter();
    let value = values.next().ok_or_else(|| ChoiceError::Missing(name.clone()))?;
    if values.next().is_some() {
        return Err(ChoiceError::Repeated(name.clone()));
    }
    value.to_str().map_err(|_| ChoiceError::Unfit(name.clone()))
}

/// Does `value` mean nothing but itself in a URL, a field, a form and a file name? That is 1 to 64
/// unreserved characters (RFC 3986 §2.3), and not `.` or `..`.
pub fn is_harmless(value: &str) -> bool {
    (1..=LONGEST_VALUE).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        && !matches!(value, "." | "..")
}

/// The values of all `variables` in a request; no variables, no values and no allocation.
pub(super) fn choose(
    variables: &[Variable],
    prefix: Option<&PathPrefix>,
    path: &str,
    sender: Sender<'_>,
) -> Result<Variables, ChoiceError> {
    let value = |variable: &Variable| {
        let value = variable.value(prefix, path, sender)?;
        Ok((variable.name.clone(), value.into_owned()))
    };
    variables.iter().map(value).collect()
}

/// A secret in a file whose path names variables, so that each token has one of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretPath {
    /// What it is.
    pub secret: OwnSecret,
    /// The directory of relative paths.
    pub base: PathBuf,
    /// The path.
    pub path: Template,
}

/// The secrets that each token of a credential can have of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnSecret {
    /// The first refresh token.
    RefreshToken,
    /// The OAuth client's secret.
    ClientSecret,
    /// The password of the `password` grant, or of the `bootstrap` with it.
    Password,
}

impl SecretPath {
    /// The place for these values.
    pub fn place(&self, variables: &Variables) -> SecretSource {
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

    fn by_field(allowed: Option<&[&str]>) -> [Variable; 1] {
        let allowed = allowed.map(|list| list.iter().map(|one| (*one).to_owned()).collect());
        [Variable { name: "club".to_owned(), from: VariableSource::Field(CLUB), allowed }]
    }

    fn chosen(variables: &[Variable], values: &[&[u8]]) -> Result<String, ChoiceError> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(CLUB, HeaderValue::from_bytes(value).unwrap());
        }
        choose(variables, None, "/", Sender { fields: &fields, client: None })
            .map(|mut chosen| chosen.remove("club").unwrap())
    }

    #[test]
    fn a_field_without_a_list_holds_what_means_nothing_anywhere() {
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
            assert_eq!(chosen(&by_field(None), &[value]), Err(ChoiceError::Unfit(CLUB)));
        }
    }

    #[test]
    fn a_field_is_there_once_and_in_the_list() {
        let listed = by_field(Some(&["paris", "lyon"]));
        assert_eq!(chosen(&listed, &[b"lyon"]).unwrap(), "lyon");
        let not_allowed = Err(ChoiceError::NotAllowed("club".to_owned()));
        for other in [&b"Lyon"[..], b"berlin", b"", b"paris, lyon"] {
            assert_eq!(chosen(&listed, &[other]), not_allowed);
        }
        assert_eq!(chosen(&listed, &[]), Err(ChoiceError::Missing(CLUB)));
        assert_eq!(chosen(&listed, &[b"paris", b"paris"]), Err(ChoiceError::Repeated(CLUB)));
    }

    #[test]
    fn no_refusal_repeats_what_the_request_said() {
        let all = [&[][..], &[&b"geheim/"[..]], &[b"geheim", b"x"]];
        for values in all {
            let text = chosen(&by_field(None), values).unwrap_err().to_string();
            assert!(text.contains("x-club") && !text.contains("geheim"), "{text}");
        }
        let text = chosen(&by_field(Some(&["a"])), &[b"geheim"]).unwrap_err().to_string();
        assert!(!text.contains("geheim"), "{text}");
    }

    #[test]
    fn a_client_names_itself_once_and_by_basic() {
        let by_client =
            [Variable { name: "club".into(), from: VariableSource::Client, allowed: None }];
        let chosen = |lines: &[&str], connect| {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(PROXY_AUTHORIZATION, HeaderValue::from_str(line).unwrap());
            }
            let sender = Sender { fields: &fields, client: connect };
            choose(&by_client, None, "/", sender).map(|mut chosen| chosen.remove("club").unwrap())
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
            assert_eq!(chosen(lines, None), Err(ChoiceError::Nameless), "{lines:?}");
        }
        for name in ["", "..", "a/b", "a b", "é"] {
            let line = basic(&format!("{name}:x"));
            assert_eq!(chosen(&[&line], None), Err(ChoiceError::UnfitName), "{name}");
        }
    }

    #[test]
    fn a_segment_of_the_path_is_one_of_the_list() {
        let prefix = PathPrefix::parse("/v1/${club}/").unwrap();
        let variables = [Variable {
            name: "club".to_owned(),
            from: VariableSource::Path,
            allowed: Some(vec!["paris".to_owned()]),
        }];
        let fields = HeaderMap::new();
        let sender = Sender { fields: &fields, client: None };
        let chosen = |path| choose(&variables, Some(&prefix), path, sender);
        assert_eq!(chosen("/v1/paris/x").unwrap().get("club").unwrap(), "paris");
        for path in ["/v1/Paris/x", "/v1//x", "/v1/parisx/", "/v1/paris;a/", "/v1/lyon/paris/"] {
            assert_eq!(chosen(path), Err(ChoiceError::NotAllowed("club".to_owned())), "{path}");
        }
    }

    #[test]
    fn the_place_of_a_secret_has_the_values_in_it() {
        let mut names = crate::template::Names::default();
        names.insert_variable("club");
        let path = |text| SecretPath {
            secret: OwnSecret::RefreshToken,
            base: "/etc/bearerd".into(),
            path: Template::parse(text, &names).unwrap(),
        };
        let paris = Variables::from([("club".to_owned(), "paris".to_owned())]);
        let file = |text: &str| SecretSource::File(text.into());
        assert_eq!(path("seeds/${club}").place(&paris), file("/etc/bearerd/seeds/paris"));
        assert_eq!(path("/run/${club}_x").place(&paris), file("/run/paris_x"));
    }
}
