//! Reads one answer: finds its tokens, or says why there are none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde_json::Value;

use super::decoded_body::{BodyDecoding, DecodedBody};
use super::error_details::{self, ErrorDetails};
use super::format::{AnswerRule, Mapping, ParsedTokenType, TokenResponseFormat, TokenType};
use super::masking::{self, printable};
use super::members::{Members, TokenLookup, has_spaces, is_visible};
use super::token_search::TokenSearch;
use super::{Expectation, RawAnswer, classify, expiry, retry_delay};
use crate::oauth::{ErrorClass, GrantError, TokenResponse};
use crate::secret::Secret;

/// The maximum size of a member that is members_for_templates for templates, because it may be sent in a header
/// field.
const MAX_KEPT: usize = 16 * 1024;
/// How much of an unreadable success is members_for_templates for the operator, in bytes.
pub(super) const MAX_UNREAD: usize = 64 * 1024;

/// One parsed answer with the context for interpreting it.
pub(super) struct AnswerReader<'a> {
    pub(super) wanted: Expectation,
    pub(super) answer: &'a RawAnswer,
    pub(super) reading: &'a TokenResponseFormat,
    pub(super) now: SystemTime,
    pub(super) secrets: &'a [&'a Secret],
    pub(super) content: &'a DecodedBody<'a>,
    pub(super) members: &'a Members,
}

/// The tokens found in a successful answer.
struct AnswerTokens {
    access_token: TokenLookup,
    refresh_token: TokenLookup,
    /// The tokens were found by the tolerant search.
    is_searched: bool,
    /// The members next to the access token that the search found.
    beside: Option<Members>,
}

