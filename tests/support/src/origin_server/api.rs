//! The steps of one request at the API: record, read, check the token, answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;

use super::answer::{Answer, Framing};
use super::record::{ReceivedRequest, Record, Recorded, bearer};
use super::{OriginConfig, routes};
use crate::dpop::{ProofError, ProofRequest, Proofs, bound_token};
use crate::events::{Count, Gate, Pass};
use crate::line::Line;
use crate::listening::{NoAnswer, Outcome, Service, Tasks};
use crate::payload::{self, Payload, cut_short, full, last_on, owned, response, streamed};
use crate::tokens::TokenState;

const LOCK: &str = "no holder of this lock panics";

/// The two points where requests can be held.
pub(super) struct Gates {
    pub(super) before_check: Gate,
    pub(super) after_check: Gate,
}

struct Passes {
    before_check: Pass,
    after_check: Pass,
}

#[derive(Default)]
struct Arrivals {
    records: Vec<Record>,
    answers: VecDeque<Answer>,
}

/// A request in progress.
struct PendingRequest {
    head: Parts,
    record: Record,
    body: Option<Incoming>,
    line: Arc<Line>,
    passes: Passes,
    /// The reason its proof is rejected, if it is.
    proof_error: Option<ProofError>,
}

/// The API behind an origin server.
pub(super) struct Api {
    config: OriginConfig,
    arrivals: Mutex<Arrivals>,
    rejecting: AtomicBool,
    proofs: Proofs,
    gates: Gates,
    chunks: Arc<Semaphore>,
    arrived: Count,
    completed: Count,
    checked: Count,
    accepted: Count,
    rejected: Count,
    connections: Count,
    tasks: Tasks,
}

impl Api {
    pub(super) fn new(config: OriginConfig, tasks: Tasks) -> Api {
        Api {
            config,
            arrivals: Mutex::default(),
            rejecting: AtomicBool::new(false),
            proofs: Proofs::default(),
            gates: Gates { before_check: Gate::new(), after_check: Gate::new() },
            chunks: Arc::new(Semaphore::new(0)),
            arrived: Count::new(),
            completed: Count::new(),
            checked: Count::new(),
            accepted: Count::new(),
            rejected: Count::new(),
            connections: Count::new(),
            tasks,
        }
    }

    pub(super) fn config(&self) -> &OriginConfig {
        &self.config
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(super) fn gates(&self) -> &Gates {
        &self.gates
    }

    pub(super) fn chunks(&self) -> &Arc<Semaphore> {
        &self.chunks
    }

    pub(super) fn arrived(&self) -> &Count {
        &self.arrived
    }

    pub(super) fn completed(&self) -> &Count {
        &self.completed
    }

    pub(super) fn checked(&self) -> &Count {
        &self.checked
    }

    pub(super) fn accepted(&self) -> &Count {
        &self.accepted
    }

    pub(super) fn rejected(&self) -> &Count {
        &self.rejected
    }

    pub(super) fn connections(&self) -> &Count {
        &self.connections
    }

    pub(super) fn requests(&self) -> Vec<ReceivedRequest> {
        let records = self.arrivals.lock().expect(LOCK).records.clone();
        records.iter().map(Record::snapshot).collect()
    }

    pub(super) fn clear(&self) {
        let mut arrivals = self.arrivals.lock().expect(LOCK);
        arrivals.records.clear();
        for count in [&self.arrived, &self.completed, &self.checked, &self.accepted, &self.rejected]
        {
            count.reset();
        }
    }

    pub(super) fn enqueue(&self, answer: Answer) {
        self.arrivals.lock().expect(LOCK).answers.push_back(answer);
    }

    pub(super) fn reject_all(&self, reject: bool) {
        self.rejecting.store(reject, Ordering::SeqCst);
    }

    pub(super) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    pub(super) fn note_frame(&self, record: &Record, frame: &Frame<Bytes>) {
        if let Some(bytes) = frame.data_ref() {
            record.note_bytes(bytes, self.config.keep_bodies);
        }
        if let Some(trailers) = frame.trailers_ref() {
            record.note_trailers(trailers);
        }
    }

    pub(super) fn note_end(&self, record: &Record) {
        record.note_end();
        self.completed.increment();
    }

    fn arrive(&self, request: Request<Incoming>, line: Arc<Line>) -> (PendingRequest, Answer) {
        let (head, body) = request.into_parts();
        let record = Record::new(&head, &line);
        let mut arrivals = self.arrivals.lock().expect(LOCK);
        arrivals.records.push(record.clone());
        let answer = arrivals.answers.pop_front().unwrap_or(Answer::Normal);
        let passes = Passes {
            before_check: self.gates.before_check.pass(),
            after_check: self.gates.after_check.pass(),
        };
        self.arrived.increment();
        (PendingRequest { head, record, body: Some(body), line, passes, proof_error: None }, answer)
    }

    async fn process(self: &Arc<Self>, mut pending: PendingRequest, answer: Answer) -> Outcome {
        if reads_first(&answer, &pending.head) {
            self.read(&mut pending).await?;
        }
        pending.passes.before_check.wait_if_held().await;
        if let Some(outcome) = end_without_answer(&answer, &pending.line) {
            return outcome;
        }
        pending.proof_error = self.check_proof(&pending.head).err();
        let accepted = self.check_token(&pending, &answer);
        pending.passes.after_check.wait_if_held().await;
        self.respond(pending, answer, accepted).await
    }

    async fn read(self: &Arc<Self>, pending: &mut PendingRequest) -> Result<(), NoAnswer> {
        if let Some(body) = self.take_body(pending) {
            body.collect().await.map_err(|_| NoAnswer)?;
        }
        Ok(())
    }

    fn take_body(self: &Arc<Self>, pending: &mut PendingRequest) -> Option<Recorded> {
        let incoming = pending.body.take()?;
        Some(Recorded::new(incoming, pending.record.clone(), self.clone()))
    }

    fn check_token(&self, pending: &PendingRequest, answer: &Answer) -> bool {
        let refused = matches!(answer, Answer::RejectToken | Answer::RejectEarly)
            || self.rejecting.load(Ordering::SeqCst);
        let accepted =
            !refused && pending.proof_error.is_none() && self.is_token_valid(&pending.head.headers);
        pending.record.set_accepted(accepted);
        let verdict = if accepted { &self.accepted } else { &self.rejected };
        verdict.increment();
        self.checked.increment();
        accepted
    }

    fn is_token_valid(&self, headers: &HeaderMap) -> bool {
        let Some(tokens) = &self.config.tokens else {
            return true;
        };
        self.token(headers).is_some_and(|token| tokens.check(token) == TokenState::Valid)
    }

    /// Returns the token, if it uses the required scheme.
    fn token<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        if self.config.dpop { bound_token(headers) } else { bearer(headers) }
    }

