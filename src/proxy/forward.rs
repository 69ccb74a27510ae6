//! Sends a request to its origin server, and once more with a new token when the first was
//! rejected.
//!
//! Invariants: a request goes to the origin server at most twice because of its token, a safe one with a
//! brand-new token three times; what the client gets at the end is an origin server's answer, untouched,
//! also when that is another rejection; a token is only ever put on a request to the origin that
//! the credential was selected for, and a credential's client certificate only goes with its token.

mod secrets;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::Body;
use super::challenge::{self, is_rejection};
use super::content::{ClientContent, Passage, RequestBody};
use super::error::ProxyError;
use super::message::{self, MessageError, Via};
use super::origins::Route;
use super::record::Record;
use super::replay::{Budget, ReplayBody};
use super::{Proxy, Snapshot};
use crate::credential::{
    Additions, Credential, Destination, Instance, OnExisting, Selected, Selection, is_unauthorized,
};
use crate::metrics::RejectionOutcome;
use crate::origin::Origin;
use crate::token::{Sending, Token};

/// A rejected answer of at most so many bytes is read to its end, so that its connection is kept.
const DISCARD: u64 = 16 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// How many closed connections are put up with for one request.
const STALE_TRIES: u32 = 2;

impl Proxy {
    /// Forwards a request of no credential: untouched but for what every proxy changes.
    pub(super) async fn forward_plain(
        &self,
        snapshot: &Snapshot,
        parts: Parts,
        body: Incoming,
        origin: &Origin,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let content = snapshot.admit_content(&parts.headers, body)?;
        self.forward_untouched(snapshot, parts, content, origin, record).await
    }

    async fn forward_untouched(
        &self,
        snapshot: &Snapshot,
        parts: Parts,
        content: ClientContent,
        origin: &Origin,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let mut draft = Draft::new(parts, content, origin, self.via(), None);
        let route = Route { reach: snapshot.reach(), origin, identity: None };
        let answer = self.exchange(route, &mut draft, |_| Ok(None), record).await?;
        Ok(self.deliver(answer))
    }

    /// Forwards a request with its credential's token.
    pub(super) async fn forward_with_token(
        &self,
        snapshot: &Snapshot,
        parts: Parts,
        body: Incoming,
        selected: Selected,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let content = snapshot.admit_content(&parts.headers, body)?;
        let mut selected = selected;
        let (instance, token) = self.token_for(&mut selected, &parts, record).await?;
        let Selected { credential, origin, values } = selected;
        let Some(mut token) = token else {
            return self.forward_untouched(snapshot, parts, content, &origin, record).await;
        };
        let slot = &instance.slot;
        let unfit = |error| ProxyError::Injection { credential: instance.title.clone(), error };
        let keep = Keep { limit: credential.replay_body, budget: snapshot.replay_budget() };
        let mut draft = Draft::new(parts, content, &origin, self.via(), Some(keep));
        credential.injection.remove_lookalikes(&mut draft.fields);
        let route = Route {
            reach: snapshot.reach(),
            origin: &origin,
            identity: credential.identity.as_ref(),
        };
        let target = target_of(&draft.method, &draft.uri);
        let mut sending = Sending::first(target, draft.method.is_safe());
        let mut proved_again = false;
        loop {
            note_token(record, &token);
            let nonce = token.key().and_then(|_| credential.nonces.of(&origin));
            let additions = |draft: &Draft| {
                let destination = Destination {
                    method: &draft.method,
                    origin: &origin,
                    target: &draft.uri,
                    variables: instance.variables(),
                    nonce: nonce.as_deref(),
                };
                let now = || self.shared.clock.now();
                let made = credential.injection.additions(&token, now, destination);
                made.map(Some).map_err(unfit)
            };
            let mut answer = self.exchange(route, &mut draft, additions, record).await?;
            match judge(&credential, &origin, &token, nonce.as_deref(), &mut answer).await {
                Verdict::Accepted => {
                    slot.accepted(&token, &sending);
                    return Ok(self.deliver(answer));
                }
                Verdict::ProofLacksNonce if !proved_again && draft.can_repeat() => {
                    proved_again = true;
                    discard(answer);
                    continue;
                }
                Verdict::ProofLacksNonce => return Ok(self.deliver(answer)),
                Verdict::Rejected => {}
            }
            let can_repeat = draft.can_repeat_after(&answer);
            if credential.reread.is_some() {
                let rejected = Selected { credential, origin, values };
                let draft = can_repeat.then_some(draft);
                return self.reread(snapshot, rejected, draft, answer, record).await;
            }
            match slot.rejected(&token, &mut sending, can_repeat).await {
                Some(next) => {
                    credential.metrics.rejected(RejectionOutcome::Absorbed);
                    discard(answer);
                    token = next;
                }
                None => {
                    credential.metrics.rejected(RejectionOutcome::PassedOn);
                    return Ok(self.deliver(answer));
                }
            }
        }
    }

