//! The table of the reasons why there is no token.

use std::fmt::Write;
use std::time::Duration;

use super::{ErrorReport, NAME, ProxyError, rows_of_every};
use crate::oauth::ErrorClass;
use crate::secret::Secret;
use crate::store::{EncryptionKey, RecordError, SealError, StoreError, TerminalReason};
use crate::token::{FailureReason, TokenError};

/// A reason why there is no token.
struct Reason {
    word: String,
    report: ErrorReport,
    meaning: &'static str,
    next: String,
}

/// What to do about a failure that ends by itself.
const WAIT: &str = "wait: bearerd retries";

/// Returns the row of a failed token request. `next` is empty if the reason has advice of its own.
fn failing(reason: FailureReason, meaning: &'static str, next: &'static str) -> Vec<Reason> {
    let error = TokenError::Unavailable { retry_after: Duration::from_secs(1), reason };
    let advice = reason.advice();
    assert_eq!(
        advice.is_some(),
        next.is_empty(),
        "{reason}: either it has advice or the row says what to do"
    );
    vec![Reason {
        word: reason.to_string(),
        report: ProxyError::Token { credential: NAME.into(), error }.report(),
        meaning,
        next: advice.unwrap_or(next).to_owned(),
    }]
}

fn terminal(reason: TerminalReason, meaning: &'static str, next: &'static str) -> Vec<Reason> {
    let error = TokenError::NeedsLogin { reason };
    let report = ProxyError::Token { credential: NAME.into(), error }.report();
    vec![Reason { word: reason.to_string(), report, meaning, next: next.to_owned() }]
}

fn reasons() -> Vec<Reason> {
    rows_of_every!(TokenError {
        TokenError::NeedsLogin { .. } => terminal_reasons(),
        TokenError::Unavailable { .. } => failures(),
    })
}

fn terminal_reasons() -> Vec<Reason> {
    use TerminalReason::*;
    const SEED: &str = "configure a new `refresh_token`";
    rows_of_every!(TerminalReason {
        Revoked => terminal(Revoked, "the authorization server no longer accepts the refresh token", SEED),
        LostRotation => terminal(
            LostRotation,
            "the server consumed the refresh token, and the answer with the new one was lost",
            SEED,
        ),
        UserNeeded => terminal(
            UserNeeded,
            "a person has to sign in or consent again",
            "let the user do so, then configure the new `refresh_token`",
        ),
        NoGrant => terminal(NoGrant, "there is no refresh token", "configure a `refresh_token`"),
        Corrupt => terminal(Corrupt, "the record was damaged, and there is no seed that works and no `bootstrap`", SEED),
        LoggedOut => terminal(
            LoggedOut,
            "an operator logged the credential out",
            "configure a new `refresh_token`; for a grant without one, change its configuration",
        ),
        OtherGrant => terminal(
            OtherGrant,
            "the record belongs to another `token_url`, `client_id`, user or grant type",
            "configure a new `refresh_token`, or restore the settings that the record was made with",
        ),
    })
}

fn failures() -> Vec<Reason> {
    use FailureReason::*;
    rows_of_every!(FailureReason {
        Answer(_) => answers(),
        BootstrapRefused => failing(BootstrapRefused, "the server rejected the bootstrap", ""),
        BootstrapPause => failing(BootstrapPause, "it is too early for another bootstrap", WAIT),
        SeedRefused => failing(SeedRefused, "the server rejected the new seed", ""),
        NotRotated => failing(NotRotated, "`rotation = \"require\"` is set and the answer has no new refresh token", ""),
        Step => failing(Step, "a configured step after the token request failed", ""),
        RequestInFlight => failing(
            RequestInFlight,
            "another process has presented the refresh token and may still get an answer",
            WAIT,
        ),
        AnswersLost => failing(
            AnswersLost,
            "answers were lost, and presenting the refresh token again could revoke a token that is in use",
            WAIT,
        ),
        Store(_) => store_failures(),
        MinInterval => failing(MinInterval, "it is too early for another token request", WAIT),
        Timeout => failing(Timeout, "the request waited for `limits.wait` and there was no token yet", WAIT),
        Reloaded => failing(Reloaded, "the configuration was changed while the request waited", "send the request again"),
        Internal => failing(Internal, "a bug in bearerd", "report it with the log; bearerd retries"),
    })
}

