//! Sends a request to its origin server, and again with a new token if the first one is rejected.
//!
//! Invariants:
//!
//! - Because of its token, a request is sent at most twice, or three times if it is safe and its token is new.
//! - The client gets the origin server's last response unchanged, even if that is another rejection.
//! - A token is only put on requests to the origin that the credential was selected for.
//! - A credential's client certificate is only used together with its token.

mod outgoing_request;
mod secret_retry;
mod token_check;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use http::request::Parts;
use http::{Method, Response, Uri, Version};
use hyper::ext::ReasonPhrase;

use super::client_content::ClientContent;
use super::error::ProxyError;
use super::fields;
use super::incoming_body::IncomingBody;
use super::interim::InterimRelay;
use super::origin_connection::DeliveryOutcome;
use super::origin_pools::{Route, SendError};
use super::plain_http_rewrite::rewrite_to_plain_http;
use super::request_context::RequestContext;
use super::request_record::RequestRecord;
use super::request_target::RequestRefusal;
use super::response_body::ResponseBody;
use super::{Proxy, Snapshot};
use crate::credential::{
    Additions, Credential, Destination, Instance, OnExisting, SelectedCredential, Selection,
};
use crate::metrics::RejectionOutcome;
use crate::origin::Origin;
use crate::token::{AccessToken, ResendState};
use outgoing_request::{OutgoingRequest, ReplayLimit};
use token_check::{TokenCheck, check_token, discard_response};

/// How often a request is sent again if it was certainly not processed, or if its connection was closed before any
/// byte of a response.
const MAX_RETRIES: u32 = 3;
/// The most bytes kept of a request without a credential over HTTP/2, where an origin server may refuse a request
/// unprocessed at any time.
const REPLAY_LIMIT_WITHOUT_CREDENTIAL: u64 = 1024 * 1024;

/// The token of one request, and what belongs to it.
struct TokenContext<'a> {
    credential: &'a Credential,
    origin: &'a Origin,
    instance: &'a Instance,
    token: Arc<AccessToken>,
    nonce: Option<String>,
}

impl Proxy {
    /// Forwards a request without a token, changing only what every proxy has to change.
    pub(super) async fn forward_plain(
        &self,
        ctx: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        origin: &Origin,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let content = ctx.snapshot.limit_content(&parts.headers, body, &ctx.client.activity)?;
        self.forward_untouched(ctx, parts, content, origin).await
    }

    /// As [`Proxy::forward_plain`], with content that is limited already.
    async fn forward_untouched(
        &self,
        ctx: &mut RequestContext<'_>,
        parts: &mut Parts,
        content: ClientContent,
        origin: &Origin,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let replay = (parts.version == Version::HTTP_2).then(|| ReplayLimit {
            bytes: REPLAY_LIMIT_WITHOUT_CREDENTIAL,
            budget: ctx.snapshot.replay_budget(),
        });
        let mut outgoing = OutgoingRequest::new(parts, content, origin, self.via(), replay);
        let route = ctx.route(origin, None);
        let response = self.exchange(ctx, route, &mut outgoing, |_| Ok(None)).await?;
        Ok(self.prepare_response(response))
    }

    /// Forwards a request with its credential's token.
    pub(super) async fn forward_with_token(
        &self,
        ctx: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        mut selected: SelectedCredential,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let mut content = ctx.snapshot.limit_content(&parts.headers, body, &ctx.client.activity)?;
        let (instance, token) = self.obtain_token(&mut selected, parts, ctx.record).await?;
        let origin = selected.origin.clone();
        let is_upgraded = ctx.is_upgraded(&origin) && selected.credential.rewrite_location;
        let result = match token {
            None => Box::pin(self.forward_untouched(ctx, parts, content, &origin)).await,
            Some(token) => {
                content.set_credential(&selected.credential);
                let outgoing = self.outgoing_with_token(ctx.snapshot, parts, content, &selected);
                self.send_with_token(ctx, outgoing, selected, &instance, token).await
            }
        };
        result.map(|mut response| {
            if is_upgraded {
                let is_intercepted = |origin: &Origin| ctx.snapshot.credentials.intercepts(origin);
                rewrite_to_plain_http(response.headers_mut(), &origin, is_intercepted);
            }
            response
        })
    }

