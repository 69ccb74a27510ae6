//! What a grant needs beside the OAuth client, and what of the file it leaves unused.

use std::ops::Range;

use super::Part;
use super::oauth::{grant as grant_of, place_of};
use crate::config::{BootstrapTable, CredentialSection, Field, Problem};
use crate::credential::InstanceSecret;
use crate::oauth::{Bootstrap, Exchange, GrantRenewal, GrantType, OwnGrant};
use crate::secret::{Secret, SecretSource};
use crate::template::{DeferredName, Names};

/// The keys that a grant may need: those of a credential, or of its `bootstrap`.
struct Needs<'a> {
    /// Before the keys in messages: empty, or `bootstrap.`.
    prefix: &'static str,
    place: Range<usize>,
    username: &'a Field<String>,
    password: &'a Field<SecretSource>,
    subject_token: &'a Field<SecretSource>,
    subject_token_type: &'a Field<String>,
    actor_token: &'a Field<SecretSource>,
    actor_token_type: &'a Field<String>,
}

impl<'a> Needs<'a> {
    fn of(section: &'a CredentialSection, place: Range<usize>) -> Self {
        Self {
            prefix: "",
            place,
            username: &section.username,
            password: &section.password,
            subject_token: &section.subject_token,
            subject_token_type: &section.subject_token_type,
            actor_token: &section.actor_token,
            actor_token_type: &section.actor_token_type,
        }
    }

    fn of_bootstrap(table: &'a BootstrapTable, place: Range<usize>) -> Self {
        Self {
            prefix: "bootstrap.",
            place,
            username: &table.username,
            password: &table.password,
            subject_token: &table.subject_token,
            subject_token_type: &table.subject_token_type,
            actor_token: &table.actor_token,
            actor_token_type: &table.actor_token_type,
        }
    }
}

impl Part<'_, '_> {
    /// What the credential presents of itself; `None`: what a person or a record must bring, and for
    /// `password`, which is its own bootstrap.
    pub(super) fn own_grant(&mut self, grant: GrantType, names: &Names) -> Option<OwnGrant> {
        let section = self.section;
        if grant == GrantType::Static {
            self.check_static();
        }
        let needs = Needs::of(section, place_of(&section.grant, &self.span));
        self.unused(grant, &needs);
        match grant {
            GrantType::Password => None,
            grant => self.own(grant, &needs, names),
        }
    }

    /// Where the first refresh token comes from without a person.
    pub(super) fn bootstrap(
        &mut self,
        grant: GrantType,
        names: &Names,
        in_requests: &Names,
    ) -> Option<Bootstrap> {
        let section = self.section;
        if grant == GrantType::Password {
            let place = place_of(&section.grant, &self.span);
            self.warn_of_passwords(place.clone());
            if let Some(given) = section.bootstrap.given() {
                let fix = "remove it: the name and the password are presented again when needed";
                let message = "is not for the password grant, which is its own";
                self.report("bootstrap", message, given.span(), fix);
            }
            let own = self.own(grant, &Needs::of(section, place), names)?;
            return Some(Bootstrap { grant: own, scope: None, params: Vec::new() });
        }
        let given = section.bootstrap.given()?;
        let table = given.get_ref();
        if grant.renewal() == GrantRenewal::Repeatable {
            self.warn_unused("bootstrap", grant, given.span());
        }
        let fix = "write bootstrap = { grant = \"password\", … }, or \"client_credentials\", \
                   \"jwt_bearer\", \"token_exchange\" or \"custom\"";
        let Some(kind) = table.grant.given() else {
            self.report("bootstrap.grant", "is missing", given.span(), fix);
            return None;
        };
        let own = grant_of(*kind.get_ref());
        let asks_nobody = matches!(
            own,
            GrantType::RefreshToken | GrantType::DeviceCode | GrantType::AuthorizationCode
        ) || !own.makes_token_requests();
        if asks_nobody {
            self.report("bootstrap.grant", "brings no refresh token by itself", kind.span(), fix);
            return None;
        }
        if own == GrantType::Password {
            self.warn_of_passwords(kind.span());
        }
        let needs = Needs::of_bootstrap(table, given.span());
        self.unused(own, &needs);
        let scope = self.text("bootstrap.scope", &table.scope, names);
        let params = self.parameters("bootstrap.params", &table.params, in_requests);
        Some(Bootstrap { grant: self.own(own, &needs, names)?, scope, params })
    }

