//! Reads private keys and certificates in the formats that occur in practice.
//!
//! Supported are PEM among other blocks, PEM flattened into a variable, DER, base64 of either, JWK,
//! JWK sets and Google's JSON. Reading is pure, tolerant of how a key is wrapped, and precise about
//! what is not a private key: a certificate, a public key or an encrypted key is reported as such.
//!
//! No error quotes the text, because it may contain a key.

mod der;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls::pki_types::CertificateDer;
use secrecy::zeroize::Zeroizing;
use serde_json::{Map, Value};

use self::der::{DerKind, SEQUENCE, certificate, kind};
pub(super) use self::der::{described, encoded, inside_of_pss, public_key_bits, public_key_in};

/// A private key and its metadata.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) key: KeyForm,
    /// The key's identifier at the authorization server.
    pub(super) kid: Option<String>,
    /// The owner: the service account of Google's JSON.
    pub(super) owner: Option<String>,
}

/// A private key that was extracted but not yet validated.
pub(super) enum KeyForm {
    /// PKCS #8, PKCS #1 or SEC 1.
    Der(Zeroizing<Vec<u8>>),
    /// RFC 7517.
    Jwk(Map<String, Value>),
}

/// Omits the key.
impl std::fmt::Debug for KeyForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Der(_) => "Der(…)",
            Self::Jwk(_) => "Jwk(…)",
        })
    }
}

/// Why a text is not a usable key or certificate. Each message completes a sentence that starts
/// with the name of the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The format is unknown.
    #[error("is neither a private key in PEM nor a private JWK")]
    Form,
    /// Truncated or invalid PEM or DER.
    #[error("is a key that is cut off or damaged")]
    Damaged,
    /// The key is encrypted.
    #[error("is encrypted, and bearerd cannot ask for a passphrase")]
    Encrypted,
    /// A certificate instead of a private key.
    #[error("is a certificate, but a private key is needed")]
    Certificate,
    /// A public key instead of a private one, also as JWK.
    #[error("is a public key, but a private key is needed")]
    Public,
    /// A certificate signing request.
    #[error("is a certificate request, but a private key is needed")]
    Request,
    /// `BEGIN OPENSSH PRIVATE KEY`.
    #[error("is in the format of OpenSSH")]
    OpenSsh,
    /// `.p12`, `.pfx`.
    #[error("is a PKCS #12 file (.p12, .pfx)")]
    Pkcs12,
    /// A JWK with missing members.
    #[error("is a JWK without the members that signing needs")]
    Jwk,
    /// A JWK set with several candidates.
    #[error("is a JWK set with several private keys")]
    Several,
    /// A JWK set without the requested key.
    #[error("is a JWK set that holds no private key with this `kid`")]
    NotInSet,
    /// The output of `gcloud auth application-default login` and similar files.
    #[error("is a file of Google credentials that holds no key")]
    GoogleUser,
    /// A kind of key that is not supported.
    #[error("is {0}, which bearerd does not support")]
    Kind(&'static str),
    /// Smaller than RFC 7518 §3.3 allows, or larger than the cryptographic library supports.
    #[error("is an RSA key of less than 2048 or more than 8192 bits")]
    Size,
    /// No certificate was found.
    #[error("holds no certificate")]
    NoCertificate,
}

impl KeyFault {
    /// How to fix it.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Form => {
                "name a private key in PEM (openssl genpkey writes one), in DER, as JWK, or Google's JSON of a \
                 service account; all of these may be in base64"
            }
            Self::Damaged => "copy the whole file again, from BEGIN to END",
            Self::Encrypted => {
                "decrypt it with `openssl pkey -in KEY -out PLAIN`, which asks for the passphrase, and name \
                 PLAIN, readable for bearerd alone"
            }
            Self::Certificate | Self::Public | Self::Request => {
                "use the private key that belongs to it; the public part is for the authorization server"
            }
            Self::OpenSsh => "convert a copy with `ssh-keygen -p -m PKCS8 -f COPY`, and name that",
            Self::Pkcs12 => {
                "take the key and the certificate out with `openssl pkcs12 -in FILE -nodes -out PEM`, and \
                 name PEM, readable for bearerd alone"
            }
            Self::Jwk => {
                "export it with its private members: n, e, d, p, q, dp, dq, qi of RSA; crv, x, y, d of EC; crv, \
                 x, d of Ed25519"
            }
            Self::Several | Self::NotInSet => {
                "set kid to the identifier of the signing key in the set"
            }
            Self::GoogleUser => {
                "name the JSON key of a service account; a user's file has a refresh token, which goes into \
                 refresh_token"
            }
            Self::Kind(_) => {
                "make an RSA key, an EC key on P-256, P-384 or P-521, or an Ed25519 key, and register it"
            }
            Self::Size => {
                "make a new key and register it: `openssl genpkey -algorithm RSA -pkeyopt \
                 rsa_keygen_bits:3072 -out KEY`"
            }
            Self::NoCertificate => "name the file of the certificate, in PEM or DER",
        }
    }
}

