//! Decides the fate of each token request on arrival, and logs it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bearerd_test_support::{End, TokenAnswer, TokenBehaviour, TokenRequest, coding};
use serde_json::json;

use super::rng::Rng;
use super::test_bed::{CREDENTIALS, Recovery, TIMEOUT, name};

/// The percentage of token requests that are disturbed.
const FAULTS: u64 = 12;
/// After two bootstraps within ten minutes, bearerd waits at least half a minute before the next one. So a grant
/// recovered by a bootstrap is not lost again for this long.
const SPARED: Duration = Duration::from_secs(35);
/// The maximum of consecutive faults per credential. After three consecutive failures bearerd backs off longer than
/// clients wait.
const IN_A_ROW: usize = 3;
/// The maximum of faults per refresh token. After three lost answers bearerd waits a minute.
const OF_ONE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    ServerError,
    Throttle,
    Reset,
    Stall,
    Garbage,
    Page,
    Late,
    TooLate,
    Unusual,
}

impl FaultKind {
    pub(crate) const ALL: [Self; 9] = [
        Self::ServerError,
        Self::Throttle,
        Self::Reset,
        Self::Stall,
        Self::Garbage,
        Self::Page,
        Self::Late,
        Self::TooLate,
        Self::Unusual,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ServerError => "500, 502, 503",
            Self::Throttle => "429",
            Self::Reset => "resets",
            Self::Stall => "stalls",
            Self::Garbage => "unreadable or truncated 200",
            Self::Page => "a gateway's pages",
            Self::Late => "late or slow, in time",
            Self::TooLate => "later than the timeout",
            Self::Unusual => "compressed, miscounted, cut",
        })
    }
}

/// The effect of a fault on the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GrantEffect {
    /// The refresh token is not consumed.
    Untouched,
    /// The refresh token is consumed, and the answer holds the new tokens.
    Delivered,
    /// The refresh token is consumed, and its successor is withheld.
    KeptBack,
}

/// The fault of one token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) effect: GrantEffect,
}

impl Fault {
    /// Returns a random fault, with equal probability for each kind.
    fn any(rng: &mut Rng) -> Self {
        let kind = rng.pick(&FaultKind::ALL);
        let fates: &[GrantEffect] = match kind {
            FaultKind::ServerError | FaultKind::Reset | FaultKind::Garbage | FaultKind::Page => {
                &[GrantEffect::Untouched, GrantEffect::KeptBack]
            }
            FaultKind::Throttle => &[GrantEffect::Untouched],
            // Processed late, it would be a reuse by a process that no longer exists.
            FaultKind::Stall => &[GrantEffect::Untouched, GrantEffect::Delivered],
            FaultKind::Late | FaultKind::Unusual => &[GrantEffect::Delivered],
            FaultKind::TooLate => &[GrantEffect::KeptBack],
        };
        Self { kind, effect: rng.pick(fates) }
    }

    /// Returns true if the fault loses the grant when it hits a refresh token. A client must assume that any 200
    /// has consumed the refresh token.
    fn loses_grant(self, is_strict: bool) -> bool {
        self.kind == FaultKind::Garbage || is_strict && self.effect == GrantEffect::KeptBack
    }

    /// Returns true if no client received an answer.
    pub(crate) fn is_silent(self) -> bool {
        match self.kind {
            FaultKind::Reset | FaultKind::TooLate => true,
            FaultKind::Stall => self.effect == GrantEffect::Untouched,
            _ => false,
        }
    }

    /// Returns true if the same refresh token may be presented again afterwards.
    pub(crate) fn allows_retry(self) -> bool {
        self.effect != GrantEffect::Delivered && self.kind != FaultKind::Garbage
    }

