//! The data plane: threads with one current-thread runtime each, which serve connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::admission::{AcceptedSocket, Permit};
use crate::admin::Liveness;
use crate::proxy::{Proxy, SharedState};

/// How long a core may take to answer a liveness check.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(1);

/// A command to a core.
#[derive(Debug)]
enum CoreCommand {
    /// Serve this connection.
    Serve(AcceptedSocket, Permit),
    /// Answer a liveness check.
    CheckLiveness(oneshot::Sender<()>),
    /// Finish requests in progress within the grace period, and end.
    Drain(Duration),
    /// End the grace period.
    CutOff,
}

/// All cores.
#[derive(Debug)]
pub(super) struct DataPlane {
    dispatcher: ConnectionDispatcher,
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
}

/// Distributes connections to the cores round-robin.
#[derive(Clone, Debug)]
pub(super) struct ConnectionDispatcher {
    cores: Arc<[UnboundedSender<CoreCommand>]>,
    next: Arc<AtomicUsize>,
}

impl DataPlane {
    /// Starts `count` threads.
    pub(super) fn start(count: usize, shared: Arc<SharedState>) -> io::Result<Self> {
        let (mut senders, mut threads, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..count.max(1) {
            let (sender, commands) = unbounded_channel();
            let (end, at_end) = oneshot::channel();
            let shared = Arc::clone(&shared);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                runtime.block_on(serve(Arc::new(Proxy::new(shared)), commands));
                // Dropping the runtime cuts off what is left after the grace period.
                drop(runtime);
                let _gone = end.send(());
            };
            threads.push(std::thread::Builder::new().name(format!("core-{index}")).spawn(run)?);
            senders.push(sender);
            ended.push(at_end);
        }
        let dispatcher = ConnectionDispatcher { cores: senders.into(), next: Arc::default() };
        Ok(Self { dispatcher, threads, ended })
    }

    pub(super) fn dispatcher(&self) -> ConnectionDispatcher {
        self.dispatcher.clone()
    }

    /// Drains all cores, within `grace` or until `at_once` resolves, and waits for their end.
    pub(super) async fn drain(self, grace: Duration, at_once: impl Future<Output = ()>) {
        self.dispatcher.send_to_all(|| CoreCommand::Drain(grace));
        let ended = futures_util::future::join_all(self.ended);
        let cut_off = async {
            at_once.await;
            self.dispatcher.send_to_all(|| CoreCommand::CutOff);
            std::future::pending().await
        };
        tokio::select! {
            _crashed = ended => {}
            () = cut_off => {}
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a core thread panicked");
            }
        }
    }
}

impl ConnectionDispatcher {
    fn send_to_all(&self, command: impl Fn() -> CoreCommand) {
        for core in self.cores.iter() {
            // A core that has ended needs no command.
            let _ended = core.send(command());
        }
    }

    pub(super) fn dispatch(&self, connection: AcceptedSocket, permit: Permit) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.cores.len();
        if let Some(core) = self.cores.get(turn) {
            // If the core has ended, dropping the connection closes it.
            let _closed = core.send(CoreCommand::Serve(connection, permit));
        }
    }
}

impl Liveness for ConnectionDispatcher {
    fn count_responsive(&self) -> BoxFuture<'static, (usize, usize)> {
        let pending = self.cores.iter().map(|core| {
            let (answer, response) = oneshot::channel();
            core.send(CoreCommand::CheckLiveness(answer)).ok().map(|()| response)
        });
        let pending: Vec<_> = pending.collect();
        Box::pin(async move {
            let (mut responsive, all) = (0, pending.len());
            let deadline = tokio::time::Instant::now() + LIVENESS_TIMEOUT;
            for response in pending.into_iter().flatten() {
                let response = tokio::time::timeout_at(deadline, response).await;
                responsive += usize::from(matches!(response, Ok(Ok(()))));
            }
            (responsive, all)
        })
    }
}

async fn serve(proxy: Arc<Proxy>, mut commands: UnboundedReceiver<CoreCommand>) {
    let watched = Arc::clone(&proxy);
    tokio::spawn(async move { watched.run_watchdog().await });
    while let Some(command) = commands.recv().await {
        match command {
            CoreCommand::Serve(connection, permit) => match connection.into_stream() {
                Ok(stream) => proxy.spawn_connection(stream, Arc::new(permit)),
                Err(error) => tracing::warn!(%error, "cannot use a client's socket"),
            },
            CoreCommand::CheckLiveness(answer) => {
                // The receiver may have timed out.
                let _late = answer.send(());
            }
            CoreCommand::Drain(grace) => {
                tokio::select! {
                    () = proxy.drain() => return,
                    () = tokio::time::sleep(grace) => {}
                    () = cut_off(&mut commands) => {}
                }
                tracing::warn!("the shutdown grace is over; closing the remaining connections");
                proxy.mark_truncated();
                return;
            }
            CoreCommand::CutOff => return,
        }
    }
}

/// Waits for the command to cut off; all others are obsolete.
async fn cut_off(commands: &mut UnboundedReceiver<CoreCommand>) {
    loop {
        match commands.recv().await {
            Some(CoreCommand::CutOff) => return,
            Some(CoreCommand::CheckLiveness(answer)) => drop(answer.send(())),
            Some(CoreCommand::Serve(..) | CoreCommand::Drain(_)) => {}
            None => std::future::pending().await,
        }
    }
}
