//! Parses templates.

use std::ops::Range;

use super::names::{DeferredName, Names, field_name, is_raw};
use super::{Template, TemplatePart};
use crate::secret::Secret;

/// Why a text is not a valid template, and where. Contains nothing of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TemplateError {
    /// The byte range of the error.
    pub at: Range<usize>,
    /// What is wrong.
    pub why: TemplateFault,
}

/// The kinds of template errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// A `$` that starts no name.
    #[error("has a `$` that starts no `${{name}}`")]
    Dollar,
    /// A `${` without `}`.
    #[error("has a `${{` without its `}}`")]
    Unclosed,
    /// An unknown name.
    #[error("names something unknown in `${{…}}`")]
    Unknown,
    /// The client's name, where no request supplies one.
    #[error("uses the name of the proxy's client, which is not known at that point")]
    Client,
    /// A token, an assertion or an answer where it does not exist.
    #[error("names something that does not exist at that point")]
    NotHere,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for the first invalid `$`.
    pub fn parse(text: &str, names: &Names) -> Result<Self, TemplateError> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.find('$').and_then(|at| rest.split_at_checked(at)) {
            literal.push_str(before);
            if let Some(behind) = after.strip_prefix("$$") {
                literal.push('$');
                rest = behind;
                continue;
            }
            let start = text.len() - after.len();
            let fail = |length: usize, why| TemplateError { at: start..start + length, why };
            let named = after.strip_prefix("${").ok_or(fail(1, TemplateFault::Dollar))?;
            let (name, behind) =
                named.split_once('}').ok_or(fail(after.len(), TemplateFault::Unclosed))?;
            let late = DeferredName::ALL.into_iter().find(|late| late.name() == name);
            let part = match (name, late) {
                ("uuid", _) => TemplatePart::Uuid,
                ("now", _) => TemplatePart::Now,
                (_, Some(late)) if names.late.contains(&late) => TemplatePart::Deferred(late),
                (_, Some(_)) => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                (name, _) if is_raw(name) => match names.raw {
                    true => TemplatePart::Raw(name.trim_start_matches("raw.").to_owned()),
                    false => return Err(fail(name.len() + 3, TemplateFault::NotHere)),
                },
                ("client", _) if names.fields => TemplatePart::Variable(name.to_owned()),
                ("client", _) => return Err(fail(name.len() + 3, TemplateFault::Client)),
                (name, _) if names.variables.contains(name) => {
                    TemplatePart::Variable(name.to_owned())
                }
                (name, _) if names.fields && field_name(name).is_some() => {
                    TemplatePart::Variable(name.to_ascii_lowercase())
                }
                (name, _) => match names.fixed.get(name) {
                    None => return Err(fail(name.len() + 3, TemplateFault::Unknown)),
                    Some(fixed) if fixed.hidden => TemplatePart::Hidden(fixed.value.clone()),
                    Some(fixed) => {
                        literal.push_str(fixed.value.expose());
                        rest = behind;
                        continue;
                    }
                },
            };
            push_text(&mut parts, &mut literal);
            parts.push(part);
            rest = behind;
        }
        literal.push_str(rest);
        push_text(&mut parts, &mut literal);
        Ok(Self { parts })
    }
}

fn push_text(parts: &mut Vec<TemplatePart>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(TemplatePart::Text(Secret::new(std::mem::take(literal))));
    }
}
