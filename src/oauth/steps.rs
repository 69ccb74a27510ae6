//! Calls that follow the token request, where its token is not yet the one that APIs take.
//!
//! Each step is one more request. It may name the token so far as `${access_token}` and members of the
//! answers so far as `${raw.a.b}`; its own answer may bring another access token. The refresh token
//! is always the one that the token endpoint issued.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use http::HeaderName;
use serde::de::IgnoredAny;

use super::answer::content::Content;
use super::answer::expiry;
use super::answer::members::Members;
use super::request::{Form, accepting, add_fields, expand_url};
use super::{
    ClientCert, Encoding, ErrorClass, GrantError, Mapping, MemberPath, Parameter, RawAnswer,
    RequestError, TokenRequest, TokenResponse, write_fields, write_parameters,
};
use crate::secret::Secret;
use crate::template::{Template, Values};

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Where to.
    pub url: Template,
    /// How the parameters travel. Default a form.
    pub encoding: Encoding,
    /// The parameters, of which none is added.
    pub params: Vec<Parameter>,
    /// The fields.
    pub headers: Vec<(HeaderName, Template)>,
    /// Where in the answer the access token is; `None`: the one so far stays.
    pub access_token: Option<MemberPath>,
    /// Where in the answer the time is that it lives; `None`: as the one so far.
    pub expires_in: Option<MemberPath>,
    /// The members of the answer that later texts name.
    pub raw: Vec<MemberPath>,
}

/// What the answer to a step says.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// The access token from here on.
    pub access_token: Option<Secret>,
    /// When it expires.
    pub expires_at: Option<SystemTime>,
    /// The members that later texts name.
    pub raw: BTreeMap<String, Secret>,
}

impl Step {
    /// Writes down the request.
    ///
    /// # Errors
    ///
    /// [`RequestError::Url`]
    pub fn request(
        &self,
        client_cert: Option<ClientCert>,
        values: Values<'_>,
    ) -> Result<TokenRequest, RequestError> {
        let url = expand_url(&self.url, "url of a step", values)?;
        let (mut form, mut fields) = (Form::default(), accepting());
        form.replace(&self.params, values);
        add_fields(&mut fields, &self.headers, values);
        let (method, url, body) = form.encode(self.encoding, url, &mut fields);
        Ok(TokenRequest { method, url, fields, body, client_cert, secrets: Vec::new() })
    }

    /// Reads its answer, which was asked for at `now`; a pure function. `longest` is the most bytes of an
    /// access token.
    ///
    /// # Errors
    ///
    /// What is missing in it.
    pub fn read(
        &self,
        answer: &RawAnswer,
        longest: usize,
        now: SystemTime,
    ) -> Result<StepResult, &'static str> {
        let Content { bytes, .. } = Content::of(answer, &Mapping::default());
        let members = Members::of(&bytes, &Mapping::default());
        // Where nothing is wanted, what it says does not matter.
        if !members.parsed && serde_json::from_slice::<IgnoredAny>(&bytes).is_err() {
            return Err("a step was not answered with JSON");
        }
        let access_token = match &self.access_token {
            None => None,
            Some(path) => {
                let token = members.fit(path, longest).filter(|token| !token.expose().is_empty());
                Some(token.ok_or("the answer to a step has no access token")?)
            }
        };
        let lifetime = self.expires_in.as_ref().and_then(|path| members.at(path));
        let raw = self
            .raw
            .iter()
            .filter_map(|path| Some((path.to_string(), members.fit(path, longest)?)));
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
    /// What it brings takes the place of what was there.
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

/// A failed step says nothing about the grant, which was accepted: it can be made again by itself.
pub(super) fn failure(error: GrantError) -> GrantError {
    let class = match error.class {
        ErrorClass::GrantDead | ErrorClass::UserNeeded | ErrorClass::Doubtful => ErrorClass::Config,
        class => class,
    };
    GrantError { class, ..error }
}