    fn outgoing_with_token(
        &self,
        snapshot: &Snapshot,
        parts: &mut Parts,
        content: ClientContent,
        selected: &SelectedCredential,
    ) -> OutgoingRequest {
        let credential = &selected.credential;
        let replay =
            ReplayLimit { bytes: credential.replay_body, budget: snapshot.replay_budget() };
        let mut outgoing =
            OutgoingRequest::new(parts, content, &selected.origin, self.via(), Some(replay));
        credential.injection.remove_lookalikes(&mut outgoing.fields);
        outgoing
    }

    /// Sends a request with a token, and again with a new one as long as that may help.
    async fn send_with_token(
        &self,
        ctx: &mut RequestContext<'_>,
        mut outgoing: OutgoingRequest,
        selected: SelectedCredential,
        instance: &Instance,
        mut token: Arc<AccessToken>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let SelectedCredential { credential, origin, .. } = &selected;
        let metrics = &credential.metrics;
        let mut resend = ResendState::first(
            target_hash(&outgoing.method, &outgoing.uri),
            outgoing.method.is_safe(),
        );
        let mut has_retried_nonce = false;
        loop {
            record_token(ctx.record, &token);
            let nonce = token.key().and_then(|_| credential.nonces.of(origin));
            let context =
                TokenContext { credential, origin, instance, token: Arc::clone(&token), nonce };
            let mut response = self.exchange_with_token(ctx, &mut outgoing, &context).await?;
            let nonce = context.nonce.as_deref();
            match check_token(credential, origin, &token, nonce, &mut response).await {
                TokenCheck::Accepted => {
                    instance.slot.accepted(&token, &resend);
                    return Ok(self.prepare_response(response));
                }
                TokenCheck::NonceRequired if !has_retried_nonce && outgoing.can_send_again() => {
                    has_retried_nonce = true;
                    discard_response(response);
                    continue;
                }
                TokenCheck::NonceRequired => return Ok(self.prepare_response(response)),
                TokenCheck::Rejected => {}
            }
            outgoing.pause();
            let can_retry = outgoing.can_send_again_after(&response);
            if credential.reread.is_some() {
                let outgoing = can_retry.then_some(outgoing);
                let retry = self.retry_with_new_secrets(ctx, &selected, outgoing, response);
                return Box::pin(retry).await;
            }
            let renewal = Box::pin(instance.slot.rejected(&token, &mut resend, can_retry));
            let Some(next) = renewal.await else {
                metrics.record_rejection(RejectionOutcome::PassedOn);
                return Ok(self.prepare_response(response));
            };
            metrics.record_rejection(RejectionOutcome::Absorbed);
            discard_response(response);
            token = next;
        }
    }

