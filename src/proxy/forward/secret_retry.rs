//! Retries a rejected request whose credential consists of secrets and has no token (`grant = "static"`). There is
//! nothing to renew, but the source of a secret may hold a new value.

use std::sync::Arc;

use http::Response;

use super::token_check::{discard_response, is_rejected};
use super::{OutgoingRequest, Proxy, ProxyError, RequestContext, ResponseBody, TokenContext};
use crate::credential::{Credential, SelectedCredential, Selection};
use crate::metrics::RejectionOutcome;
use crate::origin::Origin;

impl Proxy {
    /// Returns the response for the client after `response` rejected the secrets: that of a second attempt with new
    /// secrets, or else `response` itself. `outgoing` is the request if it can be sent again.
    pub(super) async fn retry_with_new_secrets(
        &self,
        ctx: &mut RequestContext<'_>,
        rejected: &SelectedCredential,
        outgoing: Option<OutgoingRequest>,
        response: Response<ResponseBody>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let metrics = Arc::clone(&rejected.credential.metrics);
        if let Some(outgoing) = outgoing {
            if let Some(second) = self.send_with_new_secrets(ctx, rejected, outgoing).await? {
                metrics.record_rejection(RejectionOutcome::Absorbed);
                discard_response(response);
                return Ok(self.prepare_response(second));
            }
        } else {
            // This request cannot be sent again, but the next one benefits from new secrets.
            let name = &rejected.credential.name;
            let _ticket = self.shared.rereads.request(name, self.shared.clock.moment());
        }
        metrics.record_rejection(RejectionOutcome::PassedOn);
        Ok(self.prepare_response(response))
    }

    /// Has the credential's secrets read again, and sends the request once more if they have changed. Returns `None`
    /// if they have not.
    async fn send_with_new_secrets(
        &self,
        ctx: &mut RequestContext<'_>,
        rejected: &SelectedCredential,
        mut outgoing: OutgoingRequest,
    ) -> Result<Option<Response<ResponseBody>>, ProxyError> {
        let SelectedCredential { credential, origin, values } = rejected;
        let Some(credential) =
            self.credential_with_new_secrets(credential, origin, &outgoing).await
        else {
            return Ok(None);
        };
        let Ok(instance) = credential.instance(values).await else { return Ok(None) };
        // The slot of a `static` credential serves an empty token, which carries the secrets past the same code.
        let Ok(token) = instance.slot.token().await else { return Ok(None) };
        credential.injection.remove_lookalikes(&mut outgoing.fields);
        let (credential, instance) = (&*credential, &*instance);
        let context = TokenContext { credential, origin, instance, token, nonce: None };
        let mut response = self.exchange_with_token(ctx, &mut outgoing, &context).await?;
        if is_rejected(credential, false, &mut response).await {
            credential.metrics.record_rejection(RejectionOutcome::PassedOn);
        }
        Ok(Some(response))
    }

    async fn credential_with_new_secrets(
        &self,
        rejected: &Credential,
        origin: &Origin,
        outgoing: &OutgoingRequest,
    ) -> Option<Arc<Credential>> {
        if let Some(newer) = self.successor(rejected, origin, outgoing) {
            return Some(newer);
        }
        let rereads = &self.shared.rereads;
        let ticket = rereads.request(&rejected.name, self.shared.clock.moment())?;
        let completed = rereads.wait_until_completed(ticket);
        tokio::time::timeout(rejected.reread?, completed).await.ok()?;
        self.successor(rejected, origin, outgoing)
    }

    /// Returns the current credential for this request, if its secrets differ from those of `previous`.
    fn successor(
        &self,
        previous: &Credential,
        origin: &Origin,
        outgoing: &OutgoingRequest,
    ) -> Option<Arc<Credential>> {
        let (path, fields) = (outgoing.uri.path(), &outgoing.fields);
        let credentials = self.shared.credentials();
        let current = match credentials.for_request(origin, &outgoing.method, path, fields, None) {
            Selection::Selected(selected) if selected.origin == *origin => selected.credential,
            // The field that selects an instance has been removed from the request.
            Selection::Refused(credential, _) => credential,
            _ => return None,
        };
        current.differs_only_in_secrets(previous).then_some(current)
    }
}
