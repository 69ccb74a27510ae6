//! `[store]` and `[ca]`: the directories that survive a restart.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::defaults;
use super::review::Review;
use crate::config::{CaSection, ConfigFile, Field, Grant, Problem};
use crate::{ca, store};

impl Review<'_> {
    /// `[store]`; default `$STATE_DIRECTORY`, or `state` beside the file.
    pub(super) fn store(&mut self, file: &ConfigFile) -> store::Config {
        let Field::Given(url) = &file.store.url else {
            return store::Config::File { dir: self.state_dir(defaults::STORE_DIR) };
        };
        match url.get_ref().split_once(':') {
            Some(("memory", "")) => self.memory_store(file, url),
            Some(("file", dir)) if !dir.is_empty() && !dir.contains('\0') => {
                store::Config::File { dir: self.path(dir.strip_prefix("//").unwrap_or(dir)) }
            }
            Some(("redis" | "rediss" | "postgres" | "kubernetes" | "https", _)) => self
                .refuse_store(url, "names a kind of store that is not available in this version"),
            _ => self.refuse_store(url, "names no kind of store"),
        }
    }

    fn memory_store(&mut self, file: &ConfigFile, url: &Spanned<String>) -> store::Config {
        let refreshes = |grant: Option<&Grant>| {
            use Grant::{AuthorizationCode, DeviceCode, RefreshToken};
            grant.is_none_or(|it| matches!(it, RefreshToken | AuthorizationCode | DeviceCode))
        };
        if file.credentials.iter().any(|(_, section)| refreshes(section.grant.get())) {
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

    fn state_dir(&self, otherwise: &str) -> PathBuf {
        self.environment.state_directory.clone().unwrap_or_else(|| self.path(otherwise))
    }
}
