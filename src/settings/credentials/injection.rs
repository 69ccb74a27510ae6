//! How a credential's token is put on requests: `inject`, `query` and `on_existing`.

use super::Part;
use crate::config::{self, Problem};
use crate::credential::{Fields, Injection, OnExisting};
use crate::template::{Late, Names, Template};

/// The members of token answers that what is put on requests names.
pub(super) fn raw_of(injection: &Injection) -> Vec<String> {
    let listed = match &injection.fields {
        Fields::Listed(listed) => listed.as_slice(),
        Fields::Bearer => &[],
    };
    let fields = listed.iter().map(|(_, template)| template);
    let query = injection.query.iter().map(|(_, template)| template);
    fields.chain(query).flat_map(Template::raw).map(str::to_owned).collect()
}

impl Part<'_, '_> {
    pub(super) fn injection(&mut self, names: &Names) -> Injection {
        let section = self.section;
        let names = names.with(Late::AccessToken).with_raw();
        let listed = self.fields("inject", &section.inject, &names);
        let query = self.query(&names);
        let fields = listed.map_or(Fields::Bearer, |listed| match listed.as_slice() {
            [(name, template)] if name == http::header::AUTHORIZATION && template.is_bearer() => {
                Fields::Bearer
            }
            _ => Fields::Listed(listed),
        });
        let on_existing = match section.on_existing.or(config::OnExisting::Replace) {
            config::OnExisting::Replace => OnExisting::Replace,
            config::OnExisting::Keep => OnExisting::Keep,
            config::OnExisting::Reject => OnExisting::Reject,
        };
        self.warn_if_nowhere(&fields, &query);
        let dpop = section.dpop.or(false);
        Injection { fields, query, on_existing, dpop }
    }

    /// Do requests go on without a token while none is to be had?
    pub(super) fn forwards_without_token(&mut self) -> bool {
        let section = self.section;
        let given = section.on_failure.or(config::OnFailure::Refuse);
        if let (config::OnFailure::Forward, Some(place)) = (given, section.on_failure.given()) {
            let message = format!(
                "`{}.on_failure` lets requests go to the API without a token while none is to be had",
                self.path
            );
            let fix = "write \"refuse\" unless the API is meant to be used without one as well";
            self.review.report(Problem::warning(message).at(place.span()).fix(fix));
        }
        given == config::OnFailure::Forward
    }

    fn query(&mut self, names: &Names) -> Vec<(String, Template)> {
        let section = self.section;
        let mut query = Vec::new();
        for (name, text) in section.query.get().into_iter().flat_map(|entries| &entries.0) {
            if name.get_ref().is_empty() {
                self.report("query", "has a parameter without a name", name.span(), "name it");
            }
            let template = self.template("query", text, names);
            query.extend(template.map(|template| (name.get_ref().clone(), template)));
        }
        query
    }

    fn warn_if_nowhere(&mut self, fields: &Fields, query: &[(String, Template)]) {
        let Fields::Listed(listed) = fields else { return };
        let templates = listed.iter().map(|(_, template)| template);
        let mut templates = templates.chain(query.iter().map(|(_, template)| template));
        if let Some(given) = self.section.inject.given()
            && !templates.any(|template| template.has(Late::AccessToken))
        {
            let message = format!("`{}.inject` puts the access token nowhere", self.path);
            let fix = "write ${access_token} where the API expects it, in `inject` or in `query`";
            self.review.report(Problem::warning(message).at(given.span()).fix(fix));
        }
    }
}