    /// Returns the behaviour of the server, and how long the answer takes.
    fn behaviour(self, rng: &mut Rng) -> (TokenBehaviour, Duration) {
        let at_once = Duration::ZERO;
        let refusal = match (self.kind, self.effect) {
            (FaultKind::ServerError, _) => match rng.below(3) {
                0 => TokenBehaviour::json(500, json!({"message": "trouble"})),
                1 => TokenBehaviour::html(502, "Bad Gateway"),
                _ => TokenBehaviour::json(503, json!({})),
            },
            (FaultKind::Throttle, _) => TokenBehaviour::json(429, json!({"message": "slow down"}))
                .with_header("retry-after", "1"),
            (FaultKind::Garbage, GrantEffect::KeptBack) if rng.one_in(2) => {
                let keep = rng.below(30) as usize;
                return (TokenBehaviour::CommitThenTruncate { keep }, at_once);
            }
            (FaultKind::Garbage, _) => match rng.below(3) {
                0 => TokenBehaviour::json(200, json!({"status": "ok"})),
                1 => TokenBehaviour::html(200, "{\"access_token\": \"ab"),
                _ => TokenBehaviour::html(200, "\u{0}\u{1}\u{fffd}\u{7f}"),
            },
            (FaultKind::Page, GrantEffect::KeptBack) => page(rng.pick(&[200, 502]), rng),
            (FaultKind::Page, _) => page(rng.pick(&[200, 404, 502, 400, 403]), rng),
            (FaultKind::Reset, GrantEffect::Untouched) => {
                return (TokenBehaviour::DropBeforeCommit, at_once);
            }
            (FaultKind::Reset, _) if rng.one_in(2) => {
                return (TokenBehaviour::DropAfterCommit, at_once);
            }
            (FaultKind::Reset, _) => {
                let begun = |_: &TokenAnswer| b"HTTP/1.1 2".to_vec();
                return (TokenBehaviour::written(End::Reset, begun), at_once);
            }
            // Stalled requests are released every second.
            (FaultKind::Stall, GrantEffect::Untouched) => return (TokenBehaviour::Hang, STALLED),
            (FaultKind::Stall, _) => {
                return (TokenBehaviour::Stall { commit_first: true }, STALLED);
            }
            (FaultKind::Late, _) if rng.one_in(3) => {
                let interval = rng.between(2, 9);
                return (TokenBehaviour::SlowDrip { interval }, Duration::from_secs(4));
            }
            (FaultKind::Late, _) => {
                let by = rng.between(300, 3000);
                return (TokenBehaviour::Late { by, commit_first: true }, by);
            }
            (FaultKind::TooLate, _) => {
                let by = TIMEOUT + rng.between(500, 3000);
                return (TokenBehaviour::Late { by, commit_first: true }, by);
            }
            (FaultKind::Unusual, _) => return (unusual(rng), Duration::from_secs(2)),
        };
        match self.effect {
            GrantEffect::KeptBack => (refusal.after_commit(), at_once),
            _ => (refusal, at_once),
        }
    }
}

const STALLED: Duration = Duration::from_millis(1200);

/// Returns an answer of a gateway in front of the token endpoint.
fn page(status: u16, rng: &mut Rng) -> TokenBehaviour {
    let express = "<!DOCTYPE html>\n<html lang=\"en\">\n<body>\n<pre>Cannot POST /token</pre>\n</body>\n</html>\n";
    let nginx = "<html>\r\n<head><title>Error</title></head>\r\n<body>\r\n<center><h1>Error</h1></center>\r\n\
                 <hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n";
    let sign_in = "<!doctype html><html><title>Sign in</title><form action=/login></form></html>";
    match (status, rng.below(3)) {
        (404, 0) => TokenBehaviour::json(
            404,
            json!({"statusCode": 404, "message": "Cannot POST /token", "error": "Not Found"}),
        ),
        (404, 1) => TokenBehaviour::html(404, express),
        (200, _) => TokenBehaviour::html(200, sign_in),
        _ => TokenBehaviour::html(status, nginx),
    }
}

