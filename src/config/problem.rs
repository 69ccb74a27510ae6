//! One thing that is wrong with a configuration file.
//!
//! A [`Problem`] says what is wrong, where, and what to write instead. Its texts consist of names that bearerd knows and
//! of the parser's messages. They contain no value of the file, so that no text can contain a secret. The report shows
//! the value by underlining it, and only if it may be shown.

use std::ops::Range;

/// The severity of a [`Problem`].
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
    /// Whether it stops the start.
    pub severity: Severity,
    /// The bytes of the file that it is about; `None` if it has no place in the file.
    pub span: Option<Range<usize>>,
    /// What is wrong, without any value of the file.
    pub message: String,
    /// What to write or to do instead.
    pub fix: Option<String>,
    /// A second place that belongs to it, and its label.
    pub related: Option<(Range<usize>, String)>,
}

impl Problem {
    /// Creates a finding that stops the start.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// Creates a finding that does not stop the start.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self { severity, span: None, message, fix: None, related: None }
    }

    /// Sets the bytes of the file that it is about.
    #[must_use]
    pub fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Sets what to write or do instead.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds a second place and its label.
    #[must_use]
    pub fn related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }
}
