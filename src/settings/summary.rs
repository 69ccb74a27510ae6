//! The summary that `bearerd check` prints.

use std::time::UNIX_EPOCH;

use super::Settings;
use crate::credential::{self, PathPrefix};
use crate::template::Values;

impl Settings {
    /// Returns one line for each credential: its hosts, its grant and the host of its token endpoint.
    pub fn summary(&self) -> Vec<String> {
        self.credentials.iter().map(described).collect()
    }

    /// Returns where records are kept, and whether they are encrypted.
    pub fn storage(&self) -> String {
        let Some(dir) = self.store.dir() else {
            return "store: memory, nothing survives a restart".to_owned();
        };
        let kept = match self.store.is_plain_text() {
            true => "records in plain text, mode 0600 (`store.key` encrypts them)",
            false => "records encrypted",
        };
        format!("store: {}, {kept}", dir.display())
    }
}

fn described(credential: &credential::Config) -> String {
    let hosts: Vec<String> = credential.hosts.iter().map(ToString::to_string).collect();
    let oauth = &credential.token.oauth;
    let grant = oauth.grant.name();
    let paths: Vec<&str> = credential.paths.iter().map(PathPrefix::as_str).collect();
    let paths = match paths.as_slice() {
        [] => String::new(),
        paths => format!(", paths {}", paths.join(" ")),
    };
    let methods: Vec<&str> = credential.methods.iter().map(http::Method::as_str).collect();
    let methods = match methods.as_slice() {
        [] => String::new(),
        methods => format!(", methods {}", methods.join(" ")),
    };
    let whom = [("token endpoint", &oauth.token_url), ("issuer", &oauth.issuer)];
    let whom = whom.into_iter().find_map(|(what, url)| {
        let url: url::Url = url.as_ref()?.expand(Values::at(UNIX_EPOCH)).parse().ok()?;
        Some(format!(", {what} {}", url.host_str()?))
    });
    let whom = whom.filter(|_| oauth.grant.makes_token_requests()).unwrap_or_default();
    format!(
        "credential `{}`: hosts {}{paths}{methods}, grant {grant}{whom}",
        credential.name,
        hosts.join(" ")
    )
}
