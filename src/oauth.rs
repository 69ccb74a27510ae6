//! The OAuth client side of the authorization server's protocol (RFC 6749).
//!
//! Building a token request and reading its answer are pure functions; [`Transport::send`] is the
//! only side effect between them. This module stores nothing: [`token`](crate::token) combines it
//! with the store and decides what happens to a new token.
//!
//! Token requests follow no redirects, use no proxy and always verify TLS. A redirected token
//! request would send the OAuth client's secret to a host that the operator did not name.

mod answer;
mod assertion;
mod client_cert;
mod config;
mod discovery;
mod endpoint;
mod error_class;
mod grant;
mod grant_error;
mod grant_identity;
mod keyfile;
mod request;
mod steps;
mod token_response;
mod transport;

pub use answer::{
    AnswerRule, Comparison, Mapping, MemberPath, RawAnswer, Rotation, TimeUnit,
    TokenResponseFormat, TokenType, read,
};
pub use assertion::{
    Algorithm, Assertion, CertificateThumbprint, Claim, KeyFamily, SigningKey, SigningKeyError,
};
pub use client_cert::{ClientCert, ClientCertError};
pub use config::{ClientAuthentication, Config, Encoding, Parameter};
pub use endpoint::{Revocation, TokenEndpoint, TokenKind};
pub use error_class::{Consumption, ErrorClass, ErrorPolicy, RetryPace};
pub use grant::{Bootstrap, Exchange, Grant, GrantRenewal, GrantType, OwnGrant};
pub use grant_error::GrantError;
pub use grant_identity::GrantIdentity;
pub use keyfile::KeyFault;
pub use request::{
    DpopBinding, Endpoints, ExchangeTokens, RequestError, TokenRequest, TokenRequestContext,
};
pub use steps::{Step, StepResult};
pub use token_response::TokenResponse;
pub use transport::{HttpTransport, Transport, TransportError};
