//! An OAuth authorization server whose token endpoint behaves like real ones.
//!
//! It answers the grants `refresh_token`, `client_credentials` and `password`, rotates
//! refresh tokens, detects their reuse, and can be told to fail in every way a token
//! endpoint fails on the way to its answer.
//!
//! Invariants:
//!
//! * Requests are recorded in the order of their arrival, and the n-th takes the n-th
//!   enqueued behaviour.
//! * A token request that arrived is processed to its end even when the client hangs
//!   up meanwhile, as a real server would: the refresh token is then consumed although
//!   nobody got the new one. Only [`TokenBehaviour::Respond`], [`TokenBehaviour::Hang`] and
//!   [`TokenBehaviour::DropBeforeCommit`] leave the tokens alone.
//! * A refresh is atomic: concurrent presentations are judged one after the other.

mod behaviour;
mod config;
mod endpoint;
mod grant;
mod request;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use behaviour::{End, TokenAnswer, TokenBehaviour};
pub use config::{AuthorizationServerConfig, ClientAuth, ExpiresIn};
pub use request::TokenRequest;

use crate::listening::{Door, Listening, Tasks};
use crate::refresh_tokens::{Reuse, Rotation};
use crate::tokens::Tokens;
use endpoint::Endpoint;

/// A running authorization server; it stops when dropped.
pub struct AuthorizationServer {
    endpoint: Arc<Endpoint>,
    listening: Listening,
}

impl AuthorizationServer {
    /// Starts a server on the calling runtime.
    ///
    /// # Panics
    ///
    /// When the address cannot be listened on.
    pub async fn start(config: AuthorizationServerConfig) -> AuthorizationServer {
        let (listen, tls, tasks) = (config.listen, config.tls.clone(), Tasks::new());
        let endpoint = Arc::new(Endpoint::new(config, tasks.clone()));
        let listening = Listening::start(listen, tls, tasks, endpoint.clone());
        AuthorizationServer {
            endpoint,
            listening: listening.expect("the authorization server can listen"),
        }
    }

    /// Stops the server and waits until its port and connections are closed.
    pub async fn stop(self) {
        self.listening.stop().await;
    }

    /// The URL of the token endpoint, with the host `localhost`.
    pub fn token_url(&self) -> String {
        let (scheme, authority) = (self.listening.scheme(), self.listening.authority());
        format!("{scheme}://{authority}{}", self.endpoint.token_path())
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// The access tokens, for an origin server to check.
    pub fn tokens(&self) -> Tokens {
        self.endpoint.tokens().clone()
    }

    /// Changes what happens to refresh tokens from the next grant on.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.endpoint.change_policy(|policy| policy.rotation = rotation);
    }

    /// Changes the announced lifetime.
    pub fn set_expires_in(&self, expires_in: ExpiresIn) {
        self.endpoint.change_policy(|policy| policy.expires_in = expires_in);
    }

    /// Changes the real lifetime of the access tokens issued from now on.
    pub fn set_access_token_lifetime(&self, lifetime: Duration) {
        self.endpoint.change_policy(|policy| policy.access_token_lifetime = lifetime);
    }

    /// Changes whether a refresh revokes the access tokens before it.
    pub fn set_revoke_previous_access_token(&self, revoke: bool) {
        self.endpoint.change_policy(|policy| policy.revoke_previous_access_token = revoke);
    }

    /// From now on each proof has to carry a new nonce, which is returned.
    pub fn change_nonce(&self) -> String {
        self.endpoint.proofs().change_nonce()
    }

    /// Gives the next token request without a behaviour this one.
    pub fn enqueue(&self, behaviour: TokenBehaviour) {
        self.endpoint.enqueue(behaviour);
    }

    /// Asks `decide`, in the order of arrival, about each token request that no enqueued behaviour is for.
    pub fn decide_by(&self, decide: impl FnMut(&TokenRequest) -> TokenBehaviour + Send + 'static) {
        self.endpoint.decide_by(Box::new(decide));
    }

    /// From now on token requests are recorded and then wait before they are processed.
    pub fn hold(&self) {
        self.endpoint.gate().hold();
    }

    /// Ends the hold and every stall of the requests that arrived so far.
    pub fn release_all(&self) {
        self.endpoint.gate().release();
    }

    /// How many token requests arrived.
    pub fn token_requests(&self) -> usize {
        self.endpoint.arrived().get()
    }

