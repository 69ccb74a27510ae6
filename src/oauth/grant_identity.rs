//! What a configuration's tokens are issued for, and whether stored tokens can be used with it.
//!
//! The hashes cover the values that are sent, not how they are configured. Replacing a literal with
//! a variable of the same value, a new secret or another timeout changes nothing.

use super::{Config, Encoding, OwnGrant, Parameter};
use crate::secret::Fingerprint;
use crate::template::{Template, Variables};

/// Identifies what the tokens of a configuration are issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantIdentity {
    /// Authorization server, OAuth client, grant type, user and key binding.
    pub grant: Fingerprint,
    /// The same without the user of the bootstrap grant, for a grant that a user started by signing
    /// in.
    pub grant_without_bootstrap: Fingerprint,
    /// Scope, audience, resource and every other request parameter.
    pub request: Fingerprint,
}

impl GrantIdentity {
    /// Returns true if `grant` is this grant.
    pub fn matches_grant(&self, grant: &Fingerprint) -> bool {
        *grant == self.grant || *grant == self.grant_without_bootstrap
    }
}

impl Config {
    /// Returns what tokens are issued for with these values of the variables.
    pub fn grant_identity(&self, variables: &Variables) -> GrantIdentity {
        let text = |template: &Template| template.stable_text(variables);
        // Every endpoint that may receive the refresh token.
        let servers = [&self.issuer, &self.token_url, &self.refresh_url];
        let server: Vec<String> = servers.into_iter().flatten().map(text).collect();
        let server = server.join("\n");
        let client = self.client_id.as_ref().map(text).unwrap_or_default();
        let subject = |own: Option<&OwnGrant>| match own {
            Some(OwnGrant::Password { username, .. }) => text(username),
            Some(OwnGrant::TokenExchange(exchange)) => exchange.subject_token.to_string(),
            Some(OwnGrant::JwtBearer | OwnGrant::SelfSignedJwt) => {
                let assertion = self.assertion.iter();
                let parts = assertion.flat_map(|it| [&it.iss, &it.sub]).flatten();
                parts.map(text).collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        };
        let own = subject(self.own.as_ref());
        let bootstrap = subject(self.bootstrap.as_ref().map(|bootstrap| &bootstrap.grant));
        let grant = |user: &str| {
            let grant = self.grant.name();
            let bound = if self.reading.dpop { "dpop" } else { "bearer" };
            hash(&[&server, &client, grant, &own, user, bound])
        };
        GrantIdentity {
            grant: grant(&bootstrap),
            grant_without_bootstrap: grant(""),
            request: self.request_fingerprint(variables),
        }
    }

    fn request_fingerprint(&self, variables: &Variables) -> Fingerprint {
        let mut parts = Vec::new();
        // Templates may contain secrets.
        let text = |template: &Template| {
            Fingerprint::of(template.stable_text(variables).as_bytes()).as_str().to_owned()
        };
        let bootstrap = self.bootstrap.as_ref();
        let bootstrap_scope = bootstrap.and_then(|it| it.scope.as_ref());
        for template in [&self.scope, &self.token_url, &self.refresh_url] {
            parts.push(template.as_ref().map(text).unwrap_or_default());
        }
        parts.push(bootstrap_scope.map(text).unwrap_or_default());
        let mut add = |list: &str, parameters: &[Parameter]| {
            for Parameter { name, values, .. } in parameters {
                parts.push(format!("{list} {} {name}", values.len()));
                parts.extend(values.iter().map(text));
            }
        };
        add("params", &self.params);
        add("refresh_params", &self.refresh_params);
        add("bootstrap", bootstrap.map(|it| it.params.as_slice()).unwrap_or_default());
        for step in &self.steps {
            add("step", &step.params);
        }
        for (name, template) in &self.headers {
            parts.push(format!("{name}: {}", text(template)));
        }
        for step in &self.steps {
            parts.push(text(&step.url));
            let fields = step.headers.iter();
            parts.extend(fields.map(|(name, template)| format!("{name}: {}", text(template))));
            parts.extend(step.access_token.as_ref().map(ToString::to_string));
        }
        let access_token = self.reading.mapping.access_token.as_ref();
        parts.extend(access_token.map(ToString::to_string));
        if let Some(assertion) = &self.assertion {
            let mut shape = String::new();
            assertion.write_request(&mut shape, &text);
            parts.push(shape);
        }
        parts.push(if self.encoding == Encoding::Get { "get" } else { "" }.to_owned());
        hash(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Hashes the parts with their lengths, so that different lists never have the same input.
fn hash(parts: &[&str]) -> Fingerprint {
    let text: String = parts.iter().map(|part| format!("{}:{part}\n", part.len())).collect();
    Fingerprint::of(text.as_bytes())
}

#[cfg(test)]
#[path = "grant_identity/tests.rs"]
mod tests;
