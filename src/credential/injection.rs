//! Injection of a token into a request: header fields, query parameters, and handling of what the
//! client sent itself.
//!
//! `Authorization: Bearer …` is the default and needs no computation, because each token keeps the
//! value ready. All other forms are templates, expanded for each request.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use http::uri::{InvalidUri, PathAndQuery};
use http::{Method, Uri};
use url::form_urlencoded;

use crate::dpop;
use crate::origin::Origin;
use crate::template::{Template, Values, Variables};
use crate::token::AccessToken;

/// How a token is injected into a request.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Injection {
    /// The header fields. Default: `Authorization: Bearer …`.
    pub fields: InjectedFields,
    /// The query parameters. Default none.
    pub query: Vec<(String, Template)>,
    /// What happens if the client sent one of these itself. Default: it is replaced.
    pub on_existing: OnExisting,
    /// Whether tokens are bound to a key and each request carries a DPoP proof (RFC 9449). Default
    /// no.
    pub dpop: bool,
}

/// The request that a token is injected into.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The method.
    pub method: &'a Method,
    /// The origin server.
    pub origin: &'a Origin,
    /// The target in origin-form.
    pub target: &'a Uri,
    /// The variable values that selected the token.
    pub variables: &'a Variables,
    /// The nonce that the origin server asked for in the next proof.
    pub nonce: Option<&'a str>,
}

impl Destination<'_> {
    /// The target URI without query, as a proof contains it (RFC 9449 §4.2).
    fn uri(&self) -> String {
        let Origin { scheme, .. } = self.origin;
        format!("{scheme}://{}{}", self.origin.host_field(), self.target.path())
    }
}

/// The fields that carry a token.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum InjectedFields {
    /// `Authorization: Bearer …`.
    #[default]
    Bearer,
    /// These fields only.
    Listed(Vec<(HeaderName, Template)>),
}

/// What happens to a field or parameter that the client sent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// It is replaced by the credential's.
    #[default]
    Replace,
    /// It is kept, and the request gets no token.
    Keep,
    /// The request is refused with an error.
    Reject,
}

/// What one token adds to one request.
#[derive(Debug)]
pub enum Additions<'a> {
    /// The `Authorization` field.
    Bearer(&'a HeaderValue),
    /// Fields, and the new target if the query changed.
    Listed(Vec<(&'a HeaderName, HeaderValue)>, Option<Uri>),
}

/// Why a token cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum InjectionError {
    /// The value is not a valid field value.
    #[error("the injected value is not a valid field value")]
    Field(#[from] InvalidHeaderValue),
    /// The target is not valid, because it is too long.
    #[error("the target with its parameters is too long")]
    Target(#[from] InvalidUri),
}

impl Injection {
    /// Returns true if the client sent any of the fields or parameters itself.
    pub fn is_present(&self, fields: &HeaderMap, target: &Uri) -> bool {
        let in_query = || target.query().into_iter().flat_map(pieces).any(|it| self.is_ours(it));
        self.names().any(|name| fields.contains_key(name)) || !self.query.is_empty() && in_query()
    }

    /// Removes fields that some servers confuse with the injected ones: CGI and its successors read
    /// `X_Api_Key` as `X-Api-Key`.
    pub fn remove_lookalikes(&self, fields: &mut HeaderMap) {
        let found: Vec<HeaderName> = fields
            .keys()
            .filter(|name| self.names().any(|ours| is_lookalike(name.as_str(), ours.as_str())))
            .cloned()
            .collect();
        for name in found {
            fields.remove(name);
        }
    }

    /// What `token` adds to a request for `destination`. `now` is called only if the result depends
    /// on the time.
    ///
    /// # Errors
    ///
    /// [`InjectionError`]. The configuration is already validated, so the token is the cause.
    pub fn additions<'a>(
        &'a self,
        token: &'a AccessToken,
        now: impl FnOnce() -> SystemTime,
        destination: Destination<'_>,
    ) -> Result<Additions<'a>, InjectionError> {
        if self.fields == InjectedFields::Bearer && self.query.is_empty() && !self.dpop {
            return Ok(Additions::Bearer(&token.authorization));
        }
        let now = now();
        let values = Values {
            access_token: token.access_token(),
            raw: Some(&token.raw),
            variables: Some(destination.variables),
            ..Values::at(now)
        };
        let mut fields: Vec<_> = match &self.fields {
            InjectedFields::Bearer => vec![(&AUTHORIZATION, token.authorization.clone())],
            InjectedFields::Listed(listed) => listed
                .iter()
                .map(|(name, template)| Ok((name, template.expand_field(values)?)))
                .collect::<Result<_, InvalidHeaderValue>>()?,
        };
        if let Some(key) = token.key() {
            let proof = key.proof(dpop::ProofInput {
                method: destination.method,
                target: &destination.uri(),
                now,
                access_token: Some(token.access_token()),
                nonce: destination.nonce,
            });
            fields.push((&dpop::DPOP, proof));
        }
        let target = match self.query.is_empty() {
            true => None,
            false => Some(self.with_query(destination.target, values)?),
        };
        Ok(Additions::Listed(fields, target))
    }

    /// The target with our parameters, percent-encoded, in place of any with the same names. All
    /// other bytes are unchanged.
    fn with_query(&self, target: &Uri, values: Values<'_>) -> Result<Uri, InvalidUri> {
        let mut text = target.path().to_owned();
        let mut separator = '?';
        let kept = target.query().into_iter().flat_map(pieces).filter(|piece| !self.is_ours(piece));
        for piece in kept {
            text.extend([separator]);
            text.push_str(piece);
            separator = '&';
        }
        for (name, template) in &self.query {
            text.extend([separator]);
            text.push_str(&encode(name));
            text.push('=');
            text.push_str(&encode(&template.expand(values)));
            separator = '&';
        }
        PathAndQuery::try_from(text).map(Uri::from)
    }

    /// Returns true if this part of a query has the name of one of our parameters, in any encoding.
    fn is_ours(&self, piece: &str) -> bool {
        form_urlencoded::parse(piece.as_bytes())
            .next()
            .is_some_and(|(name, _)| self.query.iter().any(|(ours, _)| *ours == name))
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let (bearer, listed) = match &self.fields {
            InjectedFields::Bearer => (Some(&AUTHORIZATION), [].as_slice()),
            InjectedFields::Listed(listed) => (None, listed.as_slice()),
        };
        let proof = self.dpop.then_some(&dpop::DPOP);
        bearer.into_iter().chain(proof).chain(listed.iter().map(|(name, _)| name))
    }
}

impl Additions<'_> {
    /// Adds them to a request, in place of what the client sent.
    pub fn apply(&self, fields: &mut HeaderMap, target: &mut Uri) {
        match self {
            Self::Bearer(value) => {
                fields.insert(AUTHORIZATION, (*value).clone());
            }
            Self::Listed(listed, with_query) => {
                for (name, value) in listed {
                    fields.insert(*name, value.clone());
                }
                if let Some(with_query) = with_query {
                    *target = with_query.clone();
                }
            }
        }
    }
}

