//! Reading what a token endpoint answered: a pure function, tolerant of what real servers send.
//!
//! Servers answer errors with status 200, dead refresh tokens with 400, 401, 403, 404 or 500, rate
//! limits as `invalid_request`, lifetimes as text, and maintenance pages as success. [`read`] makes a
//! token of an answer or puts it into one [`Class`]; the rules are tried in order and the first that
//! matches decides. A [`Reading`] says what the operator knows better about this server.

mod classify;
pub(super) mod expiry;
mod mapping;
mod masking;
pub(super) mod members;
mod wait;

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use self::classify::classify;
pub use self::mapping::{
    AnswerRule, Comparison, Mapping, MemberPath, Reading, Rotation, TokenType, Unit,
};
use self::masking::masked;
use self::members::Members;
use super::{Class, GrantError, TokenResponse};
use crate::secret::Secret;

/// A token endpoint's answer before anything has been made of it.
#[derive(Clone)]
pub struct RawAnswer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
    /// Why the body ended early. What had come by then is in it.
    pub cut: Option<String>,
}

/// The body may hold tokens.
impl std::fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

/// An access token longer than this does not fit into the header block of most servers. The same
/// holds for what is kept beside it for templates.
const MAX_ACCESS_TOKEN: usize = 16 * 1024;

/// Makes a token, or a classified error, of an answer.
///
/// `now` is the time at which the request was sent; `secrets` are what it carried, to be taken out of
/// whatever the server says, before that is cut to length.
///
/// # Errors
///
/// A [`GrantError`] for everything that is not a usable token.
pub fn read(
    answer: &RawAnswer,
    reading: &Reading,
    now: SystemTime,
    secrets: &[&Secret],
) -> Result<TokenResponse, GrantError> {
    let (status, mapping) = (answer.status, &reading.mapping);
    if let Some(coding) = coding(&answer.fields) {
        let text = format!("it is in the content coding {coding}, which was not asked for");
        return Err(unreadable(answer, printable(&text, 200, secrets)));
    }
    let members = Members::of(&answer.body, mapping);
    let code = members.code(mapping.error.as_ref());
    let told = told(answer, reading, &members, code.as_deref());
    // Where the operator says how to tell a success, a code of theirs may stand in every answer.
    let succeeded = match &mapping.ok {
        Some(ok) => ok.holds(&members) && (mapping.error.is_some() || code.is_none()),
        None => code.is_none(),
    };
    if told.is_none() && status.is_success() && members.parsed && succeeded {
        return issued(answer, &members, reading, now);
    }
    let no_json = "it is neither JSON nor a form";
    let description = members
        .description()
        .or_else(|| (status.is_success() && !members.parsed).then(|| no_json.to_owned()));
    let nonce = dpop_nonce(&answer.fields);
    let class = match (told, &nonce) {
        (Some(class), _) => class,
        (None, Some(_)) if code.as_deref() == Some("use_dpop_nonce") => Class::Nonce,
        (None, _) => classify(status, &members, code.as_deref(), description.as_deref()),
    };
    let retry_after = match class {
        Class::Throttled => Some(wait::throttle(&answer.fields, description.as_deref(), now)),
        Class::Transient | Class::Ambiguous => wait::retry_after(&answer.fields, now),
        _ => None,
    };
    Err(GrantError {
        class,
        status: Some(status.as_u16()),
        code: code.map(|code| printable(&code, 64, secrets)),
        description: description.map(|text| printable(&text, 200, secrets)),
        retry_after,
        salvaged: None,
        unread: None,
        dpop_nonce: nonce,
    })
}

/// The class, where a rule of the operator says it.
fn told(
    answer: &RawAnswer,
    reading: &Reading,
    members: &Members,
    code: Option<&str>,
) -> Option<Class> {
    let any = |rules: &[AnswerRule]| {
        rules.iter().any(|rule| rule.meets(answer.status, &answer.body, members, code))
    };
    if any(&reading.busy) {
        Some(Class::Throttled)
    } else {
        any(&reading.dead).then_some(Class::GrantDead)
    }
}

