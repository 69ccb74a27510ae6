//! The admin token, which every change requires.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{Secret, SecretError, SecretSource};

/// The length of a generated token in bytes; long enough to resist guessing.
const LENGTH: usize = 32;

/// Where the admin token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminToken {
    /// The configuration names a source.
    Configured {
        /// The source.
        source: SecretSource,
        /// The value when the configuration was read.
        value: Secret,
    },
    /// The configuration names none, and bearerd generates one in this file.
    ///
    /// The file is read for each check, so that commands, sibling processes on the same directory
    /// and this process always agree.
    Generated(PathBuf),
}

impl AdminToken {
    /// Creates the file if there is none, with its directory if `own_dir`, and checks that it is
    /// usable. If two processes start at once, both use the file of the first. Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`]; until it is resolved, the admin API refuses changes.
    pub fn create_if_missing(&self, own_dir: bool) -> Result<(), AdminTokenError> {
        let Self::Generated(path) = self else { return Ok(()) };
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => create(path, own_dir)
                .map_err(|error| AdminTokenError::Create(path.clone(), error))?,
            Err(error) => return Err(AdminTokenError::Create(path.clone(), error)),
        }
        read(path, own_user()).map(drop)
    }

    /// The token that clients have to present to this process. Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`] if the file cannot be read or must not be trusted.
    pub fn expected(&self) -> Result<Secret, AdminTokenError> {
        match self {
            Self::Configured { value, .. } => Ok(value.clone()),
            Self::Generated(path) => read(path, own_user()),
        }
    }

    /// The token to present to a running proxy, read now, for commands that read no other secrets.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`AdminTokenError`], which names the file and the problem.
    pub fn to_present(&self) -> Result<Secret, AdminTokenError> {
        match self {
            Self::Configured { source, .. } => Ok(source.read()?),
            Self::Generated(path) => read(path, None),
        }
    }
}

impl fmt::Display for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured { source, .. } => write!(f, "the admin token of {source}"),
            Self::Generated(path) => write!(f, "the admin token in {}", path.display()),
        }
    }
}

/// Why there is no usable admin token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// The source cannot be read.
    #[error("the admin token: {0}")]
    Secret(#[from] SecretError),
    /// The file does not exist.
    #[error(
        "there is no admin token at {0}; `bearerd run` creates it at start and at each reload, in \
         the store's directory (or in $STATE_DIRECTORY, which has to be the same for this command)"
    )]
    Missing(PathBuf),
    /// Other users can read the file.
    #[error(
        "the admin token in {path} can be read by others (mode {mode:04o}) and is not used: remove \
         it and reload bearerd, or run `chmod 600` on it if nobody has read it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The file's mode.
        mode: u32,
    },
    /// The file belongs to another user, who could have put it there.
    #[error(
        "the admin token in {path} belongs to user {owner} and is not used: remove it and reload bearerd"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// The token is not valid in a header field.
    #[error(
        "the admin token contains characters that are not allowed in a header field; use letters and digits"
    )]
    InvalidCharacters,
    /// The path is a directory, a pipe or something else.
    #[error("{0} is not a regular file and cannot hold the admin token")]
    NotAFile(PathBuf),
    /// The file cannot be created.
    #[error(
        "cannot create the admin token {0}: {1}; make its directory writable, or set admin.token"
    )]
    Create(PathBuf, std::io::Error),
}

fn own_user() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

/// Reads the token from `path`. If `owner` is given, the file must belong to that user.
fn read(path: &Path, owner: Option<u32>) -> Result<Secret, AdminTokenError> {
    // A link or another user's file would be their token.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(AdminTokenError::NotAFile(path.to_owned())),
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
        // Reading reports other problems more precisely.
        Ok(_) | Err(_) => {}
    }
    Ok(SecretSource::File(path.to_owned()).read()?)
}

/// Writes a complete file or none. An existing file is left unchanged.
fn create(path: &Path, own_dir: bool) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if own_dir {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut random = [0; LENGTH];
    rand::fill(&mut random).map_err(|_| std::io::Error::other("no random bytes available"))?;
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
    fn a_token_is_created_once_and_private_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/admin.token");
        let token = AdminToken::Generated(path.clone());
        assert!(matches!(token.expected(), Err(AdminTokenError::Missing(_))));
        assert!(token.create_if_missing(false).is_err() && !path.parent().unwrap().exists());
        token.create_if_missing(true).unwrap();
        let first = token.expected().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(first.expose()).unwrap().len(), LENGTH);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
        token.create_if_missing(true).unwrap();
        assert_eq!(token.to_present().unwrap(), first);
        // A second process uses the first one's token.
        create(&path, false).unwrap();
        assert_eq!(token.expected().unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path().join("state")).unwrap().count(), 1);
    }

    #[test]
    fn an_exposed_token_is_not_used_and_not_echoed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let token = AdminToken::Generated(path.clone());
        std::fs::write(&path, "s3cret\r\n").unwrap();
        for (mode, usable) in [(0o640, false), (0o604, false), (0o622, false), (0o600, true)] {
            set_mode(&path, mode);
            let read = token.expected();
            assert_eq!(read.is_ok(), usable, "{mode:o}");
            assert_eq!(token.create_if_missing(true).is_ok(), usable, "{mode:o}");
            if let Err(error) = read {
                assert!(!error.to_string().contains("s3cret"), "{error}");
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
        // A trailing line ending is not part of the token.
        assert_eq!(token.expected().unwrap().expose(), "s3cret");
        std::fs::write(&path, "").unwrap();
        assert!(token.expected().is_err());
    }

    #[test]
    fn anything_but_a_regular_file_is_refused_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let token = AdminToken::Generated(dir.path().to_owned());
        assert!(matches!(token.create_if_missing(true), Err(AdminTokenError::NotAFile(_))));
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        assert!(AdminToken::Generated(pipe).expected().is_err());
        // Not even root can create a file below a file.
        std::fs::write(dir.path().join("taken"), "").unwrap();
        let token = AdminToken::Generated(dir.path().join("taken/admin.token"));
        assert!(matches!(token.create_if_missing(true), Err(AdminTokenError::Create(..))));
    }
}
