//! The authorization server: its URLs, and everything that its requests and answers consist of.

use std::time::UNIX_EPOCH;

use toml::Spanned;
use url::{Host, Url};

use super::{CredentialReview, injection};
use crate::config::{Field, ResponseTable};
use crate::credential::Injection;
use crate::oauth::{
    self, ClientAuthentication, GrantRenewal, Mapping, MemberPath, TokenResponseFormat,
};
use crate::template::{DeferredName, Names, Template, Values, Variables};

impl CredentialReview<'_, '_> {
    /// Returns everything about the authorization server. `injection` names members of its answers.
    pub(super) fn oauth(&mut self, names: &Names, injection: &Injection) -> Option<oauth::Config> {
        let section = self.section;
        let client_id = self.client_id(names);
        let in_requests = self.names_of_requests(names);
        let scope = self.text("scope", section.scope.given(), names);
        let client_secret = self.client_secret();
        let urls = self.urls(names);
        let assertion = self.assertion(client_secret.as_ref(), names);
        let own = self.own_grant(names);
        let bootstrap = self.bootstrap(names, &in_requests);
        let params = self.parameters("params", &section.params, &in_requests);
        let refresh_params =
            self.parameters("refresh_params", &section.refresh_params, &in_requests);
        let given = section.refresh_params.given();
        if let Some(given) = given.filter(|_| section.grant.renewal() == GrantRenewal::Repeatable) {
            self.warn_unused("refresh_params", *section.grant, given.span());
        }
        let headers = self.fields("headers", &section.headers, &in_requests).unwrap_or_default();
        let (steps, raw) = self.steps(names, injection::raw_of(injection));
        let reading = self.reading(&raw);
        let client_cert = self.client_cert();
        let [token_url, refresh_url, revoke_url, auth_url, device_url, issuer] = urls?;
        Some(oauth::Config {
            grant: *section.grant,
            own,
            bootstrap,
            issuer,
            token_url,
            refresh_url,
            revoke_url,
            auth_url,
            device_url,
            client_id,
            client_secret,
            client_auth: *section.client_auth,
            client_cert,
            assertion,
            encoding: *section.encoding,
            scope,
            params,
            refresh_params,
            headers,
            reading,
            rotation: *section.rotation,
            steps,
            timeout: section.timeout.0,
        })
    }

    /// Returns how the answers are read. `raw` are the members that other texts name.
    fn reading(&mut self, raw: &[String]) -> TokenResponseFormat {
        let section = self.section;
        let response = section.response.get();
        let keep = response.and_then(|it| it.keep_access_token.given());
        if let Some(keep) = keep.filter(|keep| *keep.get_ref())
            && response.is_some_and(|it| it.ok.is_absent())
        {
            let message = "treats every answer with status 200 and no error as a success";
            let fix = "say what holds for a success alone: ok = \"result == '0000'\"";
            self.warn("response", message, keep.span(), fix);
        }
        let rules = |rules: &[Spanned<oauth::AnswerRule>]| {
            rules.iter().map(|rule| rule.get_ref().clone()).collect()
        };
        TokenResponseFormat {
            mapping: response.map(mapping).unwrap_or_default(),
            dead: rules(section.dead.items()),
            busy: rules(section.busy.items()),
            raw: raw.iter().filter_map(|path| MemberPath::parse(path)).collect(),
            dpop: *section.dpop,
            token_bytes: self.file.limits.token_bytes.as_usize(),
        }
    }

    /// Returns the names that parameters and fields of token requests may use.
    fn names_of_requests(&self, names: &Names) -> Names {
        let names = names
            .with(DeferredName::AccessToken)
            .with(DeferredName::RefreshToken)
            .with(DeferredName::TokenUrl);
        let is_signed = !self.section.assertion.is_absent()
            || *self.section.client_auth == ClientAuthentication::ClientSecretJwt;
        if is_signed { names.with(DeferredName::Assertion) } else { names }
    }

    /// Returns a text of visible ASCII and spaces (RFC 6749 appendix A), which cannot end a header.
    pub(super) fn text(
        &mut self,
        key: &str,
        text: Option<&Spanned<String>>,
        names: &Names,
    ) -> Option<Template> {
        let text = text?;
        if text.get_ref().is_empty() {
            self.error(key, "is empty", text.span(), "leave the key out, or give it a value");
        } else if !text.get_ref().bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let message = "contains a line break or another character that cannot be sent";
            self.error(key, message, text.span(), "use visible ASCII characters and spaces");
        }
        self.template(key, text, names)
    }

    /// Returns the URLs in the order in which [`oauth::Config`] has them, then the issuer; `None` if one that is needed
    /// is missing or unusable.
    fn urls(&mut self, names: &Names) -> Option<[Option<Template>; 6]> {
        let section = self.section;
        let is_needed = section.grant.makes_token_requests();
        if section.issuer.is_absent() && section.token_url.is_absent() && is_needed {
            let fix = "write token_url = \"https://…\", or issuer = \"https://…\"";
            self.require("token_url", "", self.span.clone(), fix);
        }
        let urls = section.urls().map(|(key, field)| self.url(key, field, names));
        let is_usable = !is_needed || urls.first()?.is_some() || urls.last()?.is_some();
        is_usable.then_some(urls)
    }

    /// Returns a URL that may contain names.
    pub(super) fn url(
        &mut self,
        key: &str,
        field: &Field<String>,
        names: &Names,
    ) -> Option<Template> {
        let text = field.given()?;
        let template = self.template(key, text, names)?;
        let any = |name: &str| (name.to_owned(), "x".to_owned());
        let variables: Variables = template.variables().map(any).collect();
        let sample =
            template.expand(Values { variables: Some(&variables), ..Values::at(UNIX_EPOCH) });
        // A step carries the token, and goes elsewhere.
        let token_http = *self.section.token_http && !key.starts_with("steps");
        match check_url(&sample, *self.section.allow_http || token_http) {
            Ok(()) => Some(template),
            Err((message, fix)) => {
                self.error(key, message, text.span(), fix);
                None
            }
        }
    }
}

fn mapping(response: &ResponseTable) -> Mapping {
    let path = |field: &Field<MemberPath>| field.get().cloned();
    Mapping {
        access_token: path(&response.access_token),
        refresh_token: path(&response.refresh_token),
        expires_in: path(&response.expires_in),
        expires_at: path(&response.expires_at),
        unit: response.unit.get().copied(),
        token_type: path(&response.token_type),
        ok: response.ok.get().cloned(),
        error: path(&response.error),
        keep_access_token: *response.keep_access_token,
        refresh_expires_in: path(&response.refresh_expires_in),
        retry_after: path(&response.retry_after),
    }
}

/// Checks the URL of an endpoint. The error is what is wrong and what to write instead.
fn check_url(text: &str, allow_http: bool) -> Result<(), (&'static str, &'static str)> {
    let whole = "write the whole URL, such as \"https://login.example.com/oauth/token\"";
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(("contains a space, a line break or a character outside ASCII", whole));
    }
    let url = Url::parse(text).map_err(|_| ("is not a URL", whole))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(("is not an https URL", whole));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("contains a user name or a password", "use client_id and client_secret"));
    }
    if url.fragment().is_some() {
        return Err(("has a fragment, which is never sent", "remove the `#` and what follows it"));
    }
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return Err((
            "is not https, so the client's secrets would be sent unencrypted",
            "write https://; plain http is for loopback hosts, or with token_http = true (allow_http = true: \
             for requests to the API as well)",
        ));
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
