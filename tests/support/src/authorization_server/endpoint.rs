//! The token endpoint: recording, holding, committing and answering.
//!
//! One lock guards the record and the behaviour queue, so every request has one position in
//! both. Another guards the refresh tokens and the policy, so a grant is atomic. Neither lock
//! is held across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::behaviour::{End, TokenAnswer as Answer, TokenBehaviour};
use super::config::AuthorizationServerConfig;
use super::grant::{GrantProcessor, Policy, Refusal};
use super::request::TokenRequest;
use crate::dpop::{ProofError, ProofRequest, Proofs};
use crate::events::{Count, Gate, Pass};
use crate::line::Line;
use crate::listening::{NoAnswer, Outcome, Service, Tasks};
use crate::payload::{Payload, cut_short, full, json, owned, response, streamed};
use crate::refresh_tokens::{RefreshTokens, Reuse};
use crate::tokens::Tokens;

const LOCK: &str = "no holder of this lock panics";

/// Decides the behaviour of token requests without an enqueued one.
pub(super) type Decide = Box<dyn FnMut(&TokenRequest) -> TokenBehaviour + Send>;

#[derive(Default)]
struct Arrivals {
    requests: Vec<TokenRequest>,
    behaviours: VecDeque<TokenBehaviour>,
    otherwise: Option<Decide>,
}

impl Arrivals {
    fn behaviour_for(&mut self, request: &TokenRequest) -> TokenBehaviour {
        let enqueued = self.behaviours.pop_front();
        let decided = || Some(self.otherwise.as_mut()?(request));
        enqueued.or_else(decided).unwrap_or(TokenBehaviour::Normal)
    }
}

struct Ledgers {
    policy: Policy,
    /// By realm. A server without realms uses the empty name.
    refresh_tokens: BTreeMap<String, RefreshTokens>,
}

/// The distance between the family numbers of two realms, so that they never overlap.
const FAMILIES: u64 = 1_000_000;

impl Ledgers {
    fn realm(&mut self, realm: &str, config: &AuthorizationServerConfig) -> &mut RefreshTokens {
        let first = 1 + FAMILIES * self.refresh_tokens.len() as u64;
        let initial = match realm {
            "" => config.initial_refresh_token.clone(),
            realm => format!("{}-{realm}", config.initial_refresh_token),
        };
        let tokens = self.refresh_tokens.entry(realm.to_owned());
        tokens.or_insert_with(|| RefreshTokens::new(initial, first))
    }
}

/// A recorded request with its behaviour.
struct Arrival {
    request: TokenRequest,
    behaviour: TokenBehaviour,
    pass: Pass,
}

/// How the answer is sent and the exchange ends.
enum Ending {
    Whole(Answer),
    Truncated(Answer, usize),
    Dripping(Answer, Duration),
    Written(Vec<u8>, End),
    Reset,
}

/// The token endpoint.
pub(super) struct Endpoint {
    config: AuthorizationServerConfig,
    tokens: Tokens,
    ledgers: Mutex<Ledgers>,
    proofs: Proofs,
    arrivals: Mutex<Arrivals>,
    gate: Gate,
    arrived: Count,
    answered: Count,
    committed: Count,
    tasks: Tasks,
}

impl Endpoint {
    pub(super) fn new(config: AuthorizationServerConfig, tasks: Tasks) -> Endpoint {
        let ledgers = Ledgers { policy: Policy::new(&config), refresh_tokens: BTreeMap::new() };
        Endpoint {
            config,
            tokens: Tokens::new(),
            ledgers: Mutex::new(ledgers),
            proofs: Proofs::default(),
            arrivals: Mutex::default(),
            gate: Gate::new(),
            arrived: Count::new(),
            answered: Count::new(),
            committed: Count::new(),
            tasks,
        }
    }

