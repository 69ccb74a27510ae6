//! What happens to each token request, decided as it arrives, and the log of it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bearerd_test_support::{TokenBehaviour, TokenRequest};
use serde_json::json;

use super::stage::{CREDENTIALS, Healer, name};

/// Of all token requests, how many in a hundred are disturbed.
const FAULTS: u64 = 10;
/// A bootstrap is not repeated for five minutes, so a grant that began with one is spared for as long.
const SPARED: Duration = Duration::from_secs(310);

/// A number below `limit` that nobody needs to be unable to guess.
pub(crate) fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(limit) % limit
}

pub(crate) fn between(low: u64, high: u64) -> Duration {
    Duration::from_millis(low + random(high - low))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Trouble,
    Throttle,
    Reset,
    Stall,
    Garbage,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Trouble, Self::Throttle, Self::Reset, Self::Stall, Self::Garbage];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trouble => "500, 502, 503",
            Self::Throttle => "429",
            Self::Reset => "resets, also in the middle",
            Self::Stall => "stalls",
            Self::Garbage => "garbage",
        })
    }
}

/// What was done to one token request. After the commit, the refresh token is consumed and its successor
/// kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) committed: bool,
}

impl Fault {
    /// One of all kinds, each as often as any other.
    fn any(may_commit: bool) -> Self {
        let kind = Kind::ALL[random(5) as usize];
        Self { kind, committed: may_commit && kind != Kind::Throttle && random(2) == 0 }
    }

    fn behaviour(self) -> TokenBehaviour {
        let refusal = match (self.kind, self.committed) {
            (Kind::Trouble, _) => match random(3) {
                0 => TokenBehaviour::json(500, json!({"message": "trouble"})),
                1 => TokenBehaviour::html(502, "<html>Bad Gateway</html>"),
                _ => TokenBehaviour::json(503, json!({})),
            },
            (Kind::Throttle, _) => TokenBehaviour::json(429, json!({"message": "slow down"}))
                .with_header("retry-after", "1"),
            (Kind::Garbage, _) => match random(3) {
                0 => TokenBehaviour::html(200, "<html>maintenance</html>"),
                1 => TokenBehaviour::html(200, "{\"access_token\": \"ab"),
                _ => TokenBehaviour::html(200, "\u{0}\u{1}\u{fffd}\u{7f}"),
            },
            (Kind::Reset, false) => return TokenBehaviour::DropBeforeCommit,
            (Kind::Reset, true) if random(2) == 0 => return TokenBehaviour::DropAfterCommit,
            (Kind::Reset, true) => return TokenBehaviour::CommitThenTruncate { keep: 20 },
            // Dealt with late it would be a reuse by nobody that is still there.
            (Kind::Stall, false) => return TokenBehaviour::Hang,
            (Kind::Stall, true) => return TokenBehaviour::Stall { commit_first: true },
        };
        if self.committed { refusal.after_commit() } else { refusal }
    }
}

/// What the faults may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The server forgives: faults before and after the commit.
    Forgiving,
    /// Faults before the commit, which cost nothing.
    BeforeCommit,
    /// Faults before and after it, to a strict server: grants are lost.
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
}

impl Script {
    pub(crate) fn new() -> Self {
        let stakes = vec![Stake::Open; CREDENTIALS];
        Self { phase: Phase::Calm, closing: false, waiting: 0, log: Vec::new(), stakes }
    }

    pub(crate) fn decide(&mut self, request: &TokenRequest) -> TokenBehaviour {
        let credential = (0..CREDENTIALS)
            .find(|credential| request.path_and_query.ends_with(&name(*credential)))
            .expect("each credential has its token URL");
        let refresh_token = request.param("refresh_token").map(str::to_owned);
        let (held, fault) = match self.closing && self.is_guarded(credential, &refresh_token) {
            true => (true, None),
            false => (false, self.fault(credential, refresh_token.as_ref())),
        };
        if let (Phase::Strict, Some(Fault { committed: true, .. }), Some(token)) =
            (self.phase, fault, &refresh_token)
        {
            self.stakes[credential] = Stake::Losing(token.clone());
        }
        self.waiting += usize::from(held || fault.is_some_and(|fault| fault.kind == Kind::Stall));
        self.log.push(Presented { at: Instant::now(), credential, refresh_token, fault, held });
        match fault {
            _ if held => TokenBehaviour::Hang,
            Some(fault) => fault.behaviour(),
            None => TokenBehaviour::Normal,
        }
    }

    fn fault(&self, credential: usize, refresh_token: Option<&String>) -> Option<Fault> {
        let may_commit = match self.phase {
            Phase::Calm => return None,
            Phase::Forgiving => true,
            Phase::BeforeCommit => false,
            Phase::Strict => self.may_be_lost(credential, refresh_token),
        };
        (random(100) < FAULTS).then(|| Fault::any(may_commit))
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
            Phase::Forgiving | Phase::Calm => false,
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
            "      faults                  {faults:>5} ({share:.1} %)   before   after the commit"
        );
        for kind in Kind::ALL {
            let of = |committed| count(Fault { kind, committed });
            println!("        {kind:<27}             {:>4}   {:>4}", of(false), of(true));
        }
        let held = self.log[from..].iter().filter(|presented| presented.held).count();
        println!("      held until a kill       {held:>5}");
    }
}
