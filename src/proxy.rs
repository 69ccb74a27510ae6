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
mod challenge;
mod connect;
pub(crate) mod connection;
mod content;
mod dial;
mod early_response;
mod error;
mod exchange;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod message;
mod origin_error;
mod origins;
mod own;
mod own_response;
pub mod reach;
mod record;
mod replay;
mod request_id;
mod rereads;
mod secure;
mod server;
mod shared;
mod snapshot;

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use rustls::ServerConfig;

use crate::ca::CaError;
use crate::credential::Selection;
use crate::origin::Host;

use access_log::AccessLine;
use body::Body;
use connection::Watchdog;
use error::ProxyError;
pub use rereads::RejectedSecrets;
use server::Inbound;
pub(crate) use shared::Shared;
pub(crate) use snapshot::Snapshot;
pub use snapshot::{Config, Limits, Unmatched};

use message::{MessageError, Target, Via};
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
    ) -> Response<Body> {
        let serving = inbound.activity.serve();
        let request_id = self.shared.request_ids.next();
        let accepts = Accepts::of(request.headers());
        let version = request.version();
        let snapshot = self.shared.snapshot.load_full();
        let line = || Box::new(AccessLine::new(&request_id.to_string(), request.method()));
        let line = snapshot.config.access_log.then(line);
        let mut record = Record::new(Arc::clone(&snapshot.unmatched), line);
        let walked = self.walk(&snapshot, request, inbound, &mut record).await;
        let mut response = walked.unwrap_or_else(|error| {
            if let Some(line) = &mut record.line {
                line.error = Some(error.kind());
            }
            tracing::debug!(request_id = %request_id, %error, "answered by the proxy itself");
            error.response(accepts, &request_id.to_string())
        });
        // HTTP/2 has GOAWAY for that.
        if self.watchdog.is_draining() && version != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.answered(response.status());
        response.map(|body| body.ends(serving, record))
    }

    /// The walk, in order; what goes wrong on the way becomes a response in `serve`.
    async fn walk(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        request: Request<Incoming>,
        inbound: &Inbound,
        record: &mut Record,
    ) -> Result<Response<Body>, ProxyError> {
        let (mut parts, body) = request.into_parts();
        snapshot.check_size(&parts)?;
        let target = message::target(&parts, inbound.session.as_deref())?;
        note_target(record, &target, &parts);
        if self.shared.via.is_in(&parts.headers) {
            return Err(MessageError::Loop.into());
        }
        let origin = match target {
            Target::Connect(authority) => {
                let request = Request::from_parts(parts, body);
                return self.connect(snapshot, request, authority, inbound).await;
            }
            Target::Proxy => return Ok(options()),
            Target::Origin(origin) => origin,
        };
        if is_own_name(&origin) {
            return Ok(self.own_resource(snapshot, &parts));
        }
        let credentials = &snapshot.credentials;
        let (path, client) = (parts.uri.path(), inbound.client.as_deref());
        match credentials.for_request(&origin, &parts.method, path, &parts.headers, client) {
            Selection::Selected(selected) => {
                selected.credential.remove_choice(&mut parts.headers);
                if forward::keeps_its_own(&selected.credential, &parts, record)? {
                    let origin = &selected.origin;
                    return self.forward_plain(snapshot, parts, body, origin, record).await;
                }
                self.forward_with_token(snapshot, parts, body, selected, record).await
            }
            Selection::Unmatched(origin) => {
                snapshot.admit_unmatched(ProxyError::UnmatchedPath)?;
                self.forward_plain(snapshot, parts, body, &origin, record).await
            }
            Selection::UnknownHost => {
                snapshot.admit_unmatched(ProxyError::Unmatched)?;
                self.forward_plain(snapshot, parts, body, &origin, record).await
            }
            Selection::Ambiguous => Err(MessageError::Path.into()),
            Selection::Stub(credential) => {
                record.belongs_to(&credential);
                Ok(stub_tokens())
            }
            Selection::Refused(credential, error) => {
                record.belongs_to(&credential);
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

fn note_target(record: &mut Record, target: &Target, parts: &Parts) {
    let Some(line) = &mut record.line else { return };
    line.target = match target {
        Target::Connect(authority) => authority.to_string(),
        Target::Proxy => "*".to_owned(),
        Target::Origin(origin) => format!("{origin}{}", parts.uri.path()),
    };
}
