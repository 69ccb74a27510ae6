//! Which credential a request uses, how its token is injected, and which responses mean that an
//! origin server rejected the token.
//!
//! A credential is a named, configured way to get access tokens for some hosts. [`Credentials`] is
//! an immutable table: a lookup takes one or a few hash reads and no lock. The host alone decides
//! whether a CONNECT is intercepted; path and method select among the credentials of a host.
//!
//! A plain-http request matches the same entries as an https request and is then sent over TLS, so
//! that a token is never sent in clear text unless the operator sets `allow_http`.

mod host_pattern;
mod injection;
mod matching;
mod overrides;
mod rejection;
mod slots;
mod tls_identity;
mod token_endpoint;
mod variables;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use rustls::ClientConfig;

use crate::dpop::Nonces;
use crate::metrics::CredentialMetrics;
use crate::origin::{Authority, Origin, Scheme};
use crate::template::Variables;
use crate::token::{self, Context, Status};

pub use host_pattern::{HostPattern, HostPatternError};
pub use injection::{
    Additions, Destination, InjectedFields, Injection, InjectionError, OnExisting,
};
use matching::{AmbiguousPath, HostRules};
pub use matching::{PathPrefix, PathPrefixError};
pub use rejection::{
    CONTENT_LIMIT, HeadMatch, RejectionEvidence, RejectionRule, Rejections, is_unauthorized,
};
pub use slots::{ChangedSecret, Instance, InstanceError, MAX_SLOTS, NamedToken, OfflineCredential};
use slots::{SlotBuilder, Slots};
pub use tls_identity::TlsIdentity;
use token_endpoint::TokenPath;
use variables::RequestSender;
pub use variables::{
    CredentialVariable, InstanceSecret, MAX_VALUE_LEN, SecretTemplate, VariableError,
    VariableSource, client_name, is_safe_value,
};

/// The configuration of one credential.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name, which appears in messages and is the key of the token record.
    pub name: String,
    /// The hosts whose requests get the token.
    pub hosts: Vec<HostPattern>,
    /// The paths on those hosts. Empty: all paths.
    pub paths: Vec<PathPrefix>,
    /// The methods. Empty: all methods.
    pub methods: Vec<Method>,
    /// Whether plain-http requests stay plain http. Default `false`: they are sent over TLS.
    pub allow_http: bool,
    /// How the token is injected. Default `Authorization: Bearer …`.
    pub injection: Injection,
    /// Which responses mean that the token was rejected. Default every 401.
    pub rejections: Rejections,
    /// For credentials without tokens: when an origin rejects their secrets, these are read again,
    /// and the request waits at most this long for that. `None`: the credential has tokens, which
    /// are renewed.
    pub reread: Option<Duration>,
    /// The largest request body in bytes that is kept for a replay. Default 1 MiB.
    pub replay_body: u64,
    /// Whether requests are forwarded without a token while none is available. Default `false`:
    /// they get 503, because otherwise the application would take the API's refusal for its own
    /// error.
    pub forward_without_token: bool,
    /// Whether the application's own token requests are answered with a worthless token. Default
    /// `false`: they are forwarded.
    pub stub_token_endpoint: bool,
    /// Whether `Location`, `Link` and `Secure` cookies are rewritten to plain http in responses to
    /// requests that were upgraded to TLS. Default `true`: otherwise an application without TLS
    /// would bypass the proxy or lose its session.
    pub rewrite_location: bool,
    /// Whether fields that override the method or the path are forwarded although `methods` or
    /// `paths` restrict the credential.
    pub allow_overrides: bool,
    /// The request variables that select one of the credential's tokens. Empty: the credential has
    /// one token.
    pub variables: Vec<CredentialVariable>,
    /// The secrets that each of the tokens has separately.
    pub secrets: Vec<SecretTemplate>,
    /// Where the tokens come from.
    pub token: token::Config,
}

