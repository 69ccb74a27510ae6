//! A rejected request that carries secrets and no token: there is nothing to renew, but the place of a secret
//! may hold another one by now.

use std::sync::Arc;

use http::Response;

use super::verdict::{discard, is_rejected};
use super::{Body, Draft, Equipment, Proxy, ProxyError, RequestContext};
use crate::credential::{Credential, Selected, Selection};
use crate::metrics::RejectionOutcome;
use crate::origin::Origin;

impl Proxy {
    /// What the client gets after an answer that rejects the secrets. `draft`: the request, if it can be sent
    /// again.
    pub(super) async fn reread(
        &self,
        call: &mut RequestContext<'_>,
        rejected: &Selected,
        draft: Option<Draft>,
        answer: Response<Body>,
    ) -> Result<Response<Body>, ProxyError> {
        let metrics = Arc::clone(&rejected.credential.metrics);
        if let Some(draft) = draft {
            let second = self.send_with_other_secrets(call, rejected, draft).await?;
            if let Some(second) = second {
                metrics.rejected(RejectionOutcome::Absorbed);
                discard(answer);
                return Ok(self.deliver(second));
            }
        } else {
            // The next request has the use of it.
            let name = &rejected.credential.name;
            let _number = self.shared.rereads.ask(name, self.shared.clock.moment());
        }
        metrics.rejected(RejectionOutcome::PassedOn);
        Ok(self.deliver(answer))
    }

    /// Has the credential's secrets read again, and sends the request once more if they have changed.
    /// `None` if the rejection is the client's to see.
    async fn send_with_other_secrets(
        &self,
        call: &mut RequestContext<'_>,
        rejected: &Selected,
        mut draft: Draft,
    ) -> Result<Option<Response<Body>>, ProxyError> {
        let Selected { credential, origin, values } = rejected;
        let Some(credential) = self.with_other_secrets(credential, origin, &draft).await else {
            return Ok(None);
        };
        let Ok(instance) = credential.instance(values).await else { return Ok(None) };
        let Ok(token) = instance.slot.token().await else { return Ok(None) };
        credential.injection.remove_lookalikes(&mut draft.fields);
        let with =
            Equipment { credential: &credential, origin, instance: &instance, token, nonce: None };
        let mut answer = self.exchange_with_token(call, &mut draft, &with).await?;
        if is_rejected(&credential, false, &mut answer).await {
            credential.metrics.rejected(RejectionOutcome::PassedOn);
        }
        Ok(Some(answer))
    }

    async fn with_other_secrets(
        &self,
        rejected: &Credential,
        origin: &Origin,
        draft: &Draft,
    ) -> Option<Arc<Credential>> {
        if let Some(newer) = self.successor(rejected, origin, draft) {
            return Some(newer);
        }
        let number = self.shared.rereads.ask(&rejected.name, self.shared.clock.moment())?;
        let answered = self.shared.rereads.answer(number);
        tokio::time::timeout(rejected.reread?, answered).await.ok()?;
        self.successor(rejected, origin, draft)
    }

    /// The credential in force, if it is for this request as much as the one before was, and puts something
    /// else on it.
    fn successor(
        &self,
        before: &Credential,
        origin: &Origin,
        draft: &Draft,
    ) -> Option<Arc<Credential>> {
        let (path, fields) = (draft.uri.path(), &draft.fields);
        let credentials = self.shared.credentials();
        let found = match credentials.for_request(origin, &draft.method, path, fields, None) {
            Selection::Selected(selected) if selected.origin == *origin => selected.credential,
            // What chose among its instances is not sent on.
            Selection::Refused(credential, _) => credential,
            _ => return None,
        };
        found.differs_in_secrets(before).then_some(found)
    }
}
