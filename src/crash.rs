//! Named points at which a test ends the process, as a power cut would.
//!
//! Without the feature `crash-points`, which no shipped binary has, [`point`] is nothing. With it, the
//! environment variable `BEARERD_CRASH` names one: `after_rename` ends the process with signal 9 at
//! the first passage of that point, `after_rename:2` at the second. No destructor runs, nothing is
//! flushed, and the kernel gives back what was held. `BEARERD_PANIC` names one where the thread panics
//! instead, once.
//!
//! The points, in the order in which a refresh passes them:
//!
//! | point | what has happened | what has not |
//! | --- | --- | --- |
//! | `after_send` | the token request is sent, its answer begins | the answer is read |
//! | `after_response` | the answer is in memory | anything is stored |
//! | `after_temp` | the temporary file is written and synced | the record is replaced |
//! | `after_rename` | the record is replaced | the directory is synced |
//! | `after_publish` | requests can have the new token | those that wait for it are told |
//!
//! The record is written twice in a refresh, first with the intent and then with the new token, so
//! that `after_temp` and `after_rename` are passed twice.

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

    /// A point, the number of its passage that counts, and how often it was passed.
    struct Chosen(OnceLock<Option<(String, usize)>>, AtomicUsize);

    impl Chosen {
        const fn new() -> Self {
            Self(OnceLock::new(), AtomicUsize::new(0))
        }

        /// Is it this passage that the environment names?
        fn is_reached(&self, name: &str, variable: &str) -> bool {
            let chosen = self.0.get_or_init(|| std::env::var(variable).ok().map(parsed));
            chosen.as_ref().is_some_and(|(chosen, passage)| {
                chosen == name && self.1.fetch_add(1, Ordering::SeqCst) + 1 == *passage
            })
        }
    }

    static CRASH: Chosen = Chosen::new();
    static PANIC: Chosen = Chosen::new();

    if CRASH.is_reached(name, "BEARERD_CRASH") {
        // Whoever waits for the line has the process ending already, or else sees it end.
        let _gone = writeln!(std::io::stderr(), "crash point {name}");
        let _refused = kill_process(getpid(), Signal::KILL);
        // A process may always signal itself; if not, this ends it as well.
        std::process::abort();
    }
    if PANIC.is_reached(name, "BEARERD_PANIC") {
        panic!("panic point {name}");
    }
}

/// `NAME` or `NAME:N`; what is no number counts as 1.
#[cfg(feature = "crash-points")]
fn parsed(text: String) -> (String, usize) {
    match text.split_once(':') {
        Some((name, passage)) => (name.to_owned(), passage.parse().unwrap_or(1)),
        None => (text, 1),
    }
}
