//! The OAuth client: its identifier, secret and certificate.

use std::time::UNIX_EPOCH;

use toml::Spanned;

use super::CredentialReview;
use crate::config::{ClientCertTable, TextOrSecret};
use crate::credential::InstanceSecret;
use crate::oauth::{ClientAuthentication, ClientCert, ClientCertError, GrantType};
use crate::secret::Secret;
use crate::template::{Names, Template, Values};
use crate::tls;

impl CredentialReview<'_, '_> {
    /// Adds `${client_id}` to `names`, unless a request has to bring its variables. The client's identifier may itself
    /// use the other names.
    pub(super) fn name_client(&mut self, names: &mut Names) {
        let client_id = self.section.client_id.given();
        match client_id.map(|given| (given.get_ref(), given.span())) {
            None => names.insert("client_id", ""),
            Some((TextOrSecret::Text(text), _)) => match Template::parse(text, names) {
                Ok(template) if template.variables().next().is_none() => {
                    let text = template.expand(Values::at(UNIX_EPOCH));
                    match template.secrets().next() {
                        Some(_) => names.insert_secret("client_id", Secret::new(text)),
                        None => names.insert("client_id", &text),
                    }
                }
                Ok(_) => {}
                // It is reported where it stands.
                Err(_) => names.insert("client_id", ""),
            },
            Some((TextOrSecret::Secret(source), span)) => {
                names.insert("client_id", "");
                if let Some(secret) = self.secret("client_id", &Spanned::new(span, source.clone()))
                {
                    names.insert_secret("client_id", secret);
                }
            }
        }
    }

    pub(super) fn client_id(&mut self, names: &Names) -> Option<Template> {
        let section = self.section;
        let grant = *section.grant;
        let is_optional = matches!(grant, GrantType::JwtBearer | GrantType::Custom)
            || !grant.makes_token_requests();
        if section.client_id.is_absent() && !is_optional {
            let fix = "write client_id = \"…\" as the authorization server gave it";
            self.require("client_id", "", self.span.clone(), fix);
        }
        let given = section.client_id.given()?;
        match given.get_ref() {
            TextOrSecret::Text(text) => {
                self.text("client_id", Some(&Spanned::new(given.span(), text.clone())), names)
            }
            // `names` has the value already, or it has been reported.
            TextOrSecret::Secret(_) => Template::parse("${client_id}", names).ok(),
        }
    }

    pub(super) fn client_secret(&mut self) -> Option<Secret> {
        let section = self.section;
        let by_certificate = !section.client_cert.is_absent();
        let needed_by = match (*section.grant, *section.client_auth) {
            (_, ClientAuthentication::None | ClientAuthentication::PrivateKeyJwt) => None,
            (GrantType::Custom | GrantType::SelfSignedJwt | GrantType::Static, _) => None,
            (GrantType::ClientCredentials, _) if !by_certificate => {
                Some("the client_credentials grant")
            }
            (_, ClientAuthentication::Post) => None,
            (_, ClientAuthentication::Basic) => Some("client_auth = \"basic\""),
            (_, ClientAuthentication::BasicRaw) => Some("client_auth = \"basic_raw\""),
            (_, ClientAuthentication::Both) => Some("client_auth = \"both\""),
            (_, ClientAuthentication::ClientSecretJwt) => {
                Some("client_auth = \"client_secret_jwt\"")
            }
        };
        if let (Some(needed_by), true) = (needed_by, section.client_secret.is_absent()) {
            let fix = "write client_secret = { file = \"PATH\" }";
            self.require(
                "client_secret",
                &format!(": {needed_by} needs it"),
                self.span.clone(),
                fix,
            );
        }
        let given = section.client_secret.given()?;
        let Some(source) = &given.get_ref().0 else { return Some(Secret::new(String::new())) };
        let given = Spanned::new(given.span(), source.clone());
        match self.is_own("client_secret", InstanceSecret::ClientSecret, Some(&given)) {
            // Each slot puts its own here.
            true => Some(Secret::new(String::new())),
            false => self.secret("client_secret", &given),
        }
    }

    pub(super) fn client_cert(&mut self) -> Option<ClientCert> {
        let given = self.section.client_cert.given()?;
        let table = given.get_ref();
        let fix = "write client_cert = { cert = \"client.pem\", key = \"client.key\" }";
        for (key, absent) in [("cert", table.cert.is_absent()), ("key", table.key.is_absent())] {
            if absent {
                self.error(&format!("client_cert.{key}"), "is missing", given.span(), fix);
            }
        }
        self.refuse_bind_without_tls(table);
        let (cert, key) = (table.cert.given()?, table.key.given()?);
        let chain = self.certificate("client_cert.cert", cert)?;
        let place = Spanned::new(key.span(), key.get_ref().0.clone());
        let private = self.lines("client_cert.key", &place)?;
        match ClientCert::from_pem(chain.expose(), &private, *table.bind, &tls::provider()) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let (name, span) = match error {
                    ClientCertError::Certificate(_) => ("client_cert.cert", cert.span()),
                    _ => ("client_cert.key", key.span()),
                };
                self.error(name, &error.to_string(), span, error.fix());
                None
            }
        }
    }

    /// Reports `bind` for a credential whose requests may use plain http, which shows no certificate.
    fn refuse_bind_without_tls(&mut self, table: &ClientCertTable) {
        let bind = table.bind.given().filter(|bind| *bind.get_ref());
        if let (Some(bind), true) = (bind, *self.section.allow_http) {
            let message = "needs TLS to the API, but `allow_http` lets requests go without";
            let fix = "leave allow_http out, or write bind = false if the tokens are not bound to the certificate";
            self.error("client_cert.bind", message, bind.span(), fix);
        }
    }
}
