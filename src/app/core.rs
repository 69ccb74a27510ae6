//! The data plane's threads: one current-thread runtime each, fed with sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::admission::{Accepted, Permit};
use crate::admin::Liveness;
use crate::proxy::{Proxy, SharedState};

/// How long a core may take to say that it works.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What a core is told.
#[derive(Debug)]
enum Order {
    /// Serve this connection.
    Serve(Accepted, Permit),
    /// Say that it works.
    Answer(oneshot::Sender<()>),
    /// Finish what is under way, within the grace, and end.
    Drain(Duration),
    /// The grace is over.
    CutOff,
}

/// All cores.
#[derive(Debug)]
pub(super) struct Cores {
    entrance: Entrance,
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
}

/// Hands connections to the cores, in turn.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    cores: Arc<[UnboundedSender<Order>]>,
    next: Arc<AtomicUsize>,
}

impl Cores {
    /// Starts `count` threads.
    pub(super) fn start(count: usize, shared: Arc<SharedState>) -> io::Result<Self> {
        let (mut senders, mut threads, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..count.max(1) {
            let (sender, orders) = unbounded_channel();
            let (end, at_end) = oneshot::channel();
            let shared = Arc::clone(&shared);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                runtime.block_on(serve(Arc::new(Proxy::new(shared)), orders));
                // Whatever is left after the grace is cut off here.
                drop(runtime);
                let _gone = end.send(());
            };
            threads.push(std::thread::Builder::new().name(format!("core-{index}")).spawn(run)?);
            senders.push(sender);
            ended.push(at_end);
        }
        let entrance = Entrance { cores: senders.into(), next: Arc::default() };
        Ok(Self { entrance, threads, ended })
    }

    pub(super) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// Lets every core finish within `grace`, or until `at_once` resolves, and waits until all have.
    pub(super) async fn drain(self, grace: Duration, at_once: impl Future<Output = ()>) {
        self.entrance.order(|| Order::Drain(grace));
        let ended = futures_util::future::join_all(self.ended);
        let cut_off = async {
            at_once.await;
            self.entrance.order(|| Order::CutOff);
            std::future::pending().await
        };
        tokio::select! {
            _crashed = ended => {}
            () = cut_off => {}
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a core ended with a panic");
            }
        }
    }
}

impl Entrance {
    fn order(&self, order: impl Fn() -> Order) {
        for core in self.cores.iter() {
            // A core that has ended already needs no order.
            let _ended = core.send(order());
        }
    }

    pub(super) fn admit(&self, connection: Accepted, permit: Permit) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.cores.len();
        if let Some(core) = self.cores.get(turn) {
            // A core that is gone drops the connection, which closes it.
            let _closed = core.send(Order::Serve(connection, permit));
        }
    }
}

impl Liveness for Entrance {
    fn answering(&self) -> BoxFuture<'static, (usize, usize)> {
        let asked = self.cores.iter().map(|core| {
            let (answer, answered) = oneshot::channel();
            core.send(Order::Answer(answer)).ok().map(|()| answered)
        });
        let asked: Vec<_> = asked.collect();
        Box::pin(async move {
            let (mut answering, all) = (0, asked.len());
            let deadline = tokio::time::Instant::now() + ANSWERS_WITHIN;
            for answered in asked.into_iter().flatten() {
                let answered = tokio::time::timeout_at(deadline, answered).await;
                answering += usize::from(matches!(answered, Ok(Ok(()))));
            }
            (answering, all)
        })
    }
}

async fn serve(proxy: Arc<Proxy>, mut orders: UnboundedReceiver<Order>) {
    let watched = Arc::clone(&proxy);
    tokio::spawn(async move { watched.run_watchdog().await });
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(connection, permit) => match connection.into_stream() {
                Ok(stream) => proxy.spawn_connection(stream, Arc::new(permit)),
                Err(error) => tracing::warn!(%error, "a client's socket could not be used"),
            },
            Order::Answer(answer) => {
                // Whoever asked may not wait any more.
                let _late = answer.send(());
            }
            Order::Drain(grace) => {
                tokio::select! {
                    () = proxy.drain() => return,
                    () = tokio::time::sleep(grace) => {}
                    () = cut_off(&mut orders) => {}
                }
                tracing::warn!("the shutdown grace is over; connections are cut off");
                proxy.mark_truncated();
                return;
            }
            Order::CutOff => return,
        }
    }
}

/// Waits for the order; it makes no difference to others any more.
async fn cut_off(orders: &mut UnboundedReceiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::CutOff) => return,
            Some(Order::Answer(answer)) => drop(answer.send(())),
            Some(Order::Serve(..) | Order::Drain(_)) => {}
            None => std::future::pending().await,
        }
    }
}
