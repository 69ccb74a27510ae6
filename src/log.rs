//! The log, written by a thread of its own so that logging never blocks.
//!
//! Standard error may be a pipe that nobody reads. Lines wait in a bounded queue. Lines that do not fit are dropped and
//! counted, and the count is logged as soon as lines are read again.

use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The most lines that wait to be read: about a second of a busy proxy, a few hundred KiB.
const MAX_QUEUED_LINES: usize = 4096;
/// How often dropped lines are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The log on standard error.
#[derive(Debug)]
pub struct Log {
    writer: NonBlocking,
    /// Writes the queued lines when it is dropped, for at most one second.
    guard: WorkerGuard,
}

/// Counts the lines that were dropped because nobody read them in time.
#[derive(Clone, Debug)]
pub struct DroppedLines {
    counter: ErrorCounter,
}

impl Log {
    /// Starts the thread that writes to standard error.
    pub fn new() -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(MAX_QUEUED_LINES)
            .lossy(true)
            .thread_name("log")
            .finish(std::io::stderr());
        Self { writer, guard }
    }

    /// Returns the writer for `tracing_subscriber`.
    pub fn writer(&self) -> NonBlocking {
        self.writer.clone()
    }

    /// Returns the count of dropped lines.
    pub fn dropped_lines(&self) -> DroppedLines {
        DroppedLines { counter: self.writer.error_counter() }
    }

    /// Writes the queued lines, for at most one second.
    pub fn finish(self) {
        drop(self.guard);
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl DroppedLines {
    /// Passes to `count` the number of lines that were dropped since the last call, and logs the number once lines are
    /// read again. Runs until it is cancelled.
    pub async fn run(self, count: impl Fn(u64)) {
        let (mut counted, mut logged) = (0, 0);
        loop {
            tokio::time::sleep(COUNT_INTERVAL).await;
            let dropped = self.counter.dropped_lines() as u64;
            count(dropped - counted);
            if dropped > logged && dropped == counted {
                tracing::warn!(
                    lines = dropped - logged,
                    "log lines were dropped because nobody read them"
                );
                // This line may have been dropped as well; that is not logged again.
                logged = dropped;
            }
            counted = dropped;
        }
    }
}
