//! How a token is put on a request: fields, parameters of the query, and what the client sent itself.
//!
//! `Authorization: Bearer …` is the usual way, and nothing is computed for it: each token keeps the
//! value ready. All other ways are templates, expanded anew for each token.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use http::uri::{InvalidUri, PathAndQuery};
use http::{Method, Uri};
use url::form_urlencoded;

use crate::dpop;
use crate::origin::Origin;
use crate::template::{Template, Values, Variables};
use crate::token::AccessToken;

/// How a token is put on a request.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Injection {
    /// The fields. Default: `Authorization: Bearer …`.
    pub fields: Fields,
    /// Parameters of the query. Default none.
    pub query: Vec<(String, Template)>,
    /// What happens when the client sent one of these itself. Default: it is replaced.
    pub on_existing: OnExisting,
    /// Tokens are bound to a key, and each request brings a proof (RFC 9449). Default no.
    pub dpop: bool,
}

/// The request that a token is put on.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Where it goes.
    pub origin: &'a Origin,
    /// Its target in origin-form.
    pub target: &'a Uri,
    /// The variables that chose the token.
    pub variables: &'a Variables,
    /// What the origin server asked to see in the next proof.
    pub nonce: Option<&'a str>,
}

impl Destination<'_> {
    /// The target URI without query, as a proof names it (RFC 9449 §4.2).
    fn uri(&self) -> String {
        let Origin { scheme, .. } = self.origin;
        format!("{scheme}://{}{}", self.origin.host_field(), self.target.path())
    }
}

/// The fields that carry a token.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Fields {
    /// `Authorization: Bearer …`.
    #[default]
    Bearer,
    /// These, and no others.
    Listed(Vec<(HeaderName, Template)>),
}

/// What happens to a field or parameter that the client sent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// The credential's takes its place.
    #[default]
    Replace,
    /// It stays, and the request gets no token.
    Keep,
    /// The request is refused.
    Reject,
}

/// What one token puts on one request.
#[derive(Debug)]
pub enum Additions<'a> {
    /// The usual field.
    Bearer(&'a HeaderValue),
    /// Fields, and the target if the query has changed.
    Listed(Vec<(&'a HeaderName, HeaderValue)>, Option<Uri>),
}

/// Why a token cannot be put on a request: it does not fit into a field or a target.
#[derive(Debug, thiserror::Error)]
pub enum InjectionError {
    /// Not a field value.
    #[error("what is to be injected is no field value")]
    Field(#[from] InvalidHeaderValue),
    /// Not a target, because it is too long.
    #[error("the target with its parameters is too long")]
    Target(#[from] InvalidUri),
}

impl Injection {
    /// Did the client send any of this itself?
    pub fn is_present(&self, fields: &HeaderMap, target: &Uri) -> bool {
        let in_query = || target.query().into_iter().flat_map(pieces).any(|it| self.is_ours(it));
        self.names().any(|name| fields.contains_key(name)) || !self.query.is_empty() && in_query()
    }

    /// Removes fields that some servers cannot tell from ours: CGI and what came after it reads
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

    /// What `token` puts on a request for `destination`; `now` is read only if something needs it.
    ///
    /// # Errors
    ///
    /// [`InjectionError`]; what is configured has been checked, so it is about the token.
    pub fn additions<'a>(
        &'a self,
        token: &'a AccessToken,
        now: impl FnOnce() -> SystemTime,
        destination: Destination<'_>,
    ) -> Result<Additions<'a>, InjectionError> {
        if self.fields == Fields::Bearer && self.query.is_empty() && !self.dpop {
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
            Fields::Bearer => vec![(&AUTHORIZATION, token.authorization.clone())],
            Fields::Listed(listed) => listed
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

    /// The target with the parameters, percent-encoded, instead of any of the same names. All other
    /// bytes stay as they are.
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

    /// Has this piece of a query the name of one of our parameters, however it is encoded?
    fn is_ours(&self, piece: &str) -> bool {
        form_urlencoded::parse(piece.as_bytes())
            .next()
            .is_some_and(|(name, _)| self.query.iter().any(|(ours, _)| *ours == name))
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let (bearer, listed) = match &self.fields {
            Fields::Bearer => (Some(&AUTHORIZATION), [].as_slice()),
            Fields::Listed(listed) => (None, listed.as_slice()),
        };
        let proof = self.dpop.then_some(&dpop::DPOP);
        bearer.into_iter().chain(proof).chain(listed.iter().map(|(name, _)| name))
    }
}

impl Additions<'_> {
    /// Puts them on a request, in place of what the client sent.
    pub fn put_on(&self, fields: &mut HeaderMap, target: &mut Uri) {
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

/// `%20` and not `+`, which only forms read as a space.
fn encode(text: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    encoded.replace('+', "%20")
}

/// `X_Api_Key`, `Author_ization`, `Authorization_`: the same letters, and an underscore to tell them
/// apart.
fn is_lookalike(name: &str, ours: &str) -> bool {
    fn letters(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(|byte| !matches!(byte, b'-' | b'_'))
    }
    let has_underscore = |text: &str| text.contains('_');
    // Most names differ in their first letters.
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
    fn a_parameter_replaces_its_namesakes_and_leaves_every_other_byte() {
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
    fn what_the_client_sent_itself_is_seen() {
        let fields = Fields::Listed(vec![(HeaderName::from_static("x-api-key"), template("k"))]);
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
    fn a_field_that_a_server_may_take_for_ours_goes() {
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
