//! Starts client connections, ends those that exceed a timeout, and drains them at shutdown.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use super::Proxy;
use super::activity::ConnectionPhase;
use super::client_connection::ClientConnection;
use super::client_stream::{ClientStream, MonitoredStream};

impl Proxy {
    /// Serves a client connection in a task of its own. `permit` is dropped with the socket.
    pub(crate) fn spawn_connection(
        self: &Arc<Self>,
        stream: ClientStream,
        permit: Arc<dyn Any + Send + Sync>,
    ) {
        let activity = self.watchdog.register(ConnectionPhase::Idle);
        let client = ClientConnection::new(Arc::clone(&activity), permit);
        let stream = MonitoredStream::new(stream, Bytes::new(), Arc::clone(&activity));
        let task = tokio::spawn(Arc::clone(self).serve_http1(stream, client));
        activity.set_task(task.abort_handle());
    }

    /// Enforces the timeouts of client connections and sweeps the pools until it is dropped.
    pub(crate) async fn run_watchdog(&self) {
        let each_tick = || {
            let snapshot = self.shared.snapshot.load();
            self.origins.sweep(snapshot.connector());
            snapshot.timeouts()
        };
        let on_abort = |limit| {
            self.shared.metrics.record_limit(limit);
            tracing::info!(limit, "a client connection was closed: it exceeded limits.{limit}");
        };
        self.watchdog.run(each_tick, on_abort).await;
    }

    /// Closes idle connections and waits for the others to end.
    pub(crate) async fn drain(&self) {
        self.watchdog.drain().await;
    }

    /// Marks the messages in flight as truncated, because the core's tasks are about to be dropped.
    pub(crate) fn mark_truncated(&self) {
        self.watchdog.mark_truncated();
    }
}