impl AnswerReader<'_> {
    pub(super) fn read(&self) -> Result<TokenResponse, GrantError> {
        let (status, mapping) = (self.answer.status, &self.reading.mapping);
        let details = ErrorDetails::of(&self.content.bytes, self.members, mapping.error.as_ref());
        let configured_class = self.configured_class(&details);
        if !status.is_success() {
            return Err(self.refusal(configured_class, &details));
        }
        let tokens = self.tokens();
        // With a configured `ok` rule, every answer may contain a code.
        let code = self.members.code(mapping.error.as_ref());
        let is_issued = matches!(tokens.access_token, TokenLookup::One(_));
        let has_no_error =
            code.is_none() || (is_issued && self.members.states_success(mapping.error.as_ref()));
        let is_success = match &mapping.ok {
            Some(ok) => ok.holds(self.members) && (mapping.error.is_some() || has_no_error),
            None => has_no_error,
        };
        let has_none =
            tokens.access_token == TokenLookup::None && tokens.refresh_token == TokenLookup::None;
        // Other places of error codes only count if there is no token.
        let knows_better =
            details.codes.iter().any(|code| classify::is_known(&error_details::plain(code)))
                || details
                    .number
                    .as_ref()
                    .is_some_and(|number| number.is_error || classify::is_invalid_token(&details))
                || self.configured_wait().is_some();
        let is_refusal = self.members.parsed && (!is_success || has_none && knows_better);
        if configured_class.is_none() && !is_refusal && !(has_none && details.is_page) {
            return self.issued(tokens, &details);
        }
        let mut error = self.refusal(configured_class, &details);
        if configured_class.is_none() && is_issued {
            let details =
                error.description.take().map(|details| format!("{details}; ")).unwrap_or_default();
            let advice = "the error contains an access_token: if this is a success, set response.ok or \
                          response.error so that it is recognised";
            error.description = Some(format!("{details}{advice}"));
        }
        if configured_class.is_none() && !has_none {
            // The answer is an error, but also contains a new refresh token, which is now the only
            // valid one.
            error.recovered = tokens.refresh_token.one().filter(|token| !self.was_sent(token));
            if error.recovered.is_some()
                && matches!(error.class, ErrorClass::GrantDead | ErrorClass::UserNeeded)
            {
                error.class = ErrorClass::Doubtful;
            }
        }
        Err(error)
    }

    /// Returns the class that a configured rule assigns.
    fn configured_class(&self, details: &ErrorDetails) -> Option<ErrorClass> {
        let (status, body) = (self.answer.status, &self.content.bytes);
        let any = |rules: &[AnswerRule]| {
            rules.iter().any(|rule| rule.matches(status, body, self.members, &details.codes))
        };
        if any(&self.reading.busy) {
            Some(ErrorClass::Throttled)
        } else {
            any(&self.reading.dead).then_some(ErrorClass::GrantDead)
        }
    }

    /// Finds the tokens, first at their configured or standard places, then anywhere.
    fn tokens(&self) -> AnswerTokens {
        let TokenResponseFormat { mapping, .. } = self.reading;
        let access_token = self.members.token(mapping.access_token.as_ref(), "access_token");
        let refresh_token =
            self.members.refresh_token(mapping.refresh_token.as_ref(), self.secrets);
        let without_access = access_token == TokenLookup::None && !mapping.keep_access_token;
        let mut tokens =
            AnswerTokens { access_token, refresh_token, is_searched: false, beside: None };
        // Next to the refresh token that was sent there may be a new one under another name.
        let is_old = match &tokens.refresh_token {
            TokenLookup::None => true,
            TokenLookup::One(token) => self.was_sent(token),
            TokenLookup::Several => false,
        };
        if is_old && mapping.refresh_token.is_none() {
            let other = self.members.renamed_refresh_token(self.secrets);
            let is_new = match &other {
                TokenLookup::None => false,
                TokenLookup::One(token) => {
                    tokens.refresh_token == TokenLookup::None || !self.was_sent(token)
                }
                TokenLookup::Several => true,
            };
            if is_new {
                (tokens.refresh_token, tokens.is_searched) = (other, true);
            }
        }
        // The search also preserves numbers as they are written.
        if !without_access && matches!(tokens.refresh_token, TokenLookup::One(_)) {
            return tokens;
        }
        let search = TokenSearch::of(&self.content.bytes);
        if without_access {
            tokens.access_token = search.access_token();
            tokens.is_searched |= tokens.access_token != TokenLookup::None;
        }
        let access_token = tokens.access_token.clone().one();
        tokens.beside =
            access_token.as_ref().filter(|_| without_access).and_then(|it| search.beside(it));
        // If the end of the answer is missing, the refresh token may be in the missing part. Do not
        // use another one instead.
        let may_be_missing = self.members.is_cut && !without_access;
        if !matches!(tokens.refresh_token, TokenLookup::One(_)) && !may_be_missing {
            let found = search.refresh_token(access_token.as_ref(), self.secrets);
            // A damaged token at its own place is not replaced by one from elsewhere, except for a
            // number.
            let is_rest = tokens.refresh_token == TokenLookup::None
                || self.members.has_number(mapping.refresh_token.as_ref());
            if is_rest {
                tokens.is_searched |=
                    tokens.refresh_token == TokenLookup::None && found != TokenLookup::None;
                tokens.refresh_token = found;
            }
        }
        tokens
    }

    fn issued(
        &self,
        tokens: AnswerTokens,
        details: &ErrorDetails,
    ) -> Result<TokenResponse, GrantError> {
        let Self { members, reading, now, .. } = *self;
        let mapping = &reading.mapping;
        let has_several = tokens.refresh_token == TokenLookup::Several;
        let refresh_token = tokens.refresh_token.one();
        let refuse = |class, why: &str| {
            let mut error = self.error(class, Some(why.to_owned()));
            error.recovered = refresh_token.clone();
            if refresh_token.is_none() && self.wanted.rotates {
                error.unread = Some(self.unread());
            }
            error
        };
        let unreadable = |why: &str| {
            let description = details.description.as_deref().map(|text| self.printable(text, 200));
            let details = description.map(|text| format!(": {text}")).unwrap_or_default();
            refuse(ErrorClass::Unreadable, &format!("{why}{details}"))
        };
        let access_token = match tokens.access_token {
            TokenLookup::None if mapping.keep_access_token && members.parsed => None,
            TokenLookup::None if refresh_token.is_none() && !members.parsed => {
                return Err(unreadable(&self.describe_unreadable()));
            }
            TokenLookup::None => return Err(unreadable("it has no access_token")),
            TokenLookup::Several => {
                return Err(unreadable("its access_token is ambiguous"));
            }
            TokenLookup::One(token) if !self.wanted.for_steps && has_spaces(token.expose()) => {
                let why = "its access_token has spaces, which no bearer token has (RFC 6750 §2.1)";
                return Err(refuse(ErrorClass::Unusable, why));
            }
            TokenLookup::One(token) if !is_visible(token.expose()) => {
                let why = "its access_token has characters that are not valid in a header field";
                return Err(refuse(ErrorClass::Unusable, why));
            }
            TokenLookup::One(token) if token.expose().len() > reading.token_bytes => {
                let why = format!(
                    "its access_token is longer than {} bytes (limits.token_bytes)",
                    reading.token_bytes
                );
                return Err(refuse(ErrorClass::Unusable, &why));
            }
            TokenLookup::One(token) => Some(token),
        };
        if has_several && self.wanted.rotates {
            return Err(unreadable("its refresh_token is ambiguous"));
        }
        // The refresh token that was sent may precede the new one.
        let may_be_less = || {
            let place = members.find(mapping.refresh_token.as_ref(), "refresh_token");
            let was_sent = refresh_token.as_ref().is_none_or(|token| self.was_sent(token));
            was_sent && place.is_none_or(|it| it.is_array() || it.is_object())
        };
        let is_less = refresh_token.is_none() || may_be_less();
        if members.is_cut && is_less && self.wanted.rotates {
            let how = self.answer.cut.as_deref().unwrap_or("its JSON is incomplete");
            return Err(unreadable(&format!("it is incomplete and has no refresh_token: {how}")));
        }
        let mut notes = self.notes(tokens.is_searched);
        let name = mapping.access_token.as_ref();
        let text = members.find(name, "access_token").and_then(Value::as_str);
        if text.is_some_and(|text| text.ends_with(['\r', '\n'])) {
            notes.push("its access_token ends with a line break, which was removed".to_owned());
        }
        if mapping.refresh_token.is_none() && members.has_conflicting_duplicates("refresh_token") {
            notes.push("it has two different refresh_tokens".to_owned());
        }
        if has_several {
            notes.push("its refresh_token is ambiguous".to_owned());
        }
        let kind = members.find(mapping.token_type.as_ref(), "token_type");
        let beside = tokens.beside.as_ref();
        let kind = kind.or_else(|| beside?.get("token_type"));
        let end = |of: fn(&Members, &Mapping, SystemTime) -> Option<SystemTime>| {
            of(members, mapping, now).or_else(|| of(beside?, mapping, now))
        };
        let token_type = self.token_type(kind, access_token.is_some(), &mut notes);
        Ok(TokenResponse {
            access_token,
            token_type: token_type.map_err(|why| refuse(ErrorClass::Unusable, &why))?,
            expires_at: end(expiry::of_access_token),
            refresh_expires_at: end(expiry::of_refresh_token),
            grant_expires_at: end(expiry::of_grant),
            refresh_token,
            raw: self.members_for_templates(),
            dpop_nonce: dpop_nonce(&self.answer.fields),
            notes,
        })
    }

    /// Determines how the token is presented. The error explains why it cannot be.
    fn token_type(
        &self,
        kind: Option<&Value>,
        is_new: bool,
        notes: &mut Vec<String>,
    ) -> Result<TokenType, String> {
        match (TokenType::parse(kind), self.reading.dpop) {
            (ParsedTokenType::Supported(TokenType::Dpop), false) => {
                Err("its token_type is DPoP, which this credential is not set up for".to_owned())
            }
            (ParsedTokenType::Supported(TokenType::Dpop), true) => Ok(TokenType::Dpop),
            // The operator requires bound tokens, so that stolen tokens are useless.
            (ParsedTokenType::Supported(_) | ParsedTokenType::Unusual(_), true) if is_new => {
                Err("its token_type is not DPoP: the token is not bound to a key".to_owned())
            }
            (ParsedTokenType::Supported(token_type), _) => Ok(token_type),
            (ParsedTokenType::Unusual(kind), _) => {
                let kind = self.printable(&kind, 64);
                notes.push(format!("its token_type is \"{kind}\"; it is sent as a Bearer token"));
                Ok(TokenType::Bearer)
            }
            // The configured steps know how to use it.
            (ParsedTokenType::Unsupported(_), false) if self.wanted.for_steps => {
                Ok(TokenType::Bearer)
            }
            (ParsedTokenType::Unsupported(kind), _) => {
                let kind = self.printable(&kind, 64);
                Err(format!("its token_type is \"{kind}\", not Bearer"))
            }
        }
    }

    /// Describes the deviations that were tolerated.
    fn notes(&self, is_searched: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.answer.cut {
            notes.push(format!("it was accepted although {}", self.printable(why, 200)));
        }
        match &self.content.coding {
            Some(BodyDecoding::Decoded) => {
                notes.push("it is compressed, although compression was not requested".into())
            }
            Some(BodyDecoding::Partly) => {
                notes.push("it is compressed, and part of it is missing".into())
            }
            Some(BodyDecoding::Unknown(_)) => {
                notes.push("it declares a content coding, but is not compressed".into())
            }
            None => {}
        }
        if !self.members.is_strict {
            notes.push("it is malformed JSON: its readable parts were used".to_owned());
        }
        if is_searched {
            let advice =
                "its tokens are not in the expected members: set their places in `response`";
            notes.push(advice.to_owned());
        }
        notes
    }

    fn describe_unreadable(&self) -> String {
        match &self.content.coding {
            Some(BodyDecoding::Unknown(coding)) => {
                let coding = self.printable(coding, 64);
                format!("it is in the content coding {coding}, which was not requested")
            }
            Some(BodyDecoding::Partly) => {
                "it is compressed, and too much of it is missing".to_owned()
            }
            _ => "it is neither JSON nor a form".to_owned(),
        }
    }

    fn refusal(&self, configured_class: Option<ErrorClass>, details: &ErrorDetails) -> GrantError {
        let (status, fields) = (self.answer.status, &self.answer.fields);
        let code = details.code(status, classify::is_known);
        let nonce = dpop_nonce(fields);
        let mut class = match (configured_class, &nonce) {
            (Some(class), _) => class,
            (None, Some(_)) if details.is(&["usedpopnonce"]) => ErrorClass::Nonce,
            (None, _) => classify::classify(status, details),
        };
        let asked = self.configured_wait();
        let waits = asked.or_else(|| retry_delay::retry_after(fields, self.now));
        let may_pass = match class {
            // The missing part of the text might say that the error is temporary.
            ErrorClass::GrantDead if configured_class.is_none() && self.members.is_cut => {
                Some(ErrorClass::Doubtful)
            }
            // A server that says how long to wait does not mean a permanent error.
            ErrorClass::GrantDead | ErrorClass::Gateway if configured_class.is_none() => {
                asked.map(|_| ErrorClass::Throttled)
            }
            ErrorClass::Doubtful if configured_class.is_none() => {
                waits.map(|_| ErrorClass::Throttled)
            }
            ErrorClass::Config
                if configured_class.is_none() && !details.is(&classify::CONFIG_CODES) =>
            {
                waits.map(|_| ErrorClass::Throttled)
            }
            _ => None,
        };
        class = may_pass.unwrap_or(class);
        let retry_after = match class {
            ErrorClass::GrantDead | ErrorClass::UserNeeded | ErrorClass::Nonce => None,
            _ if asked.is_some() => asked,
            ErrorClass::Throttled => {
                Some(retry_delay::throttle(fields, details.description.as_deref(), self.now))
            }
            ErrorClass::Config | ErrorClass::Doubtful => None,
            _ => retry_delay::retry_after(fields, self.now),
        };
        let mut description = details.description.as_deref().map(|text| self.printable(text, 200));
        if matches!(status.as_u16(), 426 | 505) {
            let details = description.map(|details| format!(": {details}")).unwrap_or_default();
            let why = "the token endpoint requires another version of HTTP, perhaps HTTP/2; bearerd \
                       only speaks HTTP/1.1 to it";
            description = Some(format!("{why}{details}"));
        }
        let mut error = self.error(class, description);
        error.code = code.map(|code| self.printable(code, 64));
        error.retry_after = retry_after;
        if status.is_success() && class == ErrorClass::Gateway && self.wanted.rotates {
            error.unread = Some(self.unread());
        }
        error
    }

    /// Returns the wait from the configured member, if any. Zero means none.
    fn configured_wait(&self) -> Option<Duration> {
        let value = self.members.at(self.reading.mapping.retry_after.as_ref()?)?;
        let wait = retry_delay::of_member(value, &self.answer.fields, self.now)?;
        (!wait.is_zero()).then_some(wait)
    }

    /// Creates an error. `description` must be free of secrets.
    fn error(&self, class: ErrorClass, description: Option<String>) -> GrantError {
        GrantError {
            class,
            status: Some(self.answer.status.as_u16()),
            code: None,
            description,
            retry_after: None,
            recovered: None,
            unread: None,
            dpop_nonce: dpop_nonce(&self.answer.fields),
        }
    }

    fn unread(&self) -> Secret {
        let bytes = &self.content.bytes;
        let bytes = bytes.get(..bytes.len().min(MAX_UNREAD)).unwrap_or_default();
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        while text.len() > MAX_UNREAD {
            text.pop();
        }
        Secret::new(text)
    }

    fn was_sent(&self, token: &Secret) -> bool {
        self.secrets.contains(&token)
    }

    /// Returns the members that templates use, if they are valid field values.
    fn members_for_templates(&self) -> BTreeMap<String, Secret> {
        let paths = self.reading.raw.iter();
        let members_for_templates = paths
            .filter_map(|path| Some((path.to_string(), self.members.field_value(path, MAX_KEPT)?)));
        members_for_templates.collect()
    }

    fn printable(&self, text: &str, limit: usize) -> String {
        let is_damaged = || std::str::from_utf8(&self.content.bytes).is_err();
        match self.answer.cut.is_some() || is_damaged() {
            true => printable(&masking::masked_in_parts(text, self.secrets), limit, self.secrets),
            false => printable(text, limit, self.secrets),
        }
    }
}

/// Returns the DPoP nonce for the next proof.
fn dpop_nonce(fields: &HeaderMap) -> Option<String> {
    crate::dpop::nonce(fields).map(str::to_owned)
}
