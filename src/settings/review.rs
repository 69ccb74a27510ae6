//! What every part of the review of a file shares: the findings so far, and the checks that several
//! sections need.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::inputs::Inputs;
use crate::config::{Field, Problem};

/// One review of one file.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) problems: Vec<Problem>,
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a Environment,
    /// The syntax is broken: what seems to be missing may stand in the file after all, and no secret
    /// is read on its behalf.
    pub(super) garbled: bool,
    /// What has been read so far.
    pub(super) inputs: Inputs,
}

impl<'a> Review<'a> {
    pub(super) fn new(base_dir: &'a Path, environment: &'a Environment, garbled: bool) -> Self {
        Self { problems: Vec::new(), base_dir, environment, garbled, inputs: Inputs::default() }
    }

    /// Adds a finding.
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds a finding about something that is not there.
    pub(super) fn missing(&mut self, problem: Problem) {
        if !self.garbled {
            self.report(problem);
        }
    }

    /// A path of the file, made absolute.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base_dir.join(path)
    }

    /// A duration that must not be zero.
    pub(super) fn time(
        &mut self,
        name: &str,
        field: &Field<Duration>,
        default: Duration,
    ) -> Duration {
        if let Some(zero) = field.given().filter(|time| time.get_ref().is_zero()) {
            let problem =
                Problem::error(format!("`{name}` must be longer than zero")).at(zero.span());
            self.report(problem.fix(format!(
                "leave it out for the default, {}",
                humantime::format_duration(default)
            )));
        }
        field.or(default)
    }

    /// A number that must lie in `range`.
    pub(super) fn number<T>(
        &mut self,
        name: &str,
        number: Option<(T, Range<usize>)>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: Copy + PartialOrd + Display,
    {
        let Some((number, span)) = number else { return default };
        if !range.contains(&number) {
            let message = format!("`{name}` must be from {} to {}", range.start(), range.end());
            self.report(
                Problem::error(message)
                    .at(span)
                    .fix(format!("leave it out for the default, {default}")),
            );
        }
        number
    }
}