/// Extracts the private key from `text`. `kid` selects one of a JWK set.
///
/// # Errors
///
/// [`KeyFault`].
pub(super) fn read_key(text: &str, kid: Option<&str>) -> Result<KeyFile, KeyFault> {
    let plain = |der| KeyFile { key: KeyForm::Der(der), kid: None, owner: None };
    match KeyText::of(text)? {
        KeyText::Pem(text) => key_in_pem(&text).map(plain),
        KeyText::Der(der) => private(der).map(plain),
        KeyText::Json(object) => key_in_json(object, kid),
    }
}

/// Extracts the certificates from `text`, in order.
///
/// # Errors
///
/// [`KeyFault`].
pub(super) fn read_certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, KeyFault> {
    let found = match KeyText::of(text) {
        Ok(KeyText::Pem(text)) => {
            let labels = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
            let blocks = blocks(&text).into_iter().filter(|block| labels.contains(&block.label));
            blocks
                .map(|block| block.der().and_then(|der| certificate(&der)))
                .collect::<Result<_, _>>()?
        }
        Ok(KeyText::Der(der)) => match kind(&der) {
            DerKind::Certificate => vec![certificate(&der)?],
            DerKind::Pkcs12 => return Err(KeyFault::Pkcs12),
            _ => Vec::new(),
        },
        Ok(KeyText::Json(_)) | Err(_) => Vec::new(),
    };
    if found.is_empty() { Err(KeyFault::NoCertificate) } else { Ok(found) }
}

/// The contents of a text after quotes, escapes and base64 were removed.
enum KeyText {
    /// PEM with at least one `BEGIN`.
    Pem(String),
    Json(Map<String, Value>),
    /// Bytes that start with a DER sequence.
    Der(Zeroizing<Vec<u8>>),
}

impl KeyText {
    fn of(text: &str) -> Result<Self, KeyFault> {
        Self::below(text, 0)
    }

    fn below(text: &str, depth: u8) -> Result<Self, KeyFault> {
        let text = strip_wrapping(text);
        if text.starts_with('{') {
            return json(text).map(Self::Json).ok_or(KeyFault::Form);
        }
        if text.contains(BEGIN) {
            return Ok(Self::Pem(unescape_line_breaks(text)));
        }
        let bytes = Zeroizing::new(from_base64(&unescape_line_breaks(text)).ok_or(KeyFault::Form)?);
        match std::str::from_utf8(&bytes) {
            // At most twice: a base64 secret may have been encoded again for Kubernetes.
            Ok(inner) if depth < 2 => match Self::below(inner, depth + 1) {
                Err(KeyFault::Form) if bytes.first() == Some(&SEQUENCE) => Ok(Self::Der(bytes)),
                below => below,
            },
            _ if bytes.first() == Some(&SEQUENCE) => Ok(Self::Der(bytes)),
            _ => Err(KeyFault::Form),
        }
    }
}

/// Strips white space, the byte order mark and quotes.
fn strip_wrapping(text: &str) -> &str {
    fn cut(text: &str) -> &str {
        text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
    }
    let mut text = cut(text);
    for quote in ['"', '\'', '"'] {
        let inner = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
        text = inner.map_or(text, cut);
    }
    text
}

/// Replaces escaped line breaks, however often they were escaped. Keys contain no other
/// backslashes.
fn unescape_line_breaks(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.strip_prefix(['n', 'r', 't']) {
            Some(rest) => plain.extend(["\n", rest]),
            None => plain.push_str(part),
        }
    }
    plain
}

/// Parses an object, also with escaped quotes or line breaks inside strings, which shells and
/// `.env` files produce.
fn json(text: &str) -> Option<Map<String, Value>> {
    let read = |text: &str| serde_json::from_str(text).ok();
    read(text)
        .or_else(|| read(&text.replace("\\\"", "\"")))
        .or_else(|| read(&text.replace(['\r', '\n'], " ")))
}

/// Decodes either base64 alphabet, with or without padding, ignoring white space.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let plain = text.chars().filter(|c| !c.is_whitespace()).map(|c| match c {
        '-' => '+',
        '_' => '/',
        other => other,
    });
    let plain: Zeroizing<String> = Zeroizing::new(plain.collect());
    LENIENT.decode(plain.as_bytes()).ok().filter(|bytes| !bytes.is_empty())
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";

/// One PEM block (RFC 7468), with line breaks at any position.
struct PemBlock<'a> {
    label: &'a str,
    /// `None` if the block has no `END` line.
    body: Option<&'a str>,
}

