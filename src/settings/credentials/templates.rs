//! The texts that use variables: parameters and fields.
//!
//! All of them may contain secrets, so no message here repeats a text; it points at its place.

use std::ops::Range;

use http::HeaderName;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use toml::Spanned;

use super::CredentialReview;
use crate::config::{Entries, Field};
use crate::oauth::Parameter;
use crate::template::{Names, Template, TemplateFault};

/// Fields that belong to the connection or the message's framing, not to a credential.
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

impl CredentialReview<'_, '_> {
    pub(super) fn parameters(
        &mut self,
        key: &str,
        entries: &Field<Entries<Vec<Spanned<String>>>>,
        names: &Names,
    ) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        for (name, texts) in entries.entries() {
            let several = texts.get_ref().len() != 1;
            if name.get_ref().is_empty() {
                self.error(key, "has a parameter without a name", name.span(), "name it");
            }
            if texts.get_ref().is_empty() {
                let fix = "write \"\" to leave the parameter out";
                self.error(key, "has a list without a value", texts.span(), fix);
            }
            // A single value has the place of the whole; a list has a place of its own.
            let list = texts.get_ref().first().is_some_and(|first| first.span() != texts.span());
            let mut values = Vec::new();
            for text in texts.get_ref() {
                match self.template(key, text, names) {
                    Some(template) if template.is_empty() && several => {
                        let fix = "write one \"\" and no list to leave the parameter out";
                        self.error(key, "has an empty value in a list", text.span(), fix);
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

    /// Returns the fields of a message; `None` if the file says nothing usable about them.
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
                let message = "contains a line break or another character that no field can have";
                let fix = "use visible ASCII characters and spaces";
                self.error(key, message, text.span(), fix);
            }
            let Some(field) = self.field_name(key, name) else { continue };
            if fields.iter().any(|(other, _)| *other == field) {
                let fix = "keep one of the two; capitals make no difference";
                self.error(key, "names a field twice", name.span(), fix);
            }
            fields.extend(template.map(|template| (field, template)));
        }
        Some(fields)
    }

    fn field_name(&mut self, key: &str, name: &Spanned<String>) -> Option<HeaderName> {
        let Ok(field) = HeaderName::from_bytes(name.get_ref().as_bytes()) else {
            let fix = "write a name such as \"X-Api-Key\"";
            self.error(key, "has a name that is no field name", name.span(), fix);
            return None;
        };
        if is_of_connection(&field) {
            let message = "names a field that belongs to the connection";
            self.error(key, message, name.span(), "remove it");
        }
        Some(field)
    }

    /// Parses a text that may contain names.
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
        // The variable may exist, on a line that could not be read.
        let may_exist = self.section.vars.is_broken() || self.review.is_invalid;
        if error.why != TemplateFault::Unknown || !may_exist {
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
            self.error(key, &error.to_string(), part_of(text, &error.at), fix);
        }
        None
    }
}

/// Returns the place of a part of a text in the file, or of the whole text if it contains escapes.
fn part_of(text: &Spanned<String>, part: &Range<usize>) -> Range<usize> {
    let span = text.span();
    let is_plain = span.len() == text.get_ref().len() + 2;
    if is_plain { span.start + 1 + part.start..span.start + 1 + part.end } else { span }
}

/// Returns true if a field belongs to the connection or the message's framing.
pub(super) fn is_of_connection(field: &HeaderName) -> bool {
    let more = ["keep-alive", "proxy-connection", "http2-settings"];
    NOT_OURS.contains(field) || more.contains(&field.as_str())
}
