//! The report of everything that is wrong with one file.
//!
//! Each finding looks like one of rustc's: what is wrong, where, the line with the part underlined, the fix. The lines
//! are masked (`excerpt.rs`), so a report can be pasted into a ticket.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use super::excerpt::{self, Excerpt};
use crate::config::{Problem, Severity, line_start};

/// The number of findings that are shown. A file with more of them is hardly a configuration.
const SHOWN: usize = 100;

/// Findings about one file, in the order of the file.
#[derive(Clone, Default)]
pub struct Problems {
    source: String,
    text: String,
    public: Vec<Range<usize>>,
    list: Vec<Problem>,
}

impl Problems {
    /// Creates a report of findings about `text`. Only the parts in `public` may be shown.
    pub(super) fn new(
        source: &str,
        text: &str,
        mut public: Vec<Range<usize>>,
        mut list: Vec<Problem>,
    ) -> Self {
        public.sort_by_key(|range| range.start);
        list.sort_by_key(|problem| problem.span.as_ref().map_or(usize::MAX, |span| span.start));
        Self { source: source.to_owned(), text: text.to_owned(), public, list }
    }

    /// Creates a report of one finding that has no place in the file.
    pub fn of(source: &str, problem: Problem) -> Self {
        Self::new(source, "", Vec::new(), vec![problem])
    }

    /// Returns true if a finding stops the start.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Returns true if there are no findings.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the findings, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Returns the line and the column of a finding. Both count from 1, the column in characters.
    pub fn position(&self, problem: &Problem) -> Option<(usize, usize)> {
        let span = excerpt::first_line_of(&self.text, problem.span.as_ref()?);
        let start = line_start(&self.text, span.start);
        let line = self.text.get(..start)?.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = self.text.get(start..span.start)?.chars().count() + 1;
        Some((line, column))
    }

    /// Returns the place of a finding, such as `proxy.toml:3:1`, or only the file.
    pub fn place(&self, problem: &Problem) -> String {
        match self.position(problem) {
            Some((line, column)) => format!("{}:{line}:{column}", self.source),
            None => self.source.clone(),
        }
    }

    /// Returns the whole report. Every line ends with a line break; without findings it is empty.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut report = String::new();
        for problem in self.list.iter().take(SHOWN) {
            report.push_str(&renderer.render(&[self.group(problem)]));
            report.push_str("\n\n");
        }
        if self.has_errors() {
            report.push_str(
                &renderer.render(&[Group::with_title(Level::ERROR.primary_title(self.summary()))]),
            );
            report.push('\n');
        }
        report
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(problem.message.as_str()));
        group = match &problem.span {
            Some(span) => self.with_place(group, problem, span),
            None => group.element(Origin::path(self.source.as_str())),
        };
        match &problem.fix {
            Some(fix) => group.element(Level::HELP.message(normalize_untrusted_str(fix))),
            None => group,
        }
    }

    fn with_place<'a>(
        &'a self,
        group: Group<'a>,
        problem: &'a Problem,
        span: &Range<usize>,
    ) -> Group<'a> {
        let span = excerpt::first_line_of(&self.text, span);
        let related = problem.related.as_ref();
        let related =
            related.map(|(span, label)| (excerpt::first_line_of(&self.text, span), label.as_str()));
        let whole = related.as_ref().map_or(span.clone(), |(other, _)| {
            span.start.min(other.start)..span.end.max(other.end)
        });
        let lines = excerpt::lines_of(&self.text, &whole);
        let first =
            self.text.get(..lines.start).map_or(1, |before| before.matches('\n').count() + 1);
        let aligned = line_start(&self.text, span.start)..span.start;
        let excerpt = Excerpt::new(&self.text, lines, &self.public, &aligned);
        let related = related
            .map(|(span, label)| AnnotationKind::Context.span(excerpt.locate(&span)).label(label));
        let primary = AnnotationKind::Primary.span(excerpt.locate(&span));
        let snippet = Snippet::source(excerpt.text).path(self.source.as_str()).line_start(first);
        group.element(snippet.annotation(primary).annotations(related))
    }

    /// Returns a line such as "proxy.toml has 2 problems and 1 warning".
    fn summary(&self) -> String {
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let mut summary = format!("{} has {}", self.source, counted(errors, "problem"));
        if warnings > 0 {
            summary = format!("{summary} and {}", counted(warnings, "warning"));
        }
        if self.list.len() > SHOWN {
            summary = format!("{summary}; the first {SHOWN} are shown");
        }
        summary
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|problem| problem.severity == severity).count()
    }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Writes the report without colors.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Shows the findings without the file, which may contain secrets.
impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problems")
            .field("source", &self.source)
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Problems {}