/// Returns an unusual answer that a lenient client can read.
fn unusual(rng: &mut Rng) -> TokenBehaviour {
    type Encode = fn(&[u8]) -> Vec<u8>;
    let coded = |name: &'static str, encode: Encode| {
        TokenBehaviour::changed(move |answer| {
            answer.body = encode(&answer.body).into();
            answer.headers.push(("content-encoding".to_owned(), name.to_owned()));
        })
    };
    let join = |head: String, body: &[u8]| [head.as_bytes(), body].concat();
    // Up to five bytes, without any part of the refresh token.
    let short = |answer: &TokenAnswer| {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let token = text.find("\"refresh_token\":\"").map_or(0, |at| at + 17);
        let end = text[token..].find('"').map_or(text.len(), |at| token + at + 1);
        end.max(text.len() - 5)
    };
    let end = rng.pick(&[End::Close, End::Reset, End::Open]);
    match rng.below(7) {
        0 => coded("gzip", coding::gzip),
        1 => coded("deflate", coding::zlib),
        2 => coded("br", coding::brotli),
        3 => TokenBehaviour::written(end, move |answer| {
            join(answer.head(short(answer)), &answer.body)
        }),
        4 => TokenBehaviour::written(end, move |answer| {
            join(answer.head(answer.body.len()), &answer.body[..short(answer)])
        }),
        5 => TokenBehaviour::written(end, move |answer| {
            join(answer.head(answer.body.len() + 100), &answer.body)
        }),
        _ => TokenBehaviour::written(end, move |answer| {
            let head = answer.head(0);
            let head = head.replace("content-length: 0", "transfer-encoding: chunked");
            join(format!("{head}{:x}\r\n", answer.body.len()), &answer.body)
        }),
    }
}

/// Which faults a phase injects, and which losses they may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A forgiving server, with every fault.
    Forgiving,
    /// A forgiving server, without the faults that lose a grant nevertheless.
    Lossless,
    /// A strict server, with faults before the commit only: no grant is lost.
    BeforeCommit,
    /// A strict server, with every fault: grants are lost.
    Strict,
    /// No faults.
    Calm,
}

/// One logged token request.
#[derive(Clone, Debug)]
pub(crate) struct LoggedRequest {
    pub(crate) at: Instant,
    pub(crate) credential: usize,
    /// `None` for another grant type.
    pub(crate) refresh_token: Option<String>,
    pub(crate) fault: Option<Fault>,
    /// How long the answer takes.
    pub(crate) takes: Duration,
    /// True if the request gets no answer until the proxy is killed.
    pub(crate) held: bool,
}

/// The loss state of the grant of one credential.
#[derive(Clone, Debug)]
enum LossState {
    /// The grant may be lost.
    Open,
    /// The answer to this refresh token was withheld, and the loss has not been recovered yet.
    Losing(String),
    /// The grant may not be lost before this time.
    NotBefore(Instant),
}

/// Decides the behaviour of each token request, and logs it.
pub(crate) struct Script {
    pub(crate) phase: Phase,
    /// True while a kill is pending: requests of grants that must not be lost get no answer.
    pub(crate) is_kill_pending: bool,
    /// The number of requests that wait for a release, since it was last set to 0.
    pub(crate) waiting: usize,
    pub(crate) log: Vec<LoggedRequest>,
    loss_states: Vec<LossState>,
    rng: Vec<Rng>,
}

impl Script {
    pub(crate) fn new(rng: &Rng) -> Self {
        Self {
            phase: Phase::Calm,
            is_kill_pending: false,
            waiting: 0,
            log: Vec::new(),
            loss_states: vec![LossState::Open; CREDENTIALS],
            rng: (0..CREDENTIALS).map(|credential| rng.of(&name(credential))).collect(),
        }
    }

    pub(crate) fn decide(&mut self, request: &TokenRequest) -> TokenBehaviour {
        let credential = (0..CREDENTIALS)
            .find(|credential| request.path_and_query.ends_with(&name(*credential)))
            .expect("each credential has its token URL");
        let refresh_token = request.param("refresh_token").map(str::to_owned);
        let mut rng = self.rng[credential].decision();
        let (held, fault) =
            match self.is_kill_pending && self.is_guarded(credential, &refresh_token) {
                true => (true, None),
                false => (false, self.fault(credential, refresh_token.as_ref(), &mut rng)),
            };
        let is_strict = self.phase == Phase::Strict;
        if let (Some(fault), Some(token)) = (fault, &refresh_token)
            && fault.loses_grant(is_strict)
        {
            self.loss_states[credential] = LossState::Losing(token.clone());
        }
        self.waiting +=
            usize::from(held || fault.is_some_and(|fault| fault.kind == FaultKind::Stall));
        let (behaviour, takes) = match fault {
            _ if held => (TokenBehaviour::Hang, STALLED),
            Some(fault) => fault.behaviour(&mut rng),
            None => (TokenBehaviour::Normal, Duration::ZERO),
        };
        let at = Instant::now();
        self.log.push(LoggedRequest { at, credential, refresh_token, fault, takes, held });
        behaviour
    }

