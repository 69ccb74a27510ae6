//! The configuration of one token endpoint.

use std::fmt::Write;
use std::time::Duration;

use http::HeaderName;

use super::{
    Assertion, Bootstrap, ClientCert, GrantType, OwnGrant, Rotation, Step, TokenResponseFormat,
};
use crate::secret::{Fingerprint, Secret};
use crate::template::Template;

/// How the OAuth client authenticates to the token endpoint (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuthentication {
    /// `client_id` and `client_secret` in the body. The default: most servers accept it.
    #[default]
    Post,
    /// HTTP Basic with form-encoded identifier and secret, as RFC 6749 requires.
    Basic,
    /// HTTP Basic with the identifier and secret as they are, as many servers expect.
    BasicRaw,
    /// `Post` and `Basic` together, which RFC 6749 §2.3 forbids and some servers require.
    Both,
    /// Only `client_id`: a public client, or one that authenticates with its TLS certificate.
    None,
    /// An assertion signed with the client's private key (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// An assertion signed with the client's secret (RFC 7523 §2.2).
    ClientSecretJwt,
}

/// How the parameters of a token request are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Form-encoded in the body. The default, and the only encoding in RFC 6749.
    #[default]
    Form,
    /// One JSON object in the body.
    Json,
    /// In the query of a POST request without a body.
    Query,
    /// In the query of a GET request.
    Get,
}

/// One token endpoint and the OAuth client that is registered there.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The configured grant type.
    pub grant: GrantType,
    /// What [`Grant::Own`](super::Grant::Own) presents. `None` for grants that need a user or a
    /// refresh token.
    pub own: Option<OwnGrant>,
    /// How to get a refresh token without a user, if configured.
    pub bootstrap: Option<Bootstrap>,
    /// The issuer. Its metadata document supplies the URLs that are not configured (RFC 8414,
    /// OpenID Connect Discovery).
    pub issuer: Option<Template>,
    /// The token endpoint. Its query is kept.
    pub token_url: Option<Template>,
    /// The endpoint for refresh tokens. Default: the token endpoint.
    pub refresh_url: Option<Template>,
    /// The revocation endpoint (RFC 7009).
    pub revoke_url: Option<Template>,
    /// The authorization endpoint, where a user consents in a browser (RFC 6749 §3.1).
    pub auth_url: Option<Template>,
    /// The device authorization endpoint (RFC 8628 §3.1).
    pub device_url: Option<Template>,
    /// The OAuth client's identifier. Some grants need none.
    pub client_id: Option<Template>,
    /// The OAuth client's secret. Public clients have none.
    pub client_secret: Option<Secret>,
    /// How the client authenticates.
    pub client_auth: ClientAuthentication,
    /// The client certificate for TLS, if any.
    pub client_cert: Option<ClientCert>,
    /// The assertion, for grants and client authentication methods that use one and for
    /// `${assertion}`.
    pub assertion: Option<Assertion>,
    /// How parameters are encoded.
    pub encoding: Encoding,
    /// The requested scope, sent verbatim.
    pub scope: Option<Template>,
    /// Additional parameters of every token request. They replace generated parameters of the same
    /// name.
    pub params: Vec<Parameter>,
    /// Additional parameters for refresh requests only. They replace `params` of the same name.
    pub refresh_params: Vec<Parameter>,
    /// Additional header fields of every token request.
    pub headers: Vec<(HeaderName, Template)>,
    /// How answers are interpreted.
    pub reading: TokenResponseFormat,
    /// What to do with a refresh token in an answer. Default: it replaces the old one.
    pub rotation: Rotation,
    /// The calls that follow a token request, in order.
    pub steps: Vec<Step>,
    /// How long to wait for an answer after the request was sent. Default 60 s: closing the
    /// connection to a slow server loses the refresh token that it was about to send.
    pub timeout: Duration,
}

/// One configured parameter of a token request.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The parameter's name.
    pub name: String,
    /// The parameter is sent once for each value. An empty list suppresses the parameter, even if
    /// the grant sets it.
    pub values: Vec<Template>,
    /// Encode as a JSON array even if there is only one value.
    pub list: bool,
}

