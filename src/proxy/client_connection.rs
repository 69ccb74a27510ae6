//! The client connection on which a request arrives.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::activity::{Activity, ConnectionPhase};
use super::dedicated_connections::DedicatedConnections;
use super::http1_stream::Http1Context;
use super::interim::{InterimQueue, InterimSink};
use super::request_target::ConnectSession;

/// The client connection on which a request arrives. After CONNECT, the session or tunnel has one
/// of its own.
#[derive(Clone, Debug)]
pub(super) struct ClientConnection {
    pub(super) activity: Arc<Activity>,
    /// The CONNECT through which the requests arrive, if any.
    pub(super) session: Option<Arc<ConnectSession>>,
    /// The user name that the client sent to the proxy with that CONNECT.
    pub(super) client_name: Option<Arc<str>>,
    /// Where interim responses are sent.
    pub(super) interim: InterimSink,
    /// True if the request head read last is in asterisk-form: an OPTIONS whose target is an
    /// authority alone (RFC 9112 §3.2.4).
    is_asterisk_form: Arc<AtomicBool>,
    /// Origin connections that serve this client alone.
    pub(super) dedicated: Arc<DedicatedConnections>,
    /// Held as long as the client's socket is open.
    permit: Arc<dyn Any + Send + Sync>,
}

impl ClientConnection {
    pub(super) fn new(activity: Arc<Activity>, permit: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            activity,
            session: None,
            client_name: None,
            interim: InterimSink::Http1(Arc::default()),
            is_asterisk_form: Arc::default(),
            dedicated: Arc::default(),
            permit,
        }
    }

    /// The same connection, with another destination for interim responses.
    pub(super) fn with_interim(&self, interim: InterimSink) -> Self {
        Self { interim, ..self.clone() }
    }

    /// The connection as it continues after CONNECT. It shares the permit alone.
    pub(super) fn after_connect(
        &self,
        activity: Arc<Activity>,
        client_name: Option<String>,
    ) -> Self {
        let mut connection = Self::new(activity, Arc::clone(&self.permit));
        connection.client_name = client_name.map(Arc::from);
        connection
    }

    /// Begins a session after its handshake: requests for its authority are expected.
    pub(super) fn with_session(self, session: ConnectSession) -> Self {
        self.activity.set_phase(ConnectionPhase::Idle);
        Self { session: Some(Arc::new(session)), ..self }
    }

    /// Returns true if the request head read last is in asterisk-form, and resets that state.
    pub(super) fn take_asterisk_form(&self) -> bool {
        self.is_asterisk_form.load(Ordering::Relaxed)
            && self.is_asterisk_form.swap(false, Ordering::Relaxed)
    }

    pub(super) fn http1_context(&self) -> Http1Context {
        Http1Context {
            activity: Arc::clone(&self.activity),
            interim: self.interim_queue(),
            is_asterisk_form: Arc::clone(&self.is_asterisk_form),
        }
    }

    fn interim_queue(&self) -> Arc<InterimQueue> {
        match &self.interim {
            InterimSink::Http1(queue) => Arc::clone(queue),
            InterimSink::Http2(_) => Arc::default(),
        }
    }
}
