//! Checks whether a response accepts the token of its request, and discards responses that nobody reads.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body::Body as _;

use crate::credential::Credential;
use crate::origin::Origin;
use crate::proxy::challenge::{is_rejection, requires_nonce};
use crate::proxy::response_body::ResponseBody;
use crate::token::AccessToken;

/// The most bytes of a discarded response that are read so that its connection can be used again.
const MAX_DISCARDED: u64 = 16 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a response says about the token of its request.
pub(super) enum TokenCheck {
    /// A new token would not help.
    Accepted,
    Rejected,
    /// The DPoP proof lacked a nonce, which is known now. The token itself may be valid.
    NonceRequired,
}

/// Checks what `response` says about `token`.
///
/// A nonce only counts if it differs from `sent_nonce`. A server that asks for the nonce that it got rejects the request
/// for another reason, and then the token may be rejected like any other. It does not matter whether a concurrent
/// request has already learned the new nonce.
pub(super) async fn check_token(
    credential: &Credential,
    origin: &Origin,
    token: &AccessToken,
    sent_nonce: Option<&str>,
    response: &mut Response<ResponseBody>,
) -> TokenCheck {
    let is_bound = token.key().is_some();
    if is_bound {
        let is_new_nonce = credential.nonces.learn(origin, sent_nonce, response.headers());
        let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        if is_new_nonce && is_unauthorized && requires_nonce(response.headers()) {
            return TokenCheck::NonceRequired;
        }
    }
    match is_rejected(credential, is_bound, response).await {
        true => TokenCheck::Rejected,
        false => TokenCheck::Accepted,
    }
}

/// Returns true if `response` rejects what the credential added to the request. Logs a warning if that depends on
/// content that cannot be inspected.
pub(super) async fn is_rejected(
    credential: &Credential,
    is_bound: bool,
    response: &mut Response<ResponseBody>,
) -> bool {
    is_rejection(&credential.rejections, is_bound, response).await.unwrap_or_else(|reason| {
        if credential.metrics.record_unread_response(reason.label()) {
            let (credential, status) = (&*credential.name, response.status().as_u16());
            tracing::warn!(
                credential,
                status,
                "a response to which a content rule of `refresh_on` applies was passed on uninspected: {reason}; \
                 further ones are not logged, bearerd_unread_answers counts them"
            );
        }
        false
    })
}

/// Reads a short response to its end in the background, so that its connection can be used again.
pub(super) fn discard_response(response: Response<ResponseBody>) {
    let mut body = response.into_body();
    let is_short = body.size_hint().upper().is_some_and(|length| length <= MAX_DISCARDED);
    if is_short && !body.is_end_stream() {
        let reading = async move {
            while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
        };
        tokio::spawn(tokio::time::timeout(DISCARD_TIMEOUT, reading));
    }
}