    /// Checks the DPoP proof of the request, if proofs are required.
    fn check_proof(&self, head: &Parts) -> Result<(), ProofError> {
        let Some(access_token) = self.token(&head.headers).filter(|_| self.config.dpop) else {
            return Ok(());
        };
        let proved = ProofRequest {
            method: &head.method,
            scheme: if self.config.tls.is_some() { "https" } else { "http" },
            target: &head.uri.to_string(),
            headers: &head.headers,
            access_token: Some(access_token),
        };
        let key = self.proofs.check(&proved)?;
        match self.config.tokens.as_ref().and_then(|tokens| tokens.key_of(access_token)) {
            Some(bound) if bound == key => Ok(()),
            _ => Err(ProofError::Invalid("the token is not bound to the key of the proof")),
        }
    }

    async fn respond(
        self: &Arc<Self>,
        pending: PendingRequest,
        answer: Answer,
        accepted: bool,
    ) -> Outcome {
        match answer {
            Answer::Stall => self.respond_late(pending, accepted).await,
            Answer::Respond { status, headers, body, framing } => {
                Ok(self.framed(response(status, &headers, full("")), body, framing))
            }
            Answer::Chunks(chunks) => Ok(self.released(chunks)),
            Answer::Trailers { body, trailers } => Ok(self.with_trailers(body, &trailers)),
            Answer::Truncated { announced, body } => Ok(truncated(announced, body, pending.line)),
            _ if accepted => Ok(self.route(pending).await),
            _ => Ok(self.refuse(&pending)),
        }
    }

    async fn respond_late(
        self: &Arc<Self>,
        mut pending: PendingRequest,
        accepted: bool,
    ) -> Outcome {
        pending.passes.after_check.wait_for_release().await;
        Box::pin(self.respond(pending, Answer::Normal, accepted)).await
    }

    async fn route(self: &Arc<Self>, mut pending: PendingRequest) -> Response<Payload> {
        let body = self.take_body(&mut pending);
        routes::route(self, &pending.head, &pending.record, body).await
    }

    fn refuse(&self, pending: &PendingRequest) -> Response<Payload> {
        let (challenge, reason) = self.token_error(pending);
        let mut refusal =
            payload::json(401, &json!({ "error": "invalid_token", "reason": reason }));
        let fields = refusal.headers_mut();
        fields.insert(header::WWW_AUTHENTICATE, challenge.parse().expect("ASCII"));
        if let Some(ProofError::Nonce(nonce)) = &pending.proof_error {
            fields.insert("dpop-nonce", nonce.parse().expect("ASCII"));
        }
        refusal
    }

