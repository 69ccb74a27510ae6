//! What an answer says of the token that went with its request, and what becomes of one that nobody gets.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body::Body as _;

use crate::credential::Credential;
use crate::origin::Origin;
use crate::proxy::body::Body;
use crate::proxy::challenge::{self, is_rejection};
use crate::token::Token;

/// A rejected answer of at most so many bytes is read to its end, so that its connection is kept.
const DISCARD: u64 = 16 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// What an answer says of the token that went with the request.
pub(super) enum Verdict {
    /// Nothing that another token could mend.
    Accepted,
    Rejected,
    /// The token may be as good as before: its proof lacked a nonce, which is known now.
    ProofLacksNonce,
}

/// A nonce counts only if it is another than the one that was `sent`: a server that asks again for
/// that one wants something else, and a token that is bound to a key may be rejected like any other.
/// Whether a request that ran beside this one has learned it before does not matter.
pub(super) async fn judge(
    credential: &Credential,
    origin: &Origin,
    token: &Token,
    sent: Option<&str>,
    answer: &mut Response<Body>,
) -> Verdict {
    if token.key().is_some() {
        let is_news = credential.nonces.learn(origin, sent, answer.headers());
        let is_unauthorized = answer.status() == StatusCode::UNAUTHORIZED;
        if is_news && is_unauthorized && challenge::wants_nonce(answer.headers()) {
            return Verdict::ProofLacksNonce;
        }
    }
    match is_rejected(credential, token.key().is_some(), answer).await {
        true => Verdict::Rejected,
        false => Verdict::Accepted,
    }
}

/// Does an answer reject what the credential has put on the request? Says if that cannot be known.
pub(super) async fn is_rejected(
    credential: &Credential,
    is_bound: bool,
    answer: &mut Response<Body>,
) -> bool {
    is_rejection(&credential.rejections, is_bound, answer).await.unwrap_or_else(|unread| {
        if credential.metrics.unread(unread.kind()) {
            let (credential, status) = (&*credential.name, answer.status().as_u16());
            tracing::warn!(
                credential,
                status,
                "an answer that `refresh_on` has a rule for was passed on unread: {unread}; it will not be \
                 said again, bearerd_unread_answers counts them"
            );
        }
        false
    })
}

/// Reads a short answer to its end, so that the connection can be used again.
pub(super) fn discard(answer: Response<Body>) {
    let mut body = answer.into_body();
    let short = body.size_hint().upper().is_some_and(|length| length <= DISCARD);
    if short && !body.is_end_stream() {
        let reading = async move {
            while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
        };
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, reading));
    }
}
