//! Values that cannot be printed.
//!
//! Every token, client secret and key that passes through bearerd is a [`Secret`] from the moment
//! it is read to the moment it is written onto the wire or into its record. The type has no
//! `Display`, its `Debug` is fixed text, and its memory is overwritten when it is dropped.
//!
//! ```
//! let secret = bearerd::secret::Secret::new("hunter2".to_owned());
//! assert_eq!(format!("{secret:?}"), "Secret(…)");
//! ```
//!
//! ```compile_fail
//! let secret = bearerd::secret::Secret::new("hunter2".to_owned());
//! println!("{secret}"); // no Display
//! ```

use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How long a command may take that prints a secret. One that waits for a person, or for a server
/// that is gone, would keep refreshes and reloads waiting for ever.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether it has ended.
const COMMAND_POLL: Duration = Duration::from_millis(5);
/// How long its output may stay open when it has ended, and everything that it started was killed.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// More than any secret has.
const MAX_OUTPUT: u64 = 1 << 20;

/// A value that must not appear in a log, an error, a metric or a response.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of a value that was read from a secret source or from a token endpoint.
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The value itself, for the wire or the record. Every call is a place to review.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The SHA-256 of the value in hexadecimal: enough to recognise it, not to use it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.expose().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.expose().as_bytes(), other.expose().as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
    }
}

impl Eq for Secret {}

/// Writes the value in clear: only `store` serialises secrets, into files of mode 0600.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The SHA-256 of a secret or of a piece of configuration, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        Self(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The hash in hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a secret is kept. A configuration file names the place and never holds the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; a relative path has been made absolute against the configuration file's directory.
    File(PathBuf),
    /// A program and its arguments, whose standard output is the secret.
    Cmd(Vec<String>),
    /// A credential passed by systemd, a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl SecretSource {
    /// Reads the secret; one trailing line ending is cut.
    ///
    /// # Errors
    ///
    /// [`SecretError`] names the source and what is wrong with it, never the value.
    pub fn read(&self) -> Result<Secret, SecretError> {
        self.validate(self.read_text()?)
    }

    fn read_text(&self) -> Result<String, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map_err(|error| self.unset(&error)),
            Self::File(path) => self.read_file(path),
            Self::Cmd(argv) => self.run(argv, COMMAND_LIMIT),
            Self::Credential(name) => self.read_file(&self.credential_path(name)?),
        }
    }

    /// Reads a secret of several lines, such as a key in PEM, as it is. A binary file in DER is read as
    /// the base64 of it.
    ///
    /// # Errors
    ///
    /// As [`SecretSource::read`].
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
        // What begins a SEQUENCE; in text it is the digit zero.
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
        // The byte order mark, which cannot be seen and makes every token a wrong one.
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

    fn run(&self, argv: &[String], limit: Duration) -> Result<String, SecretError> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(self.error("names no program"));
        };
        let failed = |error| self.error(&format!("cannot be run: {error}"));
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It may say anything, a secret as well, and for ever.
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let group = Group::of(&child);
        let stdout = child.stdout.take().ok_or_else(|| self.error("prints nowhere"))?;
        let (sender, printed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stdout.take(MAX_OUTPUT).read_to_end(&mut text);
            // Nobody listens any more if it took too long.
            let _late = sender.send(read.map(|_| text));
        });
        let started = Instant::now();
        let status = loop {
            match child.try_wait().map_err(failed)? {
                None if started.elapsed() < limit => std::thread::sleep(COMMAND_POLL),
                status => break status,
            }
        };
        // Also what it has started and left behind, which may keep its output open.
        drop(group);
        let Some(status) = status else {
            let _reaped = child.wait();
            let limit = humantime::format_duration(limit);
            return Err(self.error(&format!("did not end within {limit}")));
        };
        if !status.success() {
            return Err(self.error(&format!("ended with {status}; run it by hand to see why")));
        }
        let text = printed.recv_timeout(AFTER_THE_END).map_err(|_| {
            self.error("has ended, and something that it started keeps its output open")
        })?;
        String::from_utf8(text.map_err(failed)?).map_err(|_| self.error("did not print UTF-8"))
    }

    fn error(&self, problem: &str) -> SecretError {
        SecretError { place: self.to_string(), problem: problem.to_owned(), missing: false }
    }
}

/// The groups of the commands that are running.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A command and what it has started; killed when it is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(group);
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // It may have ended at this moment.
        let _ended = kill_process_group(group, Signal::KILL);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != group);
    }
}

/// Kills the commands that are still running. For the end of the process, which waits for none of them.
pub(crate) fn kill_commands() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ended = kill_process_group(*group, Signal::KILL);
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
    /// The place exists in no form: a variable that is not set, a file that is not there.
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
    fn one_trailing_line_ending_is_cut_and_nothing_else() {
        for (text, expected) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), (" a \n", " a ")] {
            let (_dir, source) = file_with(text);
            assert_eq!(source.read().unwrap().expose(), expected);
        }
    }

    #[test]
    fn the_mark_that_some_editors_begin_a_file_with_is_no_part_of_the_secret() {
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

    /// An environment file with the line ends of Windows leaves one.
    #[test]
    fn what_follows_a_secret_is_called_by_its_name() {
        for text in ["s\r", "s\n\n", "s\r\n\r\n"] {
            let (_dir, source) = file_with(text);
            let error = source.read().unwrap_err().to_string();
            assert!(error.contains("carriage return or an empty line"), "{error}");
        }
    }

    #[test]
    fn an_empty_or_broken_secret_is_refused_without_being_echoed() {
        for text in ["", "\n", "geheim\nx", "geheim\rx", "geheim\0"] {
            let (_dir, source) = file_with(text);
            let error = source.read().unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
            assert!(!error.missing);
        }
    }

    #[test]
    fn a_missing_file_and_an_unset_variable_are_told_apart_from_broken_ones() {
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

    #[test]
    fn a_command_that_does_not_end_is_given_up_and_what_it_leaves_behind_is_killed() {
        let run = |script: &str| {
            let argv = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
            SecretSource::Cmd(argv.to_vec()).run(&argv, Duration::from_millis(500))
        };
        for script in ["exec sleep 60", "echo s3cret; exec >&-; exec sleep 60"] {
            let error = run(script).unwrap_err();
            assert_eq!(error.to_string(), "command `sh` did not end within 500ms");
            assert!(!error.missing);
        }
        assert_eq!(run("sleep 60 & echo s3cret").unwrap(), "s3cret\n");
    }
}