    pub(super) fn token_path(&self) -> &str {
        &self.config.token_path
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn arrived(&self) -> &Count {
        &self.arrived
    }

    pub(super) fn answered(&self) -> &Count {
        &self.answered
    }

    pub(super) fn committed(&self) -> &Count {
        &self.committed
    }

    pub(super) fn requests(&self) -> Vec<TokenRequest> {
        self.arrivals.lock().expect(LOCK).requests.clone()
    }

    pub(super) fn enqueue(&self, behaviour: TokenBehaviour) {
        self.arrivals.lock().expect(LOCK).behaviours.push_back(behaviour);
    }

    pub(super) fn decide_by(&self, decide: Decide) {
        self.arrivals.lock().expect(LOCK).otherwise = Some(decide);
    }

    pub(super) fn change_policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.ledgers.lock().expect(LOCK).policy);
    }

    pub(super) fn of_realm<T>(
        &self,
        realm: &str,
        access: impl FnOnce(&mut RefreshTokens) -> T,
    ) -> T {
        access(self.ledgers.lock().expect(LOCK).realm(realm, &self.config))
    }

    pub(super) fn reuses(&self) -> Vec<Reuse> {
        let ledgers = self.ledgers.lock().expect(LOCK);
        ledgers.refresh_tokens.values().flat_map(RefreshTokens::reuses).cloned().collect()
    }

    /// Returns true if `path` is the path of the token endpoint.
    fn is_token_path(&self, path: &str) -> bool {
        let pattern: Vec<_> = self.config.token_path.split('/').collect();
        let segments: Vec<_> = path.split('/').collect();
        let same = |(wanted, found): (&&str, &&str)| *wanted == "*" || wanted == found;
        pattern.len() == segments.len() && pattern.iter().zip(&segments).all(same)
    }

    fn realm_of(&self, request: &TokenRequest) -> String {
        if let Some(parameter) = &self.config.realm_parameter {
            return request.param(parameter).unwrap_or_default().to_owned();
        }
        let segment = self.config.token_path.split('/').position(|segment| segment == "*");
        let path = request.path_and_query.split('?').next().unwrap_or_default();
        segment.and_then(|at| path.split('/').nth(at)).unwrap_or_default().to_owned()
    }

    fn arrive(&self, head: Parts, body: &Bytes) -> Arrival {
        let request = TokenRequest::new(head, body);
        let mut arrivals = self.arrivals.lock().expect(LOCK);
        let arrival = Arrival {
            request: request.clone(),
            behaviour: arrivals.behaviour_for(&request),
            pass: self.gate.pass(),
        };
        arrivals.requests.push(request);
        self.arrived.increment();
        arrival
    }

    async fn process(&self, mut arrival: Arrival) -> Ending {
        arrival.pass.wait_if_held().await;
        let ending = self.behave(arrival).await;
        self.answered.increment();
        ending
    }

    async fn behave(&self, arrival: Arrival) -> Ending {
        let Arrival { request, behaviour, mut pass } = arrival;
        match behaviour {
            TokenBehaviour::Normal => Ending::Whole(self.commit(&request)),
            TokenBehaviour::Respond { status, headers, body } => {
                Ending::Whole(Answer { status, headers, body })
            }
            TokenBehaviour::CommitThenRespond { status, headers, body } => {
                self.commit(&request);
                Ending::Whole(Answer { status, headers, body })
            }
            TokenBehaviour::DropBeforeCommit => Ending::Reset,
            TokenBehaviour::DropAfterCommit => {
                self.commit(&request);
                Ending::Reset
            }
            TokenBehaviour::CommitThenTruncate { keep } => {
                Ending::Truncated(self.commit(&request), keep)
            }
            TokenBehaviour::Stall { commit_first: true } => {
                let answer = self.commit(&request);
                pass.wait_for_release().await;
                Ending::Whole(answer)
            }
            TokenBehaviour::Stall { commit_first: false } => {
                pass.wait_for_release().await;
                Ending::Whole(self.commit(&request))
            }
            TokenBehaviour::Hang => {
                pass.wait_for_release().await;
                Ending::Reset
            }
            TokenBehaviour::SlowDrip { interval } => {
                Ending::Dripping(self.commit(&request), interval)
            }
            TokenBehaviour::Late { by, commit_first: true } => {
                let answer = self.commit(&request);
                tokio::time::sleep(by).await;
                Ending::Whole(answer)
            }
            TokenBehaviour::Late { by, commit_first: false } => {
                tokio::time::sleep(by).await;
                Ending::Whole(self.commit(&request))
            }
            TokenBehaviour::CommitThenChange(change) => {
                let mut answer = self.commit(&request);
                (change.0)(&mut answer);
                Ending::Whole(answer)
            }
            TokenBehaviour::CommitThenWrite(write, end) => {
                Ending::Written((write.0)(&self.commit(&request)), end)
            }
        }
    }

    fn commit(&self, request: &TokenRequest) -> Answer {
        if request.method != Method::POST {
            return wrong_method();
        }
        let key = match self.check_proof(request) {
            Ok(key) => key,
            Err(proof_error) => return proof_error_answer(&proof_error),
        };
        match self.decide(request) {
            Ok(tokens) => {
                if let (Some(key), Some(token)) = (key, tokens["access_token"].as_str()) {
                    self.tokens.bind(token, key);
                }
                self.committed.increment();
                uncached(200, tokens.to_string())
            }
            Err(refusal) => refused(&refusal),
        }
    }

    /// Returns the thumbprint of the key that tokens must be bound to, if proofs are required.
    fn check_proof(&self, request: &TokenRequest) -> Result<Option<String>, ProofError> {
        if !self.config.dpop {
            return Ok(None);
        }
        let proved = ProofRequest {
            method: &request.method,
            scheme: if self.config.tls.is_some() { "https" } else { "http" },
            target: &request.path_and_query,
            headers: &request.headers,
            access_token: None,
        };
        self.proofs.check(&proved).map(Some)
    }

    fn decide(&self, request: &TokenRequest) -> Result<serde_json::Value, Refusal> {
        let ledgers = &mut *self.ledgers.lock().expect(LOCK);
        ledgers.realm(&self.realm_of(request), &self.config);
        let Ledgers { policy, refresh_tokens } = ledgers;
        let mut processor = GrantProcessor {
            config: &self.config,
            policy,
            refresh_tokens: refresh_tokens.get_mut(&self.realm_of(request)).expect("just made"),
            tokens: &self.tokens,
        };
        processor.decide(request)
    }

    fn end(&self, ending: Ending, line: Arc<Line>) -> Outcome {
        match ending {
            Ending::Whole(Answer { status, headers, body }) => {
                Ok(response(status, &headers, full(body)))
            }
            Ending::Truncated(answer, keep) => Ok(truncated(answer, keep, line)),
            Ending::Dripping(answer, interval) => Ok(self.dripping(answer, interval)),
            Ending::Written(bytes, end) => {
                match end {
                    End::Open => {}
                    End::Close => line.close_once_flushed(),
                    End::CloseSilently => line.close_silently_once_flushed(),
                    End::Reset => line.reset_once_flushed(),
                }
                line.replace_output(bytes);
                // The line replaces these bytes.
                Ok(response(200, &[], full(Bytes::new())))
            }
            Ending::Reset => {
                line.reset();
                Err(NoAnswer)
            }
        }
    }

    fn dripping(&self, answer: Answer, interval: Duration) -> Response<Payload> {
        let (feed, body) = streamed();
        self.tasks.spawn(async move {
            for byte in answer.body {
                tokio::time::sleep(interval).await;
                let frame = Frame::data(Bytes::copy_from_slice(&[byte]));
                if feed.send(Ok(frame)).await.is_err() {
                    break;
                }
            }
        });
        response(answer.status, &answer.headers, body)
    }
}