    /// The token requests in the order of their arrival.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.endpoint.requests()
    }

    /// Waits until `n` token requests have arrived since the start.
    pub async fn wait_for_token_requests(&self, n: usize) {
        self.endpoint.arrived().reached(n).await;
    }

    /// When a refresh token was presented, each time, whatever became of it.
    pub fn presentations_of(&self, refresh_token: &str) -> Vec<Instant> {
        let requests = self.endpoint.requests();
        let presents =
            |request: &&TokenRequest| request.param("refresh_token") == Some(refresh_token);
        requests.iter().filter(presents).map(|request| request.at).collect()
    }

    /// Refuses connections from now on and drops those that there are; what was issued stays known.
    pub async fn refuse_connections(&self) {
        self.listening.set_door(Door::Shut).await;
    }

    /// Listens with a backlog that is full: connecting never completes.
    pub async fn fill_backlog(&self) {
        self.listening.set_door(Door::Full).await;
    }

    /// Accepts connections again, at the same address.
    pub async fn accept_connections(&self) {
        self.listening.set_door(Door::Open).await;
    }

    /// How many token requests were dealt with: processed, then answered or dropped.
    pub fn answered(&self) -> usize {
        self.endpoint.answered().get()
    }

    /// Waits until `n` token requests were dealt with since the start.
    ///
    /// A connection dropped on purpose counts too. The answer itself may still be on
    /// its way to the client.
    pub async fn wait_for_answered(&self, n: usize) {
        self.endpoint.answered().reached(n).await;
    }

    /// Waits until `n` grants were committed since the start, answered or not.
    pub async fn wait_for_committed(&self, n: usize) {
        self.endpoint.committed().reached(n).await;
    }

    /// How often a refresh token was presented after it had been replaced.
    pub fn reuse_count(&self) -> usize {
        self.endpoint.reuses().len()
    }

    /// Each presentation of a refresh token after it had been replaced.
    pub fn reuses(&self) -> Vec<Reuse> {
        self.endpoint.reuses()
    }

    /// Asserts that so many token requests have arrived since the start.
    ///
    /// # Panics
    ///
    /// When it were more or fewer, with `meaning` and the requests.
    #[track_caller]
    pub fn assert_token_requests(&self, expected: usize, meaning: impl fmt::Display) {
        let (received, requests) = (self.token_requests(), self.requests());
        let list: String = requests.iter().map(|request| format!("\n  {request}")).collect();
        assert!(
            received == expected,
            "{meaning}: expected {expected} token requests, got {received}:{list}"
        );
    }

    /// Asserts that no refresh token was presented after it had been replaced.
    ///
    /// # Panics
    ///
    /// When one was, with each such presentation.
    #[track_caller]
    pub fn assert_no_reuse(&self) {
        let reuses = self.reuses();
        assert!(
            reuses.is_empty(),
            "a refresh token was presented after it had been replaced: {reuses:#?}"
        );
    }

    /// The newest refresh token, even when it was revoked.
    pub fn current_refresh_token(&self) -> String {
        self.endpoint.of_realm("", |tokens| tokens.current().to_owned())
    }

    /// The same of one realm.
    pub fn current_refresh_token_of(&self, realm: &str) -> String {
        self.endpoint.of_realm(realm, |tokens| tokens.current().to_owned())
    }

    /// A new valid refresh token of one realm, as after an interactive login there.
    pub fn issue_refresh_token_of(&self, realm: &str) -> String {
        self.endpoint.of_realm(realm, |tokens| tokens.log_in())
    }

    /// Revokes the current refresh token of one realm.
    pub fn revoke_refresh_token_of(&self, realm: &str) {
        self.endpoint.of_realm(realm, |tokens| tokens.revoke());
    }

    /// The refresh tokens that were replaced, oldest first.
    pub fn previous_refresh_tokens(&self) -> Vec<String> {
        self.endpoint.of_realm("", |tokens| tokens.previous())
    }

    /// Whether `token` is the newest refresh token and not revoked.
    pub fn refresh_token_is_current(&self, token: &str) -> bool {
        self.endpoint.of_realm("", |tokens| tokens.is_current(token))
    }

    /// A new valid refresh token, as after an interactive login.
    ///
    /// It replaces the current one, which gives a plain `invalid_grant` from now on.
    /// Access tokens stay as they are.
    pub fn issue_refresh_token(&self) -> String {
        self.endpoint.of_realm("", |tokens| tokens.log_in())
    }

    /// Revokes the current refresh token: the next refresh gives `invalid_grant`.
    pub fn revoke_refresh_token(&self) {
        self.endpoint.of_realm("", |tokens| tokens.revoke());
    }
}
