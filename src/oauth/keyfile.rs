//! Private keys and certificates in the forms in which people have them.
//!
//! PEM with other blocks around it, PEM squeezed into a variable, DER, the base64 of either, JWK, JWK
//! sets, Google's JSON. TokenResponseFormat is pure, tolerant of how a key is wrapped, and exact about what is no
//! key: a certificate, a public key or an encrypted key is called by its name.
//!
//! Nothing here repeats a text: it may be a key all the same.

mod der;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls::pki_types::CertificateDer;
use secrecy::zeroize::Zeroizing;
use serde_json::{Map, Value};

use self::der::{DerKind, SEQUENCE, certificate, kind};
pub(super) use self::der::{described, encoded, inside_of_pss, public_key_bits, public_key_in};

/// A private key, and what its file says about it.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) key: KeyForm,
    /// Its name at the authorization server.
    pub(super) kid: Option<String>,
    /// Whose it is: the service account of Google's JSON.
    pub(super) owner: Option<String>,
}

/// A private key, read but not yet tried.
pub(super) enum KeyForm {
    /// PKCS #8, PKCS #1 or SEC 1.
    Der(Zeroizing<Vec<u8>>),
    /// RFC 7517.
    Jwk(Map<String, Value>),
}

/// Without the key.
impl std::fmt::Debug for KeyForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Der(_) => "Der(…)",
            Self::Jwk(_) => "Jwk(…)",
        })
    }
}

/// Why a text is of no use as a key or as a certificate; each message ends a sentence that begins with
/// its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Nothing that is known.
    #[error("is neither a private key in PEM nor a private JWK")]
    Form,
    /// PEM without its end, or with something else than base64 in it; DER likewise.
    #[error("is a key that is cut off or damaged")]
    Damaged,
    /// A passphrase is needed.
    #[error("is encrypted, and bearerd asks nobody for a passphrase")]
    Encrypted,
    /// A certificate where its key belongs.
    #[error("is a certificate, and a private key is needed")]
    Certificate,
    /// A public key where a private one belongs, also as JWK.
    #[error("is a public key, and a private key is needed")]
    Public,
    /// A request for a certificate.
    #[error("is a certificate request, and a private key is needed")]
    Request,
    /// `BEGIN OPENSSH PRIVATE KEY`.
    #[error("is in the format of OpenSSH")]
    OpenSsh,
    /// `.p12`, `.pfx`.
    #[error("is a PKCS #12 file (.p12, .pfx)")]
    Pkcs12,
    /// A JWK that lacks members.
    #[error("is a JWK without the members that signing needs")]
    Jwk,
    /// A JWK set in which several could be meant.
    #[error("is a JWK set with several private keys")]
    Several,
    /// A JWK set without the key that is meant.
    #[error("is a JWK set that holds no private key with this `kid`")]
    NotInSet,
    /// What `gcloud auth application-default login` writes, and the like.
    #[error("is a file of Google credentials that holds no key")]
    GoogleUser,
    /// A key that no algorithm here is for.
    #[error("is {0}, with which bearerd does not sign")]
    Kind(&'static str),
    /// Weaker than RFC 7518 §3.3 allows, or larger than can be computed.
    #[error("is an RSA key of less than 2048 or more than 8192 bits")]
    Size,
    /// A private key, or nothing known, where a certificate belongs.
    #[error("holds no certificate")]
    NoCertificate,
}

impl KeyFault {
    /// What to do about it.
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
                "name the private key that belongs to it: what is public is for the authorization server"
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
                "write kid = \"…\" as the set names the key to sign with"
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

/// Finds the private key in `text`. `kid` chooses one of a JWK set.
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

/// Finds the certificates in `text`, in their order.
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

/// What is inside of a text, once quotes, escapes and base64 are off.
enum KeyText {
    /// With at least one `BEGIN`.
    Pem(String),
    Json(Map<String, Value>),
    /// Whatever begins as DER does.
    Der(Zeroizing<Vec<u8>>),
}

impl KeyText {
    fn of(text: &str) -> Result<Self, KeyFault> {
        Self::below(text, 0)
    }

    fn below(text: &str, depth: u8) -> Result<Self, KeyFault> {
        let text = bare(text);
        if text.starts_with('{') {
            return json(text).map(Self::Json).ok_or(KeyFault::Form);
        }
        if text.contains(BEGIN) {
            return Ok(Self::Pem(without_escapes(text)));
        }
        let bytes = Zeroizing::new(from_base64(&without_escapes(text)).ok_or(KeyFault::Form)?);
        match std::str::from_utf8(&bytes) {
            // Twice, as where a secret in base64 was put into base64 for Kubernetes.
            Ok(inner) if depth < 2 => match Self::below(inner, depth + 1) {
                Err(KeyFault::Form) if bytes.first() == Some(&SEQUENCE) => Ok(Self::Der(bytes)),
                below => below,
            },
            _ if bytes.first() == Some(&SEQUENCE) => Ok(Self::Der(bytes)),
            _ => Err(KeyFault::Form),
        }
    }
}

/// Without what is around it: blanks, the byte order mark, and quotes.
fn bare(text: &str) -> &str {
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

/// `\n` and the like become line breaks, however often they were escaped; a key has no other use for a
/// backslash.
fn without_escapes(text: &str) -> String {
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

/// An object, also with its quotes escaped, or with line breaks inside of its texts: whatever a shell or
/// a `.env` file made of it.
fn json(text: &str) -> Option<Map<String, Value>> {
    let read = |text: &str| serde_json::from_str(text).ok();
    read(text)
        .or_else(|| read(&text.replace("\\\"", "\"")))
        .or_else(|| read(&text.replace(['\r', '\n'], " ")))
}

/// Either alphabet, with or without padding, with blanks and line breaks.
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

/// One `BEGIN … END` of PEM (RFC 7468), with its lines wherever they break.
struct PemBlock<'a> {
    label: &'a str,
    /// `None`: it has no end.
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

/// The first private key; else what the first block of another kind is.
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
                    // Such as EC PARAMETERS, which OpenSSL writes before a key.
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
    // RFC 1421 §4.6.1.1, which OpenSSL writes for PKCS #1 and SEC 1.
    if block.body.is_some_and(|body| body.contains("Proc-Type") && body.contains("ENCRYPTED")) {
        return Err(KeyFault::Encrypted);
    }
    private(block.der()?)
}

/// Whatever the label says: people write them by hand.
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
        // RFC 7638 §3.2: what every public key has.
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
            // The server may know the only key there is by another name.
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
