//! What the settings were read from: the configuration file and the secrets, so that a change can be noticed.
//!
//! Everything is compared by its content, not by its time or its inode: the files of a Kubernetes volume are links whose
//! target is swapped, NFS announces no changes, and editors replace files. Of a secret only its hash is kept.

mod secret_checks;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::secret_checks::{exposed_mode, surroundings};

use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};

/// The largest configuration file that is read. A real one has some thousand bytes; the limit keeps hostile or mistaken
/// input (a log, a device) from taking the time and memory of the proxy.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// The configuration file and the secrets that were read, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    file: Option<FileInput>,
    secrets: Vec<SecretInput>,
    /// The credential whose secrets are being read.
    owner: Option<Arc<str>>,
}

/// A secret, and what was found at its place.
#[derive(Clone, Debug)]
struct SecretInput {
    source: SecretSource,
    /// It has several lines, like a key in PEM.
    has_lines: bool,
    owner: Option<Arc<str>>,
    found: InputHash,
}

impl SecretInput {
    fn read(&self) -> InputHash {
        let read = if self.has_lines { self.source.read_lines() } else { self.source.read() };
        InputHash::of_secret(read.as_ref().map(Some))
    }
}

/// The configuration file.
#[derive(Clone, Debug)]
struct FileInput {
    path: PathBuf,
    found: InputHash,
    /// The text, if it came through a pipe, which cannot be read a second time.
    piped: Option<String>,
}

/// What was found at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum InputHash {
    /// Content with this hash.
    Some(Fingerprint),
    /// Nothing.
    Missing,
    /// Content that cannot be read, or must not be used.
    Unusable,
}

impl InputHash {
    fn of_secret(read: Result<Option<&Secret>, &SecretError>) -> Self {
        match read {
            Ok(secret) => secret.map_or(Self::Missing, |secret| Self::Some(secret.fingerprint())),
            Err(error) if error.missing => Self::Missing,
            Err(_) => Self::Unusable,
        }
    }

    fn of_text(text: Option<&str>) -> Self {
        text.map_or(Self::Unusable, |text| Self::Some(Fingerprint::of(text.as_bytes())))
    }
}

impl Inputs {
    /// Sets the credential that the secrets noted from now on belong to.
    pub(crate) fn set_owner(&mut self, credential: Option<&str>) {
        self.owner = credential.map(Arc::from);
    }

    /// Notes what was found at the place of a secret.
    pub(crate) fn note(&mut self, source: &SecretSource, read: &Result<Secret, SecretError>) {
        self.add(source, false, InputHash::of_secret(read.as_ref().map(Some)));
    }

    /// Notes what was found at the place of a secret of several lines.
    pub(crate) fn note_lines(
        &mut self,
        source: &SecretSource,
        read: &Result<Option<Secret>, SecretError>,
    ) {
        self.add(source, true, InputHash::of_secret(read.as_ref().map(Option::as_ref)));
    }

    fn add(&mut self, source: &SecretSource, has_lines: bool, found: InputHash) {
        let (source, owner) = (source.clone(), self.owner.clone());
        self.secrets.push(SecretInput { source, has_lines, owner, found });
    }

    /// Notes the configuration file; `None` if it could not be read.
    pub(crate) fn note_file(&mut self, path: PathBuf, text: Option<&str>) {
        let piped = text.filter(|_| path.as_os_str() == "-" || is_stream(&path));
        let piped = piped.map(str::to_owned);
        self.file = Some(FileInput { path, found: InputHash::of_text(text), piped });
    }

    /// Returns these inputs with the configuration file missing.
    pub(crate) fn without_file(mut self) -> Self {
        if let Some(file) = &mut self.file {
            file.found = InputHash::Unusable;
        }
        self
    }

    /// Returns true if a configuration file has been read.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the configuration that came through standard input or another pipe.
    pub(crate) fn piped(&self) -> Option<&str> {
        self.file.as_ref()?.piped.as_deref()
    }

    /// Returns true if a command prints one of the secrets.
    pub fn has_commands(&self) -> bool {
        self.secrets.iter().any(|input| matches!(input.source, SecretSource::Cmd(_)))
    }

    /// Reads every file again. Returns the places whose content has changed since the last call, never the content.
    /// Blocks.
    pub fn changes(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        if let Some(file) = self.file.as_mut().filter(|file| file.piped.is_none()) {
            let now = InputHash::of_text(read_text(&file.path).ok().as_deref());
            if now != file.found {
                file.found = now;
                changed.push(format!("configuration `{}`", file.path.display()));
            }
        }
        changed.extend(self.changed_secrets(|input| match &input.source {
            SecretSource::File(path) => !is_stream(path),
            SecretSource::Credential(_) => true,
            SecretSource::Env(_) | SecretSource::Cmd(_) => false,
        }));
        changed
    }

