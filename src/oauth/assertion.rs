//! Signed assertions (RFC 7523): what proves the OAuth client, is presented as a grant, or is the
//! access token itself.

mod key;

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Header;
use serde_json::{Map, Value};

pub use key::{SigningKey, SigningKeyError};

use crate::secret::{Fingerprint, Secret};
use crate::template::{Template, Values};

/// What stands in an assertion, and who signs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    /// The key with its algorithm.
    pub key: SigningKey,
    /// The issuer. Default: the OAuth client.
    pub iss: Option<Template>,
    /// Whom it speaks of. Default: the OAuth client; nobody if `iss` is somebody else, except in what
    /// proves the client, where it is always the client (RFC 7523 §3).
    pub sub: Option<Template>,
    /// Who is to believe it. Default: the issuer of the authorization server if it is configured (RFC
    /// 7523 §3 and its revision), else the token endpoint.
    pub aud: Option<Template>,
    /// How long it is valid. Default 5 min: longer is refused by many, shorter fails with bad clocks.
    pub ttl: Duration,
    /// Further claims; they win over all others, and an empty text takes one out.
    pub claims: Vec<(String, Claim)>,
}

/// The value of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A text with names in it.
    Text(Template),
    /// A number or a truth value.
    Plain(Value),
    /// Several.
    List(Vec<Self>),
    /// Named ones.
    Table(Vec<(String, Self)>),
}

/// What an assertion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It proves the OAuth client (RFC 7523 §2.2).
    Client,
    /// It is a grant, an access token, or stands where the operator puts it.
    Grant,
}

impl Assertion {
    /// Signs with `key` what every server expects: `iss`, `sub`, `aud` and the times.
    pub fn new(key: SigningKey) -> Self {
        let ttl = Duration::from_secs(300);
        Self { key, iss: None, sub: None, aud: None, ttl, claims: Vec::new() }
    }

    /// When one that is made at `now` expires; in whole seconds, as the claim has it.
    pub(super) fn expires_at(&self, now: SystemTime) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds(now)) + self.ttl
    }

    /// The signed JWT. `aud` is the audience if none is configured.
    pub(super) fn sign(
        &self,
        purpose: Purpose,
        client_id: &str,
        aud: &str,
        values: Values<'_>,
    ) -> Result<Secret, SigningKeyError> {
        let claims = self.claims(purpose, client_id, aud, values);
        let header = Header {
            typ: Some("JWT".to_owned()),
            kid: self.key.kid().map(str::to_owned),
            ..Header::new(self.key.algorithm())
        };
        self.key.sign(&header, &claims)
    }

    fn claims(
        &self,
        purpose: Purpose,
        client_id: &str,
        aud: &str,
        values: Values<'_>,
    ) -> Map<String, Value> {
        let mut claims = Map::new();
        let text = |template: &Option<Template>, default: &str| match template {
            Some(template) => template.expand(values),
            None => default.to_owned(),
        };
        let iss = text(&self.iss, client_id);
        let own_subject = purpose == Purpose::Grant && self.iss.is_some();
        let sub = text(&self.sub, if own_subject { "" } else { client_id });
        for (name, value) in [("iss", iss), ("sub", sub), ("aud", text(&self.aud, aud))] {
            if !value.is_empty() {
                claims.insert(name.to_owned(), value.into());
            }
        }
        let now = seconds(values.now);
        claims.insert("jti".to_owned(), crate::template::uuid().into());
        claims.insert("iat".to_owned(), now.into());
        claims.insert("nbf".to_owned(), now.into());
        claims.insert("exp".to_owned(), (now + self.ttl.as_secs()).into());
        for (name, claim) in &self.claims {
            match claim.value(values) {
                Value::String(text) if text.is_empty() => _ = claims.remove(name),
                value => _ = claims.insert(name.clone(), value),
            }
        }
        claims
    }

    /// Changes with everything in it.
    pub(super) fn write_shape(&self, shape: &mut String) {
        let texts = [&self.iss, &self.sub, &self.aud];
        let texts = texts.map(|text| text.as_ref().map(Template::fingerprint));
        _ = write!(shape, "\nassertion {:?} {texts:?} {:?}", self.key.fingerprint(), self.ttl);
        for (name, claim) in &self.claims {
            _ = write!(shape, "\nclaim {name:?} ");
            claim.write_shape(shape);
        }
    }

    /// Changes with what it asks for, and not with the key or whom it speaks of.
    pub(super) fn write_request(&self, shape: &mut String) {
        _ = write!(shape, "{:?}", self.aud.as_ref().map(Template::fingerprint));
        for (name, claim) in &self.claims {
            _ = write!(shape, "\nclaim {name:?} ");
            claim.write_shape(shape);
        }
    }

    /// What may not stand in a message about an answer.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let texts = [&self.iss, &self.sub, &self.aud].into_iter().flatten();
        let mut all: Vec<&Secret> = texts.flat_map(Template::secrets).collect();
        for (_, claim) in &self.claims {
            claim.collect_secrets(&mut all);
        }
        all.into_iter()
    }
}

impl Claim {
    fn value(&self, values: Values<'_>) -> Value {
        match self {
            Self::Text(template) => template.expand(values).into(),
            Self::Plain(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.value(values)).collect(),
            Self::Table(entries) => {
                let entry = |(name, claim): &(String, Self)| (name.clone(), claim.value(values));
                Value::Object(entries.iter().map(entry).collect())
            }
        }
    }

    fn write_shape(&self, shape: &mut String) {
        match self {
            Self::Text(template) => shape.push_str(template.fingerprint().as_str()),
            Self::Plain(value) => _ = write!(shape, "{value}"),
            Self::List(items) => {
                shape.push('[');
                for item in items {
                    item.write_shape(shape);
                    shape.push(',');
                }
                shape.push(']');
            }
            Self::Table(entries) => {
                shape.push('{');
                for (name, claim) in entries {
                    _ = write!(shape, "{name:?}:");
                    claim.write_shape(shape);
                    shape.push(',');
                }
                shape.push('}');
            }
        }
    }

    fn collect_secrets<'a>(&'a self, all: &mut Vec<&'a Secret>) {
        match self {
            Self::Text(template) => all.extend(template.secrets()),
            Self::Plain(_) => {}
            Self::List(items) => items.iter().for_each(|item| item.collect_secrets(all)),
            Self::Table(entries) => {
                entries.iter().for_each(|(_, claim)| claim.collect_secrets(all));
            }
        }
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Hashes what tells two keys apart.
fn fingerprint_of(parts: &[&str]) -> Fingerprint {
    Fingerprint::of(format!("{parts:?}").as_bytes())
}

#[cfg(test)]
mod tests;
