//! What a grant needs beside the OAuth client, and which keys it does not use.

use std::ops::Range;

use super::CredentialReview;
use crate::config::{BootstrapTable, CredentialSection, Field, Problem};
use crate::credential::InstanceSecret;
use crate::oauth::{Bootstrap, Exchange, GrantRenewal, GrantType, OwnGrant};
use crate::secret::{Secret, SecretSource};
use crate::template::Names;

/// The keys that a grant may need, of a credential or of its `bootstrap`.
struct GrantKeys<'a> {
    /// The grant.
    grant: GrantType,
    /// What messages put before the keys: nothing, or `bootstrap.`.
    prefix: &'static str,
    /// Where missing keys are reported.
    place: Range<usize>,
    username: &'a Field<String>,
    password: &'a Field<SecretSource>,
    subject_token: &'a Field<SecretSource>,
    subject_token_type: &'a Field<String>,
    actor_token: &'a Field<SecretSource>,
    actor_token_type: &'a Field<String>,
}

/// Takes the keys that credentials and their `bootstrap` share.
macro_rules! grant_keys {
    ($table:expr, $grant:expr, $prefix:literal, $place:expr) => {
        GrantKeys {
            grant: $grant,
            prefix: $prefix,
            place: $place,
            username: &$table.username,
            password: &$table.password,
            subject_token: &$table.subject_token,
            subject_token_type: &$table.subject_token_type,
            actor_token: &$table.actor_token,
            actor_token_type: &$table.actor_token_type,
        }
    };
}

impl<'a> GrantKeys<'a> {
    fn of(section: &'a CredentialSection, span: &Range<usize>) -> Self {
        grant_keys!(section, *section.grant, "", section.grant.place_or(span))
    }

    fn of_bootstrap(table: &'a BootstrapTable, grant: GrantType, place: Range<usize>) -> Self {
        grant_keys!(table, grant, "bootstrap.", place)
    }
}

impl CredentialReview<'_, '_> {
    /// Returns the grant that the credential itself can present. `None`: a person or a record must bring one, or the
    /// grant is `password`, which is its own bootstrap.
    pub(super) fn own_grant(&mut self, names: &Names) -> Option<OwnGrant> {
        let section = self.section;
        if *section.grant == GrantType::Static {
            self.check_static();
        }
        let keys = GrantKeys::of(section, &self.span);
        self.warn_unused_keys(&keys);
        (*section.grant != GrantType::Password).then(|| self.present(&keys, names)).flatten()
    }

    /// Returns the grant that gets the first refresh token without a person.
    pub(super) fn bootstrap(&mut self, names: &Names, in_requests: &Names) -> Option<Bootstrap> {
        let section = self.section;
        let given = section.bootstrap.given();
        if *section.grant == GrantType::Password {
            let keys = GrantKeys::of(section, &self.span);
            self.warn_about_password(keys.place.clone());
            if let Some(given) = given {
                let fix = "remove it: the name and the password are presented again when needed";
                let message = "is not for the password grant, which is its own";
                self.error("bootstrap", message, given.span(), fix);
            }
            let grant = self.present(&keys, names)?;
            return Some(Bootstrap { grant, scope: None, params: Vec::new() });
        }
        let given = given?;
        let table = given.get_ref();
        if section.grant.renewal() == GrantRenewal::Repeatable {
            self.warn_unused("bootstrap", *section.grant, given.span());
        }
        let fix = "write bootstrap = { grant = \"password\", … }, or \"client_credentials\", \
                   \"jwt_bearer\", \"token_exchange\" or \"custom\"";
        let Some(kind) = table.grant.given() else {
            self.error("bootstrap.grant", "is missing", given.span(), fix);
            return None;
        };
        let grant = *kind.get_ref();
        if !grant.makes_token_requests() || needs_a_person(grant) {
            self.error("bootstrap.grant", "brings no refresh token by itself", kind.span(), fix);
            return None;
        }
        if grant == GrantType::Password {
            self.warn_about_password(kind.span());
        }
        let keys = GrantKeys::of_bootstrap(table, grant, given.span());
        self.warn_unused_keys(&keys);
        let scope = self.text("bootstrap.scope", table.scope.given(), names);
        let params = self.parameters("bootstrap.params", &table.params, in_requests);
        Some(Bootstrap { grant: self.present(&keys, names)?, scope, params })
    }

