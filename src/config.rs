//! `proxy.toml`: what the file may say.
//!
//! [`parse`] turns text into a [`ConfigFile`] and the list of everything that is wrong with its form: syntax, unknown
//! keys, values of the wrong type, secrets written out. It is pure, accepts any text and never panics.
//! [`settings`](crate::settings) decides what the values mean together and where paths lead.
//!
//! `keys` declares every key once; from it come the reader, the JSON Schema, the reference page and the example.
//!
//! The invariant: no [`Problem`] that comes from here contains a value of the file in its texts, and
//! [`ConfigFile::public`] names the only values that a report may show.

mod addresses;
mod field;
mod forms;
mod keys;
mod problem;
mod reader;
mod reference;
#[cfg(test)]
pub(crate) mod tests;
mod values;
mod words;

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

pub use self::addresses::{AdminListen, Listen};
pub use self::field::{Field, Setting};
pub use self::forms::{
    ClaimValue, ClientSecret, Entries, KeyPlace, Literal, OldKey, TextOrSecret, VariableValue,
    Words,
};
pub use self::keys::{
    AdminSection, AnswerRuleTable, AssertionTable, BootstrapTable, CaSection, ChosenVariable,
    ClientCertTable, CredentialSection, LimitsSection, LogSection, ProxySection,
    RejectionRuleTable, ResponseTable, StepResponse, StepTable, StoreSection, TlsSection,
};
pub use self::problem::{Problem, Severity};
use self::reader::Reader;
pub(crate) use self::reference::is_known_word;
pub use self::reference::{example, page, schema};
pub use self::values::{Count, NonEmpty, Period, Size};
pub use self::words::{LogFormat, OnFailure, Switch};
use crate::inputs::MAX_FILE_BYTES;

/// A line with more dots is not a configuration but an attempt to exhaust the stack: a dotted key nests one level for
/// each.
const MAX_DOTS: usize = 512;

/// Reads the text of a configuration file and reports everything that is wrong with its form.
pub fn parse(text: &str) -> (ConfigFile, Vec<Problem>) {
    if let Some(problem) = refuse_unread(text) {
        let file = ConfigFile { invalid_lines: BTreeSet::from([0]), ..ConfigFile::default() };
        return (file, vec![problem]);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let (mut problems, invalid_lines) = syntax_problems(text, &errors);
    let mut reader = Reader::default();
    reader.is_quiet = !invalid_lines.is_empty();
    let mut file = ConfigFile::read(&mut reader, document.get_ref());
    file.public = if reader.is_quiet { Vec::new() } else { reader.public };
    file.invalid_lines = invalid_lines;
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
    /// The offsets of the lines that are not TOML.
    invalid_lines: BTreeSet<usize>,
}

impl ConfigFile {
    /// Returns true if the syntax is invalid, so that what seems to be missing may be in the file after all.
    pub fn is_invalid(&self) -> bool {
        !self.invalid_lines.is_empty()
    }

    /// Returns true if `problem` is about a line with invalid syntax, which has been reported already.
    pub(crate) fn is_consequence(&self, text: &str, problem: &Problem) -> bool {
        let span = problem.span.as_ref();
        span.is_some_and(|span| self.invalid_lines.contains(&line_start(text, span.start)))
    }

    fn read(reader: &mut Reader, document: &DeTable<'_>) -> Self {
        let mut file = Self::default();
        for (key, value) in document {
            match key.get_ref().as_ref() {
                "proxy" => file.proxy = reader.section("proxy", value),
                "credential" => file.credentials = read_credentials(reader, value),
                "store" => file.store = reader.section("store", value),
                "ca" => file.ca = reader.section("ca", value),
                "tls" => file.tls = reader.section("tls", value),
                "admin" => file.admin = reader.section("admin", value),
                "log" => file.log = reader.section("log", value),
                "limits" => file.limits = reader.section("limits", value),
                _ => reader.unknown_key(
                    "",
                    key,
                    reference::SECTIONS.iter().map(|section| section.name),
                ),
            }
        }
        file
    }
}

fn refuse_unread(text: &str) -> Option<Problem> {
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        let problem = Problem::error("the file is larger than 1 MiB");
        return Some(problem.fix("this is not a configuration of bearerd"));
    }
    let dots = |line: &str| line.bytes().filter(|byte| *byte == b'.').count();
    let line = text.split_inclusive('\n').position(|line| dots(line) > MAX_DOTS)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let problem =
        Problem::error(format!("this line has more than {MAX_DOTS} dots")).at(start..start);
    Some(problem.fix("write a long list on several lines"))
}

/// Returns the first problem of each line, and the lines with invalid syntax. The TOML parser also reports a key that
/// occurs twice, but the rest of such a line can be trusted.
fn syntax_problems(text: &str, errors: &[toml::de::Error]) -> (Vec<Problem>, BTreeSet<usize>) {
    let (mut problems, mut invalid) = (Vec::new(), BTreeSet::new());
    for error in errors {
        let span = error.span().unwrap_or_default();
        if error.message().starts_with("duplicate key") {
            let problem = Problem::error("this key occurs twice").fix("keep one of the two");
            problems.push(problem.at(span));
        } else if invalid.insert(line_start(text, span.start)) {
            problems.push(Problem::error(format!("not valid TOML: {}", error.message())).at(span));
        }
    }
    (problems, invalid)
}

/// Returns the offset at which the line of `offset` begins.
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
        let section = reader.section(&format!("credential.{shown}"), value);
        credentials.push((Spanned::new(name.span(), shown), section));
    }
    credentials.sort_by_key(|(name, _)| name.span().start);
    credentials
}

/// Returns the name, or reports it and returns a stand-in.
fn credential_name(reader: &mut Reader, name: &Spanned<DeString<'_>>) -> String {
    if is_credential_name(name.get_ref()) {
        reader.public.push(name.span());
        return if reader.is_quiet { "NAME".to_owned() } else { name.get_ref().to_string() };
    }
    let problem = Problem::error("the name of a credential becomes a file name").at(name.span());
    let fix = "use 1 to 64 of a-z, 0-9, `-` and `_`, beginning with a letter or digit";
    reader.problems.push(problem.fix(fix));
    "NAME".to_owned()
}

fn is_credential_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(is_word)
        && name.bytes().all(|byte| is_word(byte) || matches!(byte, b'-' | b'_'))
}
