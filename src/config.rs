//! `proxy.toml`: exactly what the file may say.
//!
//! [`parse`] turns text into a [`ConfigFile`] and the list of everything that is wrong with its
//! form: syntax, unknown keys, values of the wrong type, secrets written out. It is pure, accepts
//! any text and never panics. What the values mean together, which defaults apply and where paths
//! lead is decided in [`settings`](crate::settings).
//!
//! The invariant: no [`Problem`] that comes from here holds a value of the file in its texts, and
//! [`ConfigFile::public`] names the only values that a report may show.

mod answers;
mod choices;
mod later;
mod nested;
mod problem;
mod section;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod values;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

pub use self::answers::{AnswerRule, Comparison, Place, Response};
pub use self::choices::{
    ClientAuth, Encoding, Grant, LogFormat, Margin, OnExisting, OnFailure, Rotation, Switch, Unit,
    Unmatched,
};
pub use self::nested::{
    AssertionTable, BootstrapTable, ClaimValue, ClientCertTable, ClientId, ClientSecret, KeyFile,
    StepResponse, StepTable,
};
pub use self::problem::{Problem, Severity};
pub use self::section::Field;
use self::section::{Reader, section};
pub use self::tables::{Entries, Evidence, Literal, OldKey, RefreshOn, Variable};
pub use self::values::Size;
use crate::secret::SecretSource;

/// The largest file that is read. A real one is some thousand bytes; the limit keeps hostile or
/// mistaken input (a log, a device) from taking the time and memory of the proxy.
pub const MAX_BYTES: usize = 1 << 20;

/// More dots than this in one line are no configuration but an attempt to exhaust the stack: a
/// dotted key nests one level for each.
const MAX_DOTS: usize = 512;

/// Reads the text of a configuration file and reports everything that is wrong with its form.
pub fn parse(text: &str) -> (ConfigFile, Vec<Problem>) {
    if let Some(problem) = refuse_unread(text) {
        return (
            ConfigFile { garbled_lines: BTreeSet::from([0]), ..ConfigFile::default() },
            vec![problem],
        );
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let (mut problems, garbled_lines) = syntax_problems(text, &errors);
    let mut reader = Reader { quiet: !garbled_lines.is_empty(), ..Reader::default() };
    let mut file = ConfigFile::read(&mut reader, document.get_ref());
    file.public = if reader.quiet { Vec::new() } else { reader.public };
    file.garbled_lines = garbled_lines;
    problems
        .extend(reader.problems.into_iter().filter(|problem| !file.is_consequence(text, problem)));
    (file, problems)
}

/// Everything a configuration file says.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// `[proxy]`
    pub proxy: ProxySection,
    /// `[credential.NAME]`, in the order of the file.
    pub credentials: Vec<(Spanned<String>, CredentialSection)>,
    /// `[store]`
    pub store: StoreSection,
    /// `[ca]`
    pub ca: CaSection,
    /// `[tls]`
    pub tls: TlsSection,
    /// `[admin]`
    pub admin: AdminSection,
    /// `[log]`
    pub log: LogSection,
    /// `[limits]`
    pub limits: LimitsSection,
    /// Values that a report may show; all others may be secrets.
    pub public: Vec<Range<usize>>,
    /// Where the lines start that are not TOML.
    garbled_lines: BTreeSet<usize>,
}

impl ConfigFile {
    /// Is the syntax broken, so that what is missing here may stand in the file after all?
    pub fn is_garbled(&self) -> bool {
        !self.garbled_lines.is_empty()
    }

    /// Is `problem` about a line whose syntax is broken, which has been reported already?
    pub(crate) fn is_consequence(&self, text: &str, problem: &Problem) -> bool {
        let span = problem.span.as_ref();
        span.is_some_and(|span| self.garbled_lines.contains(&line_start(text, span.start)))
    }

    const SECTIONS: [&str; 8] =
        ["proxy", "credential", "store", "ca", "tls", "admin", "log", "limits"];

