//! One thing that is wrong with a configuration file.
//!
//! A [`Problem`] says what is wrong, where, and what to write instead. Its texts are made from
//! names that bearerd knows and from what the parser says; they hold no value from the file, so
//! that no text can carry a secret. What the value is, the report shows by underlining it, and only
//! if it may be shown.

use std::ops::Range;

/// How much a [`Problem`] weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// bearerd does not start.
    Error,
    /// bearerd starts; the operator should know.
    Warning,
}

/// One finding in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether bearerd starts in spite of it.
    pub severity: Severity,
    /// The bytes of the file that are meant; none if the finding is about no place in it.
    pub span: Option<Range<usize>>,
    /// What is wrong, without any value from the file.
    pub message: String,
    /// What to write or to do instead.
    pub fix: Option<String>,
    /// A second place that belongs to the finding, and what it is.
    pub related: Option<(Range<usize>, String)>,
}

impl Problem {
    /// A finding that stops the start.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A finding that does not stop the start.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self { severity, span: None, message, fix: None, related: None }
    }

    /// Says which bytes of the file are meant.
    #[must_use]
    pub fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Says what to write or do instead.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds a second place and what it is.
    #[must_use]
    pub fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }
}