impl PemBlock<'_> {
    fn der(&self) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        let body = self.body.ok_or(KeyFault::Damaged)?;
        from_base64(body).map(Zeroizing::new).ok_or(KeyFault::Damaged)
    }
}

fn blocks(text: &str) -> Vec<PemBlock<'_>> {
    let blocks = text.split(BEGIN).skip(1).filter_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        let body = rest.split_once(END).map(|(body, _)| body);
        Some(PemBlock { label: label.trim(), body })
    });
    blocks.collect()
}

/// Returns the first private key, or explains the first other block.
fn key_in_pem(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    let (mut wrong, mut beside) = (None, None);
    for block in blocks(text) {
        let fault = match block.label {
            "ENCRYPTED PRIVATE KEY" => KeyFault::Encrypted,
            "OPENSSH PRIVATE KEY" => KeyFault::OpenSsh,
            label if label.ends_with("PRIVATE KEY") => match key_in_block(&block) {
                Ok(der) => return Ok(der),
                Err(fault) => fault,
            },
            label => {
                let fault = match label {
                    label if label.ends_with("PUBLIC KEY") => KeyFault::Public,
                    label if label.ends_with("CERTIFICATE REQUEST") => KeyFault::Request,
                    label if label.ends_with("CERTIFICATE") => KeyFault::Certificate,
                    // For example EC PARAMETERS, which OpenSSL writes before a key.
                    _ => continue,
                };
                beside.get_or_insert(fault);
                continue;
            }
        };
        wrong.get_or_insert(fault);
    }
    Err(wrong.or(beside).unwrap_or(KeyFault::Form))
}

fn key_in_block(block: &PemBlock<'_>) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    // RFC 1421 §4.6.1.1; OpenSSL uses this format for PKCS #1 and SEC 1.
    if block.body.is_some_and(|body| body.contains("Proc-Type") && body.contains("ENCRYPTED")) {
        return Err(KeyFault::Encrypted);
    }
    private(block.der()?)
}

/// Checks the structure instead of the label, because labels are sometimes written by hand.
fn private(der: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
    match kind(&der) {
        DerKind::Private => Ok(der),
        DerKind::Encrypted => Err(KeyFault::Encrypted),
        DerKind::Public => Err(KeyFault::Public),
        DerKind::Certificate => Err(KeyFault::Certificate),
        DerKind::Request => Err(KeyFault::Request),
        DerKind::Pkcs12 => Err(KeyFault::Pkcs12),
        DerKind::Dsa => Err(KeyFault::Kind("a DSA key")),
        DerKind::Unknown => Err(KeyFault::Damaged),
    }
}

fn key_in_json(object: Map<String, Value>, kid: Option<&str>) -> Result<KeyFile, KeyFault> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    if let Some(pem) = text("private_key") {
        let (kid, owner) = (text("private_key_id"), text("client_email"));
        let found = read_key(pem, None)?;
        return Ok(KeyFile {
            key: found.key,
            kid: kid.map(str::to_owned),
            owner: owner.map(str::to_owned),
        });
    }
    if let Some(Value::Array(keys)) = object.get("keys") {
        return key_in_set(keys, kid);
    }
    let is_google = ["authorized_user", "external_account", "impersonated_service_account"];
    if text("type").is_some_and(|kind| is_google.contains(&kind)) {
        return Err(KeyFault::GoogleUser);
    }
    match text("kty") {
        None => Err(KeyFault::Form),
        Some(_) if is_private(&object) => {
            let kid = text("kid").map(str::to_owned);
            Ok(KeyFile { key: KeyForm::Jwk(object), kid, owner: None })
        }
        // The required members of a public key (RFC 7638 §3.2).
        Some("RSA") if object.contains_key("n") => Err(KeyFault::Public),
        Some("EC" | "OKP") if object.contains_key("x") => Err(KeyFault::Public),
        Some(_) => Err(KeyFault::Jwk),
    }
}

fn key_in_set(keys: &[Value], kid: Option<&str>) -> Result<KeyFile, KeyFault> {
    let private: Vec<_> =
        keys.iter().filter_map(Value::as_object).filter(|key| is_private(key)).collect();
    let named = |key: &&&Map<String, Value>| key.get("kid").and_then(Value::as_str) == kid;
    let found = match (private.as_slice(), kid) {
        ([], _) => return Err(KeyFault::Public),
        ([only], None) => only,
        (_, None) => return Err(KeyFault::Several),
        (several, Some(_)) => match (several.iter().find(named), several) {
            (Some(found), _) => found,
            // The server may know the only key by another identifier.
            (None, [only]) => only,
            (None, _) => return Err(KeyFault::NotInSet),
        },
    };
    key_in_json((*found).clone(), None)
}

fn is_private(jwk: &Map<String, Value>) -> bool {
    jwk.contains_key("d") || jwk.contains_key("k")
}

#[cfg(test)]
pub(super) mod tests;
