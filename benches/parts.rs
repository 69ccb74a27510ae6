//! Microbenchmarks of the pure and in-memory parts of the request path: `cargo bench --bench parts`.
//!
//! Parsing an authority, the field rules, finding a credential, reading its token, and issuing a
//! leaf certificate. The measured code does not access the network or the disk.
#![allow(missing_docs, reason = "criterion's macro defines a public function")]

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bearerd::ca;
use bearerd::clock::Clock;
use bearerd::credential::{
    self, Credential, Credentials, HostPattern, Injection, Rejections, Selection,
};
use bearerd::metrics::Metrics;
use bearerd::oauth::{self, GrantType, RawAnswer, TokenRequest, Transport, TransportError};
use bearerd::origin;
use bearerd::origin::{Authority, Host, Origin, Scheme};
use bearerd::secret::Secret;
use bearerd::store::{self, EncryptionKeys, Generation, MemoryStore, Store, TokenRecord};
use bearerd::template::{Names, Template};
use bearerd::tls;
use bearerd::token::{self, Context, Margin, ResendState, Slot, Tasks, TokenCache};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use tokio::runtime::Runtime;

/// These modules are private to the request path, so this benchmark compiles their files.
#[path = "../src/proxy/fields.rs"]
#[allow(dead_code, unused_imports, reason = "the benchmark does not measure all of it")]
mod fields;
#[path = "../src/proxy/request_target.rs"]
#[allow(dead_code, unused_imports, reason = "the benchmark does not measure all of it")]
mod request_target;

const DAY: Duration = Duration::from_secs(24 * 3600);

criterion_group!(parts, authorities, field_rules, tokens, leaves);
criterion_main!(parts);

fn authorities(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("authority");
    for (name, text) in [
        ("name", "api.example.com"),
        ("name and port", "Orders-API.eu-west-1.example.com:8443"),
        ("IPv4", "192.0.2.17:8080"),
        ("IPv6", "[2001:db8::8a2e:370:7334]:443"),
    ] {
        assert!(Authority::parse(text, Some(443)).is_ok(), "{text}");
        group.bench_function(name, |b| b.iter(|| Authority::parse(black_box(text), Some(443))));
    }
    // The cost of an invalid host.
    group.bench_function("refused", |b| {
        b.iter(|| Authority::parse(black_box("api.example.com:443@evil.example"), Some(443)))
    });
    group.finish();
}

fn field_rules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fields");
    let via = fields::Via::new();
    let origin = https_origin("api.example.com");
    for (name, head) in [("of a program", of_a_program()), ("of a browser", of_a_browser())] {
        group.bench_function(BenchmarkId::new("target", name), |b| {
            b.iter(|| request_target::request_target(black_box(&head), None).is_ok())
        });
        group.bench_function(BenchmarkId::new("for the origin server", name), |b| {
            let prepare = |mut head| {
                fields::prepare_for_origin(&mut head, &origin, &via);
                head
            };
            b.iter_batched(|| head.clone(), prepare, BatchSize::SmallInput)
        });
    }
    group.bench_function("for the client", |b| {
        let prepare = |mut head| {
            fields::prepare_for_client(&mut head, Version::HTTP_11, &via);
            head
        };
        b.iter_batched(of_an_answer, prepare, BatchSize::SmallInput)
    });
    group.finish();
}

/// A read must cost the same for any number of credentials. `in turn` reads another one each time: any
/// increase with many credentials is due to processor cache misses.
fn tokens(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("the runtime can start its threads");
    let mut group = criterion.benchmark_group("token");
    for count in [1, 100, 10_000] {
        let credentials = runtime.block_on(credentials(count));
        let requests: Vec<_> = (0..count).map(|n| https_origin(&host(n))).collect();
        let fields = HeaderMap::new();
        let find = |origin| match credentials.for_request(
            origin,
            &Method::GET,
            "/v1/orders/17",
            &fields,
            None,
        ) {
            Selection::Selected(selected) => selected.credential,
            none => panic!("{none:?}"),
        };
        let slot_of = |credential: &Credential| {
            Arc::clone(credential.sole_instance().expect("it has no variables"))
        };
        let read = |slot: &Slot| slot.token().now_or_never().expect("it is fresh").is_ok();
        let read_of = |credential: &Credential| {
            credential.sole_instance().is_some_and(|only| read(&only.slot))
        };
        let one = requests.last().expect("there is one at least");
        let instance = slot_of(&find(one));
        let slot = &instance.slot;
        group.bench_function(BenchmarkId::new("read", count), |b| b.iter(|| read(black_box(slot))));
        let token = slot.token().now_or_never().expect("it is fresh").expect("it is usable");
        let sending = ResendState::first(0x5f1b_9a0c_2d37_e846, true);
        group.bench_function(BenchmarkId::new("accept", count), |b| {
            b.iter(|| slot.accepted(black_box(&token), black_box(&sending)))
        });
        group.bench_function(BenchmarkId::new("find and read", count), |b| {
            b.iter(|| read_of(&find(black_box(one))))
        });
        let mut in_turn = requests.iter().cycle();
        group.bench_function(BenchmarkId::new("find and read in turn", count), |b| {
            b.iter(|| read_of(&find(in_turn.next().expect("it has no end"))))
        });
    }
    let credentials = runtime.block_on(credentials(10_000));
    let other = https_origin("www.example.org");
    group.bench_function("find none", |b| {
        let fields = HeaderMap::new();
        b.iter(|| {
            credentials.for_request(black_box(&other), &Method::GET, "/v1/orders/17", &fields, None)
        })
    });
    group.finish();
}

