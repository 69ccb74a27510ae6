//! Who may read more than the probes.

use http::header::{AUTHORIZATION, HOST, HeaderMap};
use http::{HeaderValue, StatusCode};

use super::Config;
use crate::origin::{Authority, Host};
use crate::secret::Secret;

/// The rules of one admin listener.
#[derive(Debug)]
pub(super) struct Access {
    config: Config,
    is_local: bool,
}

/// Why a request is refused, as a status and a sentence.
type Refusal = (StatusCode, &'static str);

const FOREIGN_NAME: Refusal = (
    StatusCode::FORBIDDEN,
    "ask by address or as localhost: other names are refused against DNS rebinding",
);

impl Access {
    pub(super) fn new(config: Config) -> Self {
        let is_local = config.listen.is_none_or(|listen| listen.ip().to_canonical().is_loopback());
        Self { config, is_local }
    }

    /// May whoever sent these fields learn about credentials?
    pub(super) fn may_know(&self, fields: &HeaderMap) -> bool {
        self.is_local || self.config.token.as_ref().is_some_and(|token| presents(fields, token))
    }

    /// May a request with these fields change something? Being on this machine is not enough: a web page
    /// can make a browser here send a POST, but not one with the admin token.
    pub(super) fn check_change(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        if !fields.get(HOST).is_some_and(names_this_machine) {
            return Err(FOREIGN_NAME);
        }
        match &self.config.token {
            Some(token) if presents(fields, token) => Ok(()),
            Some(_) => {
                Err((StatusCode::UNAUTHORIZED, "send the admin token as Authorization: Bearer"))
            }
            None => Err((StatusCode::FORBIDDEN, "this needs admin.token in the configuration")),
        }
    }

    /// May a request with these fields read `path`?
    ///
    /// A web page can make a browser on this machine connect here under a name of its own (DNS
    /// rebinding). Such a request carries that name in `Host`, so only addresses and `localhost` pass.
    pub(super) fn check(&self, path: &str, fields: &HeaderMap) -> Result<(), Refusal> {
        if !fields.get(HOST).is_some_and(names_this_machine) {
            return Err(FOREIGN_NAME);
        }
        if self.may_know(fields) || path == "/metrics" && self.config.metrics_public {
            return Ok(());
        }
        match &self.config.token {
            None => Err((
                StatusCode::FORBIDDEN,
                "beyond loopback this needs admin.token in the configuration",
            )),
            Some(_) => {
                Err((StatusCode::UNAUTHORIZED, "send the admin token as Authorization: Bearer"))
            }
        }
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

fn presents(fields: &HeaderMap, token: &Secret) -> bool {
    let given = fields.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    // Secrets are compared in constant time.
    given.is_some_and(|given| Secret::new(given.to_owned()) == *token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(
        listen: &str,
        token: Option<&str>,
        public: bool,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> u16 {
        let access = Access::new(Config {
            listen: Some(listen.parse().unwrap()),
            token: token.map(|token| Secret::new(token.to_owned())),
            metrics_public: public,
        });
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        access.check(path, &map).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_the_admin_token_may_change_something() {
        let (host, bearer) = (("host", "127.0.0.1:9090"), ("authorization", "Bearer t0ken"));
        for (token, fields, expected) in [
            (None, vec![host], 403),
            (None, vec![host, bearer], 403),
            (Some("t0ken"), vec![host], 401),
            (Some("other"), vec![host, bearer], 401),
            (Some("t0ken"), vec![host, bearer], 200),
            (Some("t0ken"), vec![("host", "attacker.example"), bearer], 403),
        ] {
            let access = Access::new(Config {
                listen: Some("127.0.0.1:9090".parse().unwrap()),
                token: token.map(|token| Secret::new(token.to_owned())),
                metrics_public: true,
            });
            let fields = fields.iter().map(|(name, value)| {
                ((*name).try_into().unwrap(), HeaderValue::from_str(value).unwrap())
            });
            let checked = access.check_change(&fields.collect());
            let status = checked.map_or_else(|(status, _)| status.as_u16(), |()| 200);
            assert_eq!(status, expected);
        }
    }

    #[test]
    fn who_may_read_what() {
        let here = "127.0.0.1:9090";
        let everywhere = "0.0.0.0:9090";
        let host = ("host", "127.0.0.1:9090");
        let bearer = ("authorization", "Bearer t0ken");
        let api = "/api/v1/credentials";
        for (listen, token, public, path, fields, expected) in [
            (here, None, false, api, vec![host], 200),
            (here, None, false, api, vec![("host", "localhost:9090")], 200),
            (here, None, false, api, vec![("host", "[::1]:9090")], 200),
            (here, None, false, api, vec![("host", "attacker.example")], 403),
            (here, None, false, api, vec![], 403),
            (everywhere, None, false, api, vec![host], 403),
            (everywhere, Some("t0ken"), false, api, vec![host], 401),
            (everywhere, Some("t0ken"), false, api, vec![host, bearer], 200),
            (everywhere, Some("other"), false, api, vec![host, bearer], 401),
            (everywhere, None, true, "/metrics", vec![host], 200),
            (everywhere, None, true, api, vec![host], 403),
        ] {
            let status = status(listen, token, public, path, &fields);
            assert_eq!(status, expected, "{listen} {path} {fields:?}");
        }
    }
}
