//! What happens to each token request, decided as it arrives, and the log of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bearerd_test_support::{End, TokenAnswer, TokenBehaviour, TokenRequest, coding};
use serde_json::json;

use super::dice::Dice;
use super::stage::{CREDENTIALS, Healer, TIMEOUT, name};

/// Of all token requests, how many in a hundred are disturbed.
const FAULTS: u64 = 12;
/// Of two bootstraps within ten minutes the next one is not sooner than half a minute after the last, so a grant that
/// began with one is spared for as long.
const SPARED: Duration = Duration::from_secs(35);
/// Faults in a row for one credential. After three failures in a row bearerd waits longer than clients may.
const IN_A_ROW: usize = 3;
/// Presentations of one refresh token that a fault may meet. After three answers that were lost bearerd waits a minute.
const OF_ONE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Trouble,
    Throttle,
    Reset,
    Stall,
    Garbage,
    Page,
    Late,
    TooLate,
    Odd,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Trouble,
        Self::Throttle,
        Self::Reset,
        Self::Stall,
        Self::Garbage,
        Self::Page,
        Self::Late,
        Self::TooLate,
        Self::Odd,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trouble => "500, 502, 503",
            Self::Throttle => "429",
            Self::Reset => "resets",
            Self::Stall => "stalls",
            Self::Garbage => "unreadable 200, also cut",
            Self::Page => "a gateway's pages",
            Self::Late => "late or slow, in time",
            Self::TooLate => "later than the timeout",
            Self::Odd => "compressed, miscounted, cut",
        })
    }
}

/// What became of the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// The refresh token is as good as before.
    Untouched,
    /// It is consumed, and what was issued is in the answer.
    Delivered,
    /// It is consumed, and its successor kept back.
    KeptBack,
}

/// What was done to one token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) fate: Fate,
}

impl Fault {
    /// One of all kinds, each as often as any other.
    fn any(dice: &mut Dice) -> Self {
        let kind = dice.pick(&Kind::ALL);
        let fates: &[Fate] = match kind {
            Kind::Trouble | Kind::Reset | Kind::Garbage | Kind::Page => {
                &[Fate::Untouched, Fate::KeptBack]
            }
            Kind::Throttle => &[Fate::Untouched],
            // Dealt with late it would be a reuse by nobody that is still there.
            Kind::Stall => &[Fate::Untouched, Fate::Delivered],
            Kind::Late | Kind::Odd => &[Fate::Delivered],
            Kind::TooLate => &[Fate::KeptBack],
        };
        Self { kind, fate: dice.pick(fates) }
    }

    /// Does it end a grant of this server, if it strikes a refresh token? Whatever a 200 holds, it has consumed the
    /// refresh token as far as a client can know.
    fn costs_a_grant(self, is_strict: bool) -> bool {
        self.kind == Kind::Garbage || is_strict && self.fate == Fate::KeptBack
    }

    /// Did nobody get to see an answer?
    pub(crate) fn is_silent(self) -> bool {
        match self.kind {
            Kind::Reset | Kind::TooLate => true,
            Kind::Stall => self.fate == Fate::Untouched,
            _ => false,
        }
    }

    /// May the same refresh token be presented again after it?
    pub(crate) fn asks_for_another(self) -> bool {
        self.fate != Fate::Delivered && self.kind != Kind::Garbage
    }

    /// How it goes, and how long that takes.
    fn behaviour(self, dice: &mut Dice) -> (TokenBehaviour, Duration) {
        let at_once = Duration::ZERO;
        let refusal = match (self.kind, self.fate) {
            (Kind::Trouble, _) => match dice.below(3) {
                0 => TokenBehaviour::json(500, json!({"message": "trouble"})),
                1 => TokenBehaviour::html(502, "Bad Gateway"),
                _ => TokenBehaviour::json(503, json!({})),
            },
            (Kind::Throttle, _) => TokenBehaviour::json(429, json!({"message": "slow down"}))
                .with_header("retry-after", "1"),
            (Kind::Garbage, Fate::KeptBack) if dice.one_in(2) => {
                let keep = dice.below(30) as usize;
                return (TokenBehaviour::CommitThenTruncate { keep }, at_once);
            }
            (Kind::Garbage, _) => match dice.below(3) {
                0 => TokenBehaviour::json(200, json!({"status": "ok"})),
                1 => TokenBehaviour::html(200, "{\"access_token\": \"ab"),
                _ => TokenBehaviour::html(200, "\u{0}\u{1}\u{fffd}\u{7f}"),
            },
            (Kind::Page, Fate::KeptBack) => page(dice.pick(&[200, 502]), dice),
            (Kind::Page, _) => page(dice.pick(&[200, 404, 502, 400, 403]), dice),
            (Kind::Reset, Fate::Untouched) => return (TokenBehaviour::DropBeforeCommit, at_once),
            (Kind::Reset, _) if dice.one_in(2) => {
                return (TokenBehaviour::DropAfterCommit, at_once);
            }
            (Kind::Reset, _) => {
                let begun = |_: &TokenAnswer| b"HTTP/1.1 2".to_vec();
                return (TokenBehaviour::written(End::Reset, begun), at_once);
            }
            // The stage lets go of whoever stalls every second.
            (Kind::Stall, Fate::Untouched) => return (TokenBehaviour::Hang, STALLED),
            (Kind::Stall, _) => return (TokenBehaviour::Stall { commit_first: true }, STALLED),
            (Kind::Late, _) if dice.one_in(3) => {
                let interval = dice.between(2, 9);
                return (TokenBehaviour::SlowDrip { interval }, Duration::from_secs(4));
            }
            (Kind::Late, _) => {
                let by = dice.between(300, 3000);
                return (TokenBehaviour::Late { by, commit_first: true }, by);
            }
            (Kind::TooLate, _) => {
                let by = TIMEOUT + dice.between(500, 3000);
                return (TokenBehaviour::Late { by, commit_first: true }, by);
            }
            (Kind::Odd, _) => return (odd(dice), Duration::from_secs(2)),
        };
        match self.fate {
            Fate::KeptBack => (refusal.after_commit(), at_once),
            _ => (refusal, at_once),
        }
    }
}

