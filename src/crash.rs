//! Crash points: named points at which tests end the process, as a power failure would.
//!
//! Without the feature `crash-points`, which no released binary has, [`point`] does nothing. With
//! it, the environment variable `BEARERD_CRASH` names a point: `after_rename` ends the process with
//! signal 9 the first time that point is reached, `after_rename:2` the second time. No destructor
//! runs, nothing is flushed, and the kernel releases all locks. `BEARERD_PANIC` names a point at
//! which the thread panics instead, once.
//!
//! The points, in the order in which a refresh reaches them:
//!
//! | point | done | not done |
//! | --- | --- | --- |
//! | `after_send` | the token request is sent and its response has begun | the response is read |
//! | `after_response` | the response is in memory | anything is stored |
//! | `after_temp` | the temporary file is written and synced | the record is replaced |
//! | `after_rename` | the record is replaced | the directory is synced |
//! | `after_publish` | requests can use the new token | waiting requests are woken |
//!
//! A refresh writes the record twice, first with the attempt and then with the new token, so it
//! reaches `after_temp` and `after_rename` twice.

/// Ends the process here if the environment says so.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Ends the process here, or panics, if the environment says so.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// A point, the occurrence that triggers, and a counter.
    struct Trigger(OnceLock<Option<(String, usize)>>, AtomicUsize);

    impl Trigger {
        const fn new() -> Self {
            Self(OnceLock::new(), AtomicUsize::new(0))
        }

        /// Returns true if the environment names this occurrence.
        fn is_reached(&self, name: &str, variable: &str) -> bool {
            let configured = self.0.get_or_init(|| std::env::var(variable).ok().map(parse));
            configured.as_ref().is_some_and(|(configured, occurrence)| {
                configured == name && self.1.fetch_add(1, Ordering::SeqCst) + 1 == *occurrence
            })
        }
    }

    static CRASH: Trigger = Trigger::new();
    static PANIC: Trigger = Trigger::new();

    if CRASH.is_reached(name, "BEARERD_CRASH") {
        // Tests wait for this line, or for the end of the process.
        let _gone = writeln!(std::io::stderr(), "crash point {name}");
        let _refused = kill_process(getpid(), Signal::KILL);
        // A process can always signal itself; otherwise this ends it.
        std::process::abort();
    }
    if PANIC.is_reached(name, "BEARERD_PANIC") {
        panic!("panic point {name}");
    }
}

/// Parses `NAME` or `NAME:N`. An invalid number counts as 1.
#[cfg(feature = "crash-points")]
fn parse(text: String) -> (String, usize) {
    match text.split_once(':') {
        Some((name, occurrence)) => (name.to_owned(), occurrence.parse().unwrap_or(1)),
        None => (text, 1),
    }
}
