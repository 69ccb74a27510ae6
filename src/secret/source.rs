//! Where secrets are read from: the environment, files, commands and systemd credentials.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;

use super::{Secret, command};

/// Timeout for a command that prints a secret. A command that waits for input or for an unreachable
/// server would block refreshes and reloads.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Where a secret is stored. The configuration file names the place and never contains the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file. Relative paths are resolved against the directory of the configuration file.
    File(PathBuf),
    /// A program with arguments. Its standard output is the secret.
    Cmd(Vec<String>),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl SecretSource {
    /// Reads the secret and removes one trailing line ending.
    ///
    /// # Errors
    ///
    /// [`SecretError`] with the source and the problem, never the value.
    pub fn read(&self) -> Result<Secret, SecretError> {
        self.validate(self.read_text()?)
    }

    fn read_text(&self) -> Result<String, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map_err(|error| self.unset(&error)),
            Self::File(path) => self.read_file(path),
            Self::Cmd(argv) => {
                command::output(argv, COMMAND_LIMIT).map_err(|problem| self.error(&problem))
            }
            Self::Credential(name) => self.read_file(&self.credential_path(name)?),
        }
    }

    /// Reads a secret with several lines, such as a PEM key, unchanged. A binary DER file is
    /// returned as base64.
    ///
    /// # Errors
    ///
    /// The same as [`SecretSource::read`].
    pub fn read_lines(&self) -> Result<Secret, SecretError> {
        let text = match self {
            Self::File(path) => self.read_key_file(path)?,
            Self::Credential(name) => self.read_key_file(&self.credential_path(name)?)?,
            Self::Env(_) | Self::Cmd(_) => self.read_text()?,
        };
        if text.trim().is_empty() { Err(self.error("is empty")) } else { Ok(Secret::new(text)) }
    }

    fn read_key_file(&self, path: &std::path::Path) -> Result<String, SecretError> {
        let bytes = self.read_bytes(path)?;
        // 0x30 starts a DER SEQUENCE; in text it is the digit zero.
        match bytes.starts_with(b"0") && std::str::from_utf8(&bytes).is_err() {
            true => Ok(STANDARD.encode(Zeroizing::new(bytes))),
            false => self.text_of(bytes),
        }
    }

    fn validate(&self, mut text: String) -> Result<Secret, SecretError> {
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() {
            return Err(self.error("is empty"));
        }
        if text.ends_with(['\r', '\n']) {
            return Err(self.error(
                "ends with a carriage return or an empty line: remove what follows the secret",
            ));
        }
        if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(self.error("holds a line break or a NUL in the middle"));
        }
        Ok(Secret::new(text))
    }

    fn unset(&self, error: &std::env::VarError) -> SecretError {
        match error {
            std::env::VarError::NotPresent => {
                SecretError { missing: true, ..self.error("is not set") }
            }
            std::env::VarError::NotUnicode(_) => self.error("is not UTF-8"),
        }
    }

    fn read_file(&self, path: &std::path::Path) -> Result<String, SecretError> {
        self.text_of(self.read_bytes(path)?)
    }

    fn read_bytes(&self, path: &std::path::Path) -> Result<Vec<u8>, SecretError> {
        std::fs::read(path).map_err(|error| SecretError {
            missing: error.kind() == std::io::ErrorKind::NotFound,
            ..self.error(&format!("cannot be read: {error}"))
        })
    }

    fn text_of(&self, bytes: Vec<u8>) -> Result<String, SecretError> {
        let is_utf16 = [[0xff, 0xfe], [0xfe, 0xff]].iter().any(|mark| bytes.starts_with(mark));
        let text = String::from_utf8(bytes).map_err(|_| match is_utf16 {
            true => self.error("is UTF-16, as PowerShell's `>` writes it: save it as UTF-8"),
            false => self.error("is not UTF-8"),
        })?;
        // Remove the byte order mark, which is invisible and would make the secret wrong.
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }

    fn credential_path(&self, name: &str) -> Result<PathBuf, SecretError> {
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(self.error("is not the name of a systemd credential"));
        }
        let dir = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            self.error("needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=")
        })?;
        Ok(PathBuf::from(dir).join(name))
    }

    fn error(&self, problem: &str) -> SecretError {
        SecretError { place: self.to_string(), problem: problem.to_owned(), missing: false }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable `{name}`"),
            Self::File(path) => write!(f, "file `{}`", path.display()),
            Self::Cmd(argv) => write!(f, "command `{}`", argv.first().map_or("", String::as_str)),
            Self::Credential(name) => write!(f, "systemd credential `{name}`"),
        }
    }
}

/// Why a secret could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place} {problem}")]
pub struct SecretError {
    place: String,
    problem: String,
    /// True if the source does not exist: the variable is not set, or there is no such file.
    pub missing: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file_with(text: &str) -> (tempfile::TempDir, SecretSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, text).unwrap();
        (dir, SecretSource::File(path))
    }

    #[test]
    fn exactly_one_trailing_line_ending_is_removed() {
        for (text, expected) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), (" a \n", " a ")] {
            let (_dir, source) = file_with(text);
            assert_eq!(source.read().unwrap().expose(), expected);
        }
    }

    #[test]
    fn a_byte_order_mark_is_removed() {
        let (_dir, source) = file_with("\u{feff}a\r\n");
        assert_eq!(source.read().unwrap().expose(), "a");
        let (_dir, source) = file_with("\u{feff}");
        assert!(source.read().is_err());
    }

    #[test]
    fn a_key_in_der_is_read_as_its_base64() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.der");
        let source = SecretSource::File(path.clone());
        std::fs::write(&path, [0x30, 0x82, 0xff]).unwrap();
        assert_eq!(source.read_lines().unwrap().expose(), "MIL/");
        for (bytes, says) in
            [(&[0xff, 0xfe, b'a', 0][..], "UTF-16"), (&[0x80, 0x30], "is not UTF-8")]
        {
            std::fs::write(&path, bytes).unwrap();
            for error in [source.read_lines().unwrap_err(), source.read().unwrap_err()] {
                assert!(error.to_string().contains(says), "{error}");
            }
        }
        std::fs::write(&path, "0\u{e9}").unwrap();
        assert_eq!(source.read_lines().unwrap().expose(), "0\u{e9}", "text is text");
    }

    /// An environment file with Windows line endings leaves a carriage return.
    #[test]
    fn trailing_carriage_returns_and_empty_lines_are_reported() {
        for text in ["s\r", "s\n\n", "s\r\n\r\n"] {
            let (_dir, source) = file_with(text);
            let error = source.read().unwrap_err().to_string();
            assert!(error.contains("carriage return or an empty line"), "{error}");
        }
    }

    #[test]
    fn empty_and_malformed_secrets_are_refused_without_quoting_them() {
        for text in ["", "\n", "geheim\nx", "geheim\rx", "geheim\0"] {
            let (_dir, source) = file_with(text);
            let error = source.read().unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
            assert!(!error.missing);
        }
    }

    #[test]
    fn missing_sources_are_distinguished_from_malformed_secrets() {
        assert!(SecretSource::File("/nonexistent/x".into()).read().unwrap_err().missing);
        assert!(SecretSource::Env("BEARERD_TEST_UNSET".into()).read().unwrap_err().missing);
    }

    #[test]
    fn a_command_prints_the_secret() {
        let source = SecretSource::Cmd(vec!["printf".into(), "s3cret".into()]);
        assert_eq!(source.read().unwrap().expose(), "s3cret");
        let failing = SecretSource::Cmd(vec!["false".into()]);
        assert!(failing.read().is_err());
    }
}
