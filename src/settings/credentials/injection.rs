//! How a credential's token is put on requests: `inject`, `query`, `on_existing` and `dpop`.

use super::CredentialReview;
use crate::credential::{InjectedFields, Injection};
use crate::oauth::GrantType;
use crate::template::{DeferredName, Names, Template};

/// Returns the members of token answers that the injected texts name.
pub(super) fn raw_of(injection: &Injection) -> Vec<String> {
    let listed = match &injection.fields {
        InjectedFields::Listed(listed) => listed.as_slice(),
        InjectedFields::Bearer => &[],
    };
    let fields = listed.iter().map(|(_, template)| template);
    let query = injection.query.iter().map(|(_, template)| template);
    fields.chain(query).flat_map(Template::raw).map(str::to_owned).collect()
}

impl CredentialReview<'_, '_> {
    pub(super) fn injection(&mut self, names: &Names) -> Injection {
        let section = self.section;
        let names = names.with(DeferredName::AccessToken).with_raw();
        let listed = self.fields("inject", &section.inject, &names);
        let mut query = Vec::new();
        for (name, text) in section.query.entries() {
            if name.get_ref().is_empty() {
                self.error("query", "has a parameter without a name", name.span(), "name it");
            }
            let template = self.template("query", text, &names);
            query.extend(template.map(|template| (name.get_ref().clone(), template)));
        }
        let fields = match listed.as_deref() {
            None => InjectedFields::Bearer,
            Some([(name, template)])
                if name == http::header::AUTHORIZATION && template.is_bearer() =>
            {
                InjectedFields::Bearer
            }
            Some(listed) => InjectedFields::Listed(listed.to_vec()),
        };
        self.warn_if_unused_token(&fields, &query);
        if *section.dpop {
            self.refuse_dpop_contradictions();
        }
        Injection { fields, query, on_existing: *section.on_existing, dpop: *section.dpop }
    }

    /// A bound token that is presented as a bearer token, or is bound to nothing, or whose proof is overwritten, would be
    /// refused by every server that checks it.
    fn refuse_dpop_contradictions(&mut self) {
        const OURS: &str = "with `dpop` the token is sent as `Authorization: DPoP …` anyway";
        let section = self.section;
        if let Some(given) = section.dpop.given().filter(|_| !section.grant.makes_token_requests())
        {
            let message = format!(
                "needs a token endpoint, which binds tokens to the key: the {} grant has none",
                section.grant.name()
            );
            self.error("dpop", &message, given.span(), "remove it");
        }
        for (key, entries) in [("inject", &section.inject), ("headers", &section.headers)] {
            for (name, text) in entries.entries() {
                if name.get_ref().eq_ignore_ascii_case("dpop") {
                    let message = "names the field of the proof, which bearerd creates itself";
                    self.error(key, message, name.span(), "remove it");
                }
                let scheme = text.get_ref().trim_start().split(' ').next().unwrap_or_default();
                if scheme.eq_ignore_ascii_case("bearer") {
                    let message =
                        "says Bearer, but `dpop` asks for tokens that are not bearer tokens";
                    let fix = format!("remove it: {OURS}; or remove `dpop`");
                    self.error(key, message, text.span(), &fix);
                }
            }
        }
        for (_, text) in section.query.entries() {
            if text.get_ref().contains("${access_token}") {
                let message = "puts the access token into the query, where RFC 9449 does not allow a bound token";
                self.error("query", message, text.span(), &format!("remove it: {OURS}"));
            }
        }
    }

    fn warn_if_unused_token(&mut self, fields: &InjectedFields, query: &[(String, Template)]) {
        let InjectedFields::Listed(listed) = fields else { return };
        let templates = listed.iter().map(|(_, template)| template);
        let mut templates = templates.chain(query.iter().map(|(_, template)| template));
        if let Some(given) = self.section.inject.given()
            && !templates.any(|template| template.has(DeferredName::AccessToken))
            // The static grant has no token.
            && *self.section.grant != GrantType::Static
        {
            let fix = "write ${access_token} where the API expects it, in `inject` or in `query`";
            self.warn("inject", "puts the access token nowhere", given.span(), fix);
        }
    }
}