const STALLED: Duration = Duration::from_millis(1200);

/// What stands in front of a token endpoint says.
fn page(status: u16, dice: &mut Dice) -> TokenBehaviour {
    let express = "<!DOCTYPE html>\n<html lang=\"en\">\n<body>\n<pre>Cannot POST /token</pre>\n</body>\n</html>\n";
    let nginx = "<html>\r\n<head><title>Error</title></head>\r\n<body>\r\n<center><h1>Error</h1></center>\r\n\
                 <hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n";
    let sign_in = "<!doctype html><html><title>Sign in</title><form action=/login></form></html>";
    match (status, dice.below(3)) {
        (404, 0) => TokenBehaviour::json(
            404,
            json!({"statusCode": 404, "message": "Cannot POST /token", "error": "Not Found"}),
        ),
        (404, 1) => TokenBehaviour::html(404, express),
        (200, _) => TokenBehaviour::html(200, sign_in),
        _ => TokenBehaviour::html(status, nginx),
    }
}

/// An answer that can be read, for whoever is not too strict.
fn odd(dice: &mut Dice) -> TokenBehaviour {
    type Encode = fn(&[u8]) -> Vec<u8>;
    let coded = |name: &'static str, encode: Encode| {
        TokenBehaviour::changed(move |answer| {
            answer.body = encode(&answer.body).into();
            answer.headers.push(("content-encoding".to_owned(), name.to_owned()));
        })
    };
    let join = |head: String, body: &[u8]| [head.as_bytes(), body].concat();
    // Up to five bytes, and nothing of the refresh token.
    let short = |answer: &TokenAnswer| {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let token = text.find("\"refresh_token\":\"").map_or(0, |at| at + 17);
        let end = text[token..].find('"').map_or(text.len(), |at| token + at + 1);
        end.max(text.len() - 5)
    };
    let end = dice.pick(&[End::Close, End::Reset, End::Open]);
    match dice.below(7) {
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

/// What the faults may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The server forgives: every fault.
    Forgiving,
    /// The same without those that end a grant all the same.
    Lossless,
    /// The server is strict: faults that cost nothing.
    BeforeCommit,
    /// Every fault, and the server is strict: grants are lost.
    Strict,
    /// None.
    Calm,
}

/// One token request.
#[derive(Clone, Debug)]
pub(crate) struct Presented {
    pub(crate) at: Instant,
    pub(crate) credential: usize,
    /// `None`: another grant.
    pub(crate) refresh_token: Option<String>,
    pub(crate) fault: Option<Fault>,
    /// How long the answer takes.
    pub(crate) takes: Duration,
    /// It is left without an answer until the proxy is killed.
    pub(crate) held: bool,
}

/// Whether the grant of a credential may be lost now.
#[derive(Clone, Debug)]
enum Stake {
    Open,
    /// The answer to this refresh token was kept back, and the loss is not healed yet.
    Losing(String),
    NotBefore(Instant),
}

/// Decides, and logs.
pub(crate) struct Script {
    pub(crate) phase: Phase,
    /// The proxy is about to be killed: what may not be lost gets no answer any more.
    pub(crate) closing: bool,
    /// Requests that wait for a release since the last time this was set to 0.
    pub(crate) waiting: usize,
    pub(crate) log: Vec<Presented>,
    stakes: Vec<Stake>,
    dice: Vec<Dice>,
}

impl Script {
    pub(crate) fn new(dice: &Dice) -> Self {
        Self {
            phase: Phase::Calm,
            closing: false,
            waiting: 0,
            log: Vec::new(),
            stakes: vec![Stake::Open; CREDENTIALS],
            dice: (0..CREDENTIALS).map(|credential| dice.of(&name(credential))).collect(),
        }
    }