impl Service for Endpoint {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, line: Arc<Line>) -> Outcome {
        if !self.is_token_path(request.uri().path()) {
            return Ok(json(404, &serde_json::json!({ "error": "not_found" })));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| NoAnswer)?.to_bytes();
        let arrival = self.arrive(head, &body);
        let (finish, finished) = oneshot::channel();
        let endpoint = self.clone();
        self.tasks.spawn(async move {
            // The request is processed even if the client disconnects.
            let _ = finish.send(endpoint.process(arrival).await);
        });
        self.end(finished.await.map_err(|_| NoAnswer)?, line)
    }
}

fn truncated(mut answer: Answer, keep: usize, line: Arc<Line>) -> Response<Payload> {
    let length = answer.body.len().to_string();
    answer.headers.push(owned("content-length", &length));
    answer.body.truncate(keep);
    response(answer.status, &answer.headers, cut_short(answer.body, line))
}

fn uncached(status: u16, body: String) -> Answer {
    let headers = vec![
        owned("content-type", "application/json;charset=UTF-8"),
        owned("cache-control", "no-store"),
        owned("pragma", "no-cache"),
    ];
    Answer { status, headers, body: body.into() }
}

fn refused(refusal: &Refusal) -> Answer {
    let mut answer = uncached(refusal.status, refusal.to_value().to_string());
    if refusal.challenge {
        answer.headers.push(owned("www-authenticate", "Basic realm=\"token\""));
    }
    answer
}

fn proof_error_answer(proof_error: &ProofError) -> Answer {
    let (error, description, nonce) = match proof_error {
        ProofError::Nonce(nonce) => ("use_dpop_nonce", "the proof needs a nonce", Some(nonce)),
        ProofError::Invalid(why) => ("invalid_dpop_proof", *why, None),
    };
    let body = serde_json::json!({ "error": error, "error_description": description });
    let mut answer = uncached(400, body.to_string());
    answer.headers.extend(nonce.map(|nonce| owned("dpop-nonce", nonce)));
    answer
}

fn wrong_method() -> Answer {
    let mut answer = uncached(405, r#"{"error":"invalid_request"}"#.into());
    answer.headers.push(owned("allow", "POST"));
    answer
}