    fn own(&mut self, grant: GrantType, needs: &Needs<'_>, names: &Names) -> Option<OwnGrant> {
        let prefix = needs.prefix;
        match grant {
            GrantType::ClientCredentials => Some(OwnGrant::ClientCredentials),
            GrantType::Custom => Some(OwnGrant::Custom),
            GrantType::Static => Some(OwnGrant::Static),
            GrantType::JwtBearer | GrantType::SelfSignedJwt => {
                if self.section.assertion.is_absent() {
                    let fix = "write assertion = { key = { file = \"key.pem\" } }";
                    self.lacks(grant, "assertion", needs.place.clone(), fix);
                }
                Some(match grant {
                    GrantType::JwtBearer => OwnGrant::JwtBearer,
                    _ => OwnGrant::SelfSignedJwt,
                })
            }
            GrantType::Password => {
                let (username, password) = (needs.username, needs.password);
                if username.is_absent() {
                    let (key, fix) = (format!("{prefix}username"), "write username = \"…\"");
                    self.lacks(grant, &key, needs.place.clone(), fix);
                }
                if password.is_absent() {
                    let fix = "write password = { file = \"PATH\" }";
                    self.lacks(grant, &format!("{prefix}password"), needs.place.clone(), fix);
                }
                let username = username
                    .given()
                    .and_then(|text| self.template(&format!("{prefix}username"), text, names));
                let key = format!("{prefix}password");
                let password = match self.is_own(&key, InstanceSecret::Password, password) {
                    // Each slot puts its own in this place.
                    true => Some(Secret::new(String::new())),
                    false => password.given().and_then(|place| self.secret(&key, place)),
                };
                Some(OwnGrant::Password { username: username?, password: password? })
            }
            GrantType::TokenExchange => {
                if needs.subject_token.is_absent() {
                    let fix = "write subject_token = { file = \"/var/run/secrets/tokens/…\" }";
                    let key = format!("{prefix}subject_token");
                    self.lacks(grant, &key, needs.place.clone(), fix);
                }
                let key = format!("{prefix}subject_token");
                let subject_token = self.token_place(&key, needs.subject_token);
                let key = format!("{prefix}actor_token");
                let actor_token = self.token_place(&key, needs.actor_token);
                let kind = |field: &Field<String>| field.or(Exchange::JWT.to_owned());
                let actor_kind = kind(needs.actor_token_type);
                Some(OwnGrant::TokenExchange(Box::new(Exchange {
                    subject_token: subject_token?,
                    subject_token_type: kind(needs.subject_token_type),
                    actor: actor_token.map(|place| (place, actor_kind)),
                })))
            }
            GrantType::RefreshToken | GrantType::DeviceCode | GrantType::AuthorizationCode => None,
        }
    }

    /// The place of a token that is read for each request; that one is there now is checked.
    fn token_place(&mut self, key: &str, field: &Field<SecretSource>) -> Option<SecretSource> {
        let (source, span) = self.source(field)?;
        if let Err(error) = self.read(&source, span.clone()) {
            self.unreadable(key, &error.to_string(), span);
        }
        Some(source)
    }

    fn lacks(&mut self, grant: GrantType, key: &str, place: Range<usize>, fix: &str) {
        let message =
            format!("`{}.{key}` is missing: the {} grant needs it", self.path, grant.name());
        self.review.missing(Problem::error(message).at(place).fix(fix));
    }

    fn warn_of_passwords(&mut self, place: Range<usize>) {
        let message = format!(
            "`{}` uses a person's password, which RFC 9700 §2.4 says must not be done",
            self.path
        );
        let fix = "use another grant if the authorization server has one";
        self.review.report(Problem::warning(message).at(place).fix(fix));
    }

    /// No token is asked for, so what is put on requests must be all there is.
    fn check_static(&mut self) {
        let section = self.section;
        let fix =
            "write vars = { key = { env = \"KEY\" } } and inject = { \"x-api-key\" = \"${key}\" }";
        if section.inject.is_absent() && section.query.is_absent() {
            let message =
                format!("`{}.inject` is missing: the static grant has no token", self.path);
            self.review.missing(Problem::error(message).at(self.span.clone()).fix(fix));
        }
        let fields = section.inject.get().into_iter().flat_map(|entries| &entries.0);
        let query = section.query.get().into_iter().flat_map(|entries| &entries.0);
        let entries = fields.map(|entry| ("inject", entry));
        for (key, (_, text)) in entries.chain(query.map(|entry| ("query", entry))) {
            if text.get_ref().contains("${access_token}") {
                let message = "names the access token, and the static grant has none";
                self.report(key, message, text.span(), fix);
            }
        }
    }

    /// Warns about keys of other grants.
    fn unused(&mut self, grant: GrantType, needs: &Needs<'_>) {
        fn at<T>(field: &Field<T>) -> Option<Range<usize>> {
            field.given().map(toml::Spanned::span)
        }
        let (section, own) = (self.section, needs.prefix.is_empty());
        let password = grant == GrantType::Password;
        let exchange = grant == GrantType::TokenExchange;
        let custom = own && grant == GrantType::Custom;
        for (key, used, place) in [
            ("username", password, at(needs.username)),
            ("password", password, at(needs.password)),
            ("subject_token", exchange, at(needs.subject_token)),
            ("subject_token_type", exchange, at(needs.subject_token_type)),
            ("actor_token", exchange, at(needs.actor_token)),
            ("actor_token_type", exchange, at(needs.actor_token_type)),
            ("scope", !custom, at(&section.scope)),
            ("client_auth", !custom, at(&section.client_auth)),
            ("client_secret", !custom, at(&section.client_secret)),
        ] {
            if let Some(place) = place.filter(|_| !used) {
                self.warn_unused(&format!("{}{key}", needs.prefix), grant, place);
            }
        }
    }

    pub(super) fn warn_unused(&mut self, key: &str, grant: GrantType, place: Range<usize>) {
        let message = format!("`{}.{key}` is not used by the {} grant", self.path, grant.name());
        let fix = match grant {
            GrantType::Custom => "remove it, or write what is meant into `params` or `headers`",
            _ => "remove it",
        };
        self.review.report(Problem::warning(message).at(place).fix(fix));
    }

    /// What may stand in the texts of an assertion.
    pub(super) fn names_of_assertion(names: &Names) -> Names {
        names.with(DeferredName::TokenUrl)
    }
}