    fn token_error(&self, pending: &PendingRequest) -> (&'static str, String) {
        match &pending.proof_error {
            Some(ProofError::Nonce(_)) => {
                return (r#"DPoP realm="api", error="use_dpop_nonce""#, "nonce".into());
            }
            Some(ProofError::Invalid(why)) => {
                return (r#"DPoP realm="api", error="invalid_dpop_proof""#, (*why).into());
            }
            None => {}
        }
        let headers = &pending.head.headers;
        if !headers.contains_key(header::AUTHORIZATION) {
            return (r#"Bearer realm="api""#, "missing".into());
        }
        let state = self.token(headers).zip(self.config.tokens.as_ref());
        let state = state.map_or(TokenState::Unknown, |(token, tokens)| tokens.check(token));
        let reason = format!("{state:?}").to_lowercase();
        match self.config.dpop {
            true => (r#"DPoP realm="api", error="invalid_token", algs="ES256""#, reason),
            false => (r#"Bearer realm="api", error="invalid_token""#, reason),
        }
    }

    fn framed(&self, head: Response<Payload>, body: Bytes, how: Framing) -> Response<Payload> {
        if how == Framing::Length {
            return head.map(|_| full(body));
        }
        let (feed, stream) = streamed();
        self.tasks.spawn(async move {
            let mut rest = body;
            for length in [1, 2, rest.len()] {
                let piece = rest.split_to(length.min(rest.len()));
                // Sending fails if the client disconnected.
                let _ = feed.send(Ok(Frame::data(piece))).await;
            }
        });
        let mut response = head.map(|_| stream);
        if how == Framing::Close {
            *response.version_mut() = Version::HTTP_10;
        }
        response
    }

    fn released(&self, chunks: Vec<Bytes>) -> Response<Payload> {
        let headers = [owned("content-type", "application/octet-stream")];
        response(200, &headers, routes::released(self, chunks.into_iter()))
    }

    fn with_trailers(&self, body: Bytes, trailers: &[(String, String)]) -> Response<Payload> {
        let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
        let headers = [owned("trailer", &names.join(", "))];
        let fields = trailer_fields(trailers);
        let (feed, stream) = streamed();
        self.tasks.spawn(async move {
            // Sending fails if the client disconnected.
            let _ = feed.send(Ok(Frame::data(body))).await;
            let _ = feed.send(Ok(Frame::trailers(fields))).await;
        });
        response(200, &headers, stream)
    }

    /// Closes the connection after this answer if `close_after` is reached.
    fn limit(&self, answer: Response<Payload>, line: Arc<Line>, nth: usize) -> Response<Payload> {
        match self.config.close_after {
            Some(limit) if nth >= limit => answer.map(|body| last_on(line, body)),
            _ => answer,
        }
    }
}

impl Service for Api {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, line: Arc<Line>) -> Outcome {
        let nth = line.count_request();
        if nth == 1 {
            self.connections.increment();
        }
        let (pending, answer) = self.arrive(request, line.clone());
        let answer = self.process(pending, answer).await?;
        Ok(self.limit(answer, line, nth))
    }
}

/// Returns true if the body is read before the token check. An echo reads while it answers.
fn reads_first(answer: &Answer, head: &Parts) -> bool {
    match answer {
        Answer::RejectEarly | Answer::CloseWithoutAnswer | Answer::ResetWithoutAnswer => false,
        Answer::Normal | Answer::Stall => head.uri.path() != routes::ECHO,
        _ => true,
    }
}

fn end_without_answer(answer: &Answer, line: &Line) -> Option<Outcome> {
    match answer {
        Answer::CloseWithoutAnswer => Some(Err(NoAnswer)),
        Answer::ResetWithoutAnswer => {
            line.reset();
            Some(Err(NoAnswer))
        }
        _ => None,
    }
}

fn truncated(announced: u64, body: Bytes, line: Arc<Line>) -> Response<Payload> {
    let headers = [owned("content-length", &announced.to_string())];
    response(200, &headers, cut_short(body, line))
}

fn trailer_fields(trailers: &[(String, String)]) -> HeaderMap {
    let parsed = trailers.iter().map(|(name, value)| {
        let name: header::HeaderName = name.parse().expect("a valid trailer name");
        (name, value.parse().expect("a valid trailer value"))
    });
    parsed.collect()
}
