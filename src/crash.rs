//! Named points at which a test ends the process, as a power cut would.
//!
//! Without the feature `crash-points`, which no shipped binary has, [`point`] is nothing. With it, the
//! environment variable `BEARERD_CRASH` names one: `after_rename` ends the process with signal 9 at
//! the first passage of that point, `after_rename:2` at the second. No destructor runs, nothing is
//! flushed, and the kernel gives back what was held.
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

/// Ends the process here if the environment says so.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// The point and the number of its passage that end the process.
    static CHOSEN: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);

    let chosen = CHOSEN.get_or_init(|| std::env::var("BEARERD_CRASH").ok().map(parsed));
    if let Some((chosen, passage)) = chosen
        && chosen == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *passage
    {
        // Whoever waits for the line has the process ending already, or else sees it end.
        let _gone = writeln!(std::io::stderr(), "crash point {name}, passage {passage}");
        let _refused = kill_process(getpid(), Signal::KILL);
        // A process may always signal itself; if not, this ends it as well.
        std::process::abort();
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
