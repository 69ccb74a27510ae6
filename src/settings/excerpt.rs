//! The lines of the file that a report shows, with everything masked that may be a secret.
//!
//! Only what is known to be harmless is shown: known keys, punctuation, and the values that
//! [`ConfigFile::public`](crate::config::ConfigFile::public) names. All other text, comments included, becomes `…`. So a
//! secret stays hidden even if a quote is missing or a key is misspelt, and its length does not show.

use std::ops::Range;

use crate::config::{is_known_word, line_start};

/// Some whole lines of a file, masked.
#[derive(Debug)]
pub(super) struct Excerpt {
    /// The masked lines.
    pub(super) text: String,
    pieces: Vec<Piece>,
}

/// A part of the file, and its place in the masked text.
#[derive(Debug)]
struct Piece {
    from: Range<usize>,
    to: Range<usize>,
    masked: bool,
}

impl Excerpt {
    /// Masks `lines` of `text`; `public` is sorted. Masked parts in `aligned` keep their width, so that the columns after
    /// them do not change.
    pub(super) fn new(
        text: &str,
        lines: Range<usize>,
        public: &[Range<usize>],
        aligned: &Range<usize>,
    ) -> Self {
        let mut excerpt = Self { text: String::new(), pieces: Vec::new() };
        let mut at = lines.start;
        while let Some(rest) = text.get(at..lines.end).filter(|rest| !rest.is_empty()) {
            let allowed = public.get(public.partition_point(|range| range.end <= at));
            let allowed = allowed
                .map_or(0..0, |range| range.start.saturating_sub(at)..range.end.saturating_sub(at));
            let (length, masked) = next_piece(rest, allowed);
            // If a finding begins inside a masked part, what comes before it is a piece of its own.
            let before = aligned.end.saturating_sub(at);
            let cut = masked && aligned.contains(&at) && rest.is_char_boundary(before);
            let length = if cut { length.min(before) } else { length };
            let piece = rest.get(..length).unwrap_or(rest);
            let shown = match (masked, aligned.contains(&at)) {
                (false, _) => piece.to_owned(),
                (true, false) => mask(piece, 1),
                (true, true) => mask(piece, piece.chars().count()),
            };
            excerpt.push(&shown, at..at + piece.len(), masked);
            at += length.max(1);
        }
        excerpt
    }

    fn push(&mut self, shown: &str, from: Range<usize>, masked: bool) {
        let start = self.text.len();
        self.text.push_str(shown);
        self.pieces.push(Piece { from, to: start..self.text.len(), masked });
    }

    /// Returns the place of `span` of the file in the masked text.
    pub(super) fn locate(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.piece(span.start).map_or(self.text.len(), |piece| match piece.masked {
            true => piece.to.start,
            false => piece.to.start + (span.start - piece.from.start),
        });
        let end =
            self.piece(span.end.saturating_sub(1)).map_or(start, |piece| match piece.masked {
                true => piece.to.end,
                false => piece.to.start + span.end.saturating_sub(piece.from.start),
            });
        start..if span.is_empty() { start } else { end.max(start) }
    }

    fn piece(&self, offset: usize) -> Option<&Piece> {
        let index = self.pieces.partition_point(|piece| piece.from.end <= offset);
        self.pieces.get(index).filter(|piece| piece.from.start <= offset)
    }
}

/// Returns what is shown instead of `piece`: `width` characters, or a few more that show its type.
fn mask(piece: &str, width: usize) -> String {
    let (before, after) = match piece.chars().next() {
        Some('"') => ("\"", "\""),
        Some('\'') => ("'", "'"),
        Some('#') => ("#", ""),
        _ => ("", ""),
    };
    let inner = width.saturating_sub(before.len() + after.len()).max(1);
    format!("{before}{}{after}", "…".repeat(inner))
}

/// Returns the length of the next piece of `rest`, and whether it is masked. `allowed` may be shown.
fn next_piece(rest: &str, allowed: Range<usize>) -> (usize, bool) {
    if allowed.start == 0 && allowed.end > 0 {
        return (allowed.end.min(rest.len()), false);
    }
    let limit = if allowed.start > 0 { allowed.start } else { rest.len() };
    let line = rest.find('\n').unwrap_or(rest.len()).min(limit);
    match rest.chars().next() {
        Some('\n' | '\r' | '\t' | ' ' | '=' | '[' | ']' | '{' | '}' | ',' | '.') => (1, false),
        Some('"' | '\'') => (quoted(rest.get(..line).unwrap_or(rest)), true),
        _ => match known_key(rest) {
            Some(length) => (length, false),
            None => (line, true),
        },
    }
}

/// Returns the length of a string that begins here, or of all of `line` if the string does not end.
fn quoted(line: &str) -> usize {
    let quote = line.chars().next();
    let mut escaped = false;
    for (index, c) in line.char_indices().skip(1) {
        if !escaped && Some(c) == quote {
            return index + 1;
        }
        escaped = !escaped && c == '\\' && quote == Some('"');
    }
    line.len()
}

/// Returns the length of a known key or section name that begins here and is used as one.
fn known_key(rest: &str) -> Option<usize> {
    let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'))?;
    let (word, after) = rest.split_at_checked(end)?;
    let is_key = after.trim_start_matches([' ', '\t']).starts_with(['=', '.', ']']);
    (is_key && is_known_word(word)).then_some(end)
}

/// Returns the whole lines around `span`, without the last line break.
pub(super) fn lines_of(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = line_start(text, span.start);
    let end = text
        .get(span.end..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |length| span.end + length);
    start..end
}

/// Returns the part of `span` that can be underlined: the part on its first line, at character boundaries.
pub(super) fn first_line_of(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = boundary(text, span.start);
    let line = text
        .get(start..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |length| start + length);
    start..boundary(text, span.end).clamp(start, line)
}

fn boundary(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    (0..=offset).rev().find(|offset| text.is_char_boundary(*offset)).unwrap_or(0)
}
