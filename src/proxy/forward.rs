//! Sends a request to its origin server, and once more with a new token when the first was
//! rejected.
//!
//! Invariants: a request goes to the origin server at most twice because of its token, a safe one with a
//! brand-new token three times; what the client gets at the end is an origin server's answer, untouched,
//! also when that is another rejection; a token is only ever put on a request to the origin that
//! the credential was selected for, and a credential's client certificate only goes with its token.

mod draft;
mod secrets;
mod verdict;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use http::request::Parts;
use http::{Method, Response, Uri, Version};
use hyper::ext::ReasonPhrase;

use super::body::Body;
use super::content::ClientContent;
use super::error::ProxyError;
use super::fields;
use super::incoming_body::IncomingBody;
use super::interim::InterimRelay;
use super::origin_connection::DeliveryOutcome;
use super::origin_pools::{Route, SendError};
use super::record::Record;
use super::request_context::RequestContext;
use super::request_target::RequestRefusal;
use super::rewrite;
use super::{Proxy, Snapshot};
use crate::credential::{
    Additions, Credential, Destination, Instance, OnExisting, Selected, Selection,
};
use crate::metrics::RejectionOutcome;
use crate::origin::Origin;
use crate::token::{Sending, Token};
use draft::{Draft, Keep};
use verdict::{Verdict, discard, judge};

/// How often a request is sent again that was certainly not processed, or whose connection was closed before
/// anything came.
const REPETITIONS: u32 = 3;
/// How much of a request without a credential is kept for an origin server of HTTP/2, which may refuse it
/// unprocessed at any time.
const KEPT_WITHOUT_CREDENTIAL: u64 = 1024 * 1024;

/// What a request with a token is sent with.
struct Equipment<'a> {
    credential: &'a Credential,
    origin: &'a Origin,
    instance: &'a Instance,
    token: Arc<Token>,
    nonce: Option<String>,
}

impl Proxy {
    /// Forwards a request of no credential: untouched but for what every proxy changes.
    pub(super) async fn forward_plain(
        &self,
        call: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        origin: &Origin,
    ) -> Result<Response<Body>, ProxyError> {
        let content = call.snapshot.limit_content(&parts.headers, body, &call.inbound.activity)?;
        self.forward_untouched(call, parts, content, origin).await
    }

    async fn forward_untouched(
        &self,
        call: &mut RequestContext<'_>,
        parts: &mut Parts,
        content: ClientContent,
        origin: &Origin,
    ) -> Result<Response<Body>, ProxyError> {
        let keep = (parts.version == Version::HTTP_2).then(|| Keep {
            limit: KEPT_WITHOUT_CREDENTIAL,
            budget: call.snapshot.replay_budget(),
        });
        let mut draft = Draft::new(parts, content, origin, self.via(), keep);
        let route = call.route(origin, None);
        let answer = self.exchange(call, route, &mut draft, |_| Ok(None)).await?;
        Ok(self.deliver(answer))
    }

    /// Forwards a request with its credential's token.
    pub(super) async fn forward_with_token(
        &self,
        call: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        mut selected: Selected,
    ) -> Result<Response<Body>, ProxyError> {
        let mut content =
            call.snapshot.limit_content(&parts.headers, body, &call.inbound.activity)?;
        let (instance, token) = self.token_for(&mut selected, parts, call.record).await?;
        let origin = selected.origin.clone();
        let is_upgraded = call.is_upgraded(&origin) && selected.credential.rewrite_location;
        let answered = match token {
            None => Box::pin(self.forward_untouched(call, parts, content, &origin)).await,
            Some(token) => {
                content.belongs_to(&selected.credential);
                let draft = self.draft_with_token(call.snapshot, parts, content, &selected);
                self.send_with_token(call, draft, selected, &instance, token).await
            }
        };
        answered.map(|mut answer| {
            if is_upgraded {
                let is_ours = |origin: &Origin| call.snapshot.credentials.intercepts(origin);
                rewrite::to_plain_http(answer.headers_mut(), &origin, is_ours);
            }
            answer
        })
    }

    fn draft_with_token(
        &self,
        snapshot: &Snapshot,
        parts: &mut Parts,
        content: ClientContent,
        selected: &Selected,
    ) -> Draft {
        let credential = &selected.credential;
        let keep = Keep { limit: credential.replay_body, budget: snapshot.replay_budget() };
        let mut draft = Draft::new(parts, content, &selected.origin, self.via(), Some(keep));
        credential.injection.remove_lookalikes(&mut draft.fields);
        draft
    }

