//! A client's request as it can be sent: more than once, where its content allows.

use std::sync::Arc;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Response, Uri, Version};

use crate::credential::{Additions, is_unauthorized};
use crate::origin::Origin;
use crate::proxy::body::Body;
use crate::proxy::content::{ClientContent, RequestBody, Upload, is_complete};
use crate::proxy::fields::{self, Via};
use crate::proxy::origin_pools::ReusableConnection;
use crate::proxy::release::Release;
use crate::proxy::replay::{Budget, Paused, ReplayBody};

/// A request that may have to be written more than once.
pub(super) struct Draft {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// The protocol that is preferred towards the origin server: the client's.
    version: Version,
    pub(super) fields: HeaderMap,
    body: DraftBody,
    pub(super) upload: Option<Arc<Upload>>,
    /// The attempt under way.
    attempt: Option<Arc<Release<ReusableConnection>>>,
    /// It reads nothing more of the content.
    paused: Option<Paused<ClientContent>>,
}

/// How much of a body may be kept.
pub(super) struct Keep {
    pub(super) limit: u64,
    pub(super) budget: Arc<Budget>,
}

enum DraftBody {
    None,
    Once(Option<ClientContent>),
    Kept(Box<ReplayBody<ClientContent>>),
}

impl Draft {
    /// Takes a client's request apart; its body is kept only where a token may be rejected.
    pub(super) fn new(
        parts: &mut Parts,
        body: ClientContent,
        origin: &Origin,
        via: &Via,
        keep: Option<Keep>,
    ) -> Self {
        let version = parts.version;
        fields::prepare_for_origin(parts, origin, via);
        let upload = body.upload();
        let body = match keep {
            _ if is_complete(&body) => DraftBody::None,
            None => DraftBody::Once(Some(body)),
            Some(Keep { limit, budget }) => {
                DraftBody::Kept(Box::new(ReplayBody::new(body, limit, budget)))
            }
        };
        Self {
            method: std::mem::take(&mut parts.method),
            uri: std::mem::take(&mut parts.uri),
            version,
            fields: std::mem::take(&mut parts.headers),
            body,
            upload,
            attempt: None,
            paused: None,
        }
    }

    /// Can all of it be sent once more?
    pub(super) fn can_repeat(&self) -> bool {
        match &self.body {
            DraftBody::None => true,
            DraftBody::Once(body) => body.is_some(),
            DraftBody::Kept(body) => body.can_repeat(),
        }
    }

    /// Reads no more of the content until the next attempt, or until this draft is dropped. So what can be sent again
    /// now still can when there is something to send it with.
    pub(super) fn pause(&mut self) {
        if let DraftBody::Kept(body) = &self.body {
            self.paused = Some(body.pause(ClientContent::is_left));
        }
    }

    /// Can it, and may it, after this answer?
    pub(super) fn can_repeat_after(&self, answer: &Response<Body>) -> bool {
        let is_harmless = is_unauthorized(answer.status(), answer.headers());
        (is_harmless || self.method.is_idempotent()) && self.can_repeat()
    }

    /// Did the client's content break off because it was too large?
    pub(super) fn is_too_large(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_too_large())
    }

    /// Would it do no harm if an origin server got it twice?
    pub(super) fn is_harmless(&self) -> bool {
        self.method.is_safe() && self.can_repeat()
    }

    /// The request as it goes out. If the attempt before it has not sent all of the content, its connection closes.
    pub(super) fn attempt(&mut self, additions: Option<&Additions<'_>>) -> Request<RequestBody> {
        let mut request = Request::new(self.content());
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

    fn content(&mut self) -> RequestBody {
        if let Some(before) = self.attempt.take() {
            before.supersede();
        }
        self.paused = None;
        let content = match &mut self.body {
            DraftBody::None => RequestBody::default(),
            DraftBody::Once(content) => {
                content.take().map_or_else(RequestBody::gone, RequestBody::once)
            }
            DraftBody::Kept(kept) => RequestBody::replay(kept.again(), self.upload.clone()),
        };
        self.attempt = content.end();
        content
    }
}