fn pieces(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|piece| !piece.is_empty())
}

/// Encodes spaces as `%20`, because only form parsers read `+` as a space.
fn encode(text: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    encoded.replace('+', "%20")
}

/// Returns true for names with the same letters that differ in hyphens or underscores: `X_Api_Key`,
/// `Author_ization`, `Authorization_`.
fn is_lookalike(name: &str, ours: &str) -> bool {
    fn letters(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(|byte| !matches!(byte, b'-' | b'_'))
    }
    let has_underscore = |text: &str| text.contains('_');
    // Most names differ in their first letters, so the comparison ends early.
    name != ours
        && letters(name).eq(letters(ours))
        && (has_underscore(name) || has_underscore(ours))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::template::{DeferredName, Names};

    fn template(text: &str) -> Template {
        Template::parse(text, &Names::default().with(DeferredName::AccessToken)).unwrap()
    }

    fn query(parameters: &[(&str, &str)]) -> Injection {
        let query =
            parameters.iter().map(|(name, text)| ((*name).to_owned(), template(text))).collect();
        Injection { query, ..Injection::default() }
    }

    #[test]
    fn a_parameter_replaces_its_namesakes_and_keeps_all_other_bytes() {
        let injection = query(&[("access_token", "${access_token}")]);
        let values = Values { access_token: "a/t+ %", ..Values::at(SystemTime::UNIX_EPOCH) };
        let ours = "access_token=a%2Ft%2B%20%25";
        for (target, expected) in [
            ("/", format!("/?{ours}")),
            ("/x?", format!("/x?{ours}")),
            ("/x?a=1&b=%zz&c", format!("/x?a=1&b=%zz&c&{ours}")),
            ("/x?access_token=theirs", format!("/x?{ours}")),
            ("/x?a=1&access%5Ftoken=theirs&access_token&b", format!("/x?a=1&b&{ours}")),
            ("/x?Access_Token=1", format!("/x?Access_Token=1&{ours}")),
        ] {
            let target: Uri = target.parse().unwrap();
            assert_eq!(injection.with_query(&target, values).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_the_client_sent_itself_is_detected() {
        let fields =
            InjectedFields::Listed(vec![(HeaderName::from_static("x-api-key"), template("k"))]);
        let injection = Injection { fields, ..query(&[("token", "t")]) };
        for (name, target, expected) in [
            ("accept", "/", false),
            ("authorization", "/?tokens=1", false),
            ("x-api-key", "/", true),
            ("accept", "/?a&token=1", true),
            ("accept", "/?%74oken", true),
        ] {
            let mut sent = HeaderMap::new();
            sent.insert(name, HeaderValue::from_static("x"));
            assert_eq!(injection.is_present(&sent, &target.parse().unwrap()), expected);
        }
    }

    #[test]
    fn lookalike_fields_are_removed() {
        for (name, goes) in [
            ("authorization", false),
            ("authorization_", true),
            ("author_ization", true),
            ("author-ization", false),
            ("authorizations", false),
            ("proxy-authorization", false),
            ("accept", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(name, HeaderValue::from_static("x"));
            Injection::default().remove_lookalikes(&mut fields);
            assert_eq!(fields.is_empty(), goes, "{name}");
        }
    }
}
