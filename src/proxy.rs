//! The request path: what happens between a client's request and its response.
//!
//! `Proxy::serve` is the ordered walk of one request, the same for a plain request, for one inside
//! an intercepted session and for one in clear after CONNECT. There is one `Proxy` for each core, with
//! a pool of origin connections of its own; what the cores share is immutable or atomic.
//!
//! What this module does not know: where tokens come from ([`token`](crate::token)), and how
//! sockets are accepted ([`app`](crate::app)).

mod access_log;
mod body;
mod call;
mod challenge;
mod client_handshake;
mod connect;
pub(crate) mod connection;
pub mod connector;
mod content;
mod dial;
mod early_response;
mod error;
mod forward;
mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http1_stream;
mod http2;
mod incoming;
mod interim;
mod message;
mod origin_connection;
mod origin_error;
mod origins;
mod own;
mod own_response;
mod personal;
mod record;
mod refusal;
mod release;
mod replay;
mod request_id;
mod request_line;
mod rereads;
mod response_heads;
mod rewrite;
mod secure;
mod server;
mod shared;
mod snapshot;
mod socket;

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body as _;
use rustls::ServerConfig;

use crate::ca::CaError;
use crate::credential::Selection;
use crate::origin::{Host, Origin};

use access_log::AccessLine;
use body::Body;
use call::Call;
use connection::{Serving, Watchdog};
pub(crate) use dial::{Network, OwnAddresses};
use error::ProxyError;
use incoming::Incoming;
pub use rereads::RejectedSecrets;
use server::Inbound;
pub(crate) use shared::Shared;
pub(crate) use snapshot::Snapshot;
pub use snapshot::{Config, Limits, Unmatched};

use message::{Asterisk, MessageError, Target, Via};
use origins::Origins;
use own::{is_own_name, options, stub_tokens};
use own_response::Accepts;
use record::Record;

/// The request path of one core.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    origins: Origins,
    watchdog: Watchdog,
}

impl Proxy {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, origins: Origins::default(), watchdog: Watchdog::new() }
    }

    /// Turns a request into a response, always.
    async fn serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        inbound: &Inbound,
        serving: Serving,
    ) -> Response<Body> {
        let request_id = self.shared.request_ids.next();
        let accepts = Accepts::of(request.headers());
        let (version, has_content) = (request.version(), !request.body().is_end_stream());
        let snapshot = self.shared.snapshot.load_full();
        let line = || Box::new(AccessLine::new(&request_id.to_string(), request.method()));
        let line = snapshot.config.access_log.then(line);
        let mut record = Record::new(Arc::clone(&snapshot.without_credential), line);
        inbound.interim.open(true);
        let mut call = Call {
            snapshot: &snapshot,
            inbound,
            record: &mut record,
            is_http10: version == Version::HTTP_10,
            asked: None,
        };
        let walked = self.walk(&mut call, request).await;
        inbound.interim.open(false);
        let is_refused = walked.is_err();
        let mut response = walked.unwrap_or_else(|error| {
            record.failed(&error, request_id);
            if let Some(limit) = error.limit() {
                self.shared.metrics.limit_reached(limit);
            }
            error.response(accepts, &request_id.to_string())
        });
        // What is left of the content is not read. HTTP/2 has other words for both.
        let closes = self.watchdog.is_draining() || (is_refused && has_content);
        if closes && version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.answered(response.status());
        inbound.activity.answers();
        response.map(|body| body.ends(serving, record))
    }

    /// The walk, in order; what goes wrong on the way becomes a response in `serve`.
    async fn walk(
        self: &Arc<Self>,
        call: &mut Call<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ProxyError> {
        let (mut parts, body) = request.into_parts();
        if call.inbound.is_asterisk() {
            parts.extensions.insert(Asterisk);
        }
        call.snapshot.check_size(&parts)?;
        let target = message::target(&parts, call.inbound.session.as_deref())?;
        call.record.is_for(&target, &parts);
        if self.shared.via.is_in(&parts.headers) {
            return Err(MessageError::Loop.into());
        }
        match target {
            Target::Connect(authority) => {
                let request = Request::from_parts(parts, body);
                Box::pin(self.connect(call, request, authority)).await
            }
            Target::Proxy => Ok(options()),
            Target::Origin(origin) if is_own_name(&origin) => {
                Ok(self.own_resource(call.snapshot, &parts))
            }
            Target::Origin(origin) => {
                call.snapshot.check_dot(&origin)?;
                call.asked = Some(origin.scheme);
                self.forward(call, &mut parts, body, origin).await
            }
        }
    }

    /// Which credential the request is for, if any, and what follows from it.
    async fn forward(
        &self,
        call: &mut Call<'_>,
        parts: &mut Parts,
        body: Incoming,
        origin: Origin,
    ) -> Result<Response<Body>, ProxyError> {
        let (snapshot, client) = (call.snapshot, call.inbound.client.as_deref());
        let credentials = &snapshot.credentials;
        let path = parts.uri.path();
        match credentials.for_request(&origin, &parts.method, path, &parts.headers, client) {
            Selection::Selected(selected) => {
                selected.credential.remove_choice(&mut parts.headers);
                selected.credential.remove_overrides(&mut parts.headers);
                if forward::keeps_its_own(&selected.credential, parts, call.record)? {
                    return self.forward_plain(call, parts, body, &selected.origin).await;
                }
                self.forward_with_token(call, parts, body, selected).await
            }
            Selection::Unmatched(origin) => {
                snapshot.admit_unmatched(ProxyError::UnmatchedPath)?;
                self.forward_plain(call, parts, body, &origin).await
            }
            Selection::UnknownHost => {
                snapshot.admit_unmatched(ProxyError::Unmatched)?;
                self.forward_plain(call, parts, body, &origin).await
            }
            Selection::Ambiguous => Err(MessageError::Path.into()),
            Selection::Stub(credential) => {
                call.record.belongs_to(&credential);
                Ok(stub_tokens())
            }
            Selection::Refused(credential, error) => {
                call.record.belongs_to(&credential);
                Err(ProxyError::Choice { credential: Arc::clone(&credential.name), error })
            }
        }
    }

    fn server_config(
        &self,
        snapshot: &Snapshot,
        host: &Host,
    ) -> Result<Arc<ServerConfig>, Arc<CaError>> {
        match &snapshot.ca {
            Some(ca) => ca.server_config(host, self.shared.clock.now()),
            None => Err(Arc::new(CaError::Missing)),
        }
    }

    fn via(&self) -> &Via {
        &self.shared.via
    }
}
