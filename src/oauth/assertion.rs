//! Signed assertions (RFC 7523): client authentication, assertion grants and self-signed access
//! tokens.

mod key;

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

pub(super) use key::fault_of;
pub use key::{Algorithm, CertificateThumbprint, KeyFamily, SigningKey, SigningKeyError};

use crate::secret::{Fingerprint, Secret};
use crate::template::{Template, Values};

/// The contents of an assertion and its signing key.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    /// The signing key and its algorithm.
    pub key: SigningKey,
    /// The `iss` claim. Default: the OAuth client.
    pub iss: Option<Template>,
    /// The `sub` claim. Default: the OAuth client, or none if `iss` is someone else. Client
    /// assertions always default to the OAuth client (RFC 7523 §3).
    pub sub: Option<Template>,
    /// The `aud` claim. Default: the authorization server's issuer if configured (RFC 7523 §3 and
    /// its revision), else the token endpoint.
    pub aud: Option<Template>,
    /// The time from `iat` to `exp`, which servers limit. Default 5 min: many servers refuse more,
    /// and less fails with inaccurate clocks.
    pub ttl: Duration,
    /// How far `iat` and `nbf` lie in the past, so that a server with a slow clock accepts the
    /// assertion. Default [`Assertion::default_backdate`].
    pub backdate: Duration,
    /// Additional claims. They replace generated claims, and an empty text removes one.
    pub claims: Vec<(String, Claim)>,
    /// Additional header members, with the same rules.
    pub header: Vec<(String, Claim)>,
    /// The thumbprint of the key's certificate, by which some servers identify the key.
    pub cert: Option<CertificateThumbprint>,
}

/// The configured value of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A template.
    Text(Template),
    /// A number or a boolean.
    Plain(Value),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Table(Vec<(String, Self)>),
}

/// What an assertion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AssertionPurpose {
    /// Client authentication (RFC 7523 §2.2).
    Client,
    /// A grant, an access token, or the value of `${assertion}`.
    Grant,
}

impl Assertion {
    /// An assertion with the claims that every server expects: `iss`, `sub`, `aud` and the times.
    pub fn new(key: SigningKey) -> Self {
        let ttl = Duration::from_secs(300);
        Self {
            key,
            iss: None,
            sub: None,
            aud: None,
            ttl,
            backdate: Self::default_backdate(ttl),
            claims: Vec::new(),
            header: Vec::new(),
            cert: None,
        }
    }

    /// 30 s, which exceeds the error of clocks synchronised by NTP; at most half of a short
    /// lifetime.
    pub fn default_backdate(ttl: Duration) -> Duration {
        Duration::from_secs(30).min(ttl / 2)
    }

    /// The client assertion with the same key, for a credential whose assertion is the grant.
    /// Header members that describe the grant are dropped; those that identify the key stay.
    pub(super) fn of_client(&self) -> Self {
        let of_grant = ["typ", "cty"];
        let header = self.header.iter().filter(|(name, _)| !of_grant.contains(&name.as_str()));
        Self {
            ttl: self.ttl,
            backdate: self.backdate,
            header: header.cloned().collect(),
            cert: self.cert.clone(),
            ..Self::new(self.key.clone())
        }
    }

