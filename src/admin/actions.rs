//! Operator actions: forced refresh and logout.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{Admin, refuse, report, respond};
use crate::credential::{Credential, Instance, InstanceError, NamedToken};
use crate::token::TokenError;

/// The prefix of the paths of single credentials.
const CREDENTIALS: &str = "/api/v1/credentials/";

/// An operator action on a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Replace the token even if it is still valid.
    Refresh,
    /// Revoke and delete the tokens in every process; only a new seed can replace them.
    Logout,
}

/// What a path below [`CREDENTIALS`] refers to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CredentialTarget {
    /// `resamania`, `resamania[paris]` or `resamania/paris`.
    name: String,
    change: Option<Change>,
}

impl CredentialTarget {
    pub(super) fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix(CREDENTIALS)?;
        let (name, change) = match path.rsplit_once('/') {
            Some((name, "refresh")) => (name, Some(Change::Refresh)),
            Some((name, "logout")) => (name, Some(Change::Logout)),
            _ => (path, None),
        };
        Some(Self { name: percent_decode_str(name).decode_utf8_lossy().into_owned(), change })
    }
}

impl Admin {
    pub(super) async fn respond_about_target(
        &self,
        target: &CredentialTarget,
        request: &Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let (is_post, fields) = (*request.method() == Method::POST, request.headers());
        let checked = match target.change {
            Some(_) if !is_post => {
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "changes require POST");
            }
            None if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed here");
            }
            Some(_) => self.access.check_change(fields).await,
            None => self.access.check(CREDENTIALS, fields).await,
        };
        if let Err((status, why)) = checked {
            return refuse(status, why);
        }
        match target.change {
            Some(change) => self.change(&target.name, change).await,
            None => self.describe_named(&target.name).await,
        }
    }

    /// Describes the tokens that a name stands for, including those that are only stored.
    async fn describe_named(&self, name: &str) -> Response<Full<Bytes>> {
        let credentials = self.credentials.load_full();
        for credential in credentials.all() {
            let Some(named) = credential.named(name).await else { continue };
            let now = self.clock.now();
            let instances = credential.instances();
            let described = named.iter().map(|token| {
                match instances.iter().find(|instance| *instance.key == *token.key) {
                    Some(instance) => report::describe(&credential.name, instance, now),
                    None => {
                        report::describe_unused(&credential.name, &token.title, Some(&token.key))
                    }
                }
            });
            let described: Vec<Value> = described.collect();
            return respond(StatusCode::OK, &json!({ "credentials": described }));
        }
        self.unknown()
    }

    async fn change(&self, name: &str, change: Change) -> Response<Full<Bytes>> {
        let credentials = self.credentials.load_full();
        for credential in credentials.all() {
            let Some(named) = credential.named(name).await else { continue };
            // The name must be exact, even if only one token is in use.
            let is_named = |token: &&NamedToken| token.title == name || token.key == name;
            let Some(token) = named.iter().find(is_named) else {
                let why = "this credential has one token per value; name one of them";
                let known: Vec<&str> = named.iter().map(|token| &*token.title).collect();
                return respond(StatusCode::NOT_FOUND, &json!({ "error": why, "known": known }));
            };
            return match credential.instance(&token.values).await {
                Ok(instance) => match change {
                    Change::Refresh => self.refresh(credential, &instance).await,
                    Change::Logout => self.log_out(credential, &instance).await,
                },
                Err(InstanceError::Unknown) => self.unknown(),
                Err(error) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    refuse(status, &format!("credential {} {error}", credential.name))
                }
            };
        }
        self.unknown()
    }

    async fn refresh(&self, credential: &Credential, instance: &Instance) -> Response<Full<Bytes>> {
        let refreshed = instance.slot.refresh_now().await;
        let described = report::describe(&credential.name, instance, self.clock.now());
        let Err(error) = refreshed else { return respond(StatusCode::OK, &described) };
        let retry_after = match &error {
            TokenError::Unavailable { retry_after, .. } => Some(retry_after.as_secs().max(1)),
            TokenError::NeedsLogin { .. } => None,
        };
        let content = json!({
            "error": error.to_string(),
            "retry_after": retry_after,
            "credential": described,
        });
        let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, &content);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        response
    }

    /// Completes even if the operator disconnects, because deleted tokens must also be revoked.
    async fn log_out(
        &self,
        credential: &Credential,
        instance: &Arc<Instance>,
    ) -> Response<Full<Bytes>> {
        let (name, instance) = (Arc::clone(&credential.name), Arc::clone(instance));
        let title = Arc::clone(&instance.title);
        let now = self.clock.now();
        let logout = tokio::spawn(async move { log_out(&name, &instance, now).await });
        let done = logout.await.map_err(|error| error.to_string());
        match done.and_then(|done| done) {
            Ok(described) => respond(StatusCode::OK, &described),
            Err(error) => {
                tracing::error!(credential = &*title, error, "logout failed");
                let why = format!("{error}; nothing was changed");
                refuse(StatusCode::SERVICE_UNAVAILABLE, &why)
            }
        }
    }

    /// The response to an unknown name, with the known names.
    fn unknown(&self) -> Response<Full<Bytes>> {
        let credentials = self.credentials.load_full();
        let known: Vec<String> =
            credentials.all().iter().flat_map(|credential| credential.names()).collect();
        let content = json!({ "error": "there is no credential with this name", "known": known });
        respond(StatusCode::NOT_FOUND, &content)
    }
}

/// Logs one token out. Returns its description and the result of its revocation.
///
/// # Errors
///
/// The reason as a message; nothing has changed in that case.
pub async fn log_out(
    credential: &str,
    instance: &Instance,
    now: SystemTime,
) -> Result<Value, String> {
    let revoked = instance.slot.logout().await.map_err(|error| error.to_string())?;
    let mut described = report::describe(credential, instance, now);
    let revocations = revoked
        .iter()
        .map(|it| json!({ "token": it.token, "revoked": it.problem.is_none(), "why": it.problem }));
    if let Some(members) = described.as_object_mut() {
        members.insert("revocations".to_owned(), revocations.collect());
    }
    Ok(described)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_names_a_token_and_an_action() {
        for (path, expected) in [
            ("api", ("api", None)),
            ("api/refresh", ("api", Some(Change::Refresh))),
            ("%61pi/logout", ("api", Some(Change::Logout))),
            ("club%5Bparis%5D/logout", ("club[paris]", Some(Change::Logout))),
            ("club/paris/refresh", ("club/paris", Some(Change::Refresh))),
            ("club/paris", ("club/paris", None)),
            // A value that looks like an action.
            ("club%2Flogout", ("club/logout", None)),
            ("club%2Flogout/refresh", ("club/logout", Some(Change::Refresh))),
            // A record key contains escapes of its own.
            ("club%2Fx%252Fy", ("club/x%2Fy", None)),
            ("", ("", None)),
            ("refresh", ("refresh", None)),
        ] {
            let target = CredentialTarget::of(&format!("{CREDENTIALS}{path}")).unwrap();
            assert_eq!((&*target.name, target.change), expected, "{path}");
        }
        assert_eq!(CredentialTarget::of("/api/v1/credentials"), None);
    }
}
