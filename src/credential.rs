//! Which credential, if any, belongs to a request, how its token is put on it, and which answers
//! mean that the token was not accepted.
//!
//! A credential is a named, configured way to get access tokens for some hosts. [`Credentials`] is
//! an immutable table: a lookup is one or a few hash reads and never a lock. The host alone decides
//! whether a CONNECT is intercepted; among the credentials of a host, path and method decide.
//!
//! A plain-http request finds the same entries as an https one and is then sent over TLS, so that a
//! token never travels in clear unless the operator said `allow_http`.

mod host_pattern;
mod identity;
mod injection;
mod matching;
mod overrides;
mod rejection;
mod slots;
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
pub use identity::Identity;
pub use injection::{Additions, Destination, Fields, Injection, InjectionError, OnExisting};
use matching::{Ambiguous, Rules};
pub use matching::{PathPrefix, PathPrefixError};
pub use rejection::{
    CONTENT_LIMIT, Evidence, RejectionRule, Rejections, Suspicion, is_unauthorized,
};
pub use slots::{ChangedSecret, Dormant, Instance, InstanceError, MOST_SLOTS, Named};
use slots::{Recipe, Slots};
use token_endpoint::TokenPath;
use variables::Sender;
pub use variables::{
    ChoiceError, LONGEST_VALUE, OwnSecret, SecretPath, Variable, VariableSource, client_name,
    is_harmless,
};

/// One credential, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its name: stands in messages, and is the key of its record.
    pub name: String,
    /// The hosts whose requests get its token.
    pub hosts: Vec<HostPattern>,
    /// The paths on those hosts; none: all.
    pub paths: Vec<PathPrefix>,
    /// The methods; none: all.
    pub methods: Vec<Method>,
    /// A plain-http request stays plain http. Default `false`: it is sent over TLS.
    pub allow_http: bool,
    /// How its token is put on a request. Default `Authorization: Bearer …`.
    pub injection: Injection,
    /// Which answers mean that its token was not accepted. Default every 401.
    pub rejections: Rejections,
    /// It has no tokens: where its secrets are rejected, they are read again, and the request waits at most so
    /// long for that. `None`: it has tokens, which are renewed.
    pub reread: Option<Duration>,
    /// Bodies of at most so many bytes are kept, to be sent again. Default 1 MiB.
    pub replay_body: u64,
    /// While no token is to be had, requests go on without one. Default `false`: they get 503, because
    /// an application that is told nothing takes the API's refusal for its own mistake.
    pub forward_without_token: bool,
    /// The application's own token requests are answered with a token that is worth nothing. Default
    /// `false`: they pass.
    pub stub_token_endpoint: bool,
    /// Answers to requests that were sent over TLS for plain http speak of plain http as well: `Location`, `Link`,
    /// `Secure` cookies. Default `true`: an application without TLS would leave the proxy, or lose its session.
    pub rewrite_location: bool,
    /// Fields that name another method or path are passed on although `methods` or `paths` decide.
    pub allow_overrides: bool,
    /// What a request says that chooses among its tokens; none: it has one token.
    pub variables: Vec<Variable>,
    /// The secrets that each of its tokens has of its own.
    pub secrets: Vec<SecretPath>,
    /// Where its tokens come from.
    pub token: token::Config,
}

/// A credential at work.
#[derive(Debug)]
pub struct Credential {
    /// Its name.
    pub name: Arc<str>,
    /// A plain-http request stays plain http.
    pub allow_http: bool,
    /// How its token is put on a request.
    pub injection: Injection,
    /// As whom its requests are made in TLS; none: as nobody.
    pub identity: Option<Identity>,
    /// Which answers mean that its token was not accepted.
    pub rejections: Rejections,
    /// It has no tokens but secrets, which are read again where they are rejected; a request waits at most so
    /// long for that.
    pub reread: Option<Duration>,
    /// Bodies of at most so many bytes are kept, to be sent again.
    pub replay_body: u64,
    /// While no token is to be had, requests go on without one.
    pub forward_without_token: bool,
    /// The application's own token requests are answered here.
    stub_token_endpoint: bool,
    /// Answers to requests that were sent over TLS for plain http speak of plain http as well.
    pub rewrite_location: bool,
    /// The methods it is for; none: all.
    methods: Vec<Method>,
    /// Its method or path decides, so a request may not mean another.
    forbids_overrides: bool,
    /// What a request says that chooses among its tokens.
    variables: Vec<Variable>,
    /// Its tokens.
    slots: Slots,
    /// What is counted of its requests.
    pub metrics: Arc<CredentialMetrics>,
    /// What origin servers asked to see in the next proof, where tokens are bound to a key.
    pub nonces: Nonces<Origin>,
}

