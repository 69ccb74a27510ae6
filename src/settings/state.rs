//! `[store]` and `[ca]`: the directories that survive a restart.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::defaults;
use super::environment::Volatility;
use super::review::Review;
use crate::config::{CaSection, ConfigFile, Field, Grant, OldKey, Problem, StoreSection};
use crate::secret::SecretSource;
use crate::{ca, store};

impl Review<'_> {
    /// `[store]`; default `$STATE_DIRECTORY`, or `state` beside the file.
    pub(super) fn store(&mut self, file: &ConfigFile) -> store::Config {
        let keys = self.store_keys(&file.store);
        let Field::Given(url) = &file.store.url else {
            let dir = self.state_dir(defaults::STORE_DIR);
            self.warn_if_volatile(file, &dir, None);
            return store::Config::File { dir, keys };
        };
        match url.get_ref().split_once(':') {
            Some(("memory", "")) => {
                self.warn_if_keys_are_idle(&file.store);
                self.memory_store(file, url)
            }
            Some(("file", dir)) if !dir.is_empty() && !dir.contains('\0') => {
                let dir = self.path(dir.strip_prefix("//").unwrap_or(dir));
                self.warn_if_volatile(file, &dir, Some(url.span()));
                store::Config::File { dir, keys }
            }
            Some(("redis" | "rediss" | "postgres" | "kubernetes" | "https", _)) => self
                .refuse_store(url, "names a kind of store that is not available in this version"),
            _ => self.refuse_store(url, "names no kind of store"),
        }
    }

    fn memory_store(&mut self, file: &ConfigFile, url: &Spanned<String>) -> store::Config {
        if keeps_refresh_tokens(file) {
            let message = "a refresh token that the server replaces is lost with the next restart";
            let fix = "write url = \"file:DIR\", unless the refresh tokens never change";
            self.report(Problem::warning(message).at(url.span()).fix(fix));
        }
        store::Config::Memory
    }

    fn refuse_store(&mut self, url: &Spanned<String>, message: &str) -> store::Config {
        let problem = Problem::error(format!("`store.url` {message}")).at(url.span());
        self.report(problem.fix("write \"file:DIR\" or \"memory:\""));
        store::Config::Memory
    }

    /// `store.key`, which seals, and `store.old_keys`, which only open.
    fn store_keys(&mut self, store: &StoreSection) -> store::EncryptionKeys {
        let current = store.key.given().and_then(|given| self.store_key("store.key", given));
        let mut keys = store::EncryptionKeys { current, ..store::EncryptionKeys::default() };
        for given in store.old_keys.get().into_iter().flatten() {
            match given.get_ref() {
                OldKey::Plain => {
                    keys.plain = true;
                    self.warn_if_plain_is_idle(store, given.span());
                }
                OldKey::Kept(source) => {
                    let place = Spanned::new(given.span(), source.clone());
                    keys.old.extend(self.store_key("store.old_keys", &place));
                }
            }
        }
        keys
    }

    fn warn_if_plain_is_idle(&mut self, store: &StoreSection, span: Range<usize>) {
        if store.key.is_absent() {
            let message =
                "`store.old_keys` names \"plain\", and without `store.key` all records are plain";
            self.report(Problem::warning(message).at(span).fix("remove it, or write key = { … }"));
        }
    }

    fn store_key(
        &mut self,
        name: &str,
        given: &Spanned<SecretSource>,
    ) -> Option<store::EncryptionKey> {
        if self.garbled {
            return None;
        }
        let (message, fix) = match self.secret(given).map(|text| store::EncryptionKey::parse(&text))
        {
            Ok(Ok(key)) => return Some(key),
            Ok(Err(error)) => (error.to_string(), "make a key with `openssl rand -base64 32`"),
            Err(error) => (
                format!("has no value: {error}"),
                "put the key there, readable for the user that runs bearerd; `openssl rand -base64 32` makes one",
            ),
        };
        let problem = Problem::error(format!("`{name}` {message}")).at(given.span());
        self.report(problem.fix(fix));
        None
    }

    fn warn_if_keys_are_idle(&mut self, store: &StoreSection) {
        if let Some(key) = store.key.given() {
            let message = "`store.key` is not used: `memory:` writes nothing";
            self.report(Problem::warning(message).at(key.span()).fix("remove it"));
        }
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
        self.report(match span {
            Some(span) => problem.at(span),
            None => problem,
        });
    }

    /// `[ca]`; default `$STATE_DIRECTORY`, or `certs` beside the file.
    pub(super) fn ca(&mut self, ca: &CaSection) -> ca::Config {
        let lifetime = self.time("ca.lifetime", &ca.lifetime, defaults::CA_LIFETIME);
        let leaf_lifetime =
            self.time("ca.leaf_lifetime", &ca.leaf_lifetime, defaults::LEAF_LIFETIME);
        self.compare_lifetimes(ca, lifetime, leaf_lifetime);
        let dir =
            ca.dir.get().map_or_else(|| self.state_dir(defaults::CA_DIR), |dir| self.path(dir));
        ca::Config { dir, lifetime, leaf_lifetime }
    }

    fn compare_lifetimes(&mut self, ca: &CaSection, lifetime: Duration, leaf: Duration) {
        let given = ca.leaf_lifetime.given().or(ca.lifetime.given());
        if let Some(given) = given.filter(|_| leaf > lifetime) {
            let message =
                "`ca.leaf_lifetime` is longer than `ca.lifetime`, the life of what it hangs on";
            self.report(Problem::error(message).at(given.span()).fix("make it shorter"));
        }
    }

    /// Where bearerd keeps what is its own: the store's directory, or what it would be by default.
    pub(super) fn state(&self, store: &store::Config) -> PathBuf {
        store.dir().map_or_else(|| self.state_dir(defaults::STORE_DIR), Path::to_owned)
    }

    fn state_dir(&self, otherwise: &str) -> PathBuf {
        self.environment.state_directory.clone().unwrap_or_else(|| self.path(otherwise))
    }
}

/// Does a credential live on a refresh token, which the server may replace?
fn keeps_refresh_tokens(file: &ConfigFile) -> bool {
    let refreshes = |grant: Option<&Grant>| {
        use Grant::{AuthorizationCode, DeviceCode, RefreshToken};
        grant.is_none_or(|it| matches!(it, RefreshToken | AuthorizationCode | DeviceCode))
    };
    file.credentials.iter().any(|(_, section)| refreshes(section.grant.get()))
}