    fn read(reader: &mut Reader, document: &DeTable<'_>) -> Self {
        let mut file = Self::default();
        for (key, value) in document {
            match key.get_ref().as_ref() {
                "proxy" => file.proxy = ProxySection::read(reader, "proxy", value),
                "credential" => file.credentials = read_credentials(reader, value),
                "store" => file.store = StoreSection::read(reader, "store", value),
                "ca" => file.ca = CaSection::read(reader, "ca", value),
                "tls" => file.tls = TlsSection::read(reader, "tls", value),
                "admin" => file.admin = AdminSection::read(reader, "admin", value),
                "log" => file.log = LogSection::read(reader, "log", value),
                "limits" => file.limits = LimitsSection::read(reader, "limits", value),
                _ => reader.unknown("", key, &Self::SECTIONS),
            }
        }
        file
    }
}

/// Is `word` a section or a key of the file? Such words are shown even where values are not.
pub(crate) fn is_known_word(word: &str) -> bool {
    let named = |keys: &&[&str]| keys.contains(&word);
    KEYS_OF_SECTIONS.iter().any(named)
        || ConfigFile::SECTIONS.contains(&word)
        || ["env", "file", "cmd"].contains(&word)
        || RefreshOn::KEYS.contains(&word)
        || Variable::KEYS.contains(&word)
        || AnswerRule::KEYS.contains(&word)
        || Response::KEYS.contains(&word)
        || KEYS_OF_TABLES.iter().any(named)
}

/// The keys of every section.
pub(crate) const KEYS_OF_SECTIONS: [&[&str]; 8] = [
    ProxySection::KEYS,
    CredentialSection::KEYS,
    StoreSection::KEYS,
    CaSection::KEYS,
    TlsSection::KEYS,
    AdminSection::KEYS,
    LogSection::KEYS,
    LimitsSection::KEYS,
];

/// The keys of `[limits]`.
#[cfg(test)]
pub(crate) const LIMITS_KEYS: &[&str] = LimitsSection::KEYS;

/// The keys of the tables inside of credentials.
const KEYS_OF_TABLES: [&[&str]; 5] = [
    BootstrapTable::KEYS,
    AssertionTable::KEYS,
    ClientCertTable::KEYS,
    StepTable::KEYS,
    StepResponse::KEYS,
];

fn refuse_unread(text: &str) -> Option<Problem> {
    if text.len() > MAX_BYTES {
        return Some(
            Problem::error("the file is larger than 1 MiB")
                .fix("this is not a configuration of bearerd"),
        );
    }
    let dots = |line: &str| line.bytes().filter(|byte| *byte == b'.').count();
    let line = text.split_inclusive('\n').position(|line| dots(line) > MAX_DOTS)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let problem =
        Problem::error(format!("this line has more than {MAX_DOTS} dots")).at(start..start);
    Some(problem.fix("write a long list on several lines"))
}

/// The first finding of each line, and the lines whose syntax is broken. A key that stands twice is
/// found by the TOML parser too, but the rest of its line can be trusted.
fn syntax_problems(text: &str, errors: &[toml::de::Error]) -> (Vec<Problem>, BTreeSet<usize>) {
    let (mut problems, mut garbled) = (Vec::new(), BTreeSet::new());
    for error in errors {
        let span = error.span().unwrap_or_default();
        if error.message().starts_with("duplicate key") {
            let problem =
                Problem::error("this key stands here a second time").fix("keep one of the two");
            problems.push(problem.at(span));
        } else if garbled.insert(line_start(text, span.start)) {
            problems.push(Problem::error(format!("not valid TOML: {}", error.message())).at(span));
        }
    }
    (problems, garbled)
}

/// The offset at which the line of `offset` begins.
pub(crate) fn line_start(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
}

fn read_credentials(
    reader: &mut Reader,
    value: &Spanned<DeValue<'_>>,
) -> Vec<(Spanned<String>, CredentialSection)> {
    let mut credentials = Vec::new();
    for (name, value) in reader.table("credential", value).into_iter().flatten() {
        let shown = credential_name(reader, name);
        let section = CredentialSection::read(reader, &format!("credential.{shown}"), value);
        credentials.push((Spanned::new(name.span(), shown), section));
    }
    credentials.sort_by_key(|(name, _)| name.span().start);
    credentials
}