    /// When an assertion made at `now` expires, in whole seconds like the `exp` claim.
    pub(super) fn expires_at(&self, now: SystemTime) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expiry(now))
    }

    /// `ttl` counts from `iat`: many servers refuse a longer distance between the two claims than
    /// they document (Google 1 h, Epic 5 min), regardless of their clock.
    fn expiry(&self, now: SystemTime) -> u64 {
        (seconds(now) + self.ttl.as_secs()).saturating_sub(self.backdate.as_secs())
    }

    /// Returns the signed JWT. `aud` is the audience if none is configured.
    pub(super) fn sign(
        &self,
        purpose: AssertionPurpose,
        client_id: &str,
        aud: &str,
        values: Values<'_>,
    ) -> Result<Secret, SigningKeyError> {
        self.key.sign(self.header(values), self.claims(purpose, client_id, aud, values))
    }

    fn header(&self, values: Values<'_>) -> Map<String, Value> {
        let mut header = Map::new();
        header.insert("alg".to_owned(), self.key.algorithm().to_string().into());
        header.insert("typ".to_owned(), "JWT".into());
        if let Some(kid) = self.key.kid() {
            header.insert("kid".to_owned(), kid.into());
        }
        if let Some(CertificateThumbprint { sha1, sha256 }) = &self.cert {
            header.insert("x5t".to_owned(), sha1.as_str().into());
            header.insert("x5t#S256".to_owned(), sha256.as_str().into());
        }
        replace(&mut header, &self.header, values);
        header
    }

    fn claims(
        &self,
        purpose: AssertionPurpose,
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
        let own_subject = purpose == AssertionPurpose::Grant && self.iss.is_some();
        let sub = text(&self.sub, if own_subject { "" } else { client_id });
        for (name, value) in [("iss", iss), ("sub", sub), ("aud", text(&self.aud, aud))] {
            if !value.is_empty() {
                claims.insert(name.to_owned(), value.into());
            }
        }
        let issued = seconds(values.now).saturating_sub(self.backdate.as_secs());
        claims.insert("jti".to_owned(), crate::template::uuid().into());
        claims.insert("iat".to_owned(), issued.into());
        claims.insert("nbf".to_owned(), issued.into());
        claims.insert("exp".to_owned(), self.expiry(values.now).into());
        replace(&mut claims, &self.claims, values);
        claims
    }

    /// Appends everything that identifies this assertion to a fingerprint.
    pub(super) fn write_shape(&self, shape: &mut String) {
        let fingerprint = |template: &Template| template.fingerprint().as_str().to_owned();
        let texts = [&self.iss, &self.sub, &self.aud];
        let texts = texts.map(|text| text.as_ref().map(Template::fingerprint));
        _ = write!(shape, "\nassertion {:?} {texts:?} {:?}", self.key.fingerprint(), self.ttl);
        for (name, claim) in &self.claims {
            _ = write!(shape, "\nclaim {name:?} ");
            claim.write_shape(shape, &fingerprint);
        }
        // Settings that are not used add nothing: records store the hash, so it must stay the same
        // when new settings are introduced.
        for (name, claim) in &self.header {
            _ = write!(shape, "\nheader {name:?} ");
            claim.write_shape(shape, &fingerprint);
        }
        if let Some(cert) = &self.cert {
            _ = write!(shape, "\ncert {}", cert.sha256);
        }
        if self.backdate != Self::default_backdate(self.ttl) {
            _ = write!(shape, "\nbackdate {:?}", self.backdate);
        }
    }

    /// Appends what the assertion requests, excluding its key and its subject.
    pub(super) fn write_request(&self, shape: &mut String, text: &dyn Fn(&Template) -> String) {
        _ = write!(shape, "{:?}", self.aud.as_ref().map(text));
        for (name, claim) in &self.claims {
            _ = write!(shape, "\nclaim {name:?} ");
            claim.write_shape(shape, &|template| format!("{:?}", text(template)));
        }
    }

    /// Secrets that must be masked in messages about an answer.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let texts = [&self.iss, &self.sub, &self.aud].into_iter().flatten();
        let mut all: Vec<&Secret> = texts.flat_map(Template::secrets).collect();
        for (_, claim) in self.claims.iter().chain(&self.header) {
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

    fn write_shape(&self, shape: &mut String, text: &dyn Fn(&Template) -> String) {
        match self {
            Self::Text(template) => shape.push_str(&text(template)),
            Self::Plain(value) => _ = write!(shape, "{value}"),
            Self::List(items) => {
                shape.push('[');
                for item in items {
                    item.write_shape(shape, text);
                    shape.push(',');
                }
                shape.push(']');
            }
            Self::Table(entries) => {
                shape.push('{');
                for (name, claim) in entries {
                    _ = write!(shape, "{name:?}:");
                    claim.write_shape(shape, text);
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

/// Applies configured members. An empty text removes a member.
fn replace(members: &mut Map<String, Value>, by: &[(String, Claim)], values: Values<'_>) {
    for (name, claim) in by {
        match claim.value(values) {
            Value::String(text) if text.is_empty() => _ = members.remove(name),
            value => _ = members.insert(name.clone(), value),
        }
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Hashes the parts that distinguish two keys.
fn fingerprint_of(parts: &[&str]) -> Fingerprint {
    Fingerprint::of(format!("{parts:?}").as_bytes())
}

#[cfg(test)]
mod tests;
