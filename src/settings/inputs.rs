//! What settings were made from, so that a change of it can be noticed.
//!
//! Everything is compared by what it says and not by its time or its inode: the files of a Kubernetes
//! volume are links whose target is swapped, NFS tells nobody of changes, and editors replace files.
//! What is kept of a secret is its hash.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};

/// The configuration file and the secrets that one reading has looked at, and what was there.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    file: Option<File>,
    secrets: Vec<Place>,
    /// Whose secrets are read at present: a credential's, by its name.
    owner: Option<Arc<str>>,
}

/// The place of a secret.
#[derive(Clone, Debug)]
struct Place {
    source: SecretSource,
    /// It has several lines, as a key in PEM has.
    lines: bool,
    owner: Option<Arc<str>>,
    content: Content,
}

impl Place {
    fn read(&self) -> Content {
        let read = if self.lines { self.source.read_lines() } else { self.source.read() };
        Content::of_secret(read.as_ref().map(Some))
    }
}

/// The configuration file.
#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    content: Content,
    /// What came through a pipe, which cannot be read a second time.
    spoken: Option<String>,
}

/// What is at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Something, with this hash.
    Some(Fingerprint),
    /// Nothing.
    Missing,
    /// Something that cannot be read, or must not be used.
    Unusable,
}

impl Content {
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
    /// What is noted from now on are secrets of this credential, or of none.
    pub(super) fn belong_to(&mut self, credential: Option<&String>) {
        self.owner = credential.map(|name| Arc::from(name.as_str()));
    }

    /// Notes what was found at the place of a secret.
    pub(super) fn note(&mut self, source: &SecretSource, read: &Result<Secret, SecretError>) {
        self.place(source, false, Content::of_secret(read.as_ref().map(Some)));
    }

    /// The same for a secret of several lines.
    pub(super) fn note_lines(
        &mut self,
        source: &SecretSource,
        read: &Result<Option<Secret>, SecretError>,
    ) {
        self.place(source, true, Content::of_secret(read.as_ref().map(Option::as_ref)));
    }

    fn place(&mut self, source: &SecretSource, lines: bool, content: Content) {
        let (source, owner) = (source.clone(), self.owner.clone());
        self.secrets.push(Place { source, lines, owner, content });
    }

    /// Notes the configuration file; `None` if it could not be read.
    pub(super) fn note_file(&mut self, path: PathBuf, text: Option<&str>) {
        let spoken = text.filter(|_| path.as_os_str() == "-" || is_stream(&path));
        let spoken = spoken.map(str::to_owned);
        self.file = Some(File { path, content: Content::of_text(text), spoken });
    }

    /// The same, with the configuration file gone from its place.
    pub(super) fn without_file(mut self) -> Self {
        if let Some(file) = &mut self.file {
            file.content = Content::Unusable;
        }
        self
    }

    /// Has a configuration file been read?
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The configuration that came through standard input or another pipe.
    pub(super) fn spoken(&self) -> Option<&str> {
        self.file.as_ref()?.spoken.as_deref()
    }

    /// Does a command give a secret?
    pub fn has_commands(&self) -> bool {
        self.secrets.iter().any(|place| matches!(place.source, SecretSource::Cmd(_)))
    }

    /// Looks at every file again, and takes what is there now for known. Returns what has changed: the
    /// places, never what is there. Blocks.
    pub fn changes(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        if let Some(file) = self.file.as_mut().filter(|file| file.spoken.is_none()) {
            let now = Content::of_text(super::read_text(&file.path).ok().as_deref());
            if now != file.content {
                file.content = now;
                changed.push(format!("configuration `{}`", file.path.display()));
            }
        }
        changed.extend(self.changed_secrets(|place| match &place.source {
            SecretSource::File(path) => !is_stream(path),
            SecretSource::Credential(_) => true,
            SecretSource::Env(_) | SecretSource::Cmd(_) => false,
        }));
        changed
    }

    /// Runs the commands again that give secrets, of these credentials or (`None`) all there are; otherwise
    /// as [`Inputs::changes`].
    pub fn changes_of_commands(&mut self, credentials: Option<&[Arc<str>]>) -> Vec<String> {
        let is_meant = |place: &Place| match credentials {
            Some(credentials) => place.owner.iter().any(|owner| credentials.contains(owner)),
            None => true,
        };
        self.changed_secrets(|place| {
            matches!(place.source, SecretSource::Cmd(_)) && is_meant(place)
        })
    }

    fn changed_secrets(&mut self, looked_at: impl Fn(&Place) -> bool) -> Vec<String> {
        let mut changed = Vec::new();
        for place in self.secrets.iter_mut().filter(|place| looked_at(place)) {
            let now = place.read();
            if now != place.content {
                place.content = now;
                changed.push(place.source.to_string());
            }
        }
        changed.dedup();
        changed
    }
}

/// A pipe or a device: reading it again would take what is in it from others, or wait for ever.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir())
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
        assert_eq!(inputs.spoken(), Some("c"));
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
        assert_eq!(inputs.spoken(), Some("text"));
    }

    #[test]
    fn commands_are_run_only_when_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "one").unwrap();
        let source = SecretSource::Cmd(vec!["cat".into(), path.to_str().unwrap().into()]);
        let mut inputs = noted(&source);
        inputs.belong_to(Some(&"api".to_owned()));
        inputs.note(&source, &source.read());
        std::fs::write(&path, "two").unwrap();
        assert!(inputs.has_commands() && inputs.changes().is_empty());
        assert!(inputs.changes_of_commands(Some(&["other".into()])).is_empty());
        assert_eq!(inputs.changes_of_commands(Some(&["api".into()])), [source.to_string()]);
        assert_eq!(inputs.changes_of_commands(None), [source.to_string()], "that of nobody");
        assert!(inputs.changes_of_commands(None).is_empty());
    }
}
