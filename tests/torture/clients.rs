//! Applications that POST all the time, and what they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bearerd_test_support::pattern;
use tokio::task::JoinSet;

use super::stage::{CREDENTIALS, Stage, name};

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(30);
const LONGEST_BODY: usize = 32 * 1024;

/// A request that was not answered as it should have been.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) credential: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) what: String,
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// 200, after the API has read the body that was sent.
    pub(crate) answered: usize,
    /// The proxy was not there.
    refused: usize,
    /// The proxy was killed while the request was under way.
    cut_off: usize,
    slowest: Duration,
    pub(crate) failed: Vec<Failure>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.cut_off += other.cut_off;
        self.slowest = self.slowest.max(other.slowest);
        self.failed.extend(other.failed);
    }

    pub(crate) fn print(&self) {
        println!("    the clients");
        println!("      answered, the body having arrived   {}", self.answered);
        println!("      slowest answer                      {:.1?}", self.slowest);
        println!("      refused while the proxy was down    {}", self.refused);
        println!("      cut off by a kill                   {}", self.cut_off);
    }
}

/// Clients under way.
pub(crate) struct Clients {
    tasks: JoinSet<Seen>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    pub(crate) fn start(stage: &Stage, n: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..n {
            let proxy = &stage.proxies[number / CREDENTIALS % stage.proxies.len()];
            let client = Client {
                http: reqwest::Client::builder()
                    .proxy(reqwest::Proxy::all(format!("http://{}", proxy.address)).unwrap())
                    .tls_backend_preconfigured(no_tls())
                    // A connection that a kill has closed must not be found by the request after it.
                    .pool_max_idle_per_host(0)
                    .timeout(Duration::from_secs(60))
                    .build()
                    .unwrap(),
                // Described in the answer: the body is read to its end before the token is judged. An API
                // that rejects without reading closes the connection behind its answer.
                url: stage.origin.url(&format!("/{}/", name(number % CREDENTIALS))),
                credential: number % CREDENTIALS,
                life: Arc::clone(&proxy.life),
                stop: Arc::clone(&stop),
            };
            tasks.spawn(client.drive(number));
        }
        Self { tasks, stop }
    }

    pub(crate) async fn stop(self) -> Seen {
        self.stop.store(true, SeqCst);
        let mut seen = Seen::default();
        for one in self.tasks.join_all().await {
            seen.add(one);
        }
        seen
    }
}

fn no_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(bearerd::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

struct Client {
    http: reqwest::Client,
    url: String,
    credential: usize,
    life: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn drive(self, number: usize) -> Seen {
        let mut seen = Seen::default();
        let mut round = number;
        while !self.stop.load(SeqCst) {
            self.post(round * 7919 % LONGEST_BODY, &mut seen).await;
            round += 1;
            tokio::time::sleep(PAUSE).await;
        }
        seen
    }

    async fn post(&self, length: usize, seen: &mut Seen) {
        let body = pattern(length);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let expected: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let life = self.life.load(SeqCst);
        let began = Instant::now();
        let answer = async {
            let response = self.http.post(&self.url).body(body.clone()).send().await?;
            let (status, why) =
                (response.status(), response.headers().get("proxy-status").cloned());
            Ok::<_, reqwest::Error>((status, why, response.bytes().await?))
        };
        let was_alive = || life.is_multiple_of(2) && self.life.load(SeqCst) == life;
        let what = match answer.await {
            Ok((status, _, description))
                if status == 200
                    && serde_json::from_slice(&description)
                        .is_ok_and(|told: serde_json::Value| told["body_sha256"] == expected) =>
            {
                seen.answered += 1;
                seen.slowest = seen.slowest.max(began.elapsed());
                return;
            }
            Ok((status, _, _)) if status == 200 => "200 for another body".to_owned(),
            Ok((status, why, _)) => format!(
                "{status} {}",
                why.map_or(String::new(), |why| { why.to_str().unwrap_or_default().to_owned() })
            ),
            Err(error) if error.is_connect() && !was_alive() => {
                seen.refused += 1;
                return;
            }
            Err(_) if !was_alive() => {
                seen.cut_off += 1;
                return;
            }
            Err(error) => format!("{:?}", error.without_url()),
        };
        let (credential, ended) = (self.credential, Instant::now());
        tracing::info!(what, credential, "a request has failed");
        seen.failed.push(Failure { credential, began, ended, what });
    }
}