    /// Sends a request with one token, and with the credential's client certificate if it has one.
    async fn exchange_with_token(
        &self,
        ctx: &mut RequestContext<'_>,
        outgoing: &mut OutgoingRequest,
        context: &TokenContext<'_>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let additions = |outgoing: &OutgoingRequest| {
            let destination = Destination {
                method: &outgoing.method,
                origin: context.origin,
                target: &outgoing.uri,
                variables: context.instance.variables(),
                nonce: context.nonce.as_deref(),
            };
            let now = || self.shared.clock.now();
            let injection = &context.credential.injection;
            let additions = injection.additions(&context.token, now, destination);
            let title = &context.instance.title;
            let error = |error| ProxyError::Injection { credential: Arc::clone(title), error };
            additions.map(Some).map_err(error)
        };
        let route = ctx.route(context.origin, context.credential.identity.as_ref());
        self.exchange(ctx, route, outgoing, additions).await
    }

    /// Returns the token for a request, or `None` if the request may be sent without one. If a reload has replaced the
    /// credential in the meantime, the current configuration applies.
    async fn obtain_token(
        &self,
        selected: &mut SelectedCredential,
        parts: &Parts,
        record: &mut RequestRecord,
    ) -> Result<(Arc<Instance>, Option<Arc<AccessToken>>), ProxyError> {
        loop {
            let credential = Arc::clone(&selected.credential);
            record.set_credential(&credential);
            let instance = credential.instance(&selected.values).await.map_err(|error| {
                ProxyError::Instance { credential: Arc::clone(&credential.name), error }
            })?;
            if credential.sole_instance().is_none() {
                record.set_credential_title(&instance.title);
            }
            match instance.slot.token().await {
                Ok(token) => return Ok((instance, Some(token))),
                Err(error) if error.is_reload() => match self.reselect(selected, parts) {
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

    /// Returns the current credential of the same name, if it differs and also applies to this request.
    fn reselect(&self, before: &SelectedCredential, parts: &Parts) -> Option<SelectedCredential> {
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

    /// Prepares an origin server's response for the client.
    fn prepare_response(&self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let version = response.version();
        fields::prepare_for_client(response.headers_mut(), version, self.via());
        *response.version_mut() = Version::HTTP_11;
        let extensions = response.extensions_mut();
        let reason = extensions.remove::<ReasonPhrase>();
        extensions.clear();
        if let Some(reason) = reason {
            extensions.insert(reason);
        }
        response
    }

    /// Sends a request and returns the response, whatever its status.
    ///
    /// Sends the request again if it was certainly not processed. A safe request (RFC 9110 §9.2.1) is also sent again
    /// if a reused connection turns out to be closed, although the origin server may have seen it then. `additions` is
    /// called for each attempt, because a DPoP proof can be used only once.
    async fn exchange<'a>(
        &self,
        ctx: &mut RequestContext<'_>,
        route: Route<'_>,
        outgoing: &mut OutgoingRequest,
        additions: impl Fn(&OutgoingRequest) -> Result<Option<Additions<'a>>, ProxyError>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let interim = Arc::new(InterimRelay::new(ctx.interim(), outgoing.progress.clone()));
        let mut retries = 0;
        loop {
            let request = outgoing.start_attempt(additions(outgoing)?.as_ref());
            let started = ctx.record.start_attempt();
            let result = self.origins.send(route, request, &interim).await;
            ctx.record.finish_attempt(started);
            match result {
                Ok((response, guard)) => {
                    return Ok(response.map(|body| ResponseBody::from_origin(body, guard)));
                }
                Err(error) if retries < MAX_RETRIES && can_retry(&error, outgoing) => {
                    retries += 1;
                }
                Err(_) if outgoing.is_too_large() => {
                    return Err(RequestRefusal::ContentTooLarge.into());
                }
                Err(error) => return Err(error.error.into()),
            }
        }
    }
}

/// Returns true if a request that got no response can be sent again.
fn can_retry(error: &SendError, outgoing: &OutgoingRequest) -> bool {
    match error.outcome {
        DeliveryOutcome::NotProcessed | DeliveryOutcome::Http1Required => outgoing.can_send_again(),
        DeliveryOutcome::Closed => error.is_reused && outgoing.can_be_processed_twice(),
        DeliveryOutcome::Unknown => false,
    }
}

/// Returns true if the client's own credential is kept and none is added.
///
/// # Errors
///
/// [`ProxyError::Existing`] if the request has a credential of its own and `on_existing` is `reject`.
pub(super) fn keeps_client_credential(
    credential: &Credential,
    parts: &Parts,
    record: &mut RequestRecord,
) -> Result<bool, ProxyError> {
    let injection = &credential.injection;
    if !injection.is_present(&parts.headers, &parts.uri) {
        return Ok(false);
    }
    let (is_kept, existing) = match injection.on_existing {
        OnExisting::Replace => (false, "replaced"),
        OnExisting::Keep => (true, "kept"),
        OnExisting::Reject => return Err(ProxyError::Existing(Arc::clone(&credential.name))),
    };
    record.set_credential(credential);
    if let Some(entry) = &mut record.log_entry {
        entry.existing = Some(existing);
    }
    Ok(is_kept)
}

/// Hashes the method and the path of a request, without its query. The key is random for each process, because clients
/// choose the input.
fn target_hash(method: &Method, uri: &Uri) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut hasher = KEY.build_hasher();
    hasher.write(method.as_str().as_bytes());
    hasher.write(uri.path().as_bytes());
    hasher.finish()
}

fn record_token(record: &mut RequestRecord, token: &AccessToken) {
    if let Some(entry) = &mut record.log_entry {
        entry.generation = Some(token.generation);
    }
}