fn answers() -> Vec<Reason> {
    use ErrorClass::*;
    let answer = |class, meaning, next| failing(FailureReason::Answer(class), meaning, next);
    rows_of_every!(ErrorClass {
        GrantDead => answer(GrantDead, "the server refuses a grant that is made without a refresh token", ""),
        UserNeeded => answer(UserNeeded, "a person has to sign in or consent, and the grant has no refresh token", ""),
        Busy => answer(Busy, "the server is processing a conflicting request", WAIT),
        Throttled => answer(Throttled, "the server asks to wait", WAIT),
        Transient => answer(Transient, "the server has a fault", "wait: bearerd retries; if it lasts, ask its operator"),
        NotSent => answer(
            NotSent,
            "the token request did not reach the server",
            "wait: bearerd retries; if it lasts, check the network and the last error in `bearerd status`",
        ),
        Ambiguous => answer(
            Ambiguous,
            "the token request was sent and no answer arrived",
            "wait: bearerd retries; if it lasts, check the network and the server",
        ),
        Unreadable => answer(Unreadable, "the answer has no token that bearerd can find", ""),
        Unusable => answer(Unusable, "the answer has a token that bearerd cannot send", ""),
        Gateway => answer(Gateway, "something in front of the token endpoint answered", ""),
        Config => answer(Config, "the server rejects the OAuth client or the parameters of the request", ""),
        Doubtful => answer(Doubtful, "the same, in words that some servers also use for an invalid refresh token", ""),
        Nonce => answer(Nonce, "the server rejects the DPoP proof", ""),
    })
}

fn store_failures() -> Vec<Reason> {
    use StoreError::*;
    let text = String::new;
    let hex: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    let key = EncryptionKey::parse(&Secret::new(hex)).expect("32 bytes in hexadecimal");
    let store =
        |error: StoreError, meaning| failing(FailureReason::Store(error.label()), meaning, "");
    rows_of_every!(StoreError {
        Busy { .. } => store(
            Busy { key: text(), waited: Duration::ZERO },
            "another process has the lock of the credential",
        ),
        LeaseLost { .. } => store(LeaseLost { key: text() }, "the lock file was removed or the directory replaced"),
        Unavailable(_) => store(Unavailable(text()), "the store cannot be read or written"),
        Full(_) => store(Full(text()), "the disk is full"),
        Timeout => store(Timeout, "the store does not answer"),
        Unsafe { .. } => store(
            Unsafe { location: text(), problem: text() },
            "a file or directory has the wrong type, owner or mode",
        ),
        Corrupt { .. } => store(
            Corrupt { location: text(), moved_to: None, source: RecordError::NotARecord },
            "the record is damaged",
        ),
        Sealed { .. } => store(
            Sealed { location: text(), source: SealError::NoKey { key: key.id() } },
            "no configured key opens the record",
        ),
        Plain { .. } => store(Plain { location: text() }, "the record is plain text although `store.key` is set"),
        Newer { .. } => store(Newer { location: text(), version: 0 }, "a newer bearerd wrote the record"),
    })
}

pub(super) fn write_table(page: &mut String) {
    page.push_str("\n| reason | error | `Retry-After` | meaning | what to do |\n| --- | --- | --- | --- | --- |\n");
    for Reason { word, report, meaning, next } in reasons() {
        assert_eq!(report.status, http::StatusCode::SERVICE_UNAVAILABLE, "{word}");
        let retry_after = if report.retry_after.is_some() { "yes" } else { "no" };
        let _ = writeln!(
            page,
            "| `{word}` | `{}` | {retry_after} | {meaning} | {next} |",
            report.error_type
        );
    }
}

pub(super) const SECTION: &str = "
## 503: no access token

`bearerd status` shows the reason, the last error and the next step. The text of the response has the reason if an
operator should look into it. `credential_unavailable` means that bearerd retries by itself. `credential_needs_login`
means that an operator has to act; `bearerd refresh NAME` still makes one attempt. With `on_failure = \"forward\"` such
requests are sent without a token instead.
";