/// The name, or a stand-in and a problem: it becomes a file name and a label of metrics.
fn credential_name(reader: &mut Reader, name: &Spanned<DeString<'_>>) -> String {
    if is_credential_name(name.get_ref()) {
        reader.public.push(name.span());
        return if reader.quiet { "NAME".to_owned() } else { name.get_ref().to_string() };
    }
    reader.problems.push(
        Problem::error("the name of a credential becomes a file name")
            .at(name.span())
            .fix("use 1 to 64 of a-z, 0-9, `-` and `_`, beginning with a letter or digit"),
    );
    "NAME".to_owned()
}

fn is_credential_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|byte| word(byte) || matches!(byte, b'-' | b'_'))
}

section! {
    /// `[proxy]`: the listener and what passes it.
    ProxySection {
        /// Where clients connect: `host:port` or `unix:/path`, one or several.
        listen: Vec<Spanned<String>>,
        /// What happens to hosts that no credential names.
        unmatched: Unmatched,
        /// Networks that are never dialled, in whatever form, checked after the name is resolved.
        deny_addresses: Vec<Spanned<IpNet>>,
        /// Exceptions to `deny_addresses`.
        allow_addresses: Vec<Spanned<IpNet>>,
        /// Ports a CONNECT may name for hosts without a credential; none: any.
        connect_ports: Vec<Spanned<u16>>,
        /// Worker threads.
        threads: u64,
        /// How long open requests may take to end when bearerd stops.
        shutdown_grace: Duration,
        /// Whether anyone who reaches the listener may use the proxy.
        open: bool,
    }
}

section! {
    /// `[credential.NAME]`: one way to get access tokens, and the hosts they are for.
    CredentialSection {
        /// The hosts, with `*` for one label and `:port` for one other than 443.
        hosts: Vec<Spanned<String>>,
        /// The paths on those hosts, as prefixes.
        paths: Vec<Spanned<String>>,
        /// The methods.
        methods: Vec<Spanned<String>>,
        /// Whether a plain-http request stays plain http.
        allow_http: bool,
        /// Whether the authorization server may be asked in plain http.
        token_http: bool,
        /// How a token is asked for.
        grant: Grant,
        /// A person's name at the authorization server.
        username: String,
        /// The password that belongs to it.
        password: SecretSource,
        /// The token that is exchanged for another.
        subject_token: SecretSource,
        /// What kind of token that is.
        subject_token_type: String,
        /// The token of the party that acts.
        actor_token: SecretSource,
        /// What kind of token that is.
        actor_token_type: String,
        /// Where the first refresh token comes from without a person.
        bootstrap: BootstrapTable,
        /// The authorization server, whose published document names its endpoints.
        issuer: String,
        /// Names for templates.
        vars: Entries<Variable>,
        /// The token endpoint.
        token_url: String,
        /// Where refresh tokens are presented, if not there.
        refresh_url: String,
        /// Where tokens are given back.
        revoke_url: String,
        /// Where a person consents.
        auth_url: String,
        /// Where a code for another device comes from.
        device_url: String,
        /// The identifier of the OAuth client.
        client_id: ClientId,
        /// The OAuth client's secret.
        client_secret: ClientSecret,
        /// The first refresh token.
        refresh_token: SecretSource,
        /// How the OAuth client proves itself.
        client_auth: ClientAuth,
        /// The certificate of the OAuth client.
        client_cert: ClientCertTable,
        /// The signed statement that proves the client or is presented as a grant.
        assertion: AssertionTable,
        /// How the parameters of a token request travel.
        encoding: Encoding,
        /// The scope, sent as it is.
        scope: String,
        /// Further parameters of every token request.
        params: Entries<Vec<Spanned<String>>>,
        /// Further parameters of the token requests that present a refresh token.
        refresh_params: Entries<Vec<Spanned<String>>>,
        /// Further fields of every token request.
        headers: Entries<String>,
        /// Where an answer has its members.
        response: Response,
        /// The answers that mean that the grant is gone.
        dead: Vec<Spanned<AnswerRule>>,
        /// The answers that mean too many token requests.
        busy: Vec<Spanned<AnswerRule>>,
        /// What becomes of the refresh token of an answer.
        rotation: Rotation,
        /// The calls that follow the token request.
        steps: Vec<Spanned<StepTable>>,
        /// How long a token lives when the answer does not say.
        lifetime: Duration,
        /// How long before its expiry a token is replaced.
        margin: Margin,
        /// How long a refresh token may lie unused.
        keepalive: Duration,
        /// The answers that mean that a token was not accepted.
        refresh_on: Vec<Spanned<RefreshOn>>,
        /// The fields that carry the token.
        inject: Entries<String>,
        /// The parameters of the query that carry the token.
        query: Entries<String>,
        /// What happens to fields and parameters that the client sent itself.
        on_existing: OnExisting,
        /// Whether tokens are bound to a key (RFC 9449).
        dpop: bool,
        /// What happens to requests while no token is to be had.
        on_failure: OnFailure,
        /// Whether the application's own token requests are answered here.
        stub_token_endpoint: bool,
        /// Whether answers to upgraded requests speak of plain http.
        rewrite_location: bool,
        /// Fields that name another method or path pass although `methods` or `paths` decide.
        allow_overrides: bool,
        /// The longest request body that is kept for a second try.
        replay_body: Size,
        /// The longest time for one token request.
        timeout: Duration,
    }
}

