//! The steps of a request, in order.

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body as _;
use rustls::ServerConfig;

use super::access_log::AccessLogEntry;
use super::activity::{MessageGuard, Watchdog};
use super::client_connection::ClientConnection;
use super::error::ProxyError;
use super::fields::Via;
use super::forward;
use super::incoming_body::IncomingBody;
use super::local_resources::{is_local_name, options_response, stub_token_response};
use super::local_response::ResponseFormat;
use super::origin_pools::OriginPools;
use super::request_context::RequestContext;
use super::request_record::RequestRecord;
use super::request_target::{AsteriskForm, RequestRefusal, RequestTarget, request_target};
use super::response_body::ResponseBody;
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

    /// Serves one request. Every error becomes a response here.
    pub(super) async fn serve(
        self: &Arc<Self>,
        request: Request<IncomingBody>,
        client: &ClientConnection,
        message_guard: MessageGuard,
    ) -> Response<ResponseBody> {
        let request_id = self.shared.request_ids.next();
        let format = ResponseFormat::of(request.headers());
        let (version, has_content) = (request.version(), !request.body().is_end_stream());
        let snapshot = self.shared.snapshot.load_full();
        let log_entry = || Box::new(AccessLogEntry::new(&request_id.to_string(), request.method()));
        let log_entry = snapshot.config.access_log.then(log_entry);
        let mut record = RequestRecord::new(Arc::clone(&snapshot.unmatched_metrics), log_entry);
        client.interim.set_open(true);
        let mut context = RequestContext {
            snapshot: &snapshot,
            client,
            record: &mut record,
            is_http10: version == Version::HTTP_10,
            requested_scheme: None,
        };
        let result = self.route(&mut context, request).await;
        client.interim.set_open(false);
        let is_refused = result.is_err();
        let mut response = result.unwrap_or_else(|error| {
            record.record_error(&error, request_id);
            if let Some(limit) = error.limit() {
                self.shared.metrics.record_limit(limit);
            }
            error.response(format, &request_id.to_string())
        });
        // The rest of a refused request's content is not read. HTTP/2 has no `Connection` field: it
        // uses GOAWAY and resets the stream instead.
        let should_close = self.watchdog.is_draining() || (is_refused && has_content);
        if should_close && version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.record_response(response.status());
        client.activity.start_response();
        response.map(|body| body.with_ending(message_guard, record))
    }

    /// Determines what the request is for and who answers it.
    async fn route(
        self: &Arc<Self>,
        context: &mut RequestContext<'_>,
        request: Request<IncomingBody>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (mut parts, body) = request.into_parts();
        if context.client.take_asterisk_form() {
            parts.extensions.insert(AsteriskForm);
        }
        context.snapshot.check_head_size(&parts)?;
        let target = request_target(&parts, context.client.session.as_deref())?;
        context.record.set_target(&target, &parts);
        if self.shared.via.is_present_in(&parts.headers) {
            return Err(RequestRefusal::Loop.into());
        }
        match target {
            RequestTarget::Connect(authority) => {
                let request = Request::from_parts(parts, body);
                Box::pin(self.connect(context, request, authority)).await
            }
            RequestTarget::Proxy => Ok(options_response()),
            RequestTarget::Origin(origin) if is_local_name(&origin) => {
                Ok(self.local_resource(context.snapshot, &parts))
            }
            RequestTarget::Origin(origin) => {
                context.snapshot.check_trailing_dot(&origin)?;
                context.requested_scheme = Some(origin.scheme);
                self.select_credential(context, &mut parts, body, origin).await
            }
        }
    }

    /// Selects the credential that matches the request, if any, and forwards the request.
    async fn select_credential(
        &self,
        context: &mut RequestContext<'_>,
        parts: &mut Parts,
        body: IncomingBody,
        origin: Origin,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let (snapshot, client_name) = (context.snapshot, context.client.client_name.as_deref());
        let credentials = &snapshot.credentials;
        let path = parts.uri.path();
        match credentials.for_request(&origin, &parts.method, path, &parts.headers, client_name) {
            Selection::Selected(selected) => {
                selected.credential.remove_variable_fields(&mut parts.headers);
                selected.credential.remove_overrides(&mut parts.headers);
                if forward::keeps_client_credential(&selected.credential, parts, context.record)? {
                    return self.forward_plain(context, parts, body, &selected.origin).await;
                }
                self.forward_with_token(context, parts, body, selected).await
            }
            Selection::Unmatched(origin) => {
                snapshot.check_unmatched(ProxyError::UnmatchedPath)?;
                self.forward_plain(context, parts, body, &origin).await
            }
            Selection::UnknownHost => {
                snapshot.check_unmatched(ProxyError::Unmatched)?;
                self.forward_plain(context, parts, body, &origin).await
            }
            Selection::Ambiguous => Err(RequestRefusal::Path.into()),
            Selection::Stub(credential) => {
                context.record.set_credential(&credential);
                Ok(stub_token_response())
            }
            Selection::Refused(credential, error) => {
                context.record.set_credential(&credential);
                Err(ProxyError::Choice { credential: Arc::clone(&credential.name), error })
            }
        }
    }

    /// The TLS configuration with a certificate for `host`, signed by the local CA.
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
