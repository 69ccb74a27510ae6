//! `assertion`, and `steps`.

use std::time::Duration;

use toml::Spanned;

use super::Part;
use super::oauth::{encoding, place_of};
use crate::config::{AssertionTable, ClaimValue, Entries, Field, StepTable};
use crate::oauth::{
    Assertion, CertificateThumbprint, Claim, ClientAuthentication, GrantType, MemberPath,
    SigningKey, SigningKeyError, Step,
};
use crate::secret::{Secret, SecretSource};
use crate::template::{DeferredName, Names, Template};

impl Part<'_, '_> {
    /// The assertion of a credential that has one. Its key is tried.
    pub(super) fn assertion(
        &mut self,
        grant: GrantType,
        auth: ClientAuthentication,
        client_secret: Option<&Secret>,
        names: &Names,
    ) -> Option<Assertion> {
        let section = self.section;
        let by_secret = auth == ClientAuthentication::ClientSecretJwt;
        if section.assertion.is_absent() {
            if auth == ClientAuthentication::PrivateKeyJwt {
                let place = place_of(&section.client_auth, &self.span);
                let fix = "write assertion = { key = { file = \"key.pem\" } }";
                let message = "is missing: client_auth = \"private_key_jwt\" needs it";
                self.report("assertion", message, place, fix);
            }
            let secret = client_secret.filter(|_| by_secret)?;
            return SigningKey::shared(secret, None, None).ok().map(Assertion::new);
        }
        let given = section.assertion.given()?;
        let table = given.get_ref();
        let key = self.signing_key(given, client_secret.filter(|_| by_secret), by_secret);
        self.check_algorithm(auth, grant, table);
        let names = Self::names_of_assertion(names);
        let text = |part: &mut Self, key: &str, field: &Field<String>| {
            let filled = field.given().filter(|text| !text.get_ref().is_empty())?;
            part.template(&format!("assertion.{key}"), filled, &names)
        };
        let iss = text(self, "iss", &table.iss);
        let sub = text(self, "sub", &table.sub);
        let aud = text(self, "aud", &table.aud);
        let (ttl, backdate) = self.times_of_assertion(table);
        let claims = self.claims("assertion.claims", &table.claims, &names);
        let header = self.claims("assertion.header", &table.header, &names);
        self.check_header(table);
        let cert = self.thumbprint(table, key.as_ref());
        let key = key?;
        let iss = iss.or_else(|| owner(&key));
        Some(Assertion { key, iss, sub, aud, ttl, backdate, claims, header, cert })
    }

    fn claims(
        &mut self,
        key: &str,
        entries: &Field<Entries<ClaimValue>>,
        names: &Names,
    ) -> Vec<(String, Claim)> {
        let mut claims = Vec::new();
        for (name, value) in entries.get().into_iter().flat_map(|entries| &entries.0) {
            let claim = self.claim(key, value.get_ref(), names);
            claims.extend(claim.map(|claim| (name.get_ref().clone(), claim)));
        }
        claims
    }

    fn times_of_assertion(&mut self, table: &AssertionTable) -> (Duration, Duration) {
        let default = Duration::from_secs(300);
        let ttl = self.review.time(&format!("{}.assertion.ttl", self.path), &table.ttl, default);
        let backdate = table.backdate.or(Assertion::default_backdate(ttl));
        if let Some(given) = table.backdate.given().filter(|_| backdate >= ttl) {
            let message = "is not shorter than `ttl`, which counts from there: the assertion would have expired";
            let fix = "make it shorter than ttl, or leave it out for 30s";
            self.report("assertion.backdate", message, given.span(), fix);
        }
        (ttl, backdate)
    }

    /// What the signature itself depends on cannot be said in the header.
    fn check_header(&mut self, table: &AssertionTable) {
        for (name, _) in table.header.get().into_iter().flat_map(|entries| &entries.0) {
            let (message, fix) = match name.get_ref().as_str() {
                "alg" => ("names `alg`, which the key decides", "write alg = \"…\" in assertion"),
                "b64" => ("names `b64`: the content is always in base64", "remove it"),
                _ => continue,
            };
            self.report("assertion.header", message, name.span(), fix);
        }
    }

    /// The hashes of `assertion.cert`, which must be the certificate of the key.
    fn thumbprint(
        &mut self,
        table: &AssertionTable,
        key: Option<&SigningKey>,
    ) -> Option<CertificateThumbprint> {
        let given = table.cert.given()?;
        let source = SecretSource::File(self.review.path(given.get_ref()));
        let text = match self.review.read_lines(&source) {
            Ok(text) => text?,
            Err(error) => {
                self.unreadable("assertion.cert", &error.to_string(), given.span());
                return None;
            }
        };
        match key?.thumbprint(text.expose()) {
            Ok(thumbprint) => Some(thumbprint),
            Err(error) => {
                self.report("assertion.cert", &error.to_string(), given.span(), error.fix());
                None
            }
        }
    }