/// A credential in operation.
#[derive(Debug)]
pub struct Credential {
    /// The name.
    pub name: Arc<str>,
    /// Whether plain-http requests stay plain http.
    pub allow_http: bool,
    /// How the token is injected.
    pub injection: Injection,
    /// Client certificate for origin connections, if any.
    pub identity: Option<TlsIdentity>,
    /// Which responses mean that the token was rejected.
    pub rejections: Rejections,
    /// For credentials without tokens: how long a request waits for rejected secrets to be read
    /// again.
    pub reread: Option<Duration>,
    /// The largest request body in bytes that is kept for a replay.
    pub replay_body: u64,
    /// Whether requests are forwarded without a token while none is available.
    pub forward_without_token: bool,
    /// Whether the proxy answers the application's own token requests.
    stub_token_endpoint: bool,
    /// Whether responses to upgraded requests are rewritten to plain http.
    pub rewrite_location: bool,
    /// The methods. Empty: all methods.
    methods: Vec<Method>,
    /// True if method or path select the credential, so that a request must not override them.
    forbids_overrides: bool,
    /// The request variables that select one of the tokens.
    variables: Vec<CredentialVariable>,
    /// The tokens.
    slots: Slots,
    /// Metrics of the credential's requests.
    pub metrics: Arc<CredentialMetrics>,
    /// The nonces that origin servers asked for in the next DPoP proof.
    pub nonces: Nonces<Origin>,
}

impl Credential {
    /// The only token of a credential without variables.
    pub fn sole_instance(&self) -> Option<&Arc<Instance>> {
        match &self.slots {
            Slots::One(instance) => Some(instance),
            Slots::Many(_) => None,
        }
    }

    /// Removes fields that override the method or path, if these select the credential.
    pub fn remove_overrides(&self, fields: &mut HeaderMap) {
        if self.forbids_overrides {
            overrides::remove(fields);
        }
    }

    /// The token for the variable values of a request.
    ///
    /// # Errors
    ///
    /// [`InstanceError`], only for credentials with variables.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while a slot is being opened, the next caller waits for the same
    /// slot.
    pub async fn instance(&self, values: &Variables) -> Result<Arc<Instance>, InstanceError> {
        match &self.slots {
            Slots::One(instance) => Ok(Arc::clone(instance)),
            Slots::Many(many) => many.instance(values).await,
        }
    }

