//! Reads one answer: finds its tokens, or says why there are none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde_json::Value;

use super::decoded_body::{BodyDecoding, DecodedBody};
use super::error_details::{self, ErrorDetails};
use super::format::{AnswerRule, Mapping, ParsedTokenType, TokenResponseFormat, TokenType};
use super::masking::{self, printable};
use super::members::{Members, TokenLookup, has_blanks, is_visible};
use super::token_search::TokenSearch;
use super::{Expectation, RawAnswer, classify, expiry, retry_delay};
use crate::oauth::{ErrorClass, GrantError, TokenResponse};
use crate::secret::Secret;

/// What is kept beside a token for templates goes into a header block, too.
const MAX_KEPT: usize = 16 * 1024;
/// How much of a success that cannot be read is kept for an operator.
pub(super) const MAX_UNREAD: usize = 64 * 1024;

/// One answer, taken apart.
pub(super) struct AnswerReader<'a> {
    pub(super) wanted: Expectation,
    pub(super) answer: &'a RawAnswer,
    pub(super) reading: &'a TokenResponseFormat,
    pub(super) now: SystemTime,
    pub(super) secrets: &'a [&'a Secret],
    pub(super) content: &'a DecodedBody<'a>,
    pub(super) members: &'a Members,
}

/// The tokens of a success.
struct AnswerTokens {
    access_token: TokenLookup,
    refresh_token: TokenLookup,
    /// They are where nobody said.
    is_searched: bool,
    /// What stands beside the access token there.
    beside: Option<Members>,
}

