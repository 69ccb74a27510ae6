//! The admin token: what whoever changes something has to present.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{Secret, SecretError, SecretSource};

/// Too long to be guessed.
const LENGTH: usize = 32;

/// Where the admin token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminToken {
    /// The configuration names its place.
    Given {
        /// The place.
        source: SecretSource,
        /// What was there when the configuration was read.
        value: Secret,
    },
    /// The configuration names none: this file holds one that bearerd has made.
    ///
    /// It is read whenever a token is presented, so that commands, sibling processes on the same
    /// directory and this one agree on it, whatever happens to the file.
    Made(PathBuf),
}

impl AdminToken {
    /// Makes the file if there is none, with its directory if `own_dir`, and finds out whether it can be
    /// used. Two processes that start at once both go by the file of whichever was first. Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`]; until it is put right nothing can be changed through the admin listener.
    pub fn make_missing(&self, own_dir: bool) -> Result<(), AdminTokenError> {
        let Self::Made(path) = self else { return Ok(()) };
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => {
                make(path, own_dir).map_err(|error| AdminTokenError::Make(path.clone(), error))?
            }
            Err(error) => return Err(AdminTokenError::Make(path.clone(), error)),
        }
        read(path, ours()).map(drop)
    }

    /// What has to be presented to this process. Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`] if the file cannot be read, or must not be trusted.
    pub fn expected(&self) -> Result<Secret, AdminTokenError> {
        match self {
            Self::Given { value, .. } => Ok(value.clone()),
            Self::Made(path) => read(path, ours()),
        }
    }

    /// What to present to a running proxy: read now, for a command that reads no other secret. Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`] names the place and what is wrong with it.
    pub fn to_present(&self) -> Result<Secret, AdminTokenError> {
        match self {
            Self::Given { source, .. } => Ok(source.read()?),
            Self::Made(path) => read(path, None),
        }
    }
}

impl fmt::Display for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { source, .. } => write!(f, "the admin token of {source}"),
            Self::Made(path) => write!(f, "the admin token in {}", path.display()),
        }
    }
}

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// Its place says so.
    #[error("the admin token: {0}")]
    Secret(#[from] SecretError),
    /// Nothing is there.
    #[error(
        "there is no admin token at {0}; `bearerd run` makes it at its start and at each reload, in \
         the store's directory (or $STATE_DIRECTORY, which has to be the proxy's here as well)"
    )]
    Missing(PathBuf),
    /// Somebody else may know it.
    #[error(
        "the admin token in {path} can be read by others (mode {mode:04o}) and is not used: remove \
         it and reload bearerd, or run `chmod 600` on it if nobody has read it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another user could have put it there.
    #[error(
        "the admin token in {path} belongs to user {owner} and is not used: remove it and reload bearerd"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is not ASCII.
    #[error("the admin token holds what no header field can; make it of letters and digits")]
    Unfit,
    /// It is a directory, a pipe or something else.
    #[error("{0} is no file and cannot hold the admin token")]
    NoFile(PathBuf),
    /// It cannot be made.
    #[error(
        "cannot make the admin token {0}: {1}; make its directory writable, or give an admin.token"
    )]
    Make(PathBuf, std::io::Error),
}

fn ours() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

/// `owner`: whose it has to be, if it is for this process to believe in.
fn read(path: &Path, owner: Option<u32>) -> Result<Secret, AdminTokenError> {
    // A link, or a file of somebody else's, would be their token.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(AdminTokenError::NoFile(path.to_owned())),
        Ok(found) if owner.is_some_and(|owner| owner != found.uid()) => {
            return Err(AdminTokenError::Foreign { path: path.to_owned(), owner: found.uid() });
        }
        Ok(found) if found.mode() & 0o077 != 0 => {
            return Err(AdminTokenError::Exposed {
                path: path.to_owned(),
                mode: found.mode() & 0o7777,
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(AdminTokenError::Missing(path.to_owned()));
        }
        // Reading says better what is wrong.
        Ok(_) | Err(_) => {}
    }
    Ok(SecretSource::File(path.to_owned()).read()?)
}

/// Writes a file that is whole or not there; one that appeared meanwhile is left alone.
fn make(path: &Path, own_dir: bool) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if own_dir {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut random = [0; LENGTH];
    rand::fill(&mut random).map_err(|_| std::io::Error::other("no random numbers"))?;
    let token = Secret::new(URL_SAFE_NO_PAD.encode(random));
    let mut file =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(dir)?;
    writeln!(file, "{}", token.expose())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/admin.token");
        let token = AdminToken::Made(path.clone());
        assert!(matches!(token.expected(), Err(AdminTokenError::Missing(_))));
        assert!(token.make_missing(false).is_err() && !path.parent().unwrap().exists());
        token.make_missing(true).unwrap();
        let first = token.expected().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(first.expose()).unwrap().len(), LENGTH);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
        token.make_missing(true).unwrap();
        assert_eq!(token.to_present().unwrap(), first);
        // Whoever was second goes by the first one's.
        make(&path, false).unwrap();
        assert_eq!(token.expected().unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path().join("state")).unwrap().count(), 1);
    }

    #[test]
    fn a_token_that_others_may_know_is_not_used_and_not_echoed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let token = AdminToken::Made(path.clone());
        std::fs::write(&path, "s3cret\r\n").unwrap();
        for (mode, usable) in [(0o640, false), (0o604, false), (0o622, false), (0o600, true)] {
            set_mode(&path, mode);
            let read = token.expected();
            assert_eq!(read.is_ok(), usable, "{mode:o}");
            assert_eq!(token.make_missing(true).is_ok(), usable, "{mode:o}");
            if let Err(error) = read {
                assert!(!error.to_string().contains("s3cret"), "{error}");
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
        // A line ending of whatever system is no part of it.
        assert_eq!(token.expected().unwrap().expose(), "s3cret");
        std::fs::write(&path, "").unwrap();
        assert!(token.expected().is_err());
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let token = AdminToken::Made(dir.path().to_owned());
        assert!(matches!(token.make_missing(true), Err(AdminTokenError::NoFile(_))));
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        assert!(AdminToken::Made(pipe).expected().is_err());
        // Even root makes no file within a file.
        std::fs::write(dir.path().join("taken"), "").unwrap();
        let token = AdminToken::Made(dir.path().join("taken/admin.token"));
        assert!(matches!(token.make_missing(true), Err(AdminTokenError::Make(..))));
    }
}
