//! Beginning a grant anew without a person.

use super::outcome::{backoff, why};
use super::plan::BOOTSTRAP_PAUSE;
use super::session::{Memory, Session};
use super::{Asked, Demand, Failure, Refresher, Refused};
use crate::oauth::{Class, Grant};
use crate::store::{Bootstrapped, TokenRecord};

impl Refresher {
    /// Asks for a new grant with the configured bootstrap. One that is refused is tried again after
    /// [`BOOTSTRAP_PAUSE`], for ever: whatever is wrong, a person need not come by to say that it is
    /// mended. Trouble that passes is waited out as for any other token request.
    pub(super) async fn bootstrap(
        &self,
        session: &mut Session,
        memory: &mut Memory,
        demand: Demand,
    ) -> Result<TokenRecord, Failure> {
        tracing::info!(
            credential = self.name,
            generation = session.record.generation.0,
            "beginning the grant anew with the bootstrap"
        );
        let key = self.bind(&mut session.record);
        let Asked { at, answer, requests } = self.ask(Grant::Bootstrap, None, key.as_ref()).await;
        session.requests += requests;
        let error = match answer {
            Ok(response) => {
                session.record.bootstrap = Some(Bootstrapped { at, refused: false });
                let issued = self.issued(session, memory, demand, response, at, false).await;
                let outcome = if issued.is_ok() { "success" } else { "failed" };
                self.metrics.bootstrapped(outcome);
                return issued;
            }
            Err(Refused { error, .. }) => error,
        };
        self.report_refused(session, &error);
        let detail = Some(format!("the bootstrap failed: {error}"));
        let salvaged = error.salvaged.clone();
        let is_begun = salvaged.is_some();
        if let Some(refresh_token) = salvaged {
            // The next token comes from it, and not from another bootstrap.
            session.record.bootstrap = Some(Bootstrapped { at, refused: false });
            self.salvage(session, refresh_token, false).await?;
        }
        let passes = [Class::Transient, Class::NotSent, Class::Ambiguous, Class::Throttled]
            .contains(&error.class);
        if passes || is_begun {
            self.metrics.bootstrapped("failed");
            let failure =
                Failure::failed(backoff(error.class), error.retry_after, why(error.class));
            return Err(Failure {
                detail,
                record: Some(Box::new(session.record.clone())),
                ..failure
            });
        }
        self.metrics.bootstrapped("refused");
        session.record.bootstrap = Some(Bootstrapped { at, refused: true });
        self.save(session).await?;
        let pause = error.retry_after.unwrap_or_default().max(BOOTSTRAP_PAUSE);
        let failure = Failure::failed(backoff(error.class), Some(pause), "bootstrap_refused");
        Err(Failure { detail, record: Some(Box::new(session.record.clone())), ..failure })
    }
}
