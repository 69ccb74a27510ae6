//! The log's own thread: whoever logs never waits for whoever reads.
//!
//! Standard error may be a pipe that nobody reads. Lines wait in a bounded queue; what does not fit is dropped
//! and counted, and said as soon as lines are read again.

use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that wait to be read: a second or so of a busy proxy, some hundred KiB.
const WAITING: usize = 4096;
/// How often dropped lines are counted.
const LOOK: Duration = Duration::from_secs(1);

/// Where log lines are written to.
#[derive(Debug)]
pub struct Log {
    writer: NonBlocking,
    /// Writes what waits when it is dropped, for a second at most.
    guard: WorkerGuard,
}

/// Counts the lines that nobody read in time.
#[derive(Clone, Debug)]
pub struct Drops {
    counter: ErrorCounter,
}

impl Log {
    /// A log on standard error.
    pub fn new() -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(WAITING)
            .lossy(true)
            .thread_name("log")
            .finish(std::io::stderr());
        Self { writer, guard }
    }

    /// What lines are written to.
    pub fn writer(&self) -> NonBlocking {
        self.writer.clone()
    }

    /// The count of lines that were dropped.
    pub fn drops(&self) -> Drops {
        Drops { counter: self.writer.error_counter() }
    }

    /// Writes what waits, for a second at most.
    pub fn finish(self) {
        drop(self.guard);
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Drops {
    /// Tells `count` how many lines were dropped since it was last told, and the log once lines are read again. Runs
    /// until it is dropped.
    pub async fn watch(self, count: impl Fn(u64)) {
        let (mut counted, mut told) = (0, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let dropped = self.counter.dropped_lines() as u64;
            count(dropped - counted);
            if dropped > told && dropped == counted {
                tracing::warn!(
                    lines = dropped - told,
                    "lines of the log were dropped: nobody read them"
                );
                // This one may have been dropped as well.
                told = dropped;
            }
            counted = dropped;
        }
    }
}
