//! `assertion`: the signed JWT.

use toml::Spanned;

use super::CredentialReview;
use crate::config::{AssertionTable, ClaimValue, Entries, Field};
use crate::oauth::{
    Assertion, CertificateThumbprint, Claim, ClientAuthentication, GrantType, SigningKey,
    SigningKeyError,
};
use crate::secret::Secret;
use crate::template::{DeferredName, Names, Template};

impl CredentialReview<'_, '_> {
    /// Returns the assertion of a credential that has one. Its key is tried.
    pub(super) fn assertion(
        &mut self,
        client_secret: Option<&Secret>,
        names: &Names,
    ) -> Option<Assertion> {
        let section = self.section;
        let signs_with_secret = *section.client_auth == ClientAuthentication::ClientSecretJwt;
        let client_secret = client_secret.filter(|_| signs_with_secret);
        if section.assertion.is_absent() {
            if *section.client_auth == ClientAuthentication::PrivateKeyJwt {
                let place = section.client_auth.place_or(&self.span);
                let fix = "write assertion = { key = { file = \"key.pem\" } }";
                let message = "is missing: client_auth = \"private_key_jwt\" needs it";
                self.error("assertion", message, place, fix);
            }
            return SigningKey::shared(client_secret?, None, None).ok().map(Assertion::new);
        }
        let given = section.assertion.given()?;
        let table = given.get_ref();
        let key = self.signing_key(given, client_secret);
        self.check_algorithm(table);
        let names = names.with(DeferredName::TokenUrl);
        let mut text = |key: &str, field: &Field<String>| {
            let filled = field.given().filter(|text| !text.get_ref().is_empty())?;
            self.template(&format!("assertion.{key}"), filled, &names)
        };
        let iss = text("iss", &table.iss);
        let sub = text("sub", &table.sub);
        let aud = text("aud", &table.aud);
        let ttl = table.ttl.0;
        let backdate = table.backdate.get().copied();
        let backdate = backdate.unwrap_or(Assertion::default_backdate(ttl));
        if let Some(given) = table.backdate.given().filter(|_| backdate >= ttl) {
            let message = "is not shorter than `ttl`, which counts from there: the assertion would have expired";
            let fix = "make it shorter than ttl, or leave it out for 30s";
            self.error("assertion.backdate", message, given.span(), fix);
        }
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
        let claims = entries.entries().iter().filter_map(|(name, value)| {
            Some((name.get_ref().clone(), self.claim(key, value.get_ref(), names)?))
        });
        claims.collect()
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

    /// Reports members of the header that the signature itself depends on.
    fn check_header(&mut self, table: &AssertionTable) {
        for (name, _) in table.header.entries() {
            let (message, fix) = match name.get_ref().as_str() {
                "alg" => ("names `alg`, which the key decides", "write alg = \"…\" in assertion"),
                "b64" => ("names `b64`: the content is always in base64", "remove it"),
                _ => continue,
            };
            self.error("assertion.header", message, name.span(), fix);
        }
    }

    /// Returns the hashes of `assertion.cert`, which must be the certificate of the key.
    fn thumbprint(
        &mut self,
        table: &AssertionTable,
        key: Option<&SigningKey>,
    ) -> Option<CertificateThumbprint> {
        let given = table.cert.given()?;
        let text = self.certificate("assertion.cert", given)?;
        match key?.thumbprint(text.expose()) {
            Ok(thumbprint) => Some(thumbprint),
            Err(error) => {
                self.error("assertion.cert", &error.to_string(), given.span(), error.fix());
                None
            }
        }
    }

    fn signing_key(
        &mut self,
        given: &Spanned<AssertionTable>,
        client_secret: Option<&Secret>,
    ) -> Option<SigningKey> {
        let table = given.get_ref();
        let filled =
            |field: &'_ Field<String>| field.get().filter(|text| !text.is_empty()).cloned();
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
            None if *self.section.client_auth == ClientAuthentication::ClientSecretJwt => {
                SigningKey::shared(client_secret?, alg, kid)
            }
            None => {
                let fix = "write key = { file = \"key.pem\" }, a private key in PEM or as JWK";
                self.error("assertion.key", "is missing", given.span(), fix);
                return None;
            }
        };
        match found {
            Ok(key) => Some(key),
            Err(error) => {
                let (key, place) = match error {
                    SigningKeyError::Algorithm => ("alg", table.alg.place_or(&given.span())),
                    _ => ("key", table.key.place_or(&given.span())),
                };
                self.error(&format!("assertion.{key}"), &error.to_string(), place, error.fix());
                None
            }
        }
    }

    /// Reports an algorithm that does not fit: a shared secret proves nothing as a private key, and has no public half.
    fn check_algorithm(&mut self, table: &AssertionTable) {
        let Some(alg) = table.alg.given() else { return };
        let is_shared = alg.get_ref().starts_with("HS");
        let is_wrong = match *self.section.client_auth {
            ClientAuthentication::PrivateKeyJwt => is_shared,
            ClientAuthentication::ClientSecretJwt
                if *self.section.grant != GrantType::JwtBearer =>
            {
                !is_shared && table.key.is_absent()
            }
            _ => false,
        };
        if is_wrong {
            let fix = "private_key_jwt takes RS…, PS…, ES… and EdDSA, client_secret_jwt HS…";
            self.error("assertion.alg", "does not fit `client_auth`", alg.span(), fix);
        }
    }
}

/// Returns the owner that Google's JSON names, who issues what the key signs.
fn owner(key: &SigningKey) -> Option<Template> {
    let owner = key.owner()?.replace('$', "$$");
    Template::parse(&owner, &Names::default()).ok()
}

/// Returns true for PEM or JSON, false for a shared secret.
fn is_structured(text: &Secret) -> bool {
    let text = text.expose().trim_start();
    text.starts_with('{') || text.starts_with("-----BEGIN")
}