impl Config {
    /// A client at `token_url` with default settings.
    pub fn new(grant: GrantType, token_url: Template, client_id: Template) -> Self {
        let own = match grant {
            GrantType::ClientCredentials => Some(OwnGrant::ClientCredentials),
            GrantType::JwtBearer => Some(OwnGrant::JwtBearer),
            GrantType::SelfSignedJwt => Some(OwnGrant::SelfSignedJwt),
            GrantType::Custom => Some(OwnGrant::Custom),
            GrantType::Static => Some(OwnGrant::Static),
            _ => None,
        };
        Self {
            grant,
            own,
            bootstrap: None,
            issuer: None,
            token_url: Some(token_url),
            refresh_url: None,
            revoke_url: None,
            auth_url: None,
            device_url: None,
            client_id: Some(client_id),
            client_secret: None,
            client_auth: ClientAuthentication::default(),
            client_cert: None,
            assertion: None,
            encoding: Encoding::default(),
            scope: None,
            params: Vec::new(),
            refresh_params: Vec::new(),
            headers: Vec::new(),
            reading: TokenResponseFormat::default(),
            rotation: Rotation::default(),
            steps: Vec::new(),
            timeout: Duration::from_secs(60),
        }
    }

    /// Replaces the configured password.
    pub fn set_password(&mut self, value: Secret) {
        let bootstrap = self.bootstrap.as_mut().map(|bootstrap| &mut bootstrap.grant);
        for grant in self.own.as_mut().into_iter().chain(bootstrap) {
            if let OwnGrant::Password { password, .. } = grant {
                *password = value.clone();
            }
        }
    }

    /// A fingerprint that changes with every setting that could make a refused grant succeed.
    /// Records store it, so its input must stay stable between releases.
    pub fn fingerprint(&self) -> Fingerprint {
        let secret = self.client_secret.as_ref().map(Secret::fingerprint);
        let certificate = self.client_cert.as_ref().map(ClientCert::fingerprint);
        let mut shape = format!(
            "{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            self.grant, secret, self.client_auth, self.encoding, certificate
        );
        for text in [
            &self.issuer,
            &self.token_url,
            &self.refresh_url,
            &self.revoke_url,
            &self.auth_url,
            &self.device_url,
            &self.client_id,
            &self.scope,
        ] {
            _ = write!(shape, "\n{:?}", text.as_ref().map(Template::fingerprint));
        }
        if let Some(own) = &self.own {
            own.write_shape(&mut shape);
        }
        if let Some(bootstrap) = &self.bootstrap {
            bootstrap.grant.write_shape(&mut shape);
            _ = write!(shape, "\n{:?}", bootstrap.scope.as_ref().map(Template::fingerprint));
            write_parameters("bootstrap", &bootstrap.params, &mut shape);
        }
        if let Some(assertion) = &self.assertion {
            assertion.write_shape(&mut shape);
        }
        write_parameters("params", &self.params, &mut shape);
        write_parameters("refresh", &self.refresh_params, &mut shape);
        write_fields(&self.headers, &mut shape);
        for step in &self.steps {
            step.write_shape(&mut shape);
        }
        let reading = format!("{:?}", self.reading);
        if reading != format!("{:?}", TokenResponseFormat::default()) {
            _ = write!(shape, "\n{reading}");
        }
        Fingerprint::of(shape.as_bytes())
    }

    /// Secrets that must be masked in messages about an answer.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let bootstrap = self.bootstrap.iter();
        let parameters = self.params.iter().chain(&self.refresh_params);
        let parameters = parameters.chain(bootstrap.clone().flat_map(|it| &it.params));
        let in_parameters = parameters.flat_map(|parameter| &parameter.values);
        let in_fields = self.headers.iter().map(|(_, template)| template);
        let urls = [&self.issuer, &self.token_url, &self.refresh_url, &self.revoke_url];
        let texts = urls.into_iter().chain([&self.client_id, &self.scope]).flatten();
        let templates = in_parameters.chain(in_fields).chain(texts);
        let own = self.own.iter().chain(bootstrap.map(|it| &it.grant));
        self.client_secret
            .iter()
            .chain(templates.flat_map(Template::secrets))
            .chain(own.flat_map(OwnGrant::secrets))
            .chain(self.assertion.iter().flat_map(Assertion::secrets))
            .chain(self.steps.iter().flat_map(Step::secrets))
    }
}

pub(super) fn write_parameters(list: &str, parameters: &[Parameter], shape: &mut String) {
    for Parameter { name, values, list: is_list } in parameters {
        let values: Vec<_> = values.iter().map(Template::fingerprint).collect();
        _ = write!(shape, "\n{list} {name:?} {values:?} {is_list}");
    }
}

pub(super) fn write_fields(fields: &[(HeaderName, Template)], shape: &mut String) {
    for (name, template) in fields {
        _ = write!(shape, "\nheaders {name} {:?}", template.fingerprint());
    }
}
