//! `[store]` and `[ca]`: the directories that survive a restart.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::environment::Volatility;
use super::review::Review;
use crate::config::{CaSection, ConfigFile, Problem, StoreSection};
use crate::oauth::GrantType;
use crate::secret::SecretSource;
use crate::{ca, store};

/// The directory of the store, beside the file, if systemd names none.
const STORE_DIR: &str = "state";
/// The directory of the local CA, beside the file, if systemd names none.
const CA_DIR: &str = "certs";

impl Review<'_> {
    /// `[store]`.
    pub(super) fn store(&mut self, file: &ConfigFile) -> store::Config {
        let keys = self.store_keys(&file.store);
        let Some(url) = file.store.url.given() else {
            let dir = self.state_dir(STORE_DIR);
            self.warn_if_volatile(file, &dir, None);
            return store::Config::File { dir, keys };
        };
        let message = match url.get_ref().split_once(':') {
            Some(("memory", "")) => {
                self.warn_about_memory(file, url.span());
                return store::Config::Memory;
            }
            Some(("file", dir)) if !dir.is_empty() && !dir.contains('\0') => {
                let dir = self.path(dir.strip_prefix("//").unwrap_or(dir));
                self.warn_if_volatile(file, &dir, Some(url.span()));
                return store::Config::File { dir, keys };
            }
            Some(("redis" | "rediss" | "postgres" | "kubernetes" | "https", _)) => {
                "`store.url` names a kind of store that is not available in this version"
            }
            _ => "`store.url` names no kind of store",
        };
        self.error(url.span(), message, "write \"file:DIR\" or \"memory:\"");
        store::Config::Memory
    }

    fn warn_about_memory(&mut self, file: &ConfigFile, span: Range<usize>) {
        if let Some(key) = file.store.key.given() {
            let message = "`store.key` is not used: `memory:` writes nothing";
            self.warn(key.span(), message, "remove it");
        }
        if keeps_refresh_tokens(file) {
            let message = "a refresh token that the server replaces is lost with the next restart";
            self.warn(
                span,
                message,
                "write url = \"file:DIR\", unless the refresh tokens never change",
            );
        }
    }

    /// Returns `store.key`, which encrypts, and `store.old_keys`, which only decrypt.
    fn store_keys(&mut self, store: &StoreSection) -> store::EncryptionKeys {
        let current = store.key.given().and_then(|given| self.store_key("store.key", given));
        let mut keys = store::EncryptionKeys { current, ..store::EncryptionKeys::default() };
        for given in store.old_keys.iter() {
            if let Some(source) = &given.get_ref().0 {
                let source = Spanned::new(given.span(), source.clone());
                keys.old.extend(self.store_key("store.old_keys", &source));
                continue;
            }
            keys.plain = true;
            if store.key.is_absent() {
                let message = "`store.old_keys` names \"plain\", and without `store.key` all records are plain";
                self.warn(given.span(), message, "remove it, or write key = { … }");
            }
        }
        keys
    }

    fn store_key(
        &mut self,
        name: &str,
        given: &Spanned<SecretSource>,
    ) -> Option<store::EncryptionKey> {
        let what = "key (`openssl rand -base64 32` makes one)";
        let (_, text) = self.secret(name, given, what)?;
        let parsed = store::EncryptionKey::parse(&text);
        parsed
            .map_err(|error| {
                let fix = "make a key with `openssl rand -base64 32`";
                self.error(given.span(), format!("`{name}` {error}"), fix);
            })
            .ok()
    }

    fn warn_if_volatile(&mut self, file: &ConfigFile, dir: &Path, span: Option<Range<usize>>) {
        if !keeps_refresh_tokens(file) {
            return;
        }
        let (message, fix) = match (self.environment.volatility)(dir) {
            None => return,
            Some(Volatility::Memory) => (
                "the directory of `store.url` is in memory (tmpfs): a refresh token that the server \
                 replaces is lost with the next reboot or with the container",
                "use a directory on a disk or a persistent volume",
            ),
            Some(Volatility::Layer) => (
                "the directory of `store.url` is in the writable layer of a container (overlayfs): a \
                 refresh token that the server replaces is lost when the container is replaced",
                "mount a persistent volume there, such as `docker run -v bearerd:/var/lib/bearerd`",
            ),
        };
        let problem = Problem::warning(message).fix(fix);
        self.problems.push(match span {
            Some(span) => problem.at(span),
            None => problem,
        });
    }

    /// `[ca]`.
    pub(super) fn ca(&mut self, ca: &CaSection) -> ca::Config {
        let (lifetime, leaf_lifetime) = (ca.lifetime.0, ca.leaf_lifetime.0);
        let given = ca.leaf_lifetime.given().or(ca.lifetime.given());
        let is_read = !ca.lifetime.is_broken() && !ca.leaf_lifetime.is_broken();
        if let Some(given) = given.filter(|_| is_read && leaf_lifetime > lifetime) {
            let message =
                "`ca.leaf_lifetime` is longer than `ca.lifetime`, the lifetime of its issuer";
            self.error(given.span(), message, "make it shorter");
        }
        let dir = ca.dir.get().map_or_else(|| self.state_dir(CA_DIR), |dir| self.path(dir));
        ca::Config { dir, lifetime, leaf_lifetime }
    }

    /// Returns the directory for bearerd's own files: the store's, or what it would be by default.
    pub(super) fn state(&self, store: &store::Config) -> PathBuf {
        store.dir().map_or_else(|| self.state_dir(STORE_DIR), Path::to_owned)
    }

    fn state_dir(&self, default: &str) -> PathBuf {
        self.environment.state_directory.clone().unwrap_or_else(|| self.path(default))
    }
}

/// Returns true if a credential depends on a refresh token that the server may replace.
fn keeps_refresh_tokens(file: &ConfigFile) -> bool {
    use GrantType::{AuthorizationCode, DeviceCode, RefreshToken};
    let grants = file.credentials.iter().map(|(_, section)| *section.grant);
    grants.into_iter().any(|grant| matches!(grant, RefreshToken | AuthorizationCode | DeviceCode))
}
