//! The CPU time of a process and its descendants, as Linux counts it.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context;

/// `/proc/PID/stat` counts in hundredths of a second on every architecture supported by Rust.
const TICK: Duration = Duration::from_millis(10);

/// The relevant fields of `/proc/PID/stat` (proc(5)).
#[derive(Clone, Copy)]
struct Process {
    id: u32,
    parent: u32,
    ticks: u32,
}

/// Returns the user and system time of `root` and its descendants, including all threads.
pub(crate) fn of_tree(root: u32) -> anyhow::Result<Duration> {
    let processes = all().context("cannot read /proc")?;
    let mut tree = HashSet::from([root]);
    loop {
        let known = tree.len();
        let children = processes.iter().filter(|process| tree.contains(&process.parent));
        tree.extend(children.map(|process| process.id).collect::<Vec<_>>());
        if tree.len() == known {
            break;
        }
    }
    let of_tree = processes.iter().filter(|process| tree.contains(&process.id));
    Ok(TICK * of_tree.map(|process| process.ticks).sum())
}

fn all() -> std::io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // The process may have exited.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        processes.extend(parse(id, &stat));
    }
    Ok(processes)
}

fn parse(id: u32, stat: &str) -> Option<Process> {
    // The second field is the program name in parentheses, which may contain any character.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut times = fields.skip(9).map_while(|field| field.parse::<u32>().ok());
    Some(Process { id, parent, ticks: times.next()? + times.next()? })
}
