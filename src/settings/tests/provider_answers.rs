//! What the documented providers answer to a token request: success, a dead grant or a refused client,
//! an error that passes, a throttle. Each answer is read as its block in `docs/providers.md` says.
//!
//! Bodies are cut to the members that decide; names, texts and fields are the providers' own. The comments
//! name reports and documents. Where a token endpoint's answer is not published, the one here is in the
//! form of RFC 6749 or of the provider's API.

mod a_to_e;
mod f_to_g;
mod h_to_r;
mod s_to_z;

use std::collections::BTreeSet;
use std::mem::{Discriminant, discriminant};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::documented_providers::blocks;
use super::providers::configured;
use super::*;
use crate::oauth::{ErrorClass, GrantRenewal, RawAnswer, read};

/// When every answer arrives; throttles that name an instant are relative to it.
const NOW: u64 = 1_700_000_000;

/// One documented block and the answers of its token endpoint.
struct ProviderAnswers {
    name: &'static str,
    answers: &'static [Answer],
    /// Kinds of answers that cannot be here, each with the reason.
    lacks: &'static [(What, &'static str)],
}

struct Answer {
    what: What,
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// Access token, refresh token, lifetime of the access token in seconds.
    Success(Option<&'static str>, Option<&'static str>, Option<u64>),
    /// Only a new login helps.
    Dead,
    /// An operator has to act; the refresh token is kept.
    Refused,
    /// The same request works later; the refresh token is kept.
    Passing,
    /// Too many requests: wait for this number of seconds.
    Throttled(u64),
}

impl What {
    fn includes(self, class: ErrorClass) -> bool {
        match self {
            Self::Success(..) => false,
            Self::Dead => matches!(class, ErrorClass::GrantDead | ErrorClass::UserNeeded),
            Self::Refused => {
                matches!(class, ErrorClass::Config | ErrorClass::Doubtful | ErrorClass::Gateway)
            }
            Self::Passing => matches!(class, ErrorClass::Transient | ErrorClass::Busy),
            Self::Throttled(_) => matches!(class, ErrorClass::Throttled),
        }
    }
}

type Fields = &'static [(&'static str, &'static str)];

const fn success(
    status: u16,
    body: &'static str,
    issued: (&'static str, Option<&'static str>, Option<u64>),
) -> Answer {
    answer(What::Success(Some(issued.0), issued.1, issued.2), status, &[], body)
}

const fn dead(status: u16, body: &'static str) -> Answer {
    answer(What::Dead, status, &[], body)
}

const fn refused(status: u16, body: &'static str) -> Answer {
    answer(What::Refused, status, &[], body)
}

const fn passing(status: u16, body: &'static str) -> Answer {
    answer(What::Passing, status, &[], body)
}

const fn throttled(seconds: u64, status: u16, fields: Fields, body: &'static str) -> Answer {
    answer(What::Throttled(seconds), status, fields, body)
}

const fn answer(what: What, status: u16, fields: Fields, body: &'static str) -> Answer {
    Answer { what, status, fields, body }
}

fn providers() -> impl Iterator<Item = &'static ProviderAnswers> {
    let parts = [a_to_e::PROVIDERS, f_to_g::PROVIDERS, h_to_r::PROVIDERS, s_to_z::PROVIDERS];
    parts.into_iter().flatten()
}

/// What is wrong with how an answer is read, if anything.
fn misread(config: &credential::Config, answer: &Answer) -> Option<String> {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let mut fields = HeaderMap::new();
    for (name, value) in answer.fields {
        fields.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let raw = RawAnswer {
        status: StatusCode::from_u16(answer.status).unwrap(),
        fields,
        body: answer.body.as_bytes().to_vec(),
        cut: None,
    };
    match (read(&raw, &config.token.oauth.reading, now, &[]), answer.what) {
        (Ok(token), What::Success(access, refresh, lifetime)) => {
            let text = |secret: &Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned());
            let life = |end: SystemTime| end.duration_since(now).unwrap().as_secs();
            let found =
                (text(&token.access_token), text(&token.refresh_token), token.expires_at.map(life));
            let wanted = (access.map(str::to_owned), refresh.map(str::to_owned), lifetime);
            (found != wanted).then(|| format!("issued {found:?}, not {wanted:?}"))
        }
        (Ok(_), what) => Some(format!("a token, not {what:?}")),
        (Err(error), what) if !what.includes(error.class) => {
            Some(format!("{}, not {what:?}", error.class))
        }
        (Err(error), What::Throttled(seconds)) => {
            let wanted = Some(Duration::from_secs(seconds));
            let found = error.retry_after;
            (found != wanted).then(|| format!("waits for {found:?}, not {wanted:?}"))
        }
        (Err(_), _) => None,
    }
}

#[test]
fn every_provider_is_understood_in_its_own_words() {
    let mut wrong = Vec::new();
    for (name, text) in blocks() {
        let config = configured(text).unwrap_or_else(|problems| panic!("{problems}"));
        let answers = providers().filter(|provider| provider.name == name);
        for answer in answers.flat_map(|provider| provider.answers) {
            if let Some(found) = misread(&config, answer) {
                wrong.push(format!("{name}: {} {}: {found}", answer.status, answer.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_block_has_answers_of_all_four_kinds_or_a_reason_for_their_absence() {
    let documented: BTreeSet<_> = blocks().into_iter().map(|(name, _)| name).collect();
    let here: Vec<_> = providers().map(|provider| provider.name.to_owned()).collect();
    assert_eq!(here.iter().cloned().collect::<BTreeSet<_>>(), documented);
    assert_eq!(here.len(), documented.len(), "a provider stands here twice");

    let kinds = |whats: &[What]| whats.iter().map(discriminant).collect::<Vec<_>>();
    for (name, text) in blocks() {
        let provider = providers().find(|provider| provider.name == name).unwrap();
        let config = configured(text).unwrap_or_else(|problems| panic!("{problems}"));
        let refusals: &[What] = match config.token.oauth.grant.renewal() {
            GrantRenewal::RefreshToken => &[What::Dead],
            GrantRenewal::Repeatable => &[What::Dead, What::Refused],
        };
        let wanted: [&[What]; 4] =
            [&[What::Success(None, None, None)], refusals, &[What::Passing], &[What::Throttled(0)]];
        let has = |kind: Discriminant<What>| {
            provider.answers.iter().any(|answer| discriminant(&answer.what) == kind)
        };
        let lacks = |kind| {
            provider.lacks.iter().any(|(what, why)| discriminant(what) == kind && !why.is_empty())
        };
        for kind in wanted.map(kinds) {
            assert!(kind.iter().any(|kind| has(*kind) != lacks(*kind)), "{name}: {wanted:?}");
        }
    }
}