section! {
    /// `[store]`: where tokens survive a restart.
    StoreSection {
        /// `file:DIR` or `memory:`.
        url: String,
        /// The key that encrypts records.
        key: SecretSource,
        /// Keys of before, which records may still be encrypted with, or `plain`.
        old_keys: Vec<Spanned<OldKey>>,
    }
}

section! {
    /// `[ca]`: the local certification authority.
    CaSection {
        /// The directory of its certificate and key.
        dir: PathBuf,
        /// How long its certificate is valid.
        lifetime: Duration,
        /// How long the certificates it signs are valid.
        leaf_lifetime: Duration,
    }
}

section! {
    /// `[tls]`: whom bearerd trusts when it connects.
    TlsSection {
        /// `system`, `bundled` or the path of a PEM file.
        roots: String,
        /// PEM files of further roots, or of servers' own certificates.
        extra_roots: Vec<Spanned<PathBuf>>,
    }
}

section! {
    /// `[admin]`: the listener for operators.
    AdminSection {
        /// `host:port`, or nothing to turn it off.
        listen: String,
        /// Opens it beyond loopback.
        token: SecretSource,
        /// `/metrics` needs no token.
        metrics_public: bool,
    }
}

section! {
    /// `[log]`: what is written to standard error.
    LogSection {
        /// The shape of a line.
        format: LogFormat,
        /// One line for each request.
        access: Switch,
    }
}

section! {
    /// `[limits]`: how much of everything.
    LimitsSection {
        /// Client connections at a time.
        connections: u64,
        /// Client connections at a time from one address; 0: no cap.
        connections_per_peer: u64,
        /// Bytes of a request line.
        request_line: Size,
        /// Bytes of a message's head.
        header_bytes: Size,
        /// Fields of a message's head.
        header_count: u64,
        /// Time for a request's head to arrive.
        header_read_timeout: Duration,
        /// Time for a client's TLS handshake.
        handshake_timeout: Duration,
        /// Time an unused connection stays open.
        idle_timeout: Duration,
        /// Time a tunnel without traffic stays open.
        tunnel_idle_timeout: Duration,
        /// Time for a name, all its addresses and the TLS handshake together.
        connect_timeout: Duration,
        /// Time until the head of a response.
        response_timeout: Duration,
        /// Time a peer may take nothing of what is there for it.
        send_timeout: Duration,
        /// Time content may bring nothing; 0: for ever.
        stall_timeout: Duration,
        /// Time a request waits for a token.
        wait: Duration,
        /// Bytes of all kept request bodies together.
        replay_bytes: Size,
        /// Bytes of one request body; 0: no limit.
        body_bytes: Size,
        /// Bytes of one access token.
        token_bytes: Size,
    }
}
