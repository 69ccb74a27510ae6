//! Access control of the admin API: who may read more than the probes, and who may make changes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HOST, HeaderMap, VIA};
use http::{HeaderValue, StatusCode};

use super::{AdminToken, AdminTokenError, Config};
use crate::origin::{Authority, Host};
use crate::secret::Secret;

/// The access rules of one admin listener.
#[derive(Debug)]
pub(super) struct AccessControl {
    config: ArcSwap<Config>,
    /// True if the listener accepts connections from this machine only. Changes only with a
    /// restart.
    is_local: bool,
}

/// The status and message of a refused request.
type Refusal = (StatusCode, &'static str);

const FOREIGN_NAME: Refusal = (
    StatusCode::FORBIDDEN,
    "use an address or localhost; other names are refused to prevent DNS rebinding",
);
const FOREIGN_PROXY: Refusal = (
    StatusCode::FORBIDDEN,
    "connect directly; requests that came through a proxy (Via) are refused",
);
const NO_TOKEN: Refusal =
    (StatusCode::UNAUTHORIZED, "send the admin token as Authorization: Bearer");

impl AccessControl {
    pub(super) fn new(config: Config) -> Self {
        let is_local = config.listen.is_none_or(|listen| listen.ip().to_canonical().is_loopback());
        Self { config: ArcSwap::from_pointee(config), is_local }
    }

    /// Applies a new configuration. The path of a generated token changes only with a restart, like
    /// the store.
    pub(super) fn replace(&self, mut config: Config) {
        let before = self.config.load();
        if let (AdminToken::Generated(_), AdminToken::Generated(_)) = (&before.token, &config.token)
        {
            config.token.clone_from(&before.token);
        }
        self.config.store(Arc::new(config));
    }

    /// The current configuration.
    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Returns true if the sender of these fields may see details about credentials.
    pub(super) async fn may_see_details(&self, fields: &HeaderMap) -> bool {
        check_direct(fields).is_ok() && (self.is_local || self.check_token(fields).await.is_ok())
    }

    /// Checks that a request with these fields may make changes. Being on this machine is not
    /// enough: a web page can make a local browser send a POST, but not with the admin token.
    pub(super) async fn check_change(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        check_direct(fields)?;
        self.check_token(fields).await
    }

    /// Checks that a request with these fields may read `path`.
    ///
    /// A web page can make a local browser connect here under a name of its own (DNS rebinding).
    /// Such a request has that name in `Host`, so only addresses and `localhost` are accepted.
    pub(super) async fn check(&self, path: &str, fields: &HeaderMap) -> Result<(), Refusal> {
        check_direct(fields)?;
        if self.is_local || path == "/metrics" && self.config.load().metrics_public {
            return Ok(());
        }
        self.check_token(fields).await
    }

    async fn check_token(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        let given = fields.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(given) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(NO_TOKEN);
        };
        let given = Secret::new(given.to_owned());
        match self.expected().await {
            // `Secret` compares in constant time.
            Ok(expected) if given == expected => Ok(()),
            Ok(_) => Err(NO_TOKEN),
            Err(error) => {
                tracing::warn!(%error, "admin request refused");
                let why = "bearerd has no usable admin token; see its log";
                Err((StatusCode::FORBIDDEN, why))
            }
        }
    }

    async fn expected(&self) -> Result<Secret, AdminTokenError> {
        let config = self.config.load_full();
        let reading = tokio::task::spawn_blocking(move || config.token.expected());
        reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Checks that the request came through no proxy and under no foreign name.
fn check_direct(fields: &HeaderMap) -> Result<(), Refusal> {
    match fields.get(HOST).is_some_and(names_this_machine) {
        _ if fields.contains_key(VIA) => Err(FOREIGN_PROXY),
        true => Ok(()),
        false => Err(FOREIGN_NAME),
    }
}

fn names_this_machine(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|text| Authority::parse(text, Some(80)).ok());
    match authority.map(|authority| authority.host) {
        Some(Host::Name(name)) => &*name == "localhost",
        Some(Host::V4(_) | Host::V6(_)) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::SecretSource;

    const HOST_HERE: (&str, &str) = ("host", "127.0.0.1:9090");
    const BEARER: (&str, &str) = ("authorization", "Bearer t0ken");

    /// `None` stands for a token file that does not exist.
    fn access(listen: &str, token: Option<&str>, metrics_public: bool) -> AccessControl {
        AccessControl::new(Config {
            listen: Some(listen.parse().unwrap()),
            token: match token {
                None => AdminToken::Generated("/nonexistent/admin.token".into()),
                Some(token) => AdminToken::Configured {
                    source: SecretSource::Env("TOKEN".to_owned()),
                    value: Secret::new(token.to_owned()),
                },
            },
            metrics_public,
        })
    }

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            ((*name).try_into().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(pair).collect()
    }

    fn status(checked: Result<(), Refusal>) -> u16 {
        checked.map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[tokio::test]
    async fn only_the_admin_token_allows_changes() {
        for (token, sent, expected) in [
            (None, vec![HOST_HERE], 401),
            (None, vec![HOST_HERE, BEARER], 403),
            (Some("t0ken"), vec![HOST_HERE], 401),
            (Some("t0ken"), vec![HOST_HERE, ("authorization", "Basic t0ken")], 401),
            (Some("t0ken"), vec![HOST_HERE, ("authorization", "Bearer ")], 401),
            (Some("other"), vec![HOST_HERE, BEARER], 401),
            (Some("t0ken"), vec![HOST_HERE, BEARER], 200),
            (Some("t0ken"), vec![("host", "attacker.example"), BEARER], 403),
        ] {
            let access = access("127.0.0.1:9090", token, true);
            assert_eq!(status(access.check_change(&fields(&sent)).await), expected, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn p38_details_require_access() {
        for (listen, token, sent, expected) in [
            ("127.0.0.1:9090", None, vec![HOST_HERE], true),
            ("127.0.0.1:9090", None, vec![("host", "attacker.example")], false),
            ("127.0.0.1:9090", None, vec![], false),
            ("127.0.0.1:9090", None, vec![HOST_HERE, ("via", "1.1 squid")], false),
            ("0.0.0.0:9090", Some("t0ken"), vec![HOST_HERE], false),
            ("0.0.0.0:9090", Some("t0ken"), vec![HOST_HERE, BEARER], true),
            ("0.0.0.0:9090", Some("t0ken"), vec![("host", "attacker.example"), BEARER], false),
        ] {
            let access = access(listen, token, false);
            assert_eq!(access.may_see_details(&fields(&sent)).await, expected, "{listen} {sent:?}");
        }
    }

    #[tokio::test]
    async fn reading_requires_local_access_or_the_token() {
        let here = "127.0.0.1:9090";
        let everywhere = "0.0.0.0:9090";
        let api = "/api/v1/credentials";
        for (listen, token, public, path, sent, expected) in [
            (here, None, false, api, vec![HOST_HERE], 200),
            ("[::1]:9090", None, false, api, vec![HOST_HERE], 200),
            (here, None, false, api, vec![("host", "localhost:9090")], 200),
            (here, None, false, api, vec![("host", "[::1]:9090")], 200),
            (here, None, false, api, vec![("host", "attacker.example")], 403),
            (here, None, false, api, vec![], 403),
            (here, None, false, api, vec![HOST_HERE, ("via", "1.1 squid")], 403),
            (everywhere, None, false, api, vec![HOST_HERE], 401),
            (everywhere, None, false, api, vec![HOST_HERE, BEARER], 403),
            (everywhere, Some("t0ken"), false, api, vec![HOST_HERE], 401),
            (everywhere, Some("t0ken"), false, api, vec![HOST_HERE, BEARER], 200),
            (everywhere, Some("other"), false, api, vec![HOST_HERE, BEARER], 401),
            (everywhere, None, true, "/metrics", vec![HOST_HERE], 200),
            (everywhere, None, true, api, vec![HOST_HERE], 401),
        ] {
            let access = access(listen, token, public);
            let status = status(access.check(path, &fields(&sent)).await);
            assert_eq!(status, expected, "{listen} {path} {sent:?}");
        }
    }
}
