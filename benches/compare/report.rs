//! The results, as a table for people and as JSON for programs.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::load::Outcome;
use crate::peer::Kind;
use crate::test_bed::Scenario;

/// The results of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) connections: usize,
    /// The number of threads or workers of each proxy.
    pub(crate) peer_threads: usize,
    pub(crate) scenarios: Vec<ScenarioReport>,
}

/// The machine of the measurement.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpus: usize,
    cpu: String,
    kernel: String,
    /// The load average of the minute before the first round: the load from other processes.
    load_average: String,
}

#[derive(Serialize)]
pub(crate) struct ScenarioReport {
    pub(crate) scenario: Scenario,
    #[serde(rename = "peers", serialize_with = "with_summaries")]
    pub(crate) rows: Vec<Row>,
}

/// The rounds of one proxy.
#[derive(Serialize)]
pub(crate) struct Row {
    kind: Kind,
    version: String,
    pub(crate) rounds: Vec<Measurement>,
}

/// One round of one proxy.
#[derive(Serialize)]
pub(crate) struct Measurement {
    pub(crate) requests: usize,
    /// User and system time of the proxy processes per request.
    #[serde(rename = "cpu_us_per_request")]
    pub(crate) cpu_us: f64,
    #[serde(rename = "requests_per_second")]
    pub(crate) per_second: f64,
    p50_us: f64,
    p99_us: f64,
    wrong: u64,
}

impl Measurement {
    /// Returns `None` if there was no correct answer.
    pub(crate) fn of(outcome: Outcome) -> Option<Self> {
        let requests = outcome.latencies.len();
        let percentile = |percent: usize| {
            let at = (requests * percent / 100).min(requests.checked_sub(1)?);
            outcome.latencies.get(at).copied().map(micros)
        };
        Some(Self {
            requests,
            cpu_us: micros(outcome.cpu) / requests as f64,
            per_second: requests as f64 / outcome.elapsed.as_secs_f64(),
            p50_us: percentile(50)?,
            p99_us: percentile(99)?,
            wrong: outcome.wrong,
        })
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Median, minimum and maximum of several rounds.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let (upper, lower) = (numbers.len() / 2, numbers.len().checked_sub(1)? / 2);
        Some(Self {
            median: (numbers.get(lower)? + numbers.get(upper)?) / 2.0,
            least: *numbers.first()?,
            greatest: *numbers.last()?,
        })
    }
}

/// Formats `median (least–greatest)` with the requested precision.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let Self { median, least, greatest } = self;
        write!(f, "{median:.digits$} ({least:.digits$}–{greatest:.digits$})")
    }
}

impl Row {
    pub(crate) fn new(kind: Kind, program: &Path) -> Self {
        Self { kind, version: kind.version(program), rounds: Vec::new() }
    }

    fn spread(&self, number: impl Fn(&Measurement) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(number))
    }

    fn wrong(&self) -> u64 {
        self.rounds.iter().map(|round| round.wrong).sum()
    }

    /// Returns the CPU time relative to that of nginx in the same round.
    fn ratio_to(&self, nginx: Option<&Self>) -> Option<Spread> {
        let pairs = self.rounds.iter().zip(&nginx?.rounds);
        Spread::of(pairs.map(|(own, nginx)| own.cpu_us / nginx.cpu_us))
    }
}

fn nginx(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.kind == Kind::Nginx)
}

/// A row with the summary shown in the table.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    row: &'a Row,
    cpu_us_per_request: Option<Spread>,
    ratio_to_nginx: Option<Spread>,
}

fn with_summaries<S: serde::Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|row| Summary {
        row,
        cpu_us_per_request: row.spread(|round| round.cpu_us),
        ratio_to_nginx: row.ratio_to(nginx(rows)),
    }))
}

impl fmt::Display for ScenarioReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n### {}\n", self.scenario)?;
        writeln!(f, "| proxy | CPU µs/request | × nginx | requests/s | p50 µs | p99 µs | wrong |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            let ratio = match row.ratio_to(nginx(&self.rows)) {
                Some(ratio) => format!("{ratio:.2}"),
                None => "–".to_owned(),
            };
            write!(f, "| {} ", row.kind)?;
            if let Some(spread) = row.spread(|round| round.cpu_us) {
                write!(f, "| {spread:.1} | {ratio} ")?;
            }
            let others: [fn(&Measurement) -> f64; 3] =
                [|round| round.per_second, |round| round.p50_us, |round| round.p99_us];
            for spread in others.into_iter().filter_map(|number| row.spread(number)) {
                write!(f, "| {spread} ")?;
            }
            writeln!(f, "| {} |", row.wrong())?;
        }
        Ok(())
    }
}

impl Report {
    pub(crate) fn wrong_answers(&self) -> u64 {
        self.scenarios.iter().flat_map(|scenario| &scenario.rows).map(Row::wrong).sum()
    }

    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

impl Machine {
    pub(crate) fn here() -> Self {
        let first = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_ascii_whitespace().next().unwrap_or_default().to_owned()
        };
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
            kernel: first("/proc/sys/kernel/osrelease"),
            load_average: first("/proc/loadavg"),
        }
    }
}
