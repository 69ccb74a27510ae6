//! How the answers of a token endpoint are read: `response`, `dead`, `busy` and `rotation`.

use http::StatusCode;
use serde_json::Value;
use toml::Spanned;

use super::Part;
use crate::config::{
    self, AnswerRule, CredentialSection, Field, Literal, Place, Problem, Response,
};
use crate::oauth::{
    self, Comparison, Mapping, MemberPath, Rotation, TimeUnit, TokenResponseFormat,
};

impl Part<'_, '_> {
    /// `raw` are the members that other texts name.
    pub(super) fn reading(&mut self, raw: &[String]) -> TokenResponseFormat {
        let section = self.section;
        let mapping = section.response.get().map(mapping).unwrap_or_default();
        self.warn_if_all_succeed(&mapping);
        TokenResponseFormat {
            mapping,
            dead: self.answer_rules("dead", &section.dead),
            busy: self.answer_rules("busy", &section.busy),
            raw: raw.iter().filter_map(|path| MemberPath::parse(path)).collect(),
            dpop: section.dpop.or(false),
            ..TokenResponseFormat::default()
        }
    }

    fn answer_rules(
        &mut self,
        key: &str,
        field: &Field<Vec<Spanned<AnswerRule>>>,
    ) -> Vec<oauth::AnswerRule> {
        let rules = field.get().into_iter().flatten();
        rules
            .map(|rule| {
                let read = answer_rule(rule.get_ref());
                let only_a_status =
                    read == oauth::AnswerRule { status: read.status, ..Default::default() };
                if only_a_status && read.status.is_some_and(|status| status.is_success()) {
                    let fix = "add error, body, or json and is, to tell it from a success";
                    self.report(key, "would take every success for an error", rule.span(), fix);
                }
                read
            })
            .collect()
    }

    fn warn_if_all_succeed(&mut self, mapping: &Mapping) {
        let keep = self.section.response.get().and_then(|given| given.keep_access_token.as_ref());
        if let (Some(keep), None, true) = (keep, &mapping.ok, mapping.keep_access_token) {
            let message = format!(
                "`{}.response` takes every answer with status 200 and no error for a success",
                self.path
            );
            let fix = "say what holds for a success alone: ok = \"result == '0000'\"";
            self.review.report(Problem::warning(message).at(keep.span()).fix(fix));
        }
    }
}

/// What becomes of a refresh token in an answer.
pub(super) fn rotation(section: &CredentialSection) -> Rotation {
    match section.rotation.or(config::Rotation::Auto) {
        config::Rotation::Auto => Rotation::Auto,
        config::Rotation::Ignore => Rotation::Ignore,
        config::Rotation::Require => Rotation::Require,
    }
}

fn mapping(response: &Response) -> Mapping {
    let at =
        |place: &Option<Spanned<Place>>| place.as_ref().and_then(|place| path(place.get_ref()));
    Mapping {
        access_token: at(&response.access_token),
        refresh_token: at(&response.refresh_token),
        expires_in: at(&response.expires_in),
        expires_at: at(&response.expires_at),
        unit: response.unit.as_ref().map(|unit| match unit.get_ref() {
            config::Unit::Seconds => TimeUnit::Seconds,
            config::Unit::Milliseconds => TimeUnit::Milliseconds,
        }),
        token_type: at(&response.token_type),
        ok: response.ok.as_ref().and_then(|ok| comparison(ok.get_ref())),
        error: at(&response.error),
        keep_access_token: response.keep_access_token.as_ref().is_some_and(|keep| *keep.get_ref()),
        refresh_expires_in: at(&response.refresh_expires_in),
        retry_after: at(&response.retry_after),
    }
}

fn path(place: &Place) -> Option<MemberPath> {
    MemberPath::of(place.0.clone())
}

fn comparison(given: &config::Comparison) -> Option<Comparison> {
    Some(Comparison {
        path: path(&given.place)?,
        equal: given.equal,
        literal: value(&given.literal),
    })
}

fn answer_rule(rule: &AnswerRule) -> oauth::AnswerRule {
    let json = rule.json.as_ref().zip(rule.is.as_ref());
    oauth::AnswerRule {
        status: rule.status.as_ref().and_then(|s| StatusCode::from_u16(s.get_ref().0).ok()),
        error: rule.error.as_ref().map(|text| text.get_ref().0.clone()),
        body: rule.body.as_ref().map(|text| text.get_ref().0.clone()),
        json: json.and_then(|(json, is)| Some((path(json.get_ref())?, value(is.get_ref())))),
    }
}

/// As JSON has it.
pub(super) fn value(literal: &Literal) -> Value {
    match literal {
        Literal::Text(text) => Value::from(text.as_str()),
        Literal::Number(number) => Value::from(*number),
        Literal::Bool(truth) => Value::from(*truth),
    }
}
