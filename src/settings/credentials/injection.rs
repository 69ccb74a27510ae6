//! How a credential's token is put on requests: `inject`, `query` and `on_existing`.

use super::Part;
use super::oauth::grant_type;
use crate::config::{self, Problem};
use crate::credential::{InjectedFields, Injection, OnExisting};
use crate::oauth::GrantType;
use crate::template::{DeferredName, Names, Template};

/// The members of token answers that what is put on requests names.
pub(super) fn raw_of(injection: &Injection) -> Vec<String> {
    let listed = match &injection.fields {
        InjectedFields::Listed(listed) => listed.as_slice(),
        InjectedFields::Bearer => &[],
    };
    let fields = listed.iter().map(|(_, template)| template);
    let query = injection.query.iter().map(|(_, template)| template);
    fields.chain(query).flat_map(Template::raw).map(str::to_owned).collect()
}

impl Part<'_, '_> {
    pub(super) fn injection(&mut self, names: &Names) -> Injection {
        let section = self.section;
        let names = names.with(DeferredName::AccessToken).with_raw();
        let listed = self.fields("inject", &section.inject, &names);
        let query = self.query(&names);
        let fields = listed.map_or(InjectedFields::Bearer, |listed| match listed.as_slice() {
            [(name, template)] if name == http::header::AUTHORIZATION && template.is_bearer() => {
                InjectedFields::Bearer
            }
            _ => InjectedFields::Listed(listed),
        });
        let on_existing = match section.on_existing.or(config::OnExisting::Replace) {
            config::OnExisting::Replace => OnExisting::Replace,
            config::OnExisting::Keep => OnExisting::Keep,
            config::OnExisting::Reject => OnExisting::Reject,
        };
        self.warn_if_nowhere(&fields, &query);
        let dpop = section.dpop.or(false);
        if dpop {
            self.refuse_what_dpop_contradicts();
        }
        Injection { fields, query, on_existing, dpop }
    }

    /// A bound token that is presented as a bearer's, or is bound to nothing, or has its proof
    /// overwritten, would be refused by every server that knows better.
    fn refuse_what_dpop_contradicts(&mut self) {
        const OURS: &str = "with `dpop` the token travels as `Authorization: DPoP …` by itself";
        let section = self.section;
        let grant = grant_type(section);
        if let Some(given) = section.dpop.given().filter(|_| !grant.makes_token_requests()) {
            let message = format!(
                "needs a token endpoint, which binds tokens to the key: the {} grant has none",
                grant.name()
            );
            self.report("dpop", &message, given.span(), "remove it");
        }
        for (key, entries) in [("inject", &section.inject), ("headers", &section.headers)] {
            for (name, text) in entries.get().into_iter().flat_map(|entries| &entries.0) {
                if name.get_ref().eq_ignore_ascii_case("dpop") {
                    let message = "names the field of the proof, which bearerd makes itself";
                    self.report(key, message, name.span(), "remove it");
                }
                if names_bearer(text.get_ref()) {
                    let message = "says Bearer, and `dpop` asks for tokens that are none";
                    let fix = format!("remove it: {OURS}; or remove `dpop`");
                    self.report(key, message, text.span(), &fix);
                }
            }
        }
        let query = section.query.get().into_iter().flat_map(|entries| &entries.0);
        for (_, text) in query.filter(|(_, text)| text.get_ref().contains("${access_token}")) {
            let message = "puts the access token into the query, where RFC 9449 allows none that is bound to a key";
            let fix = format!("remove it: {OURS}");
            self.report("query", message, text.span(), &fix);
        }
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

    fn warn_if_nowhere(&mut self, fields: &InjectedFields, query: &[(String, Template)]) {
        let InjectedFields::Listed(listed) = fields else { return };
        let templates = listed.iter().map(|(_, template)| template);
        let mut templates = templates.chain(query.iter().map(|(_, template)| template));
        if let Some(given) = self.section.inject.given()
            && !templates.any(|template| template.has(DeferredName::AccessToken))
            // The static grant has no token.
            && grant_type(self.section) != GrantType::Static
        {
            let message = format!("`{}.inject` puts the access token nowhere", self.path);
            let fix = "write ${access_token} where the API expects it, in `inject` or in `query`";
            self.review.report(Problem::warning(message).at(given.span()).fix(fix));
        }
    }
}

/// Is it a bearer's presentation of the access token, `Bearer ${access_token}`?
fn names_bearer(text: &str) -> bool {
    let scheme = text.trim_start().split(' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("bearer")
}
