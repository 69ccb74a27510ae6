//! Applications that POST continuously, and the results they observe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bearerd_test_support::pattern;
use tokio::task::JoinSet;

use super::test_bed::{CREDENTIALS, TestBed, name};

/// The pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(30);
const LONGEST_BODY: usize = 32 * 1024;

/// A request with an unexpected result.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) credential: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) what: String,
}

/// The results observed by the clients.
#[derive(Debug, Default)]
pub(crate) struct ClientStats {
    /// Requests answered with 200 after the API received the whole body.
    pub(crate) answered: usize,
    /// Connections refused while the proxy was down.
    refused: usize,
    /// Requests interrupted by a kill of the proxy.
    cut_off: usize,
    slowest: Duration,
    pub(crate) failed: Vec<Failure>,
}

impl ClientStats {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.cut_off += other.cut_off;
        self.slowest = self.slowest.max(other.slowest);
        self.failed.extend(other.failed);
    }

    pub(crate) fn print(&self) {
        println!("    clients");
        println!("      answered with the body intact       {}", self.answered);
        println!("      slowest answer                      {:.1?}", self.slowest);
        println!("      refused while the proxy was down    {}", self.refused);
        println!("      interrupted by a kill               {}", self.cut_off);
    }
}

/// The running clients.
pub(crate) struct Clients {
    tasks: JoinSet<ClientStats>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    pub(crate) fn start(test_bed: &TestBed, n: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..n {
            let proxy = &test_bed.proxies[number / CREDENTIALS % test_bed.proxies.len()];
            let client = Client {
                http: reqwest::Client::builder()
                    .proxy(reqwest::Proxy::all(format!("http://{}", proxy.address)).unwrap())
                    .tls_backend_preconfigured(no_tls())
                    // A request must not reuse a connection closed by a kill.
                    .pool_max_idle_per_host(0)
                    .timeout(Duration::from_secs(60))
                    .build()
                    .unwrap(),
                // This path reads the body to its end before the token check. An API that rejects without
                // reading closes the connection after its answer.
                url: test_bed.origin.url(&format!("/{}/", name(number % CREDENTIALS))),
                credential: number % CREDENTIALS,
                epoch: Arc::clone(&proxy.epoch),
                stop: Arc::clone(&stop),
            };
            tasks.spawn(client.drive(number));
        }
        Self { tasks, stop }
    }

    pub(crate) async fn stop(self) -> ClientStats {
        self.stop.store(true, SeqCst);
        let mut seen = ClientStats::default();
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
    epoch: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn drive(self, number: usize) -> ClientStats {
        let mut seen = ClientStats::default();
        let mut round = number;
        while !self.stop.load(SeqCst) {
            self.post(round * 7919 % LONGEST_BODY, &mut seen).await;
            round += 1;
            tokio::time::sleep(PAUSE).await;
        }
        seen
    }

    async fn post(&self, length: usize, seen: &mut ClientStats) {
        let body = pattern(length);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let expected: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let epoch = self.epoch.load(SeqCst);
        let began = Instant::now();
        let answer = async {
            let response = self.http.post(&self.url).body(body.clone()).send().await?;
            let (status, why) =
                (response.status(), response.headers().get("proxy-status").cloned());
            Ok::<_, reqwest::Error>((status, why, response.bytes().await?))
        };
        let was_alive = || epoch.is_multiple_of(2) && self.epoch.load(SeqCst) == epoch;
        let what = match answer.await {
            Ok((status, _, description))
                if status == 200
                    && serde_json::from_slice(&description).is_ok_and(
                        |description: serde_json::Value| description["body_sha256"] == expected,
                    ) =>
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
        tracing::info!(what, credential, "request failed");
        seen.failed.push(Failure { credential, began, ended, what });
    }
}
