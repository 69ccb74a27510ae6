//! An authorization server with scripted answers.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use http::{HeaderValue, StatusCode};
use tokio::sync::Notify;

use super::faulty_store::{Journal, JournalEntry};
use super::*;
use crate::oauth::{RawAnswer, TokenRequest, Transport, TransportError};

/// The scripted fate of one request.
#[derive(Clone, Debug)]
pub(super) enum ScriptedAnswer {
    /// This status, body and `Retry-After`.
    Says(u16, String, Option<u64>),
    /// The request was sent, and no response arrives.
    Lost,
    /// The request could not be sent. The default if the script is empty.
    Unreachable,
    /// The transport panics.
    Panic,
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRequest {
    /// Host, path and body.
    pub(super) text: String,
    /// It had a DPoP proof.
    pub(super) proved: bool,
    /// The response timeout.
    pub(super) listen: Duration,
    pub(super) at: Instant,
}

/// Answers in the scripted order and records the requests.
#[derive(Debug, Default)]
pub(super) struct ScriptedServer {
    journal: Journal,
    answers: Mutex<VecDeque<ScriptedAnswer>>,
    asked: Mutex<Vec<ReceivedRequest>>,
    arrived: Notify,
    takes: Mutex<Duration>,
    /// While a test holds it, requests wait.
    pub(super) gate: tokio::sync::RwLock<()>,
}

impl ScriptedServer {
    pub(super) fn with_journal(journal: Journal) -> Self {
        Self { journal, ..Self::default() }
    }

    pub(super) fn tell(&self, answer: ScriptedAnswer) {
        self.answers.lock().unwrap().push_back(answer);
    }

    pub(super) fn answer(&self, status: u16, body: serde_json::Value) {
        self.tell(ScriptedAnswer::Says(status, body.to_string(), None));
    }

    /// Scripts a success with the tokens `atN` and `rtN` for an hour.
    pub(super) fn issue(&self, number: u32) {
        let (access_token, refresh_token) = (format!("at{number}"), format!("rt{number}"));
        self.answer(
            200,
            json!({"access_token": access_token, "refresh_token": refresh_token, "expires_in": 3600}),
        );
    }

    pub(super) fn lose(&self) {
        self.tell(ScriptedAnswer::Lost);
    }

    pub(super) fn dead(&self) {
        self.answer(400, json!({"error": "invalid_grant"}));
    }

    pub(super) fn throttle(&self, seconds: u64) {
        self.tell(ScriptedAnswer::Says(429, "{}".to_owned(), Some(seconds)));
    }

    /// Clears the script.
    pub(super) fn tell_nothing_more(&self) {
        self.answers.lock().unwrap().clear();
    }

    /// Sets how long every response takes.
    pub(super) fn takes(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }

    /// Waits for the next request.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn asked(&self) -> Vec<ReceivedRequest> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.text).collect()
    }

    /// The times of the requests in milliseconds after `start`.
    pub(super) fn times(&self, start: Instant) -> Vec<u128> {
        self.asked().iter().map(|asked| (asked.at - start).as_millis()).collect()
    }

    /// How often this refresh token was presented.
    pub(super) fn presented(&self, refresh_token: &str) -> usize {
        let wanted = format!("refresh_token={refresh_token}");
        self.requests().iter().filter(|it| it.split(['&', ' ']).any(|part| part == wanted)).count()
    }
}

impl Transport for ScriptedServer {
    fn send(
        &self,
        request: TokenRequest,
        listen: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<RawAnswer, TransportError>> + Send + '_>> {
        let path = request.url.path().to_owned();
        let host = request.url.host_str().unwrap().to_owned();
        let text = format!("{host}{path} {}", request.body.expose());
        let proved = request.fields.contains_key("dpop");
        self.journal.lock().unwrap().push(JournalEntry::ReceivedRequest(text.clone()));
        self.asked.lock().unwrap().push(ReceivedRequest {
            text,
            proved,
            listen,
            at: Instant::now(),
        });
        if path != "/revoke" {
            self.arrived.notify_one();
        }
        let takes = *self.takes.lock().unwrap();
        Box::pin(async move {
            let mut fields = HeaderMap::new();
            if path == "/revoke" {
                let (status, body) = (StatusCode::OK, Vec::new());
                return Ok(RawAnswer { status, fields, body, cut: None });
            }
            let _open = self.gate.read().await;
            tokio::time::sleep(takes).await;
            let answer = self.answers.lock().unwrap().pop_front();
            let (status, body, retry_after) = match answer.unwrap_or(ScriptedAnswer::Unreachable) {
                ScriptedAnswer::Says(status, body, retry_after) => (status, body, retry_after),
                ScriptedAnswer::Lost => return Err(TransportError::NoAnswer("reset".to_owned())),
                ScriptedAnswer::Unreachable => {
                    return Err(TransportError::NotSent("nobody listens".to_owned()));
                }
                ScriptedAnswer::Panic => panic!("a fault that a test wants"),
            };
            if let Some(seconds) = retry_after {
                fields.insert("retry-after", HeaderValue::from(seconds));
            }
            let (status, body) = (StatusCode::from_u16(status).unwrap(), body.into_bytes());
            Ok(RawAnswer { status, fields, body, cut: None })
        })
    }
}