impl Credential {
    /// Its only token, if it has no variables.
    pub fn only(&self) -> Option<&Arc<Instance>> {
        match &self.slots {
            Slots::One(instance) => Some(instance),
            Slots::Many(_) => None,
        }
    }

    /// Removes fields that name another method or path, where these decide.
    pub fn remove_overrides(&self, fields: &mut HeaderMap) {
        if self.forbids_overrides {
            overrides::remove(fields);
        }
    }

    /// The token for the values that a request has chosen.
    ///
    /// # Errors
    ///
    /// [`InstanceError`], only where there are variables.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the making of a slot to the next that asks.
    pub async fn instance(&self, values: &Variables) -> Result<Arc<Instance>, InstanceError> {
        match &self.slots {
            Slots::One(instance) => Ok(Arc::clone(instance)),
            Slots::Many(many) => many.instance(values).await,
        }
    }

    /// Its tokens in use.
    pub fn in_use(&self) -> Vec<Arc<Instance>> {
        self.slots.in_use()
    }

    /// The tokens that an operator means by `name`, in use or in the store; `None`: none of this
    /// credential's.
    pub async fn named(&self, name: &str) -> Option<Vec<Named>> {
        self.slots.named(&self.name, name).await
    }

    /// What an operator can name: the credential, and each of its tokens in use.
    pub fn names(&self) -> Vec<String> {
        self.slots.names(&self.name)
    }

    /// What is to be said about each of its tokens in use.
    pub fn statuses(&self) -> Vec<Status> {
        self.slots.in_use().iter().map(|instance| instance.slot.status()).collect()
    }

    /// Does it put something else on requests than the same credential did `before`, and is it the same
    /// otherwise, as far as a request under way is concerned?
    pub fn differs_in_secrets(&self, before: &Self) -> bool {
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
    pub fn remove_choice(&self, fields: &mut HeaderMap) {
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
    /// This credential's token.
    Selected(Selected),
    /// No token, although its host has credentials: they are for other paths or methods. It goes to
    /// this origin, if it goes at all.
    Unmatched(Origin),
    /// No token: no credential names its host.
    UnknownHost,
    /// Nothing: its path decides about a token and could be read in two ways.
    Ambiguous,
    /// Nothing: it is for this credential and does not choose one of its tokens.
    Refused(Arc<Credential>, ChoiceError),
    /// An answer of the proxy's own: it is the application's token request, and this credential says
    /// that it goes no further.
    Stub(Arc<Credential>),
}

/// Which credential a request gets, and where it is really sent.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The credential.
    pub credential: Arc<Credential>,
    /// The origin with the scheme that is used towards it.
    pub origin: Origin,
    /// The values that choose among the credential's tokens.
    pub values: Variables,
}

/// All credentials, by host.
#[derive(Debug, Default)]
pub struct Credentials {
    exact: HashMap<Authority, Rules>,
    wildcard: HashMap<(Box<str>, u16), Rules>,
    all: Vec<Arc<Credential>>,
}

impl Credentials {
    /// Opens every credential's slots; that no two are for the same requests has been checked by
    /// `settings`.
    ///
    /// `tls` is how origin servers are reached, without a certificate of the client's. A slot of
    /// `before` whose configuration has not changed is taken over with its token and with whatever it
    /// is doing.
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
            let identity = Identity::of(&name, &config.token, tls);
            let recipe = Recipe {
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
                slots: Slots::open(recipe, before).await,
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
            credentials.watch_token_requests(path, &credential);
        }
        credentials
    }

    /// From now on these configurations decide what tokens are asked for, and which are used.
    pub fn activate(&self) {
        for credential in &self.all {
            credential.in_use().iter().for_each(|instance| instance.slot.activate());
        }
    }

    /// Token requests matter where a credential would give them a token, or where one answers them.
    fn watch_token_requests(&mut self, path: TokenPath, credential: &Arc<Credential>) {
        let authority = path.authority.clone();
        if credential.stub_token_endpoint || self.exact.contains_key(&authority) {
            let rules = self.exact.entry(authority).or_default();
            rules.watch_token_requests(path, credential);
        } else if let Some(rules) =
            self.wildcard_key(&authority).and_then(|key| self.wildcard.get_mut(&key))
        {
            rules.watch_token_requests(path, credential);
        }
    }

    fn named(&self, name: &str) -> Option<&Slots> {
        self.all.iter().find(|credential| *credential.name == *name).map(|found| &found.slots)
    }