    fn present(&mut self, keys: &GrantKeys<'_>, names: &Names) -> Option<OwnGrant> {
        match keys.grant {
            GrantType::ClientCredentials => Some(OwnGrant::ClientCredentials),
            GrantType::Custom => Some(OwnGrant::Custom),
            GrantType::Static => Some(OwnGrant::Static),
            GrantType::JwtBearer | GrantType::SelfSignedJwt => {
                let fix = "write assertion = { key = { file = \"key.pem\" } }";
                if self.section.assertion.is_absent() {
                    self.lacks(keys, "assertion", fix);
                }
                Some(match keys.grant {
                    GrantType::JwtBearer => OwnGrant::JwtBearer,
                    _ => OwnGrant::SelfSignedJwt,
                })
            }
            GrantType::Password => {
                let prefixed = |key: &str| format!("{}{key}", keys.prefix);
                if keys.username.is_absent() {
                    self.lacks(keys, &prefixed("username"), "write username = \"…\"");
                }
                if keys.password.is_absent() {
                    self.lacks(keys, &prefixed("password"), "write password = { file = \"PATH\" }");
                }
                let username = keys.username.given();
                let username =
                    username.and_then(|text| self.template(&prefixed("username"), text, names));
                let (key, given) = (prefixed("password"), keys.password.given());
                let password = match self.is_own(&key, InstanceSecret::Password, given) {
                    // Each slot puts its own here.
                    true => Some(Secret::new(String::new())),
                    false => given.and_then(|place| self.secret(&key, place)),
                };
                Some(OwnGrant::Password { username: username?, password: password? })
            }
            GrantType::TokenExchange => {
                let subject = format!("{}subject_token", keys.prefix);
                if keys.subject_token.is_absent() {
                    let fix = "write subject_token = { file = \"/var/run/secrets/tokens/…\" }";
                    self.lacks(keys, &subject, fix);
                }
                let subject_token = self.token_place(&subject, keys.subject_token);
                let actor = format!("{}actor_token", keys.prefix);
                let actor_token = self.token_place(&actor, keys.actor_token);
                let kind = |field: &Field<String>| {
                    field.get().cloned().unwrap_or_else(|| Exchange::JWT.to_owned())
                };
                Some(OwnGrant::TokenExchange(Box::new(Exchange {
                    subject_token: subject_token?,
                    subject_token_type: kind(keys.subject_token_type),
                    actor: actor_token.map(|place| (place, kind(keys.actor_token_type))),
                })))
            }
            GrantType::RefreshToken | GrantType::DeviceCode | GrantType::AuthorizationCode => None,
        }
    }

    /// Returns the place of a token that is read for each request, after checking that there is one now.
    fn token_place(&mut self, key: &str, field: &Field<SecretSource>) -> Option<SecretSource> {
        let (source, span) = self.source(field.given())?;
        if let Err(error) = self.review.read(&source, span.clone()) {
            self.unreadable(key, &error, span);
        }
        Some(source)
    }

    fn lacks(&mut self, keys: &GrantKeys<'_>, key: &str, fix: &str) {
        let why = format!(": the {} grant needs it", keys.grant.name());
        self.require(key, &why, keys.place.clone(), fix);
    }

    fn warn_about_password(&mut self, place: Range<usize>) {
        let message = format!(
            "`{}` uses a person's password, which RFC 9700 §2.4 says must not be done",
            self.path
        );
        let fix = "use another grant if the authorization server has one";
        self.review.problems.push(Problem::warning(message).at(place).fix(fix));
    }

    /// Checks a credential that makes no token request: the injected texts must be complete without a token.
    fn check_static(&mut self) {
        let section = self.section;
        let fix =
            "write vars = { key = { env = \"KEY\" } } and inject = { \"x-api-key\" = \"${key}\" }";
        if section.inject.is_absent() && section.query.is_absent() {
            self.require("inject", ": the static grant has no token", self.span.clone(), fix);
        }
        for (key, field) in [("inject", &section.inject), ("query", &section.query)] {
            for (_, text) in field.entries() {
                if text.get_ref().contains("${access_token}") {
                    let message = "names the access token, but the static grant has none";
                    self.error(key, message, text.span(), fix);
                }
            }
        }
    }

    /// Warns about keys of other grants.
    fn warn_unused_keys(&mut self, keys: &GrantKeys<'_>) {
        fn at<T>(given: Option<&toml::Spanned<T>>) -> Option<Range<usize>> {
            given.map(toml::Spanned::span)
        }
        let section = self.section;
        let password = keys.grant == GrantType::Password;
        let exchange = keys.grant == GrantType::TokenExchange;
        let custom = keys.prefix.is_empty() && keys.grant == GrantType::Custom;
        for (key, is_used, place) in [
            ("username", password, at(keys.username.given())),
            ("password", password, at(keys.password.given())),
            ("subject_token", exchange, at(keys.subject_token.given())),
            ("subject_token_type", exchange, at(keys.subject_token_type.given())),
            ("actor_token", exchange, at(keys.actor_token.given())),
            ("actor_token_type", exchange, at(keys.actor_token_type.given())),
            ("scope", !custom, at(section.scope.given())),
            ("client_auth", !custom, at(section.client_auth.given())),
            ("client_secret", !custom, at(section.client_secret.given())),
        ] {
            if let Some(place) = place.filter(|_| !is_used) {
                self.warn_unused(&format!("{}{key}", keys.prefix), keys.grant, place);
            }
        }
    }

    pub(super) fn warn_unused(&mut self, key: &str, grant: GrantType, place: Range<usize>) {
        let fix = match grant {
            GrantType::Custom => "remove it, or write what is meant into `params` or `headers`",
            _ => "remove it",
        };
        let message = format!("is not used by the {} grant", grant.name());
        self.warn(key, &message, place, fix);
    }
}

fn needs_a_person(grant: GrantType) -> bool {
    use GrantType::{AuthorizationCode, DeviceCode, RefreshToken};
    matches!(grant, RefreshToken | DeviceCode | AuthorizationCode)
}
