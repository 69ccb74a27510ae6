//! The load generator: a closed loop over a fixed number of connections that checks every answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::origin_server::{AUTHORIZATION_EXPECTED, CONTENT, RECEIVED};

/// The number of client threads. Each has a runtime and a share of the connections.
const THREADS: usize = 2;
/// The timeout of a request. A later answer counts as wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a wrong answer, which avoids a busy loop if the proxy has exited.
const PAUSE: Duration = Duration::from_millis(20);

/// The load on one proxy.
#[derive(Clone)]
pub(crate) struct Load {
    proxy: SocketAddr,
    uri: Uri,
    host: HeaderValue,
    connections: usize,
}

/// The result of one measurement.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The latency of each correct answer within the window, in ascending order.
    pub(crate) latencies: Vec<Duration>,
    /// The number of wrong answers, including the warm-up.
    pub(crate) wrong: u64,
    /// The first wrong answer.
    pub(crate) problem: Option<String>,
    /// The actual length of the window.
    pub(crate) elapsed: Duration,
    /// The CPU time of the proxy in the window.
    pub(crate) cpu: Duration,
}

/// The current phase of a measurement.
struct Phase(AtomicU8);

impl Phase {
    const WARM_UP: u8 = 0;
    const WINDOW: u8 = 1;
    const OVER: u8 = 2;

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    fn enter(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }
}

impl Load {
    pub(crate) fn new(
        proxy: SocketAddr,
        authority: &str,
        connections: usize,
    ) -> anyhow::Result<Self> {
        let uri = format!("http://{authority}/v1/orders/17?fields=all").parse()?;
        Ok(Self { proxy, uri, host: HeaderValue::try_from(authority)?, connections })
    }

    /// Sends one request on a new connection.
    pub(crate) fn try_once(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { self.exchange(&mut self.connect().await?).await })
    }

    /// Sends requests for `warm_up` plus `window`. `cpu` is read at both ends of the window.
    pub(crate) fn run(
        &self,
        warm_up: Duration,
        window: Duration,
        cpu: impl Fn() -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Outcome> {
        let phase = Phase(AtomicU8::new(Phase::WARM_UP));
        std::thread::scope(|scope| {
            let share = |index| (self.connections + index) / THREADS;
            let clients: Vec<_> = (0..THREADS)
                .map(|index| {
                    let phase = &phase;
                    scope.spawn(move || self.client(share(index), phase))
                })
                .collect();
            let watched = watch(&phase, warm_up, window, cpu);
            // Set even after an error, because the clients wait for it.
            phase.enter(Phase::OVER);
            let mut outcome = Outcome::default();
            for client in clients {
                let part = client.join().ok().context("a client panicked")??;
                outcome.absorb(part);
            }
            outcome.latencies.sort_unstable();
            (outcome.elapsed, outcome.cpu) = watched?;
            Ok(outcome)
        })
    }

    /// Runs one client thread.
    fn client(&self, connections: usize, phase: &Phase) -> anyhow::Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let loops = (0..connections).map(|_| self.ask_on(phase));
            let mut outcome = Outcome::default();
            for part in futures_util::future::join_all(loops).await {
                outcome.absorb(part);
            }
            outcome
        }))
    }

    /// Runs the loop of one connection, and reconnects after a failure.
    async fn ask_on(&self, phase: &Phase) -> Outcome {
        let mut outcome = Outcome::default();
        let mut connection = None;
        while !phase.is(Phase::OVER) {
            let begun = Instant::now();
            let asked = tokio::time::timeout(PATIENCE, self.ask(&mut connection)).await;
            match asked.context("no answer came").flatten() {
                Ok(()) if phase.is(Phase::WINDOW) => outcome.latencies.push(begun.elapsed()),
                Ok(()) => {}
                Err(problem) => {
                    outcome.wrong += 1;
                    outcome.problem.get_or_insert_with(|| format!("{problem:#}"));
                    connection = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        outcome
    }

    async fn ask(&self, connection: &mut Option<Connection>) -> anyhow::Result<()> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect().await?),
        };
        self.exchange(connection).await
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.proxy).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The request on the connection reports the same error.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends one request and checks its answer.
    async fn exchange(&self, connection: &mut Connection) -> anyhow::Result<()> {
        connection.ready().await?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let fields = request.headers_mut();
        fields.insert(HOST, self.host.clone());
        fields.insert(USER_AGENT, const { HeaderValue::from_static("compare/1") });
        fields.insert(ACCEPT, const { HeaderValue::from_static("*/*") });
        let response = connection.send_request(request).await?;
        let (status, received) = (response.status(), response.headers().get(RECEIVED).cloned());
        let content = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            bail!("{status}: {}", String::from_utf8_lossy(&content));
        }
        let received = received.context("the answer is not from the origin server")?;
        ensure!(received == AUTHORIZATION_EXPECTED, "the origin server received {received:?}");
        ensure!(content == CONTENT, "{} octets of content", content.len());
        Ok(())
    }
}

type Connection = SendRequest<Empty<Bytes>>;

impl Outcome {
    fn absorb(&mut self, part: Self) {
        self.latencies.extend(part.latencies);
        self.wrong += part.wrong;
        self.problem = self.problem.take().or(part.problem);
    }
}

/// Opens and closes the window. Returns its length and the CPU time in it.
fn watch(
    phase: &Phase,
    warm_up: Duration,
    window: Duration,
    cpu: impl Fn() -> anyhow::Result<Duration>,
) -> anyhow::Result<(Duration, Duration)> {
    std::thread::sleep(warm_up);
    let (begun, before) = (Instant::now(), cpu()?);
    phase.enter(Phase::WINDOW);
    std::thread::sleep(window);
    phase.enter(Phase::OVER);
    let (elapsed, after) = (begun.elapsed(), cpu()?);
    Ok((elapsed, after.saturating_sub(before)))
}