    fn signing_key(
        &mut self,
        given: &Spanned<AssertionTable>,
        client_secret: Option<&Secret>,
        by_secret: bool,
    ) -> Option<SigningKey> {
        let table = given.get_ref();
        let filled = |field: &Field<String>| {
            field.get().filter(|text| !text.is_empty()).map(|text| text.as_str().to_owned())
        };
        let (alg, kid) = (filled(&table.alg), filled(&table.kid));
        let (alg, kid) = (alg.as_deref(), kid.as_deref());
        let found = match table.key.given() {
            Some(place) => {
                let text = self.lines("assertion.key", place)?;
                match alg {
                    Some(name) if name.starts_with("HS") && !is_structured(&text) => {
                        let cut = text.expose().trim_end_matches(['\r', '\n']).to_owned();
                        SigningKey::shared(&Secret::new(cut), alg, kid)
                    }
                    _ => SigningKey::parse(&text, alg, kid),
                }
            }
            None if by_secret => SigningKey::shared(client_secret?, alg, kid),
            None => {
                let fix = "write key = { file = \"key.pem\" }, a private key in PEM or as JWK";
                self.report("assertion.key", "is missing", given.span(), fix);
                return None;
            }
        };
        match found {
            Ok(key) => Some(key),
            Err(error) => {
                let (key, place) = match error {
                    SigningKeyError::Algorithm => ("alg", place_of(&table.alg, &given.span())),
                    _ => ("key", place_of(&table.key, &given.span())),
                };
                self.report(&format!("assertion.{key}"), &error.to_string(), place, error.fix());
                None
            }
        }
    }

    /// A shared secret proves nothing as a private key, and nobody has a public half of it.
    fn check_algorithm(
        &mut self,
        auth: ClientAuthentication,
        grant: GrantType,
        table: &AssertionTable,
    ) {
        let Some(alg) = table.alg.given() else { return };
        let shared = alg.get_ref().starts_with("HS");
        let wrong = match auth {
            ClientAuthentication::PrivateKeyJwt => shared,
            ClientAuthentication::ClientSecretJwt if grant != GrantType::JwtBearer => {
                !shared && table.key.is_absent()
            }
            _ => false,
        };
        if wrong {
            let fix = "private_key_jwt takes RS…, PS…, ES… and EdDSA, client_secret_jwt HS…";
            let message = "does not suit `client_auth`";
            self.report("assertion.alg", message, alg.span(), fix);
        }
    }

    fn claim(&mut self, key: &str, value: &ClaimValue, names: &Names) -> Option<Claim> {
        Some(match value {
            ClaimValue::Text(text) => Claim::Text(self.template(key, text, names)?),
            ClaimValue::Plain(value) => Claim::Plain(value.clone()),
            ClaimValue::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.claim(key, item, names)).collect();
                Claim::List(items.into_iter().collect::<Option<_>>()?)
            }
            ClaimValue::Table(entries) => {
                let entry = |(name, value): &(String, ClaimValue)| {
                    Some((name.clone(), self.claim(key, value, names)?))
                };
                let entries: Vec<_> = entries.iter().map(entry).collect();
                Claim::Table(entries.into_iter().collect::<Option<_>>()?)
            }
        })
    }

    /// The calls that follow the token request, and the members of its answer that anything names;
    /// `raw` are those that what is put on requests names.
    pub(super) fn steps(&mut self, names: &Names, raw: Vec<String>) -> (Vec<Step>, Vec<String>) {
        let section = self.section;
        let names = names.with(DeferredName::AccessToken).with_raw();
        let mut steps = Vec::new();
        for given in section.steps.get().into_iter().flatten() {
            steps.extend(self.step(given, &names));
        }
        // What one answer brings is kept if a later text names it.
        let mut later = raw;
        for step in steps.iter_mut().rev() {
            step.raw = later.iter().filter_map(|text| MemberPath::parse(text)).collect();
            later.extend(templates(step).flat_map(Template::raw).map(str::to_owned));
            later.sort_unstable();
            later.dedup();
        }
        (steps, later)
    }

    fn step(&mut self, given: &Spanned<StepTable>, names: &Names) -> Option<Step> {
        let step = given.get_ref();
        if step.url.is_absent() {
            self.report("steps.url", "is missing", given.span(), "write url = \"https://…\"");
        }
        let url = self.url("steps.url", &step.url, names);
        let params = self.parameters("steps.params", &step.params, names);
        let headers = self.fields("steps.headers", &step.headers, names).unwrap_or_default();
        let response = step.response.get();
        let path = |part: &mut Self, key: &str, field: Option<&Field<String>>| {
            let path = field.and_then(Field::given)?;
            if path.get_ref().split('.').any(str::is_empty) {
                let fix = "write names with a dot between them, such as \"data.token\"";
                part.report(&format!("steps.response.{key}"), "is no path", path.span(), fix);
            }
            MemberPath::parse(path.get_ref())
        };
        let access_token =
            path(self, "access_token", response.map(|response| &response.access_token));
        let expires_in = path(self, "expires_in", response.map(|response| &response.expires_in));
        let encoding = encoding(&step.encoding);
        let raw = Vec::new();
        Some(Step { url: url?, encoding, params, headers, access_token, expires_in, raw })
    }
}

fn templates(step: &Step) -> impl Iterator<Item = &Template> {
    let in_parameters = step.params.iter().flat_map(|parameter| &parameter.values);
    in_parameters.chain(step.headers.iter().map(|(_, template)| template)).chain([&step.url])
}

/// Google's JSON says whose the key is: that is who issues what it signs.
fn owner(key: &SigningKey) -> Option<Template> {
    let owner = key.owner()?.replace('$', "$$");
    Template::parse(&owner, &Names::default()).ok()
}

/// Is it PEM or JSON rather than a shared secret?
fn is_structured(text: &Secret) -> bool {
    let text = text.expose().trim_start();
    text.starts_with('{') || text.starts_with("-----BEGIN")
}
