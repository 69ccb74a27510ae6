//! An OAuth authorization server whose token endpoint behaves like real ones.
//!
//! It answers the grants `refresh_token`, `client_credentials` and `password`, rotates
//! refresh tokens, detects their reuse, and can be made to fail in every way a token
//! endpoint can fail before its answer arrives.
//!
//! Invariants:
//!
//! * Requests are recorded in arrival order. The n-th request takes the n-th enqueued
//!   behaviour.
//! * A token request is processed to its end even if the client disconnects, as on a real
//!   server: the refresh token is consumed although no client receives its successor. Only
//!   [`TokenBehaviour::Respond`], [`TokenBehaviour::Hang`] and
//!   [`TokenBehaviour::DropBeforeCommit`] do not change the tokens.
//! * A refresh is atomic: concurrent presentations are serialized.

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

use crate::listening::{AcceptMode, Listening, Tasks};
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
    /// Panics if the address cannot be bound.
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

    /// Returns the URL of the token endpoint, with the host `localhost`.
    pub fn token_url(&self) -> String {
        let (scheme, authority) = (self.listening.scheme(), self.listening.authority());
        format!("{scheme}://{authority}{}", self.endpoint.token_path())
    }

    /// Returns the listening address.
    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// Returns the access tokens, for an origin server to check.
    pub fn tokens(&self) -> Tokens {
        self.endpoint.tokens().clone()
    }

    /// Sets the rotation policy for subsequent grants.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.endpoint.change_policy(|policy| policy.rotation = rotation);
    }

    /// Sets the announced lifetime (`expires_in`).
    pub fn set_expires_in(&self, expires_in: ExpiresIn) {
        self.endpoint.change_policy(|policy| policy.expires_in = expires_in);
    }

    /// Sets the actual lifetime of access tokens issued from now on.
    pub fn set_access_token_lifetime(&self, lifetime: Duration) {
        self.endpoint.change_policy(|policy| policy.access_token_lifetime = lifetime);
    }

    /// Sets whether a refresh revokes earlier access tokens of its family.
    pub fn set_revoke_previous_access_token(&self, revoke: bool) {
        self.endpoint.change_policy(|policy| policy.revoke_previous_access_token = revoke);
    }

    /// Requires a new nonce in every subsequent proof, and returns it.
    pub fn change_nonce(&self) -> String {
        self.endpoint.proofs().change_nonce()
    }

    /// Enqueues the behaviour for the next token request that has none yet.
    pub fn enqueue(&self, behaviour: TokenBehaviour) {
        self.endpoint.enqueue(behaviour);
    }

    /// Calls `decide`, in arrival order, for each token request without an enqueued behaviour.
    pub fn decide_by(&self, decide: impl FnMut(&TokenRequest) -> TokenBehaviour + Send + 'static) {
        self.endpoint.decide_by(Box::new(decide));
    }

    /// Holds subsequent token requests after they are recorded and before they are processed.
    pub fn hold(&self) {
        self.endpoint.gate().hold();
    }

    /// Ends the hold, and every stall of the requests received so far.
    pub fn release_all(&self) {
        self.endpoint.gate().release();
    }

    /// Returns the number of token requests received.
    pub fn token_requests(&self) -> usize {
        self.endpoint.arrived().get()
    }

    /// Returns the token requests in arrival order.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.endpoint.requests()
    }

    /// Waits until `n` token requests have arrived since the start.
    pub async fn wait_for_token_requests(&self, n: usize) {
        self.endpoint.arrived().wait_for(n).await;
    }

    /// Returns the time of each presentation of a refresh token, accepted or not.
    pub fn presentations_of(&self, refresh_token: &str) -> Vec<Instant> {
        let requests = self.endpoint.requests();
        let presents =
            |request: &&TokenRequest| request.param("refresh_token") == Some(refresh_token);
        requests.iter().filter(presents).map(|request| request.at).collect()
    }

    /// Refuses new connections and drops the open ones. Issued tokens stay valid.
    pub async fn refuse_connections(&self) {
        self.listening.set_accept_mode(AcceptMode::Refusing).await;
    }

    /// Fills the listen backlog, so that connecting never completes.
    pub async fn fill_backlog(&self) {
        self.listening.set_accept_mode(AcceptMode::BacklogFull).await;
    }

    /// Accepts connections again at the same address.
    pub async fn accept_connections(&self) {
        self.listening.set_accept_mode(AcceptMode::Accepting).await;
    }

    /// Returns the number of token requests that were processed and then answered or dropped.
    pub fn answered(&self) -> usize {
        self.endpoint.answered().get()
    }

    /// Waits until `n` token requests were answered or dropped since the start.
    ///
    /// Deliberate drops count too. The client may not have received the answer yet.
    pub async fn wait_for_answered(&self, n: usize) {
        self.endpoint.answered().wait_for(n).await;
    }

    /// Waits until `n` grants were committed since the start, whether answered or not.
    pub async fn wait_for_committed(&self, n: usize) {
        self.endpoint.committed().wait_for(n).await;
    }

    /// Returns how often a replaced refresh token was presented.
    pub fn reuse_count(&self) -> usize {
        self.endpoint.reuses().len()
    }

    /// Returns each presentation of a replaced refresh token.
    pub fn reuses(&self) -> Vec<Reuse> {
        self.endpoint.reuses()
    }

    /// Asserts that `expected` token requests have arrived since the start.
    ///
    /// # Panics
    ///
    /// Panics if the count differs. The message is `meaning` and the requests.
    #[track_caller]
    pub fn assert_token_requests(&self, expected: usize, meaning: impl fmt::Display) {
        let (received, requests) = (self.token_requests(), self.requests());
        let list: String = requests.iter().map(|request| format!("\n  {request}")).collect();
        assert!(
            received == expected,
            "{meaning}: expected {expected} token requests, got {received}:{list}"
        );
    }

    /// Asserts that no replaced refresh token was presented.
    ///
    /// # Panics
    ///
    /// Panics if one was. The message lists each presentation.
    #[track_caller]
    pub fn assert_no_reuse(&self) {
        let reuses = self.reuses();
        assert!(
            reuses.is_empty(),
            "a refresh token was presented after it had been replaced: {reuses:#?}"
        );
    }

    /// Returns the newest refresh token, even if it was revoked.
    pub fn current_refresh_token(&self) -> String {
        self.endpoint.of_realm("", |tokens| tokens.current().to_owned())
    }

    /// Returns the newest refresh token of one realm, even if it was revoked.
    pub fn current_refresh_token_of(&self, realm: &str) -> String {
        self.endpoint.of_realm(realm, |tokens| tokens.current().to_owned())
    }

    /// Issues a new refresh token for one realm, as an interactive login does.
    pub fn issue_refresh_token_of(&self, realm: &str) -> String {
        self.endpoint.of_realm(realm, |tokens| tokens.log_in())
    }

    /// Revokes the current refresh token of one realm.
    pub fn revoke_refresh_token_of(&self, realm: &str) {
        self.endpoint.of_realm(realm, |tokens| tokens.revoke());
    }

    /// Returns the replaced refresh tokens, oldest first.
    pub fn previous_refresh_tokens(&self) -> Vec<String> {
        self.endpoint.of_realm("", |tokens| tokens.previous())
    }

    /// Returns true if `token` is the newest refresh token and not revoked.
    pub fn refresh_token_is_current(&self, token: &str) -> bool {
        self.endpoint.of_realm("", |tokens| tokens.is_current(token))
    }

    /// Issues a new refresh token, as an interactive login does.
    ///
    /// The previous one gets a plain `invalid_grant` from now on. Access tokens are unaffected.
    pub fn issue_refresh_token(&self) -> String {
        self.endpoint.of_realm("", |tokens| tokens.log_in())
    }

    /// Revokes the current refresh token: the next refresh gets `invalid_grant`.
    pub fn revoke_refresh_token(&self) {
        self.endpoint.of_realm("", |tokens| tokens.revoke());
    }
}