fn leaves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("leaf");
    let dir = tempfile::tempdir().expect("a directory can be made");
    let config =
        ca::Config { dir: dir.path().join("certs"), lifetime: DAY * 365, leaf_lifetime: DAY };
    let now = SystemTime::now();
    let ca = config.open(now).expect("a new authority can be made");
    let mut fresh = (0..).map(|n| Host::parse(&host(n)).expect("it is a name"));
    group.bench_function("mint", |b| {
        let mint = |host| ca.server_config(&host, now).expect("it is a host");
        b.iter_batched(|| fresh.next().expect("it has no end"), mint, BatchSize::SmallInput)
    });
    let known = Host::parse("api.example.com").expect("it is a name");
    group.bench_function("kept", |b| b.iter(|| ca.server_config(black_box(&known), now).is_ok()));
    group.finish();
}

fn host(n: usize) -> String {
    format!("api-{n}.example.com")
}

fn https_origin(host: &str) -> Origin {
    let host = Host::parse(host).expect("it is a name");
    Origin { scheme: Scheme::Https, authority: Authority { host, port: 443 } }
}

fn head(fields: &[(&'static str, &'static str)]) -> http::request::Parts {
    let request = Request::get("http://api.example.com/v1/orders/17?fields=all");
    let mut head = request.body(()).expect("it is a request").into_parts().0;
    head.headers = header_map(fields);
    head
}

fn header_map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.iter().map(field).collect()
}

fn of_a_program() -> http::request::Parts {
    head(&[
        ("host", "api.example.com"),
        ("user-agent", "python-requests/2.32.3"),
        ("accept-encoding", "gzip, deflate"),
        ("accept", "*/*"),
        ("connection", "keep-alive"),
    ])
}

fn of_a_browser() -> http::request::Parts {
    head(&[
        ("host", "api.example.com"),
        ("proxy-connection", "keep-alive"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0f3c7a9e5b; theme=dark; consent=all"),
        ("referer", "http://api.example.com/v1/orders"),
        ("cache-control", "no-cache"),
        ("dnt", "1"),
        ("via", "1.1 another-proxy"),
        ("x-request-id", "5f1b9a0c"),
    ])
}

fn of_an_answer() -> HeaderMap {
    header_map(&[
        ("date", "Sun, 22 Nov 2026 16:00:00 GMT"),
        ("server", "nginx"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=60"),
        ("cache-control", "private, max-age=0"),
        ("etag", "\"5f1b9a0c\""),
        ("vary", "Accept-Encoding"),
    ])
}

/// Returns `count` credentials, each for its own host, each with a token valid for a day.
async fn credentials(count: usize) -> Credentials {
    let store = Store::new(Arc::new(MemoryStore::default()), EncryptionKeys::default());
    let mut configs = Vec::new();
    for n in 0..count {
        let config = credential_config(n);
        keep_token(&store, &config.name).await;
        configs.push(config);
    }
    let context = Context {
        control: tokio::runtime::Handle::current(),
        tasks: Tasks::default(),
        clock: Clock::system(),
        store,
        cache: TokenCache::default(),
        revision: 0,
        transport: Arc::new(UnusedTransport),
        metrics: Metrics::new(),
    };
    let tls = tls::Config { roots: tls::Roots::Bundled, extra_roots: Vec::new() };
    Credentials::open(configs, &context, &tls.build().expect("they are compiled in"), None).await
}

async fn keep_token(store: &Store, name: &str) {
    let now = SystemTime::now();
    let record = TokenRecord {
        generation: Generation(1),
        access_token: Some(Secret::new(format!("token-of-{name}"))),
        issued_at: Some(now),
        expires_at: Some(now + DAY),
        ..TokenRecord::default()
    };
    let stored = store.put(name, store::Version::ABSENT, None, &record).await;
    stored.expect("memory takes every record");
}

fn credential_config(n: usize) -> credential::Config {
    let name = format!("api-{n}");
    let text = |text| Template::parse(text, &Names::default()).expect("it names nothing");
    let url = text("https://login.example.com/token");
    let oauth = oauth::Config {
        client_secret: Some(Secret::new("any".to_owned())),
        ..oauth::Config::new(GrantType::ClientCredentials, url, text("bench"))
    };
    credential::Config {
        hosts: vec![HostPattern::parse(&host(n)).expect("it is a name")],
        paths: Vec::new(),
        variables: Vec::new(),
        secrets: Vec::new(),
        methods: Vec::new(),
        allow_http: false,
        injection: Injection::default(),
        rejections: Rejections::default(),
        reread: None,
        replay_body: 1024 * 1024,
        forward_without_token: false,
        stub_token_endpoint: false,
        rewrite_location: true,
        allow_overrides: false,
        token: token::Config {
            variables: Default::default(),
            name: name.clone(),
            oauth,
            seed: None,
            margin: Margin::Auto,
            lifetime: None,
            keepalive: None,
            wait: Duration::from_secs(15),
        },
        name,
    }
}

/// A transport that is never used, because every token is fresh.
#[derive(Debug)]
struct UnusedTransport;

impl Transport for UnusedTransport {
    fn send(
        &self,
        _request: TokenRequest,
        _listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        Box::pin(async { Err(TransportError::NotSent("this is a benchmark".to_owned())) })
    }
}