impl AnswerReader<'_> {
    pub(super) fn read(&self) -> Result<TokenResponse, GrantError> {
        let (status, mapping) = (self.answer.status, &self.reading.mapping);
        let said = ErrorDetails::of(&self.content.bytes, self.members, mapping.error.as_ref());
        let told = self.told(&said);
        if !status.is_success() {
            return Err(self.refusal(told, &said));
        }
        let tokens = self.tokens();
        // Where the operator says how to tell a success, a code of theirs may stand in every answer.
        let code = self.members.code(mapping.error.as_ref());
        let is_issued = matches!(tokens.access_token, TokenLookup::One(_));
        let has_no_error =
            code.is_none() || (is_issued && self.members.says_no_error(mapping.error.as_ref()));
        let is_success = match &mapping.ok {
            Some(ok) => ok.holds(self.members) && (mapping.error.is_some() || has_no_error),
            None => has_no_error,
        };
        let has_none =
            tokens.access_token == TokenLookup::None && tokens.refresh_token == TokenLookup::None;
        // Other places than that of the code are looked at only where no token is.
        let knows_better =
            said.codes.iter().any(|code| classify::is_known(&error_details::plain(code)))
                || said
                    .number
                    .as_ref()
                    .is_some_and(|number| number.is_error || classify::is_dead(&said))
                || self.asked_to_wait().is_some();
        let is_refusal = self.members.parsed && (!is_success || has_none && knows_better);
        if told.is_none() && !is_refusal && !(has_none && said.is_page) {
            return self.issued(tokens, &said);
        }
        let mut error = self.refusal(told, &said);
        if told.is_none() && is_issued {
            let said = error.description.take().map(|said| format!("{said}; ")).unwrap_or_default();
            let advice = "an access_token stands beside the error: if it is none, say in response.ok or \
                          response.error how the two are told apart";
            error.description = Some(format!("{said}{advice}"));
        }
        if told.is_none() && !has_none {
            // It refuses, and issues all the same: what it issued is the only good one.
            error.recovered = tokens.refresh_token.one().filter(|token| !self.was_sent(token));
            if error.recovered.is_some()
                && matches!(error.class, ErrorClass::GrantDead | ErrorClass::UserNeeded)
            {
                error.class = ErrorClass::Doubtful;
            }
        }
        Err(error)
    }

    /// The class, where a rule of the operator says it.
    fn told(&self, said: &ErrorDetails) -> Option<ErrorClass> {
        let (status, body) = (self.answer.status, &self.content.bytes);
        let any = |rules: &[AnswerRule]| {
            rules.iter().any(|rule| rule.matches(status, body, self.members, &said.codes))
        };
        if any(&self.reading.busy) {
            Some(ErrorClass::Throttled)
        } else {
            any(&self.reading.dead).then_some(ErrorClass::GrantDead)
        }
    }

    /// First where the mapping or the standard says, then anywhere.
    fn tokens(&self) -> AnswerTokens {
        let TokenResponseFormat { mapping, .. } = self.reading;
        let access_token = self.members.token(mapping.access_token.as_ref(), "access_token");
        let refresh_token =
            self.members.refresh_token(mapping.refresh_token.as_ref(), self.secrets);
        let without_access = access_token == TokenLookup::None && !mapping.keep_access_token;
        let mut tokens =
            AnswerTokens { access_token, refresh_token, is_searched: false, beside: None };
        // Beside the one that was sent there may be its successor, under a name of its own.
        let is_old = match &tokens.refresh_token {
            TokenLookup::None => true,
            TokenLookup::One(token) => self.was_sent(token),
            TokenLookup::Several => false,
        };
        if is_old && mapping.refresh_token.is_none() {
            let other = self.members.renamed_refresh_token(self.secrets);
            let is_news = match &other {
                TokenLookup::None => false,
                TokenLookup::One(token) => {
                    tokens.refresh_token == TokenLookup::None || !self.was_sent(token)
                }
                TokenLookup::Several => true,
            };
            if is_news {
                (tokens.refresh_token, tokens.is_searched) = (other, true);
            }
        }
        // The search also has numbers as they are written.
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
        // Where the end is missing, ours may be there, and another's is not taken for it.
        let may_be_missing = self.members.is_cut && !without_access;
        if !matches!(tokens.refresh_token, TokenLookup::One(_)) && !may_be_missing {
            let found = search.refresh_token(access_token.as_ref(), self.secrets);
            // What is damaged where it belongs is not made whole by what stands elsewhere, but for a number.
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
        said: &ErrorDetails,
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
            let description = said.description.as_deref().map(|text| self.printable(text, 200));
            let said = description.map(|text| format!(": {text}")).unwrap_or_default();
            refuse(ErrorClass::Unreadable, &format!("{why}{said}"))
        };
        let access_token = match tokens.access_token {
            TokenLookup::None if mapping.keep_access_token && members.parsed => None,
            TokenLookup::None if refresh_token.is_none() && !members.parsed => {
                return Err(unreadable(&self.no_json()));
            }
            TokenLookup::None => return Err(unreadable("it has no access_token")),
            TokenLookup::Several => {
                return Err(unreadable("which is its access_token cannot be told"));
            }
            TokenLookup::One(token) if !self.wanted.for_steps && has_blanks(token.expose()) => {
                let why = "its access_token has blanks, which no bearer token has (RFC 6750 §2.1)";
                return Err(refuse(ErrorClass::Unusable, why));
            }
            TokenLookup::One(token) if !is_visible(token.expose()) => {
                let why = "its access_token has characters that no header field may carry";
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
            return Err(unreadable("which is its refresh_token cannot be told"));
        }
        // One that was sent may stand before its successor.
        let may_be_less = || {
            let place = members.find(mapping.refresh_token.as_ref(), "refresh_token");
            let was_sent = refresh_token.as_ref().is_none_or(|token| self.was_sent(token));
            was_sent && place.is_none_or(|it| it.is_array() || it.is_object())
        };
        let is_less = refresh_token.is_none() || may_be_less();
        if members.is_cut && is_less && self.wanted.rotates {
            let how = self.answer.cut.as_deref().unwrap_or("its JSON has no end");
            return Err(unreadable(&format!("no refresh_token is in what came of it: {how}")));
        }
        let mut notes = self.notes(tokens.is_searched);
        let name = mapping.access_token.as_ref();
        let text = members.find(name, "access_token").and_then(Value::as_str);
        if text.is_some_and(|text| text.ends_with(['\r', '\n'])) {
            notes.push("its access_token ends with a line break, which was left out".to_owned());
        }
        if mapping.refresh_token.is_none() && members.is_twice("refresh_token") {
            notes.push("its refresh_token stands twice".to_owned());
        }
        if has_several {
            notes.push("which is its refresh_token cannot be told".to_owned());
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
            raw: self.kept(),
            dpop_nonce: dpop_nonce(&self.answer.fields),
            notes,
        })
    }

    /// How the token is presented; the error says why nobody here can.
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
            // Whoever steals it could use it, which is what the operator wanted to rule out.
            (ParsedTokenType::Supported(_) | ParsedTokenType::Unusual(_), true) if is_new => {
                Err("its token_type is not DPoP: the token is bound to no key".to_owned())
            }
            (ParsedTokenType::Supported(token_type), _) => Ok(token_type),
            (ParsedTokenType::Unusual(kind), _) => {
                let kind = self.printable(&kind, 64);
                notes.push(format!("its token_type is \"{kind}\"; it is sent as a Bearer token"));
                Ok(TokenType::Bearer)
            }
            // The steps know what it is.
            (ParsedTokenType::Unsupported(_), false) if self.wanted.for_steps => {
                Ok(TokenType::Bearer)
            }
            (ParsedTokenType::Unsupported(kind), _) => {
                let kind = self.printable(&kind, 64);
                Err(format!("its token_type is \"{kind}\", not Bearer"))
            }
        }
    }

    /// What has been read around.
    fn notes(&self, is_searched: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.answer.cut {
            notes.push(format!("it was read although {}", self.printable(why, 200)));
        }
        match &self.content.coding {
            Some(BodyDecoding::Decoded) => {
                notes.push("it is compressed, which nobody asked for".into())
            }
            Some(BodyDecoding::Partly) => {
                notes.push("it is compressed, and part of it is missing".into())
            }
            Some(BodyDecoding::Unknown(_)) => {
                notes.push("it is not compressed, but says so".into())
            }
            None => {}
        }
        if !self.members.is_strict {
            notes.push("it is not quite JSON: what could be read of it was taken".to_owned());
        }
        if is_searched {
            let advice = "its tokens are not where they are looked for: say where in `response`";
            notes.push(advice.to_owned());
        }
        notes
    }

    fn no_json(&self) -> String {
        match &self.content.coding {
            Some(BodyDecoding::Unknown(coding)) => {
                let coding = self.printable(coding, 64);
                format!("it is in the content coding {coding}, which was not asked for")
            }
            Some(BodyDecoding::Partly) => {
                "it is compressed, and too much of it is missing".to_owned()
            }
            _ => "it is neither JSON nor a form".to_owned(),
        }
    }

    fn refusal(&self, told: Option<ErrorClass>, said: &ErrorDetails) -> GrantError {
        let (status, fields) = (self.answer.status, &self.answer.fields);
        let code = said.code(status, classify::is_known);
        let nonce = dpop_nonce(fields);
        let mut class = match (told, &nonce) {
            (Some(class), _) => class,
            (None, Some(_)) if said.is(&["usedpopnonce"]) => ErrorClass::Nonce,
            (None, _) => classify::classify(status, said),
        };
        let asked = self.asked_to_wait();
        let waits = asked.or_else(|| retry_delay::retry_after(fields, self.now));
        let may_pass = match class {
            // A text that was cut might say that it passes.
            ErrorClass::GrantDead if told.is_none() && self.members.is_cut => {
                Some(ErrorClass::Doubtful)
            }
            // Whoever says for how long does not mean for ever.
            ErrorClass::GrantDead | ErrorClass::Gateway if told.is_none() => {
                asked.map(|_| ErrorClass::Throttled)
            }
            ErrorClass::Doubtful if told.is_none() => waits.map(|_| ErrorClass::Throttled),
            ErrorClass::Config if told.is_none() && !said.is(&classify::CONFIG) => {
                waits.map(|_| ErrorClass::Throttled)
            }
            _ => None,
        };
        class = may_pass.unwrap_or(class);
        let retry_after = match class {
            ErrorClass::GrantDead | ErrorClass::UserNeeded | ErrorClass::Nonce => None,
            _ if asked.is_some() => asked,
            ErrorClass::Throttled => {
                Some(retry_delay::throttle(fields, said.description.as_deref(), self.now))
            }
            ErrorClass::Config | ErrorClass::Doubtful => None,
            _ => retry_delay::retry_after(fields, self.now),
        };
        let mut description = said.description.as_deref().map(|text| self.printable(text, 200));
        if matches!(status.as_u16(), 426 | 505) {
            let said = description.map(|said| format!(": {said}")).unwrap_or_default();
            let why = "the token endpoint wants another version of HTTP, perhaps HTTP/2; bearerd speaks \
                       HTTP/1.1 to it";
            description = Some(format!("{why}{said}"));
        }
        let mut error = self.error(class, description);
        error.code = code.map(|code| self.printable(code, 64));
        error.retry_after = retry_after;
        if status.is_success() && class == ErrorClass::Gateway && self.wanted.rotates {
            error.unread = Some(self.unread());
        }
        error
    }

    /// The wait that stands where the mapping says; nothing is none.
    fn asked_to_wait(&self) -> Option<Duration> {
        let value = self.members.at(self.reading.mapping.retry_after.as_ref()?)?;
        let wait = retry_delay::of_member(value, &self.answer.fields, self.now)?;
        (!wait.is_zero()).then_some(wait)
    }

    /// An error without more than this; `description` is fit to be shown.
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

    /// The members that templates name, as text that a field may carry. Others are left out.
    fn kept(&self) -> BTreeMap<String, Secret> {
        let paths = self.reading.raw.iter();
        let kept =
            paths.filter_map(|path| Some((path.to_string(), self.members.fit(path, MAX_KEPT)?)));
        kept.collect()
    }

    fn printable(&self, text: &str, limit: usize) -> String {
        let is_damaged = || std::str::from_utf8(&self.content.bytes).is_err();
        match self.answer.cut.is_some() || is_damaged() {
            true => printable(&masking::masked_in_parts(text, self.secrets), limit, self.secrets),
            false => printable(text, limit, self.secrets),
        }
    }
}

/// The nonce for the next proof.
fn dpop_nonce(fields: &HeaderMap) -> Option<String> {
    crate::dpop::nonce(fields).map(str::to_owned)
}