    /// The token for a request; `None` where it may go without one. Where a reload has come in between, the
    /// request gets what it would get by the configuration that is in force now.
    async fn token_for(
        &self,
        selected: &mut Selected,
        parts: &Parts,
        record: &mut Record,
    ) -> Result<(Arc<Instance>, Option<Arc<Token>>), ProxyError> {
        loop {
            let credential = Arc::clone(&selected.credential);
            record.belongs_to(&credential);
            let instance = credential.instance(&selected.values).await.map_err(|error| {
                ProxyError::Instance { credential: Arc::clone(&credential.name), error }
            })?;
            if credential.only().is_none() {
                record.names(&instance.title);
            }
            match instance.slot.token().await {
                Ok(token) => return Ok((instance, Some(token))),
                Err(error) if error.is_reload() => match self.selected_now(selected, parts) {
                    Some(newer) => *selected = newer,
                    None => {
                        let credential = instance.title.clone();
                        return Err(ProxyError::Token { credential, error });
                    }
                },
                Err(_) if credential.forward_without_token => return Ok((instance, None)),
                Err(error) => {
                    let credential = instance.title.clone();
                    return Err(ProxyError::Token { credential, error });
                }
            }
        }
    }

    /// The credential of the same name that is in force now, if it is for this request as well.
    fn selected_now(&self, before: &Selected, parts: &Parts) -> Option<Selected> {
        let credentials = self.shared.credentials();
        let (path, fields) = (parts.uri.path(), &parts.headers);
        match credentials.for_request(&before.origin, &parts.method, path, fields, None) {
            Selection::Selected(now)
                if now.origin == before.origin
                    && now.credential.name == before.credential.name
                    && !Arc::ptr_eq(&now.credential, &before.credential) =>
            {
                Some(now)
            }
            _ => None,
        }
    }

    /// Makes an origin server's answer one for the client.
    fn deliver(&self, answer: Response<Body>) -> Response<Body> {
        let (mut parts, body) = answer.into_parts();
        message::prepare_for_client(&mut parts.headers, parts.version, self.via());
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        Response::from_parts(parts, body)
    }

    /// Sends a draft, and again if a kept connection turned out to be closed: then an origin server
    /// that has answered nothing may have seen it, which a safe method does not mind (RFC 9110
    /// §9.2.2). What is added is made anew each time: a proof that it has seen is worth nothing.
    async fn exchange<'a>(
        &self,
        route: Route<'_>,
        draft: &mut Draft,
        additions: impl Fn(&Draft) -> Result<Option<Additions<'a>>, ProxyError>,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let mut stale = 0;
        loop {
            let request = draft.attempt(additions(draft)?.as_ref());
            let went_out = record.went_out();
            let sent = self.origins.send(route, request, &draft.passage).await;
            record.came_back(went_out);
            match sent {
                Ok((answer, returning)) => {
                    return Ok(answer.map(|body| Body::of_origin(body, returning)));
                }
                Err(error) if error.stale && stale < STALE_TRIES && draft.is_harmless() => {
                    stale += 1;
                }
                Err(_) if draft.passage.is_too_large() => {
                    return Err(MessageError::ContentTooLarge.into());
                }
                Err(error) => return Err(error.error.into()),
            }
        }
    }
}

/// What an answer says of the token that went with the request.
enum Verdict {
    /// Nothing that another token could mend.
    Accepted,
    Rejected,
    /// The token may be as good as before: its proof lacked a nonce, which is known now.
    ProofLacksNonce,
}

/// A nonce counts only if it is another than the one that was `sent`: a server that asks again for
/// that one wants something else, and a token that is bound to a key may be rejected like any other.
/// Whether a request that ran beside this one has learned it before does not matter.
async fn judge(
    credential: &Credential,
    origin: &Origin,
    token: &Token,
    sent: Option<&str>,
    answer: &mut Response<Body>,
) -> Verdict {
    if token.key().is_some() {
        let is_news = credential.nonces.learn(origin, sent, answer.headers());
        let is_unauthorized = answer.status() == StatusCode::UNAUTHORIZED;
        if is_news && is_unauthorized && challenge::wants_nonce(answer.headers()) {
            return Verdict::ProofLacksNonce;
        }
    }
    match is_rejected(credential, token.key().is_some(), answer).await {
        true => Verdict::Rejected,
        false => Verdict::Accepted,
    }
}

