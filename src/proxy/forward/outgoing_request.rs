//! A client's request in a form that can be sent several times, if its content allows.

use std::sync::Arc;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Response, Uri, Version};

use crate::credential::{Additions, is_unauthorized};
use crate::origin::Origin;
use crate::proxy::client_content::{ClientContent, is_complete};
use crate::proxy::exchange_completion::ExchangeCompletion;
use crate::proxy::fields::{self, Via};
use crate::proxy::origin_pools::ConnectionLease;
use crate::proxy::replay::{PauseGuard, ReplayBody, ReplayBudget};
use crate::proxy::request_body::RequestBody;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::upload_progress::UploadProgress;

/// A request that may be sent several times.
pub(super) struct OutgoingRequest {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// The client's HTTP version, which is preferred for the origin server as well.
    version: Version,
    pub(super) fields: HeaderMap,
    body: OutgoingBody,
    /// `None` if the request has no content.
    pub(super) progress: Option<Arc<UploadProgress>>,
    /// The exchange of the current attempt.
    attempt: Option<Arc<ExchangeCompletion<ConnectionLease>>>,
    /// Keeps the current attempt from reading more of the content.
    pause: Option<PauseGuard<ClientContent>>,
}

/// How much of a body may be kept.
pub(super) struct ReplayLimit {
    /// The most bytes of this body.
    pub(super) bytes: u64,
    /// What all bodies together may keep.
    pub(super) budget: Arc<ReplayBudget>,
}

enum OutgoingBody {
    Empty,
    /// `None` once it has been sent.
    Once(Option<ClientContent>),
    Replay(Box<ReplayBody<ClientContent>>),
}

impl OutgoingRequest {
    /// Takes the method, target and fields out of `parts` and prepares them for `origin`. With `replay`, the content
    /// is kept up to that limit so that it can be sent again.
    pub(super) fn new(
        parts: &mut Parts,
        content: ClientContent,
        origin: &Origin,
        via: &Via,
        replay: Option<ReplayLimit>,
    ) -> Self {
        let version = parts.version;
        fields::prepare_for_origin(parts, origin, via);
        let progress = content.progress();
        let body = match replay {
            _ if is_complete(&content) => OutgoingBody::Empty,
            None => OutgoingBody::Once(Some(content)),
            Some(ReplayLimit { bytes, budget }) => {
                OutgoingBody::Replay(Box::new(ReplayBody::new(content, bytes, budget)))
            }
        };
        Self {
            method: std::mem::take(&mut parts.method),
            uri: std::mem::take(&mut parts.uri),
            version,
            fields: std::mem::take(&mut parts.headers),
            body,
            progress,
            attempt: None,
            pause: None,
        }
    }

    /// Returns true if all of the content can be sent again.
    pub(super) fn can_send_again(&self) -> bool {
        match &self.body {
            OutgoingBody::Empty => true,
            OutgoingBody::Once(content) => content.is_some(),
            OutgoingBody::Replay(body) => body.can_restart(),
        }
    }

    /// Returns true if the request can be sent again after `response`: the origin server did not act on it, or the
    /// method is idempotent (RFC 9110 §9.2.2).
    pub(super) fn can_send_again_after(&self, response: &Response<ResponseBody>) -> bool {
        let was_not_processed = is_unauthorized(response.status(), response.headers());
        (was_not_processed || self.method.is_idempotent()) && self.can_send_again()
    }

    /// Returns true if the request can be sent again although the origin server may have processed it.
    pub(super) fn can_be_processed_twice(&self) -> bool {
        self.method.is_safe() && self.can_send_again()
    }

    /// Stops reading the content until the next attempt, or until `self` is dropped. So a request that can be sent
    /// again now still can be when the next token is available.
    pub(super) fn pause(&mut self) {
        if let OutgoingBody::Replay(body) = &self.body {
            self.pause = Some(body.pause(ClientContent::stop_waiting));
        }
    }

    /// Returns true if the client's content exceeded `limits.body_bytes`.
    pub(super) fn is_too_large(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.is_too_large())
    }

    /// Returns the request to send. If the previous attempt has not sent all of the content, its connection closes.
    pub(super) fn start_attempt(
        &mut self,
        additions: Option<&Additions<'_>>,
    ) -> Request<RequestBody> {
        let mut request = Request::new(self.start_body());
        *request.method_mut() = self.method.clone();
        *request.version_mut() = self.version;
        let (mut fields, mut uri) = (self.fields.clone(), self.uri.clone());
        if let Some(additions) = additions {
            additions.apply(&mut fields, &mut uri);
        }
        *request.headers_mut() = fields;
        *request.uri_mut() = uri;
        request
    }

    fn start_body(&mut self) -> RequestBody {
        if let Some(previous) = self.attempt.take() {
            previous.supersede();
        }
        self.pause = None;
        let body = match &mut self.body {
            OutgoingBody::Empty => RequestBody::default(),
            OutgoingBody::Once(content) => {
                content.take().map_or_else(RequestBody::unavailable, RequestBody::once)
            }
            OutgoingBody::Replay(body) => {
                RequestBody::replay(body.restart(), self.progress.clone())
            }
        };
        self.attempt = body.completion();
        body
    }
}
