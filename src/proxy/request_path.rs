//! The steps of a request, in order.

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body as _;
use rustls::ServerConfig;

use super::access_log::AccessLogEntry;
use super::connection::{MessageGuard, Watchdog};
use super::error::ProxyError;
use super::fields::Via;
use super::forward;
use super::incoming_body::IncomingBody;
use super::local_resources::{is_own_name, options, stub_tokens};
use super::local_response::ResponseFormat;
use super::origin_pools::OriginPools;
use super::request_context::RequestContext;
use super::request_record::RequestRecord;
use super::request_target::{AsteriskForm, RequestRefusal, RequestTarget, request_target};
use super::response_body::ResponseBody;
use super::server::ClientConnection;
use super::shared_state::SharedState;
use super::snapshot::Snapshot;
use crate::ca::CaError;
use crate::credential::Selection;
use crate::origin::{Host, Origin};

/// The request path of one core.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(super) shared: Arc<SharedState>,
    pub(super) origins: OriginPools,
    pub(super) watchdog: Watchdog,
}

impl Proxy {
    pub(crate) fn new(shared: Arc<SharedState>) -> Self {
        Self { shared, origins: OriginPools::default(), watchdog: Watchdog::new() }
    }

    /// Turns a request into a response, always.
    pub(super) async fn serve(
        self: &Arc<Self>,
        request: Request<IncomingBody>,
        inbound: &ClientConnection,
        serving: MessageGuard,
    ) -> Response<ResponseBody> {
        let request_id = self.shared.request_ids.next();
        let accepts = ResponseFormat::of(request.headers());
        let (version, has_content) = (request.version(), !request.body().is_end_stream());
        let snapshot = self.shared.snapshot.load_full();
        let line = || Box::new(AccessLogEntry::new(&request_id.to_string(), request.method()));
        let line = snapshot.config.access_log.then(line);
        let mut record = RequestRecord::new(Arc::clone(&snapshot.unmatched_metrics), line);
        inbound.interim.set_open(true);
        let mut call = RequestContext {
            snapshot: &snapshot,
            inbound,
            record: &mut record,
            is_http10: version == Version::HTTP_10,
            asked: None,
        };
        let walked = self.walk(&mut call, request).await;
        inbound.interim.set_open(false);
        let is_refused = walked.is_err();
        let mut response = walked.unwrap_or_else(|error| {
            record.record_error(&error, request_id);
            if let Some(limit) = error.limit() {
                self.shared.metrics.record_limit(limit);
            }
            error.response(accepts, &request_id.to_string())
        });
        // What is left of the content is not read. HTTP/2 has other words for both.
        let closes = self.watchdog.is_draining() || (is_refused && has_content);
        if closes && version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.record_response(response.status());
        inbound.activity.answers();
        response.map(|body| body.with_ending(serving, record))
    }

    /// The walk, in order; what goes wrong on the way becomes a response in `serve`.
    async fn walk(
        self: &Arc<Self>,
        call: &mut RequestContext<'_>,
        request: Request<IncomingBody>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (mut parts, body) = request.into_parts();
        if call.inbound.is_asterisk() {
            parts.extensions.insert(AsteriskForm);
        }
        call.snapshot.check_head_size(&parts)?;
        let target = request_target(&parts, call.inbound.session.as_deref())?;
        call.record.set_target(&target, &parts);
        if self.shared.via.is_in(&parts.headers) {
            return Err(RequestRefusal::Loop.into());
        }
        match target {
            RequestTarget::Connect(authority) => {
                let request = Request::from_parts(parts, body);
                Box::pin(self.connect(call, request, authority)).await
            }
            RequestTarget::Proxy => Ok(options()),
            RequestTarget::Origin(origin) if is_own_name(&origin) => {
                Ok(self.own_resource(call.snapshot, &parts))
            }
            RequestTarget::Origin(origin) => {
                call.snapshot.check_trailing_dot(&origin)?;
                call.asked = Some(origin.scheme);
                self.forward(call, &mut parts, body, origin).await
            }
        }
    }

    /// Which credential the request is for, if any, and what follows from it.
    async fn forward(
        &self,
        call: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        origin: Origin,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (snapshot, client) = (call.snapshot, call.inbound.client.as_deref());
        let credentials = &snapshot.credentials;
        let path = parts.uri.path();
        match credentials.for_request(&origin, &parts.method, path, &parts.headers, client) {
            Selection::Selected(selected) => {
                selected.credential.remove_variable_fields(&mut parts.headers);
                selected.credential.remove_overrides(&mut parts.headers);
                if forward::keeps_client_credential(&selected.credential, parts, call.record)? {
                    return self.forward_plain(call, parts, body, &selected.origin).await;
                }
                self.forward_with_token(call, parts, body, selected).await
            }
            Selection::Unmatched(origin) => {
                snapshot.check_unmatched(ProxyError::UnmatchedPath)?;
                self.forward_plain(call, parts, body, &origin).await
            }
            Selection::UnknownHost => {
                snapshot.check_unmatched(ProxyError::Unmatched)?;
                self.forward_plain(call, parts, body, &origin).await
            }
            Selection::Ambiguous => Err(RequestRefusal::Path.into()),
            Selection::Stub(credential) => {
                call.record.set_credential(&credential);
                Ok(stub_tokens())
            }
            Selection::Refused(credential, error) => {
                call.record.set_credential(&credential);
                Err(ProxyError::Choice { credential: Arc::clone(&credential.name), error })
            }
        }
    }

    pub(super) fn server_config(
        &self,
        snapshot: &Snapshot,
        host: &Host,
    ) -> Result<Arc<ServerConfig>, Arc<CaError>> {
        match &snapshot.ca {
            Some(ca) => ca.server_config(host, self.shared.clock.now()),
            None => Err(Arc::new(CaError::Missing)),
        }
    }

    pub(super) fn via(&self) -> &Via {
        &self.shared.via
    }
}