    /// The open tokens.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.slots.instances()
    }

    /// The tokens, open or stored, that an operator means by `name`; `None` if it does not name one
    /// of this credential's.
    pub async fn named(&self, name: &str) -> Option<Vec<NamedToken>> {
        self.slots.named(&self.name, name).await
    }

    /// The names that an operator can use: the credential, and each of its open tokens.
    pub fn names(&self) -> Vec<String> {
        self.slots.names(&self.name)
    }

    /// The status of each open token.
    pub fn statuses(&self) -> Vec<Status> {
        self.slots.instances().iter().map(|instance| instance.slot.status()).collect()
    }

    /// Returns true if the credential injects other secrets than `before` but is otherwise the same
    /// for a request in progress.
    pub fn differs_only_in_secrets(&self, before: &Self) -> bool {
        self.name == before.name
            && self.allow_http == before.allow_http
            && self.variables == before.variables
            && self.reread.is_some()
            && self.injection != before.injection
    }

    fn is_chosen_by_client(&self) -> bool {
        self.variables.iter().any(|variable| variable.from == VariableSource::Client)
    }

    /// Removes the fields that were meant for this proxy.
    pub fn remove_variable_fields(&self, fields: &mut HeaderMap) {
        for variable in &self.variables {
            if let VariableSource::Field(name) = &variable.from {
                fields.remove(name);
            }
        }
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub enum Selection {
    /// A credential's token.
    Selected(SelectedCredential),
    /// No token: the host's credentials are for other paths or methods. If the request is
    /// forwarded, then to this origin.
    Unmatched(Origin),
    /// No token: no credential names the host.
    UnknownHost,
    /// An error: the path decides about a token and could be interpreted in two ways.
    Ambiguous,
    /// An error: the request is for this credential but does not select one of its tokens.
    Refused(Arc<Credential>, VariableError),
    /// A response from the proxy: it is the application's own token request, and the credential
    /// answers it.
    Stub(Arc<Credential>),
}

/// The credential of a request, and where the request is sent.
#[derive(Clone, Debug)]
pub struct SelectedCredential {
    /// The credential.
    pub credential: Arc<Credential>,
    /// The origin, with the scheme used towards it.
    pub origin: Origin,
    /// The variable values that select one of the credential's tokens.
    pub values: Variables,
}

/// All credentials by host.
#[derive(Debug, Default)]
pub struct Credentials {
    exact: HashMap<Authority, HostRules>,
    wildcard: HashMap<(Box<str>, u16), HostRules>,
    all: Vec<Arc<Credential>>,
}

impl Credentials {
    /// Opens the slots of all credentials. `settings` has checked that no two credentials match the
    /// same requests.
    ///
    /// `tls` is the configuration for origin servers, without a client certificate. A slot of
    /// `before` whose configuration is unchanged is carried over with its token and its current
    /// activity.
    pub async fn open(
        configs: Vec<Config>,
        context: &Context,
        tls: &ClientConfig,
        before: Option<&Self>,
    ) -> Self {
        let (mut credentials, mut token_paths) = (Self::default(), Vec::new());
        for config in configs {
            let oauth = &config.token.oauth;
            let urls = oauth.token_url.iter().chain(&oauth.refresh_url);
            let paths: Vec<TokenPath> = urls.filter_map(TokenPath::of).collect();
            let name = Arc::from(config.name.as_str());
            let identity = TlsIdentity::of(&name, &config.token, tls);
            let builder = SlotBuilder {
                token: config.token,
                variables: config.variables.clone(),
                secrets: config.secrets,
                context: context.clone(),
            };
            let before = before.and_then(|before| before.named(&config.name));
            let credential = Arc::new(Credential {
                name,
                allow_http: config.allow_http,
                injection: config.injection,
                identity,
                rejections: config.rejections,
                reread: config.reread,
                replay_body: config.replay_body,
                forward_without_token: config.forward_without_token,
                stub_token_endpoint: config.stub_token_endpoint,
                rewrite_location: config.rewrite_location,
                forbids_overrides: !config.allow_overrides
                    && (!config.methods.is_empty() || !config.paths.is_empty()),
                methods: config.methods,
                variables: config.variables,
                slots: Slots::open(builder, before).await,
                metrics: Arc::new(context.metrics.of_credential(&config.name)),
                nonces: Nonces::default(),
            });
            for pattern in config.hosts {
                credentials.rules(pattern).insert(&config.paths, &credential);
            }
            token_paths.extend(paths.into_iter().map(|path| (path, Arc::clone(&credential))));
            credentials.all.push(credential);
        }
        for (path, credential) in token_paths {
            credentials.add_token_path(path, &credential);
        }
        credentials
    }

    /// Makes these configurations the ones that token requests are made with.
    pub fn activate(&self) {
        for credential in &self.all {
            credential.instances().iter().for_each(|instance| instance.slot.activate());
        }
    }

    /// Registers a token endpoint if a credential's token would be added to its requests, or if a
    /// credential answers them.
    fn add_token_path(&mut self, path: TokenPath, credential: &Arc<Credential>) {
        let authority = path.authority.clone();
        if credential.stub_token_endpoint || self.exact.contains_key(&authority) {
            let rules = self.exact.entry(authority).or_default();
            rules.add_token_path(path, credential);
        } else if let Some(rules) =
            self.wildcard_key(&authority).and_then(|key| self.wildcard.get_mut(&key))
        {
            rules.add_token_path(path, credential);
        }
    }

    fn named(&self, name: &str) -> Option<&Slots> {
        self.all.iter().find(|credential| *credential.name == *name).map(|found| &found.slots)
    }

    fn rules(&mut self, pattern: HostPattern) -> &mut HostRules {
        match pattern {
            HostPattern::Exact(authority) => self.exact.entry(authority).or_default(),
            HostPattern::Wildcard { suffix, port } => {
                self.wildcard.entry((suffix, port)).or_default()
            }
        }
    }

    /// The secrets that changed since the slot for a request's values was opened, except those that
    /// the settings watch. Blocks.
    pub fn changed_secrets(&self) -> Vec<ChangedSecret> {
        self.all.iter().flat_map(|credential| credential.slots.changed_secrets()).collect()
    }

    /// All credentials in configuration order.
    pub fn all(&self) -> &[Arc<Credential>] {
        &self.all
    }

    /// Selects the credential for a request to `requested`.
    ///
    /// `http://host/` matches the entry for port 443 and is sent there over TLS;
    /// `http://host:8443/` matches the entry for port 8443 and is sent to that port. With
    /// `allow_http`, scheme and port are kept. `client` is the client's name from the CONNECT that
    /// carried the request.
    pub fn for_request(
        &self,
        requested: &Origin,
        method: &Method,
        path: &str,
        fields: &HeaderMap,
        client: Option<&str>,
    ) -> Selection {
        let request =
            RequestAttributes { requested, method, path, sender: RequestSender { fields, client } };
        let upgraded = match tls_authority(requested) {
            Some(authority) => self.select(request, &authority),
            None => Selection::UnknownHost,
        };
        match upgraded {
            Selection::UnknownHost | Selection::Unmatched(_) => {}
            decided => return decided,
        }
        match (upgraded, self.select(request, &requested.authority)) {
            (unmatched @ Selection::Unmatched(_), Selection::UnknownHost) => unmatched,
            (unmatched @ Selection::Unmatched(_), Selection::Unmatched(_)) => unmatched,
            (_, selection) => selection,
        }
    }

    /// Returns true if a credential names the host of a CONNECT. Its path is not known yet.
    pub fn intercepts(&self, requested: &Origin) -> bool {
        let is_named = |authority: &Authority| {
            self.exact.contains_key(authority) || self.wildcard_of(authority).is_some()
        };
        tls_authority(requested).as_ref().is_some_and(is_named) || is_named(&requested.authority)
    }

    /// Returns true if a credential of the CONNECT's host needs the client's name.
    pub fn needs_client_name(&self, requested: &Origin) -> bool {
        let want = |authority: &Authority| {
            let wildcard = self.wildcard_of(authority);
            self.exact.get(authority).into_iter().chain(wildcard).any(HostRules::needs_client_name)
        };
        tls_authority(requested).as_ref().is_some_and(want) || want(&requested.authority)
    }

    /// Selects among the entries for `authority`. The most specific wins, an exact host over a
    /// wildcard.
    fn select(&self, request: RequestAttributes<'_>, authority: &Authority) -> Selection {
        let (mut known, mut all_allow_http) = (false, true);
        let wildcard = std::iter::once_with(|| self.wildcard_of(authority)).flatten();
        for rules in self.exact.get(authority).into_iter().chain(wildcard) {
            match rules.token_endpoint_owner(request.path) {
                Some(credential) if credential.stub_token_endpoint => {
                    return Selection::Stub(Arc::clone(credential));
                }
                Some(_) => {
                    known = true;
                    all_allow_http &= rules.all_allow_http();
                    continue;
                }
                None => {}
            }
            match rules.find(request.method, request.path) {
                Err(AmbiguousPath) => return Selection::Ambiguous,
                Ok(Some(rule)) => {
                    let credential = Arc::clone(&rule.credential);
                    let origin = target_origin(request.requested, authority, credential.allow_http);
                    return match rule.variable_values(request.path, request.sender) {
                        Ok(values) => {
                            Selection::Selected(SelectedCredential { credential, origin, values })
                        }
                        Err(error) => Selection::Refused(credential, error),
                    };
                }
                Ok(None) => {
                    known = true;
                    all_allow_http &= rules.all_allow_http();
                }
            }
        }
        match known {
            true => {
                Selection::Unmatched(target_origin(request.requested, authority, all_allow_http))
            }
            false => Selection::UnknownHost,
        }
    }

    fn wildcard_of(&self, authority: &Authority) -> Option<&HostRules> {
        if self.wildcard.is_empty() {
            return None;
        }
        self.wildcard.get(&self.wildcard_key(authority)?)
    }

    fn wildcard_key(&self, authority: &Authority) -> Option<(Box<str>, u16)> {
        let (_, suffix) = authority.host.name()?.split_once('.')?;
        Some((Box::from(suffix), authority.port))
    }
}

/// The attributes of a request that select a credential.
#[derive(Clone, Copy)]
struct RequestAttributes<'a> {
    requested: &'a Origin,
    method: &'a Method,
    path: &'a str,
    sender: RequestSender<'a>,
}

/// The authority over TLS: `http://host/` matches the entry for port 443 first.
fn tls_authority(requested: &Origin) -> Option<Authority> {
    let Authority { host, port } = &requested.authority;
    (requested.scheme == Scheme::Http && *port == 80)
        .then(|| Authority { host: host.clone(), port: 443 })
}

fn target_origin(requested: &Origin, over_tls: &Authority, allow_http: bool) -> Origin {
    match requested.scheme {
        Scheme::Http if allow_http => requested.clone(),
        _ => Origin { scheme: Scheme::Https, authority: over_tls.clone() },
    }
}
