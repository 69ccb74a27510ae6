//! Calls that follow a token request whose token is not yet the one that APIs accept.
//!
//! Each step is one request. It may use the current token as `${access_token}` and members of
//! earlier answers as `${raw.a.b}`, and its answer may supply another access token. The refresh
//! token is always the one from the token endpoint.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use http::HeaderName;
use serde::de::IgnoredAny;

use super::answer::decoded_body::DecodedBody;
use super::answer::expiry;
use super::answer::members::Members;
use super::config::{write_fields, write_parameters};
use super::request::{Form, add_fields, default_fields, expand_url};
use super::{
    ClientCert, Encoding, ErrorClass, GrantError, Mapping, MemberPath, Parameter, RawAnswer,
    RequestError, TokenRequest, TokenResponse,
};
use crate::secret::Secret;
use crate::template::{Template, Values};

/// One call after the token request.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The URL to call.
    pub url: Template,
    /// How parameters are encoded. Default: form.
    pub encoding: Encoding,
    /// The parameters. None are added automatically.
    pub params: Vec<Parameter>,
    /// The header fields.
    pub headers: Vec<(HeaderName, Template)>,
    /// The place of the access token in the answer. `None` keeps the current one.
    pub access_token: Option<MemberPath>,
    /// The place of the token's lifetime in the answer. `None` keeps the current expiry.
    pub expires_in: Option<MemberPath>,
    /// The members of the answer that later templates use.
    pub raw: Vec<MemberPath>,
}

/// What the answer to a step supplies.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// The new access token, if any.
    pub access_token: Option<Secret>,
    /// When the access token expires, if the answer says.
    pub expires_at: Option<SystemTime>,
    /// The members that later templates use.
    pub raw: BTreeMap<String, Secret>,
}

impl Step {
    /// Builds the request.
    ///
    /// # Errors
    ///
    /// [`RequestError::Url`] if the URL is invalid after expansion.
    pub fn request(
        &self,
        client_cert: Option<ClientCert>,
        values: Values<'_>,
    ) -> Result<TokenRequest, RequestError> {
        let url = expand_url(&self.url, "url of a step", values)?;
        let (mut form, mut fields) = (Form::default(), default_fields());
        form.replace(&self.params, values);
        add_fields(&mut fields, &self.headers, values);
        let (method, url, body) = form.encode(self.encoding, url, &mut fields);
        Ok(TokenRequest { method, url, fields, body, client_cert, secrets: Vec::new() })
    }

    /// Reads the answer to a request that was sent at `now`. A pure function. `longest` is the
    /// maximum length of an access token in bytes.
    ///
    /// # Errors
    ///
    /// A description of what is missing in the answer.
    pub fn read(
        &self,
        answer: &RawAnswer,
        longest: usize,
        now: SystemTime,
    ) -> Result<StepResult, &'static str> {
        let DecodedBody { bytes, .. } = DecodedBody::of(answer, &Mapping::default());
        let members = Members::of(&bytes, &Mapping::default());
        // If no member is wanted, any valid JSON will do.
        if !members.parsed && serde_json::from_slice::<IgnoredAny>(&bytes).is_err() {
            return Err("a step was not answered with JSON");
        }
        let access_token = match &self.access_token {
            None => None,
            Some(path) => {
                let token =
                    members.field_value(path, longest).filter(|token| !token.expose().is_empty());
                Some(token.ok_or("the answer to a step has no access token")?)
            }
        };
        let lifetime = self.expires_in.as_ref().and_then(|path| members.at(path));
        let raw = self
            .raw
            .iter()
            .filter_map(|path| Some((path.to_string(), members.field_value(path, longest)?)));
        Ok(StepResult {
            access_token,
            expires_at: lifetime.and_then(|value| expiry::of_lifetime(value, now)),
            raw: raw.collect(),
        })
    }

    pub(super) fn write_shape(&self, shape: &mut String) {
        let Self { url, encoding, access_token, expires_in, raw, .. } = self;
        _ = write!(shape, "\nstep {:?} {encoding:?}", url.fingerprint());
        let text = |path: &Option<MemberPath>| path.as_ref().map(ToString::to_string);
        let raw: Vec<String> = raw.iter().map(ToString::to_string).collect();
        _ = write!(shape, " {:?} {:?} {raw:?}", text(access_token), text(expires_in));
        write_parameters("step", &self.params, shape);
        write_fields(&self.headers, shape);
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let in_parameters = self.params.iter().flat_map(|parameter| &parameter.values);
        let in_fields = self.headers.iter().map(|(_, template)| template);
        let templates = in_parameters.chain(in_fields).chain([&self.url]);
        templates.flat_map(Template::secrets)
    }
}

impl StepResult {
    /// Replaces the token, the expiry and the members that this step supplied.
    pub(super) fn add_to(self, tokens: &mut TokenResponse) {
        if self.access_token.is_some() {
            tokens.access_token = self.access_token;
        }
        if self.expires_at.is_some() {
            tokens.expires_at = self.expires_at;
        }
        tokens.raw.extend(self.raw);
    }
}

/// Maps the error of a failed step. It says nothing about the grant, which was accepted: the step
/// can be repeated alone.
pub(super) fn failure(error: GrantError) -> GrantError {
    let class = match error.class {
        ErrorClass::GrantDead | ErrorClass::UserNeeded | ErrorClass::Doubtful => ErrorClass::Config,
        class => class,
    };
    GrantError { class, ..error }
}