    pub(crate) fn decide(&mut self, request: &TokenRequest) -> TokenBehaviour {
        let credential = (0..CREDENTIALS)
            .find(|credential| request.path_and_query.ends_with(&name(*credential)))
            .expect("each credential has its token URL");
        let refresh_token = request.param("refresh_token").map(str::to_owned);
        let mut dice = self.dice[credential].decision();
        let (held, fault) = match self.closing && self.is_guarded(credential, &refresh_token) {
            true => (true, None),
            false => (false, self.fault(credential, refresh_token.as_ref(), &mut dice)),
        };
        let is_strict = self.phase == Phase::Strict;
        if let (Some(fault), Some(token)) = (fault, &refresh_token)
            && fault.costs_a_grant(is_strict)
        {
            self.stakes[credential] = Stake::Losing(token.clone());
        }
        self.waiting += usize::from(held || fault.is_some_and(|fault| fault.kind == Kind::Stall));
        let (behaviour, takes) = match fault {
            _ if held => (TokenBehaviour::Hang, STALLED),
            Some(fault) => fault.behaviour(&mut dice),
            None => (TokenBehaviour::Normal, Duration::ZERO),
        };
        let at = Instant::now();
        self.log.push(Presented { at, credential, refresh_token, fault, takes, held });
        behaviour
    }

    fn fault(
        &self,
        credential: usize,
        refresh_token: Option<&String>,
        dice: &mut Dice,
    ) -> Option<Fault> {
        if self.phase == Phase::Calm || dice.below(100) >= FAULTS {
            return None;
        }
        let fault = Fault::any(dice);
        let before = self.log.iter().rev().filter(|one| one.credential == credential);
        let in_a_row: Vec<_> = before.clone().map_while(|one| one.fault).collect();
        let of_it = before.take_while(|one| one.refresh_token.as_ref() == refresh_token);
        let is_slow = |fault: &Fault| fault.kind == Kind::TooLate;
        let is_too_much = in_a_row.len() >= IN_A_ROW
            || refresh_token.is_some() && of_it.count() >= OF_ONE
            || is_slow(&fault) && in_a_row.iter().any(is_slow);
        let is_allowed = match self.phase {
            Phase::Calm => false,
            Phase::Lossless => !fault.costs_a_grant(false),
            Phase::BeforeCommit => !fault.costs_a_grant(true),
            Phase::Forgiving | Phase::Strict => {
                !fault.costs_a_grant(self.phase == Phase::Strict)
                    || self.may_be_lost(credential, refresh_token)
            }
        };
        (is_allowed && !is_too_much).then_some(fault)
    }

    fn may_be_lost(&self, credential: usize, refresh_token: Option<&String>) -> bool {
        let Some(refresh_token) = refresh_token else { return true };
        match &self.stakes[credential] {
            _ if Healer::of(credential) != Healer::Password => true,
            Stake::Open => true,
            Stake::Losing(lost) => lost == refresh_token,
            Stake::NotBefore(then) => Instant::now() >= *then,
        }
    }

    /// Would a kill after the commit of this request cost a grant that may not be lost?
    fn is_guarded(&self, credential: usize, refresh_token: &Option<String>) -> bool {
        let Some(refresh_token) = refresh_token else { return false };
        match self.phase {
            Phase::Forgiving | Phase::Lossless | Phase::Calm => false,
            Phase::BeforeCommit => true,
            Phase::Strict => {
                Healer::of(credential) == Healer::Password
                    && self.loses(credential) != Some(refresh_token)
            }
        }
    }

    /// The refresh token whose answer was kept back and that is not replaced yet.
    pub(crate) fn loses(&self, credential: usize) -> Option<&String> {
        match &self.stakes[credential] {
            Stake::Losing(lost) => Some(lost),
            _ => None,
        }
    }

    pub(crate) fn healed(&mut self, credential: usize) {
        self.stakes[credential] = match Healer::of(credential) {
            Healer::Password => Stake::NotBefore(Instant::now() + SPARED),
            _ => Stake::Open,
        };
    }

    /// How many requests wait for a release, and the credentials that a kill may cost nothing now.
    pub(crate) fn at_stake(&self) -> (usize, Vec<usize>) {
        let is_guarded = |credential: &usize| {
            self.loses(*credential).is_none() && self.is_guarded(*credential, &Some(String::new()))
        };
        (self.waiting, (0..CREDENTIALS).filter(is_guarded).collect())
    }

    /// The token requests from the `from`th on, by what was done to them.
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
            "      faults                  {faults:>5} ({share:.1} %)   nothing consumed   answered   kept back"
        );
        for kind in Kind::ALL {
            let of = |fate| count(Fault { kind, fate });
            println!(
                "        {kind:<27}             {:>16}   {:>8}   {:>9}",
                of(Fate::Untouched),
                of(Fate::Delivered),
                of(Fate::KeptBack)
            );
        }
        let held = self.log[from..].iter().filter(|presented| presented.held).count();
        println!("      held until a kill       {held:>5}");
    }
}