    fn rules(&mut self, pattern: HostPattern) -> &mut Rules {
        match pattern {
            HostPattern::Exact(authority) => self.exact.entry(authority).or_default(),
            HostPattern::Wildcard { suffix, port } => {
                self.wildcard.entry((suffix, port)).or_default()
            }
        }
    }

    /// The secrets that have changed since the slot for a request's values was made with them, as far as the
    /// settings do not name them. Blocks.
    pub fn changed_secrets(&self) -> Vec<ChangedSecret> {
        self.all.iter().flat_map(|credential| credential.slots.changed_secrets()).collect()
    }

    /// Every credential, in the order of the configuration.
    pub fn all(&self) -> &[Arc<Credential>] {
        &self.all
    }

    /// What a request to `requested` gets.
    ///
    /// `http://host/` finds the entry for port 443 and goes there over TLS; `http://host:8443/` finds
    /// the entry for port 8443 and goes to that port. With `allow_http` scheme and port are kept. `client`
    /// is what the client called itself in the CONNECT that the request came through.
    pub fn for_request(
        &self,
        requested: &Origin,
        method: &Method,
        path: &str,
        fields: &HeaderMap,
        client: Option<&str>,
    ) -> Selection {
        let asked = Asked { requested, method, path, sender: Sender { fields, client } };
        let upgraded = match over_tls(requested) {
            Some(authority) => self.select(asked, &authority),
            None => Selection::UnknownHost,
        };
        match upgraded {
            Selection::UnknownHost | Selection::Unmatched(_) => {}
            decided => return decided,
        }
        match (upgraded, self.select(asked, &requested.authority)) {
            (unmatched @ Selection::Unmatched(_), Selection::UnknownHost) => unmatched,
            (unmatched @ Selection::Unmatched(_), Selection::Unmatched(_)) => unmatched,
            (_, selection) => selection,
        }
    }

    /// Does a credential name the host of a CONNECT? No path is known then.
    pub fn intercepts(&self, requested: &Origin) -> bool {
        let is_named = |authority: &Authority| {
            self.exact.contains_key(authority) || self.wildcard_of(authority).is_some()
        };
        over_tls(requested).as_ref().is_some_and(is_named) || is_named(&requested.authority)
    }

    /// Does a credential of the host of a CONNECT have to know who the client is?
    pub fn want_names(&self, requested: &Origin) -> bool {
        let want = |authority: &Authority| {
            let wildcard = self.wildcard_of(authority);
            self.exact.get(authority).into_iter().chain(wildcard).any(Rules::want_names)
        };
        over_tls(requested).as_ref().is_some_and(want) || want(&requested.authority)
    }

    /// What the entries for `authority` have for a request; the most specific wins, an exact host
    /// over a wildcard.
    fn select(&self, asked: Asked<'_>, authority: &Authority) -> Selection {
        let (mut known, mut all_allow_http) = (false, true);
        let wildcard = std::iter::once_with(|| self.wildcard_of(authority)).flatten();
        for rules in self.exact.get(authority).into_iter().chain(wildcard) {
            match rules.token_request(asked.path) {
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
            match rules.find(asked.method, asked.path) {
                Err(Ambiguous) => return Selection::Ambiguous,
                Ok(Some(rule)) => {
                    let credential = Arc::clone(&rule.credential);
                    let origin = towards(asked.requested, authority, credential.allow_http);
                    return match rule.choose(asked.path, asked.sender) {
                        Ok(values) => Selection::Selected(Selected { credential, origin, values }),
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
            true => Selection::Unmatched(towards(asked.requested, authority, all_allow_http)),
            false => Selection::UnknownHost,
        }
    }

    fn wildcard_of(&self, authority: &Authority) -> Option<&Rules> {
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

/// What of a request decides about its token.
#[derive(Clone, Copy)]
struct Asked<'a> {
    requested: &'a Origin,
    method: &'a Method,
    path: &'a str,
    sender: Sender<'a>,
}

/// `http://host/` finds the entry for port 443 first.
fn over_tls(requested: &Origin) -> Option<Authority> {
    let Authority { host, port } = &requested.authority;
    (requested.scheme == Scheme::Http && *port == 80)
        .then(|| Authority { host: host.clone(), port: 443 })
}

fn towards(requested: &Origin, over_tls: &Authority, allow_http: bool) -> Origin {
    match requested.scheme {
        Scheme::Http if allow_http => requested.clone(),
        _ => Origin { scheme: Scheme::Https, authority: over_tls.clone() },
    }
}
