//! Runs commands that print secrets, and kills the processes they leave behind.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often to check whether the command has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long the output may stay open after the command has exited and its process group was killed.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// The maximum output size in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

pub(super) fn output(argv: &[String], limit: Duration) -> Result<String, String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("names no program".to_owned());
    };
    let failed = |error| format!("cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its diagnostics may contain secrets and may be endless.
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let group = ProcessGroup::of(&child);
    let stdout = child.stdout.take().ok_or("has no output")?;
    let (sender, printed) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = stdout.take(MAX_OUTPUT).read_to_end(&mut text);
        // Ignore the error: the receiver is gone after a timeout.
        let _late = sender.send(read.map(|_| text));
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            None if started.elapsed() < limit => std::thread::sleep(POLL_INTERVAL),
            status => break status,
        }
    };
    // Kill its remaining child processes, which may keep the output open.
    drop(group);
    let Some(status) = status else {
        let _reaped = child.wait();
        let limit = humantime::format_duration(limit);
        return Err(format!("did not exit within {limit}"));
    };
    if !status.success() {
        return Err(format!("ended with {status}; run it by hand to see why"));
    }
    let text = printed
        .recv_timeout(OUTPUT_GRACE)
        .map_err(|_| "has exited, but one of its child processes keeps the output open")?;
    String::from_utf8(text.map_err(failed)?).map_err(|_| "did not print UTF-8".to_owned())
}

/// The process groups of the running commands.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// The process group of a command, killed on drop.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(group);
        Self(group)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // Ignore the error: the group may just have exited.
        let _ended = kill_process_group(group, Signal::KILL);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != group);
    }
}

/// Kills all running commands. Called when the process exits, which does not wait for them.
pub(crate) fn kill_commands() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ended = kill_process_group(*group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_time_out_and_their_children_are_killed() {
        let run = |script: &str| {
            let argv = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
            output(&argv, Duration::from_millis(500))
        };
        for script in ["exec sleep 60", "echo s3cret; exec >&-; exec sleep 60"] {
            let error = run(script).unwrap_err();
            assert_eq!(error, "did not exit within 500ms");
        }
        assert_eq!(run("sleep 60 & echo s3cret").unwrap(), "s3cret\n");
    }
}
