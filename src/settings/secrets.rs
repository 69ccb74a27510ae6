//! Reads the secrets that the file names.
//!
//! Every secret of a review is read here and nowhere else, so that [`Inputs`](crate::inputs::Inputs) knows them all.

use std::ops::Range;

use toml::Spanned;

use super::review::Review;
use crate::inputs::{exposed_mode, surroundings};
use crate::secret::{Secret, SecretError, SecretSource};

impl Review<'_> {
    /// Returns the place of a secret with its path made absolute. Warns if others can read it.
    pub(super) fn place_of(&mut self, given: &Spanned<SecretSource>) -> SecretSource {
        let source = match given.get_ref() {
            SecretSource::File(path) => SecretSource::File(self.path(path)),
            other => other.clone(),
        };
        if let Some(mode) = exposed_mode(&source) {
            let message =
                format!("{source} can be read by others than its owner (mode {mode:04o})");
            self.warn(given.span(), message, "chmod 600");
        }
        source
    }

    /// Reads the secret at a place that [`Review::place_of`] returned, for `span` of the file. Warns about blanks and
    /// quotes around it, but uses it as it is.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub(super) fn read(
        &mut self,
        source: &SecretSource,
        span: Range<usize>,
    ) -> Result<Secret, SecretError> {
        let read = (self.environment.read_secret)(source);
        self.inputs.note(source, &read);
        if let Some(what) = read.as_ref().ok().and_then(|secret| surroundings(secret.expose())) {
            let message = format!("{source} {what}, which is used as it is");
            self.warn(span, message, "remove it there, unless the secret really has it");
        }
        read
    }

    /// Reads a secret of several lines; `None` if nothing may be read.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub(super) fn read_lines(
        &mut self,
        source: &SecretSource,
    ) -> Result<Option<Secret>, SecretError> {
        let read = (self.environment.read_lines)(source);
        self.inputs.note_lines(source, &read);
        read
    }

    /// Reads the secret of the key called `name`; reports it if that fails. Returns `None` also if nothing may be read
    /// because the syntax is invalid.
    pub(super) fn secret(
        &mut self,
        name: &str,
        given: &Spanned<SecretSource>,
        what: &str,
    ) -> Option<(SecretSource, Secret)> {
        if self.is_invalid {
            return None;
        }
        let source = self.place_of(given);
        match self.read(&source, given.span()) {
            Ok(value) => Some((source, value)),
            Err(error) => {
                let fix = format!("put the {what} there, readable for the user that runs bearerd");
                self.error(given.span(), format!("`{name}` has no value: {error}"), fix);
                None
            }
        }
    }
}