    fn fault(
        &self,
        credential: usize,
        refresh_token: Option<&String>,
        rng: &mut Rng,
    ) -> Option<Fault> {
        if self.phase == Phase::Calm || rng.below(100) >= FAULTS {
            return None;
        }
        let fault = Fault::any(rng);
        let before = self.log.iter().rev().filter(|one| one.credential == credential);
        let in_a_row: Vec<_> = before.clone().map_while(|one| one.fault).collect();
        let of_it = before.take_while(|one| one.refresh_token.as_ref() == refresh_token);
        let is_slow = |fault: &Fault| fault.kind == FaultKind::TooLate;
        let is_too_much = in_a_row.len() >= IN_A_ROW
            || refresh_token.is_some() && of_it.count() >= OF_ONE
            || is_slow(&fault) && in_a_row.iter().any(is_slow);
        let is_allowed = match self.phase {
            Phase::Calm => false,
            Phase::Lossless => !fault.loses_grant(false),
            Phase::BeforeCommit => !fault.loses_grant(true),
            Phase::Forgiving | Phase::Strict => {
                !fault.loses_grant(self.phase == Phase::Strict)
                    || self.may_be_lost(credential, refresh_token)
            }
        };
        (is_allowed && !is_too_much).then_some(fault)
    }

    fn may_be_lost(&self, credential: usize, refresh_token: Option<&String>) -> bool {
        let Some(refresh_token) = refresh_token else { return true };
        match &self.loss_states[credential] {
            _ if Recovery::of(credential) != Recovery::Password => true,
            LossState::Open => true,
            LossState::Losing(lost) => lost == refresh_token,
            LossState::NotBefore(then) => Instant::now() >= *then,
        }
    }

    /// Returns true if a kill after the commit of this request would lose a grant that must not be lost.
    fn is_guarded(&self, credential: usize, refresh_token: &Option<String>) -> bool {
        let Some(refresh_token) = refresh_token else { return false };
        match self.phase {
            Phase::Forgiving | Phase::Lossless | Phase::Calm => false,
            Phase::BeforeCommit => true,
            Phase::Strict => {
                Recovery::of(credential) == Recovery::Password
                    && self.loses(credential) != Some(refresh_token)
            }
        }
    }

    /// Returns the refresh token whose answer was withheld and whose loss has not been recovered.
    pub(crate) fn loses(&self, credential: usize) -> Option<&String> {
        match &self.loss_states[credential] {
            LossState::Losing(lost) => Some(lost),
            _ => None,
        }
    }

    pub(crate) fn mark_recovered(&mut self, credential: usize) {
        self.loss_states[credential] = match Recovery::of(credential) {
            Recovery::Password => LossState::NotBefore(Instant::now() + SPARED),
            _ => LossState::Open,
        };
    }

    /// Returns the number of requests that wait for a release, and the credentials that a kill must not harm.
    pub(crate) fn guarded(&self) -> (usize, Vec<usize>) {
        let is_guarded = |credential: &usize| {
            self.loses(*credential).is_none() && self.is_guarded(*credential, &Some(String::new()))
        };
        (self.waiting, (0..CREDENTIALS).filter(is_guarded).collect())
    }

    /// Prints the token requests from index `from` on, by fault.
    pub(crate) fn print(&self, from: usize) {
        let mut times: BTreeMap<Fault, usize> = BTreeMap::new();
        for fault in self.log[from..].iter().filter_map(|presented| presented.fault) {
            *times.entry(fault).or_default() += 1;
        }
        let count = |fault| times.get(&fault).copied().unwrap_or_default();
        let (all, faults) = (self.log.len() - from, times.values().sum::<usize>());
        let share = 100.0 * faults as f64 / all.max(1) as f64;
        println!("    token requests            {all}");
        println!(
            "      faults                  {faults:>5} ({share:.1} %)   nothing consumed   answered   withheld"
        );
        for kind in FaultKind::ALL {
            let of = |effect| count(Fault { kind, effect });
            println!(
                "        {kind:<27}             {:>16}   {:>8}   {:>9}",
                of(GrantEffect::Untouched),
                of(GrantEffect::Delivered),
                of(GrantEffect::KeptBack)
            );
        }
        let held = self.log[from..].iter().filter(|presented| presented.held).count();
        println!("      held until a kill       {held:>5}");
    }
}
