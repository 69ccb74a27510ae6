//! What every part of the review of a file shares: the findings so far, and how they are reported.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use crate::config::Problem;
use crate::inputs::Inputs;

/// The review of one file.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) problems: Vec<Problem>,
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a Environment,
    /// The syntax is invalid: what seems to be missing may be in the file after all, and no secret is read for it.
    pub(super) is_invalid: bool,
    /// What has been read so far.
    pub(super) inputs: Inputs,
}

impl<'a> Review<'a> {
    pub(super) fn new(base_dir: &'a Path, environment: &'a Environment, is_invalid: bool) -> Self {
        Self { problems: Vec::new(), base_dir, environment, is_invalid, inputs: Inputs::default() }
    }

    /// Reports what stops the start.
    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem::error(message).at(span).fix(fix));
    }

    /// Reports what the operator should know.
    pub(super) fn warn(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem::warning(message).at(span).fix(fix));
    }

    /// Reports something that is missing, unless the syntax is invalid.
    pub(super) fn missing(&mut self, problem: Problem) {
        if !self.is_invalid {
            self.problems.push(problem);
        }
    }

    /// Returns a path of the file, made absolute.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base_dir.join(path)
    }
}