    /// Sends a request with a token, and again with the next one while that may help.
    async fn send_with_token(
        &self,
        call: &mut RequestContext<'_>,
        mut draft: Draft,
        selected: Selected,
        instance: &Instance,
        mut token: Arc<Token>,
    ) -> Result<Response<Body>, ProxyError> {
        let Selected { credential, origin, .. } = &selected;
        let metrics = &credential.metrics;
        let mut sending =
            Sending::first(target_of(&draft.method, &draft.uri), draft.method.is_safe());
        let mut proved_again = false;
        loop {
            note_token(call.record, &token);
            let nonce = token.key().and_then(|_| credential.nonces.of(origin));
            let sent = Equipment { credential, origin, instance, token: Arc::clone(&token), nonce };
            let mut answer = self.exchange_with_token(call, &mut draft, &sent).await?;
            match judge(credential, origin, &token, sent.nonce.as_deref(), &mut answer).await {
                Verdict::Accepted => {
                    instance.slot.accepted(&token, &sending);
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
            draft.pause();
            let can_repeat = draft.can_repeat_after(&answer);
            if credential.reread.is_some() {
                let draft = can_repeat.then_some(draft);
                return Box::pin(self.reread(call, &selected, draft, answer)).await;
            }
            let renewing = Box::pin(instance.slot.rejected(&token, &mut sending, can_repeat));
            let Some(next) = renewing.await else {
                metrics.rejected(RejectionOutcome::PassedOn);
                return Ok(self.deliver(answer));
            };
            metrics.rejected(RejectionOutcome::Absorbed);
            discard(answer);
            token = next;
        }
    }

    /// Sends a request with one token, with its credential's client certificate if it has one.
    async fn exchange_with_token(
        &self,
        call: &mut RequestContext<'_>,
        draft: &mut Draft,
        with: &Equipment<'_>,
    ) -> Result<Response<Body>, ProxyError> {
        let additions = |draft: &Draft| {
            let destination = Destination {
                method: &draft.method,
                origin: with.origin,
                target: &draft.uri,
                variables: with.instance.variables(),
                nonce: with.nonce.as_deref(),
            };
            let now = || self.shared.clock.now();
            let made = with.credential.injection.additions(&with.token, now, destination);
            let title = &with.instance.title;
            let unfit = |error| ProxyError::Injection { credential: Arc::clone(title), error };
            made.map(Some).map_err(unfit)
        };
        let route = call.route(with.origin, with.credential.identity.as_ref());
        self.exchange(call, route, draft, additions).await
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
    fn deliver(&self, mut answer: Response<Body>) -> Response<Body> {
        let version = answer.version();
        fields::prepare_for_client(answer.headers_mut(), version, self.via());
        *answer.version_mut() = Version::HTTP_11;
        let extensions = answer.extensions_mut();
        let reason = extensions.remove::<ReasonPhrase>();
        extensions.clear();
        if let Some(reason) = reason {
            extensions.insert(reason);
        }
        answer
    }

    /// Sends a draft, and again if it was certainly not processed, or, with a safe method (RFC 9110 §9.2.2), if a
    /// kept connection turned out to be closed: then an origin server that has answered nothing may have seen
    /// it. What is added is made anew each time: a proof that it has seen is worth nothing.
    async fn exchange<'a>(
        &self,
        call: &mut RequestContext<'_>,
        route: Route<'_>,
        draft: &mut Draft,
        additions: impl Fn(&Draft) -> Result<Option<Additions<'a>>, ProxyError>,
    ) -> Result<Response<Body>, ProxyError> {
        let interim = InterimRelay::new(call.interim(), draft.upload.clone());
        let interim = Arc::new(interim);
        let mut repetitions = 0;
        loop {
            let request = draft.attempt(additions(draft)?.as_ref());
            let went_out = call.record.went_out();
            let sent = self.origins.send(route, request, &interim).await;
            call.record.came_back(went_out);
            match sent {
                Ok((answer, returning)) => {
                    return Ok(answer.map(|body| Body::of_origin(body, returning)));
                }
                Err(error) if repetitions < REPETITIONS && may_repeat(&error, draft) => {
                    repetitions += 1;
                }
                Err(_) if draft.is_too_large() => {
                    return Err(RequestRefusal::ContentTooLarge.into());
                }
                Err(error) => return Err(error.error.into()),
            }
        }
    }
}

/// May a request without a response be sent again?
fn may_repeat(error: &SendError, draft: &Draft) -> bool {
    match error.outcome {
        DeliveryOutcome::NotProcessed | DeliveryOutcome::Http1Required => draft.can_repeat(),
        DeliveryOutcome::Closed => error.reused && draft.is_harmless(),
        DeliveryOutcome::Unknown => false,
    }
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