fn issued(
    answer: &RawAnswer,
    members: &Members,
    reading: &Reading,
    now: SystemTime,
) -> Result<TokenResponse, GrantError> {
    let mapping = &reading.mapping;
    let member = |path: &Option<MemberPath>, name| members.find(path.as_ref(), name);
    let refresh_token = member(&mapping.refresh_token, "refresh_token").and_then(members::text);
    let refresh_token = refresh_token.map(|text| Secret::new(text.to_owned()));
    let refuse = |why: &str| GrantError {
        salvaged: refresh_token.clone(),
        ..unreadable(answer, why.to_owned())
    };
    if members.is_doubled(mapping.access_token.as_ref(), "access_token") {
        return Err(refuse("it has more than one access_token"));
    }
    let access_token = match member(&mapping.access_token, "access_token").and_then(members::text) {
        None if mapping.keep_access_token => None,
        None => return Err(refuse("it has no access_token")),
        // RFC 6749 appendix A.12: access-token = 1*VSCHAR.
        Some(text) if !is_visible(text) => {
            return Err(refuse("its access_token has characters that no header field may carry"));
        }
        Some(text) if text.len() > MAX_ACCESS_TOKEN => {
            return Err(refuse("its access_token is longer than 16 KiB"));
        }
        Some(text) => Some(Secret::new(text.to_owned())),
    };
    let token_type = match token_type(member(&mapping.token_type, "token_type")) {
        Some(TokenType::Dpop) if !reading.dpop => {
            return Err(refuse("its token_type is DPoP, which this credential is not set up for"));
        }
        // Whoever steals it could use it, which is what the operator wanted to rule out.
        Some(TokenType::Bearer) if reading.dpop && access_token.is_some() => {
            return Err(refuse("its token_type is not DPoP: the token is bound to no key"));
        }
        Some(token_type) => token_type,
        None => return Err(refuse("its token_type is not bearer")),
    };
    Ok(TokenResponse {
        access_token,
        refresh_token,
        token_type,
        expires_at: expiry::of_access_token(members, mapping, now),
        refresh_expires_at: expiry::of_refresh_token(members, mapping, now),
        raw: kept(members, reading),
        grant_expires_at: None,
        dpop_nonce: dpop_nonce(&answer.fields),
        notes: Vec::new(),
    })
}

/// An answer that says neither what was issued nor what was wrong.
fn unreadable(answer: &RawAnswer, why: String) -> GrantError {
    GrantError {
        class: Class::Unreadable,
        status: Some(answer.status.as_u16()),
        code: None,
        description: Some(why),
        retry_after: None,
        salvaged: None,
        unread: None,
        dpop_nonce: dpop_nonce(&answer.fields),
    }
}

/// The content coding, if there is one: such a body is compressed, and none was asked for.
fn coding(fields: &HeaderMap) -> Option<&str> {
    let coding = fields.get(http::header::CONTENT_ENCODING)?.to_str().unwrap_or("unknown").trim();
    (!coding.is_empty() && !coding.eq_ignore_ascii_case("identity")).then_some(coding)
}

/// What servers call a token that is presented as RFC 6750 says: also `BearerToken` (Apigee), and
/// whose it is (Slack).
const BEARER: [&str; 4] = ["bearer", "bearertoken", "bot", "user"];

/// `None` for a type that nobody here can present.
fn token_type(value: Option<&Value>) -> Option<TokenType> {
    match value {
        None | Some(Value::Null) => Some(TokenType::Bearer),
        Some(Value::String(kind)) => match kind.to_ascii_lowercase().as_str() {
            "dpop" => Some(TokenType::Dpop),
            kind => (kind.is_empty() || BEARER.contains(&kind)).then_some(TokenType::Bearer),
        },
        Some(_) => None,
    }
}

/// The members that templates name, as text that a field may carry. Others are left out.
fn kept(members: &Members, reading: &Reading) -> BTreeMap<String, Secret> {
    let kept = reading.raw.iter().filter_map(|path| Some((path.to_string(), members.fit(path)?)));
    kept.collect()
}

/// RFC 6749 appendix A: VSCHAR = %x20-7E.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// The nonce for the next proof.
fn dpop_nonce(fields: &HeaderMap) -> Option<String> {
    crate::dpop::nonce(fields).map(str::to_owned)
}

/// What a stranger wrote, fit for one line of a log.
fn printable(text: &str, limit: usize, secrets: &[&Secret]) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    // Once more when it is clean: what was between two halves of a secret may be gone.
    let text: String = masked(text.to_owned(), secrets).chars().map(clean).collect();
    let text = masked(text, secrets);
    let mut line: String = text.chars().take(limit).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
