//! The texts that use variables: parameters and fields.
//!
//! All of these may hold secrets, so nothing here repeats a text, and a finding points at its place.

use std::ops::Range;
use std::time::UNIX_EPOCH;

use http::HeaderName;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use toml::Spanned;

use super::Part;
use crate::config::{ClientId, Entries, Field};
use crate::oauth::{GrantRenewal, GrantType, Parameter};
use crate::secret::Secret;
use crate::template::{Names, Template, TemplateFault, Values};

/// Fields that belong to the connection or the message's frame, not to a credential.
const NOT_OURS: [HeaderName; 11] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
];

impl Part<'_, '_> {
    /// `${client_id}`, which may use the others, unless a request has to bring them.
    pub(super) fn name_client(&mut self, names: &mut Names) {
        let client_id = self.section.client_id.given();
        match client_id.map(|given| (given.get_ref(), given.span())) {
            None => names.insert("client_id", ""),
            Some((ClientId::Text(text), _)) => match Template::parse(text, names) {
                Ok(template) if template.variables().next().is_none() => {
                    let text = template.expand(Values::at(UNIX_EPOCH));
                    let hidden = template.secrets().next().is_some();
                    match hidden {
                        true => names.insert_secret("client_id", Secret::new(text)),
                        false => names.insert("client_id", &text),
                    }
                }
                Ok(_) => {}
                // It is reported where it stands.
                Err(_) => names.insert("client_id", ""),
            },
            Some((ClientId::Secret(source), span)) => {
                names.insert("client_id", "");
                let place = Spanned::new(span, source.clone());
                if let Some(secret) = self.secret("client_id", &place) {
                    names.insert_secret("client_id", secret);
                }
            }
        }
    }

    pub(super) fn parameters(
        &mut self,
        key: &str,
        entries: &Field<Entries<Vec<Spanned<String>>>>,
        names: &Names,
    ) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        for (name, texts) in entries.get().into_iter().flat_map(|entries| &entries.0) {
            let several = texts.get_ref().len() != 1;
            if name.get_ref().is_empty() {
                self.report(key, "has a parameter without a name", name.span(), "name it");
            }
            if texts.get_ref().is_empty() {
                let fix = "write \"\" to leave the parameter out";
                self.report(key, "has a list without a value", texts.span(), fix);
            }
            // One value stands where it is; a list has its own place.
            let list = texts.get_ref().first().is_some_and(|first| first.span() != texts.span());
            let mut values = Vec::new();
            for text in texts.get_ref() {
                match self.template(key, text, names) {
                    Some(template) if template.is_empty() && several => {
                        let fix = "write one \"\" and no list to leave the parameter out";
                        self.report(key, "has an empty value in a list", text.span(), fix);
                    }
                    Some(template) if template.is_empty() => {}
                    Some(template) => values.push(template),
                    None => {}
                }
            }
            parameters.push(Parameter { name: name.get_ref().clone(), values, list });
        }
        parameters
    }

    pub(super) fn warn_if_unused(&mut self, grant: GrantType) {
        let given = self.section.refresh_params.given();
        if let Some(given) = given.filter(|_| grant.renewal() == GrantRenewal::Repeatable) {
            self.warn_unused("refresh_params", grant, given.span());
        }
    }

    /// Fields of a message; `None` if the file says nothing usable about them.
    pub(super) fn fields(
        &mut self,
        key: &str,
        entries: &Field<Entries<String>>,
        names: &Names,
    ) -> Option<Vec<(HeaderName, Template)>> {
        let mut fields: Vec<(HeaderName, Template)> = Vec::new();
        for (name, text) in &entries.get()?.0 {
            let template = self.template(key, text, names);
            if template.as_ref().is_some_and(|template| !template.fits_field()) {
                let message = "holds a line break or another character that no field can have";
                let fix = "use visible ASCII characters and spaces";
                self.report(key, message, text.span(), fix);
            }
            let Some(field) = self.field_name(key, name) else { continue };
            if fields.iter().any(|(other, _)| *other == field) {
                let fix = "keep one of the two; capitals make no difference";
                self.report(key, "names a field twice", name.span(), fix);
            }
            fields.extend(template.map(|template| (field, template)));
        }
        Some(fields)
    }

    fn field_name(&mut self, key: &str, name: &Spanned<String>) -> Option<HeaderName> {
        let Ok(field) = HeaderName::from_bytes(name.get_ref().as_bytes()) else {
            let fix = "write a name such as \"X-Api-Key\"";
            self.report(key, "has a name that is no field name", name.span(), fix);
            return None;
        };
        if is_of_connection(&field) {
            let message = "names a field that belongs to the connection";
            self.report(key, message, name.span(), "remove it");
        }
        Some(field)
    }

    /// A text with names in it.
    pub(super) fn template(
        &mut self,
        key: &str,
        text: &Spanned<String>,
        names: &Names,
    ) -> Option<Template> {
        let error = match Template::parse(text.get_ref(), names) {
            Ok(template) => {
                self.note_fields(key, template.variables(), &text.span());
                return Some(template);
            }
            Err(error) => error,
        };
        // The variables may be there after all, on a line that could not be read.
        let may_be_there = matches!(self.section.vars, Field::Broken) || self.review.garbled;
        if error.why != TemplateFault::Unknown || !may_be_there {
            let fix = match error.why {
                TemplateFault::Dollar | TemplateFault::Unclosed => {
                    "write `${name}`, or `$$` for one dollar sign"
                }
                TemplateFault::Unknown => {
                    "the names are client_id, uuid, now, field.NAME, those of this credential's `vars`, and in \
                     some places access_token, refresh_token, token_url, assertion and raw.…"
                }
                TemplateFault::NotHere => {
                    "access_token is for what is put on requests and for `params`, `headers` and \
                     `steps`; token_url for `assertion`, `params` and `headers`; refresh_token and, \
                     if there is one, assertion for the latter two; raw.… for `steps`"
                }
                TemplateFault::Client => {
                    "it can be used in `vars` and in the texts of a credential"
                }
            };
            self.report(key, &error.to_string(), part_of(text, &error.at), fix);
        }
        None
    }
}

/// The place of a part of a text in the file; of the whole text where escapes hide it.
fn part_of(text: &Spanned<String>, part: &Range<usize>) -> Range<usize> {
    let span = text.span();
    let is_plain = span.len() == text.get_ref().len() + 2;
    if is_plain { span.start + 1 + part.start..span.start + 1 + part.end } else { span }
}

/// Does a field belong to the connection or the message's frame?
pub(super) fn is_of_connection(field: &HeaderName) -> bool {
    let more = ["keep-alive", "proxy-connection", "http2-settings"];
    NOT_OURS.contains(field) || more.contains(&field.as_str())
}