    /// Runs the commands again that print the secrets of these credentials (`None`: all secrets). Otherwise like
    /// [`Inputs::changes`].
    pub fn changes_of_commands(&mut self, credentials: Option<&[Arc<str>]>) -> Vec<String> {
        let is_selected = |input: &SecretInput| match credentials {
            Some(credentials) => input.owner.iter().any(|owner| credentials.contains(owner)),
            None => true,
        };
        self.changed_secrets(|input| {
            matches!(input.source, SecretSource::Cmd(_)) && is_selected(input)
        })
    }

    fn changed_secrets(&mut self, is_read: impl Fn(&SecretInput) -> bool) -> Vec<String> {
        let mut changed = Vec::new();
        for input in self.secrets.iter_mut().filter(|input| is_read(input)) {
            let now = input.read();
            if now != input.found {
                input.found = now;
                changed.push(input.source.to_string());
            }
        }
        changed.dedup();
        changed
    }
}

/// Returns true for a pipe or a device. Reading it again would take its content from others, or wait forever.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir())
}

/// Reads the text of a configuration file (`-`: standard input), at most one byte more than bearerd accepts.
///
/// # Errors
///
/// Why it cannot be read, or that it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES + 1;
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let message = format!("it is not UTF-8 from byte {offset} on; save it as UTF-8");
        std::io::Error::new(std::io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn noted(source: &SecretSource) -> Inputs {
        let mut inputs = Inputs::default();
        inputs.note(source, &source.read());
        inputs
    }

    #[test]
    fn a_change_is_reported_once_and_only_if_the_content_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let source = SecretSource::File(path.clone());
        let mut inputs = noted(&source);
        assert!(inputs.changes().is_empty(), "missing, as before");
        let named = [source.to_string()];
        for (content, changed) in [
            ("one", true),
            ("one", false),
            // The line ending is no part of the secret.
            ("one\n", false),
            ("two", true),
            ("", true),
            ("\n", false),
            ("one", true),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(inputs.changes(), &named[..usize::from(changed)], "{content:?}");
            assert!(inputs.changes().is_empty(), "{content:?}, a second time");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(inputs.changes(), named);
        assert!(!format!("{inputs:?}").contains("two"));
    }

    /// `..data` is a link to a directory, and every secret is a link through it.
    #[test]
    fn the_swap_of_a_kubernetes_volume_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, secret) in [("..one", "first"), ("..two", "second")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("s"), secret).unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/s", at("s")).unwrap();
        let mut inputs = noted(&SecretSource::File(at("s")));
        symlink("..two", at("..data_tmp")).unwrap();
        assert!(inputs.changes().is_empty());
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(inputs.changes().len(), 1);
    }

    #[test]
    fn the_configuration_file_is_looked_at_unless_it_was_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.toml");
        std::fs::write(&path, "a").unwrap();
        let mut inputs = Inputs::default();
        inputs.note_file(path.clone(), Some("a"));
        assert!(inputs.changes().is_empty());
        std::fs::write(&path, "b").unwrap();
        let changed = inputs.changes();
        assert!(changed.concat().contains("proxy.toml") && changed.len() == 1, "{changed:?}");
        inputs.note_file("-".into(), Some("c"));
        assert!(inputs.changes().is_empty());
        assert_eq!(inputs.piped(), Some("c"));
    }

    /// `bearerd run --config <(…)`, and a secret that a supervisor gives through a pipe.
    #[test]
    fn a_pipe_is_not_read_a_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let mut inputs = Inputs::default();
        inputs.note(&SecretSource::File(pipe.clone()), &Ok(Secret::new("s".to_owned())));
        inputs.note_file(pipe, Some("text"));
        assert!(inputs.changes().is_empty());
        assert_eq!(inputs.piped(), Some("text"));
    }

    #[test]
    fn commands_are_run_only_when_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "one").unwrap();
        let source = SecretSource::Cmd(vec!["cat".into(), path.to_str().unwrap().into()]);
        let mut inputs = noted(&source);
        inputs.set_owner(Some("api"));
        inputs.note(&source, &source.read());
        std::fs::write(&path, "two").unwrap();
        assert!(inputs.has_commands() && inputs.changes().is_empty());
        assert!(inputs.changes_of_commands(Some(&["other".into()])).is_empty());
        assert_eq!(inputs.changes_of_commands(Some(&["api".into()])), [source.to_string()]);
        assert_eq!(inputs.changes_of_commands(None), [source.to_string()], "that of nobody");
        assert!(inputs.changes_of_commands(None).is_empty());
    }
}