/// Does an answer reject what the credential has put on the request? Says if that cannot be known.
async fn is_rejected(credential: &Credential, is_bound: bool, answer: &mut Response<Body>) -> bool {
    is_rejection(&credential.rejections, is_bound, answer).await.unwrap_or_else(|unread| {
        if credential.metrics.unread(unread.kind()) {
            let (credential, status) = (&*credential.name, answer.status().as_u16());
            tracing::warn!(
                credential,
                status,
                "an answer that `refresh_on` has a rule for was passed on unread: {unread}; it will not be \
                 said again, bearerd_unread_answers counts them"
            );
        }
        false
    })
}

/// Did the client bring something of its own that is to stay, so that the request gets no token?
///
/// # Errors
///
/// The credential refuses such requests.
pub(super) fn keeps_its_own(
    credential: &Credential,
    parts: &Parts,
    record: &mut Record,
) -> Result<bool, ProxyError> {
    let injection = &credential.injection;
    if !injection.is_present(&parts.headers, &parts.uri) {
        return Ok(false);
    }
    let (keeps, became) = match injection.on_existing {
        OnExisting::Replace => (false, "replaced"),
        OnExisting::Keep => (true, "kept"),
        OnExisting::Reject => return Err(ProxyError::Existing(Arc::clone(&credential.name))),
    };
    record.belongs_to(credential);
    if let Some(line) = &mut record.line {
        line.existing = Some(became);
    }
    Ok(keeps)
}

/// A request that may have to be written more than once.
struct Draft {
    method: Method,
    uri: Uri,
    /// The protocol that is preferred towards the origin server: the client's.
    version: Version,
    fields: HeaderMap,
    body: DraftBody,
    passage: Arc<Passage>,
}

/// How much of a body may be kept.
struct Keep {
    limit: u64,
    budget: Arc<Budget>,
}

enum DraftBody {
    None,
    Once(Option<ClientContent>),
    Kept(Box<ReplayBody<ClientContent>>),
}

impl Draft {
    /// Takes a client's request apart; its body is kept only where a token may be rejected.
    fn new(
        mut parts: Parts,
        body: ClientContent,
        origin: &Origin,
        via: &Via,
        keep: Option<Keep>,
    ) -> Self {
        let version = parts.version;
        message::prepare_for_origin(&mut parts, origin, via);
        let passage = body.passage();
        let body = match keep {
            _ if body.is_end_stream() => DraftBody::None,
            None => DraftBody::Once(Some(body)),
            Some(Keep { limit, budget }) => {
                DraftBody::Kept(Box::new(ReplayBody::new(body, limit, budget)))
            }
        };
        Self { method: parts.method, uri: parts.uri, version, fields: parts.headers, body, passage }
    }

    /// Can all of it be sent once more?
    fn can_repeat(&self) -> bool {
        match &self.body {
            DraftBody::None => true,
            DraftBody::Once(body) => body.is_some(),
            DraftBody::Kept(body) => body.can_repeat(),
        }
    }

    /// Can it, and may it, after this answer?
    fn can_repeat_after(&self, answer: &Response<Body>) -> bool {
        let is_harmless = is_unauthorized(answer.status(), answer.headers());
        (is_harmless || self.method.is_idempotent()) && self.can_repeat()
    }

    /// Would it do no harm if an origin server got it twice?
    fn is_harmless(&self) -> bool {
        self.method.is_safe() && self.can_repeat()
    }

    /// The request as it goes out.
    fn attempt(&mut self, additions: Option<&Additions<'_>>) -> Request<RequestBody> {
        let mut request = Request::new(match &mut self.body {
            DraftBody::None => RequestBody::Empty,
            DraftBody::Once(body) => body.take().map_or(RequestBody::Empty, RequestBody::Once),
            DraftBody::Kept(body) => RequestBody::Replay(body.again()),
        });
        *request.method_mut() = self.method.clone();
        *request.version_mut() = self.version;
        let (mut fields, mut uri) = (self.fields.clone(), self.uri.clone());
        if let Some(additions) = additions {
            additions.put_on(&mut fields, &mut uri);
        }
        *request.headers_mut() = fields;
        *request.uri_mut() = uri;
        request
    }
}

/// What is asked for, whatever its query: the method and the path, hashed with a key of this process, because
/// strangers choose them.
fn target_of(method: &Method, uri: &Uri) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut hasher = KEY.build_hasher();
    hasher.write(method.as_str().as_bytes());
    hasher.write(uri.path().as_bytes());
    hasher.finish()
}

fn note_token(record: &mut Record, token: &Token) {
    if let Some(line) = &mut record.line {
        line.generation = Some(token.generation);
    }
}

/// Reads a short answer to its end, so that the connection can be used again.
fn discard(answer: Response<Body>) {
    let mut body = answer.into_body();
    let short = body.size_hint().upper().is_some_and(|length| length <= DISCARD);
    if short && !body.is_end_stream() {
        let reading = async move {
            while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
        };
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, reading));
    }
}
