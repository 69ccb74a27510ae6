//! Checks `src/` against `docs/architecture.md`: the allowed dependencies between modules, and the
//! style rules that a program can check.
//!
//! The checks scan source text, not a syntax tree: they blank comments and literals, skip
//! `#[cfg(test)]` items and test files, and search the rest for paths that begin with `crate`.

#[path = "architecture/documents.rs"]
mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The modules that each top-level module may use. Unused arrows must be removed.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `clock`: the program passes the real clock in.
    // `ca`: `bearerd ca` works without a running proxy. `admin`: the reason an admin token is missing.
    // `config`: the JSON Schema. `inputs`: the files that a running proxy watches.
    (
        "cli",
        &["admin", "app", "ca", "clock", "config", "inputs", "log", "secret", "settings", "tls"],
    ),
    // The composition root builds every part, so it may use all except `config` and `cli`.
    (
        "app",
        &[
            "admin",
            "ca",
            "clock",
            "credential",
            "metrics",
            "oauth",
            "proxy",
            "resolver",
            "settings",
            "store",
            "tls",
            "token",
        ],
    ),
    // Only `settings` converts the file format. It fills the `Config` type of each part and uses
    // nothing else of them. `secret`: it checks that each secret exists.
    (
        "settings",
        &[
            "admin",
            "ca",
            "config",
            "credential",
            "inputs",
            "oauth",
            "proxy",
            "secret",
            "store",
            "template",
            "tls",
            "token",
        ],
    ),
    // The enums of these parts, which are deserialized directly, and the location of a secret, never
    // its value. `inputs`: the maximum file size.
    ("config", &["credential", "inputs", "oauth", "proxy", "secret", "token"]),
    ("inputs", &["secret"]),
    // `store`, `token`: the reasons shown to operators when a credential is not ready.
    ("admin", &["clock", "credential", "metrics", "origin", "secret", "store", "token"]),
    // `store`: the same reasons, for a client that gets a 503.
    // `coding`: an API may reject a token in compressed content.
    (
        "proxy",
        &[
            "ca",
            "clock",
            "coding",
            "credential",
            "metrics",
            "origin",
            "resolver",
            "store",
            "tls",
            "token",
        ],
    ),
    // `secret`: each token of a credential may have its own secrets, read at first use.
    // `tls`: the client certificate of a credential whose tokens are certificate-bound.
    // `store`: the reason its stored tokens cannot be listed.
    (
        "credential",
        &[
            "content_match",
            "dpop",
            "metrics",
            "origin",
            "secret",
            "store",
            "template",
            "tls",
            "token",
        ],
    ),
    // The only module that combines the OAuth protocol with persistence.
    // `template`: the values of a slot's variables.
    ("token", &["clock", "crash", "dpop", "metrics", "oauth", "secret", "store", "template"]),
    // `tls`: the descriptions of certificate errors.
    ("oauth", &["coding", "content_match", "crash", "dpop", "secret", "template", "tls"]),
    // `template`: random IDs for writes.
    ("store", &["crash", "secret", "template"]),
    // `origin`: a leaf is issued for a host. `secret`: the private key. `tls`: the cryptography provider.
    ("ca", &["origin", "secret", "tls"]),
    // The lowest layer.
    ("clock", &[]),
    ("coding", &[]),
    ("content_match", &[]),
    ("crash", &[]),
    ("log", &[]),
    ("dpop", &["jwt", "secret"]),
    ("jwt", &[]),
    ("metrics", &[]),
    ("origin", &[]),
    // One resolver per process, with shared threads and cache.
    ("resolver", &[]),
    ("secret", &[]),
    // Templates may contain secret variables, which are masked in output.
    ("template", &["secret"]),
    ("tls", &[]),
];

/// Arrows that the table above must never allow.
const FORBIDDEN_ARROWS: &[(&str, &str)] = &[
    // The protocol client must not persist anything: `token` combines the two.
    ("oauth", "store"),
    ("store", "oauth"),
    // The local CA is independent of obtaining and storing tokens.
    ("ca", "oauth"),
    ("ca", "store"),
    ("ca", "token"),
];

/// The modules below the proxy, which must not use [`UPPER_MODULES`].
const LOWER_MODULES: &[&str] = &["token", "oauth", "store", "ca", "credential"];
const UPPER_MODULES: &[&str] = &["proxy", "app", "admin", "settings", "config"];

/// Vague words that names must not contain. docs/architecture.md lists better ones.
const VAGUE_WORDS: &[&str] =
    &["upstream", "backend", "manager", "handler", "helper", "util", "common"];

/// The keywords that declare a name.
const DECLARING_KEYWORDS: &[&str] =
    &["mod", "struct", "enum", "union", "trait", "fn", "type", "static", "macro_rules"];

const MAX_LINES: usize = 500;

#[test]
fn modules_use_only_what_the_table_allows() {
    let modules = modules();
    let mut violations = String::new();
    for arrow in arrows() {
        if !modules.contains(&arrow.to) {
            report(
                &mut violations,
                &arrow.place,
                &format!("`{}` is not a module of src/", arrow.to),
            );
        } else if !is_allowed(&arrow.from, &arrow.to) {
            let text = format!("{} → {} is not in the ARROWS table", arrow.from, arrow.to);
            report(&mut violations, &arrow.place, &text);
        }
    }
    assert!(violations.is_empty(), "forbidden arrows:\n{violations}");
}

#[test]
fn every_arrow_in_the_table_is_used() {
    let used: BTreeSet<(String, String)> =
        arrows().into_iter().map(|arrow| (arrow.from, arrow.to)).collect();
    let unused: Vec<String> = table()
        .filter(|(from, to)| !used.contains(&(from.to_string(), to.to_string())))
        .map(|(from, to)| format!("{from} → {to}"))
        .collect();
    assert!(unused.is_empty(), "remove these arrows from the table: {}", unused.join(", "));
}

#[test]
fn every_module_is_in_the_table() {
    let known: BTreeSet<String> = ARROWS.iter().map(|(from, _)| from.to_string()).collect();
    assert_eq!(modules(), known, "the modules of src/ differ from the rows of the ARROWS table");
}

#[test]
fn the_table_points_downward() {
    for (from, to) in table() {
        let upward = LOWER_MODULES.contains(&from) && UPPER_MODULES.contains(&to);
        let to_the_top = to == "main" || (to == "cli" && from != "main");
        let never = upward || to_the_top || FORBIDDEN_ARROWS.contains(&(from, to));
        assert!(!never, "the table must not allow {from} → {to}");
    }
}

#[test]
fn no_file_exceeds_the_line_limit() {
    let mut violations = String::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            let _ = writeln!(violations, "  {}: {lines} lines", source.name);
        }
    }
    assert!(violations.is_empty(), "files of more than {MAX_LINES} lines:\n{violations}");
}

#[test]
fn names_do_not_contain_vague_words() {
    let mut violations = String::new();
    for source in sources() {
        for (at, name) in declared_names(&blanked(&source.text)) {
            for word in words(&name) {
                if VAGUE_WORDS.contains(&word.trim_end_matches('s')) {
                    let text = format!("`{name}`: `{word}` is too vague");
                    report(&mut violations, &source.place(at), &text);
                }
            }
        }
    }
    assert!(violations.is_empty(), "vague names:\n{violations}");
}

/// `Config` is exempt, because each part owns one. Associated types do not count.
#[test]
fn a_type_name_means_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for (at, name) in declared_types(&blanked(&source.text)) {
            places.entry(name).or_default().push(source.place(at));
        }
    }
    places.retain(|name, places| places.len() > 1 && name != "Config" && name != "$");
    assert!(places.is_empty(), "duplicate type names: {places:#?}");
}

#[test]
fn every_expect_gives_a_reason() {
    let mut violations = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (at, reason) in expect_reasons(&source.text, &source.code()) {
            if reason.split_whitespace().count() < 3 {
                let text = format!("`{reason}` does not explain why this cannot fail");
                report(&mut violations, &source.place(at), &text);
            }
        }
    }
    assert!(violations.is_empty(), "expectations without a reason:\n{violations}");
}

#[test]
fn unwrap_is_used_only_in_tests() {
    let mut violations = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (at, _) in source.code().match_indices(".unwrap()") {
            report(
                &mut violations,
                &source.place(at),
                "unwrap: handle the error, or use expect with a reason",
            );
        }
    }
    assert!(violations.is_empty(), "{violations}");
}

#[test]
fn every_assertion_of_an_integration_test_has_a_message() {
    let mut violations = String::new();
    for source in sources_in("tests/it") {
        for (at, message) in assertion_messages(&source.text) {
            if words_beside_values(&message) < 2 {
                let text = "this assertion has no message that explains its failure";
                report(&mut violations, &source.place(at), text);
            }
        }
    }
    assert!(violations.is_empty(), "assertions without a message:\n{violations}");
}

// ===== tests of the scanner =====

#[test]
fn a_grouped_use_yields_one_arrow_per_member() {
    let code =
        "use crate::{admin, ca::{self, Leaf}, token::Token};\nlet a = crate::tls::provider();";
    assert_eq!(names(&crate_paths(code)), ["admin", "ca", "token", "tls"]);
}

#[test]
fn paths_in_comments_and_literals_are_ignored() {
    let text = "/// [`crate::a`]\n// crate::b /* */\n/* crate::c /* x */ crate::d */\n\
                \"crate::e \\\" crate::f\" r#\"crate::g\"# '\"' crate::h &'a str";
    assert_eq!(names(&crate_paths(&blanked(text))), ["h"]);
}

#[test]
fn enough_supers_reach_the_crate_root() {
    assert_eq!(names(&super_paths("use super::store; use super::super::token;", 1)), ["store"]);
    assert_eq!(names(&super_paths("use super::store; use super::super::token;", 2)), ["token"]);
}

#[test]
fn test_items_are_skipped() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { crate::x::y() }\n}\nfn c() {}\n\
                #[cfg(test)]\nuse crate::z;\n";
    let code = without_tests(&blanked(text));
    assert!(code.contains("fn a()") && code.contains("fn c()"));
    assert!(!code.contains("crate"), "{code}");
    assert_eq!(code.len(), text.len());
}

#[test]
fn names_are_split_into_words() {
    assert_eq!(words("ErrorHandler"), ["error", "handler"]);
    assert_eq!(words("as_utils2"), ["as", "utils2"]);
    let declared = declared_names("pub(crate) fn open() {} struct TokenManager; let handler = 1;");
    assert_eq!(names(&declared), ["open", "TokenManager"]);
}

#[test]
fn a_declared_type_is_found_whatever_its_visibility() {
    let code = "pub(in crate::a) struct One;\npub enum Two<T> {}\nmod m {\n    trait Three {\n\
                \x20       type Item;\n    }\n}\ntype Four = u8;\nlet structure = 1;\n";
    assert_eq!(names(&declared_types(code)), ["One", "Two", "Three", "Four"]);
}

#[test]
fn a_multi_line_expect_yields_its_reason() {
    let text = "a.expect(\n    \"the lock is never poisoned\").expect(LOCK)";
    assert_eq!(names(&expect_reasons(text, &blanked(text))), ["the lock is never poisoned"]);
}

#[test]
fn the_message_of_an_assertion_follows_its_operands() {
    let text = "assert!(a(b, c)); assert_eq!(a, [1, 2], \"{case}: one, two\"); assert_ne!(a, b,);";
    assert_eq!(names(&assertion_messages(text)), ["", "\"{case}: one, two\"", ""]);
    assert_eq!(words_beside_values("\"{case}: one, {two words} 3: {}\""), 1);
}

fn names(found: &[(usize, String)]) -> Vec<&str> {
    found.iter().map(|(_, name)| name.as_str()).collect()
}

// ===== the table =====

fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    ARROWS.iter().flat_map(|(from, to)| to.iter().map(|to| (*from, *to)))
}

fn is_allowed(from: &str, to: &str) -> bool {
    from == to || table().any(|arrow| arrow == (from, to))
}

/// One use of a module by another.
struct Arrow {
    from: String,
    to: String,
    place: String,
}

/// Returns the arrows between different modules, outside tests.
fn arrows() -> Vec<Arrow> {
    let modules = modules();
    let mut arrows = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let code = source.code();
        let mut found = crate_paths(&code);
        // An inline module makes the depth wrong, so keep only names of top-level modules.
        let above = super_paths(&code, source.depth());
        found.extend(above.into_iter().filter(|(_, name)| modules.contains(name)));
        let from = source.module();
        found.retain(|(_, to)| *to != from);
        arrows.extend(found.into_iter().map(|(at, to)| Arrow {
            from: from.clone(),
            to,
            place: source.place(at),
        }));
    }
    arrows
}

// ===== the files =====

/// One file of `src/` or of the tests.
struct Source {
    /// The path relative to the package directory, such as `src/token/refresh.rs`.
    name: String,
    text: String,
}

impl Source {
    /// Returns the parts of the path below `src`, without `.rs`.
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.trim_start_matches("src/").trim_end_matches(".rs").split('/')
    }

    /// Returns the top-level module of the file.
    fn module(&self) -> String {
        self.parts().next().unwrap_or_default().to_owned()
    }

    /// Returns the module depth of the file: 1 for `src/token.rs`.
    fn depth(&self) -> usize {
        self.parts().count()
    }

    fn is_test(&self) -> bool {
        self.parts().any(|part| part == "tests")
    }

    /// Returns the text with comments, literals and tests blanked. Byte offsets are unchanged.
    fn code(&self) -> String {
        without_tests(&blanked(&self.text))
    }

    fn place(&self, at: usize) -> String {
        let before = self.text.as_bytes().iter().take(at);
        format!("{}:{}", self.name, before.filter(|byte| **byte == b'\n').count() + 1)
    }
}

fn sources() -> Vec<Source> {
    sources_in("src")
}

/// Returns the source files below a directory of the package, sorted.
fn sources_in(directory: &str) -> Vec<Source> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&package.join(directory), &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(package).expect("it was found below the package");
        Source {
            name: name.to_string_lossy().replace('\\', "/"),
            text: fs::read_to_string(path).expect("source files are readable UTF-8"),
        }
    };
    let sources: Vec<Source> = paths.iter().map(read).collect();
    assert!(sources.len() > 10, "{directory} was not found");
    sources
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the directory can be listed") {
        let path = entry.expect("its entries can be read").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Returns the top-level modules: every file and directory of `src/` except `lib.rs`.
fn modules() -> BTreeSet<String> {
    sources().iter().map(Source::module).filter(|module| module != "lib").collect()
}

fn report(violations: &mut String, place: &str, text: &str) {
    let _ = writeln!(violations, "  {place}: {text}");
}

// ===== the scanner =====

/// Returns the module names after `crate::`, and after `bearerd::` in the binary, with their offsets.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    ["crate::", "bearerd::"].iter().flat_map(|root| paths_after(code, root)).collect()
}

/// Returns the names after exactly `depth` times `super::`, which lead to the crate root.
fn super_paths(code: &str, depth: usize) -> Vec<(usize, String)> {
    let root = "super::".repeat(depth);
    let mut found = paths_after(code, &root);
    found.retain(|(_, name)| name != "super");
    found
}

/// Returns the first segment of each path after `root`, which may be a group of paths.
fn paths_after(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        let (before, after) = (code.get(..at), code.get(at + root.len()..));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        if before.ends_with(is_word) || before.ends_with("::") {
            continue;
        }
        let group = after.trim_start().strip_prefix('{');
        let names = group.map_or_else(|| vec![first_word(after)], members);
        found.extend(names.into_iter().map(|name| (at, name)));
    }
    found.retain(|(_, name)| name != "self");
    found
}

/// Returns the first segments of the paths in a group, up to its closing brace.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut starts, mut names) = (0_usize, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' => starts = depth == 0,
            _ if starts && !character.is_whitespace() => {
                names.push(first_word(group.get(at..).unwrap_or_default()));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

/// Returns the first word of a text. A glob import yields `*`.
fn first_word(text: &str) -> String {
    let text = text.trim_start();
    let word: String = text.chars().take_while(|character| is_word(*character)).collect();
    if word.is_empty() { text.chars().take(1).collect() } else { word }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the names declared by the keywords in [`DECLARING_KEYWORDS`], with their offsets.
fn declared_names(code: &str) -> Vec<(usize, String)> {
    let mut declared = Vec::new();
    let mut declaring = false;
    let mut at = 0;
    for piece in code.split_inclusive(|character| !is_word(character)) {
        let word: String = piece.chars().filter(|character| is_word(*character)).collect();
        if declaring && !word.is_empty() {
            declared.push((at, word.clone()));
        }
        // The exclamation mark of `macro_rules!` separates keyword and name.
        declaring = DECLARING_KEYWORDS.contains(&word.as_str()) || (declaring && word.is_empty());
        at += piece.len();
    }
    declared
}

/// Returns the declared types with their offsets. Aliases inside `impl` or `trait` do not count.
fn declared_types(code: &str) -> Vec<(usize, String)> {
    let mut types = Vec::new();
    let mut at = 0;
    for line in code.split_inclusive('\n') {
        let item = line.trim_start();
        let item = item.strip_prefix("pub").map_or(item, |rest| match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(") ").map_or(rest, |(_, item)| item),
            None => rest.trim_start(),
        });
        let is_alias = !line.starts_with(' ') && item.starts_with("type ");
        let keyword = item.split(' ').next().unwrap_or_default();
        if is_alias || ["struct", "enum", "union", "trait"].contains(&keyword) {
            types.push((at, first_word(item.get(keyword.len()..).unwrap_or_default())));
        }
        at += line.len();
    }
    types
}

/// Splits a name into lower-case words: `ErrorHandler` and `error_handler` yield `error` and `handler`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for character in name.chars() {
        if character == '_' || (character.is_uppercase() && before_is_lower) {
            words.push(String::new());
        }
        if let (Some(word), true) = (words.last_mut(), character != '_') {
            word.extend(character.to_lowercase());
        }
        before_is_lower = character.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns the literal reasons given to `expect`. Constants do not count: their names are the reason.
fn expect_reasons(text: &str, code: &str) -> Vec<(usize, String)> {
    let reason = |(at, call): (usize, &str)| {
        let after = text.get(at + call.len()..)?.trim_start();
        let literal = after.strip_prefix('"')?;
        Some((at, literal.get(..literal.find('"')?)?.to_owned()))
    };
    code.match_indices(".expect(").filter_map(reason).collect()
}

/// Returns the message of each assertion as written, or an empty text if it has none.
fn assertion_messages(text: &str) -> Vec<(usize, String)> {
    let code = blanked(text);
    let mut found = Vec::new();
    for (call, compared) in [("assert!(", 1), ("assert_eq!(", 2), ("assert_ne!(", 2)] {
        for (at, _) in code.match_indices(call) {
            let message = arguments(&code, at + call.len()).into_iter().nth(compared);
            let message = message.and_then(|place| text.get(place)).unwrap_or_default();
            found.push((at, message.trim().to_owned()));
        }
    }
    found
}

/// Returns the ranges of the arguments of a call. `start` is the offset after its parenthesis.
fn arguments(code: &str, start: usize) -> Vec<Range<usize>> {
    let (mut depth, mut begin, mut found) = (0_usize, start, Vec::new());
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' if depth > 0 => depth -= 1,
            b',' if depth > 0 => {}
            b',' | b')' | b']' | b'}' => {
                found.push(begin..at);
                begin = at + 1;
                if byte != b',' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the number of words in the literal of a message, outside the braces of its values.
fn words_beside_values(message: &str) -> usize {
    let literal = message.rsplit_once('"').map_or(message, |(literal, _)| literal);
    let outside = literal.split('{').map(|part| part.rsplit_once('}').map_or(part, |(_, it)| it));
    let words = outside.flat_map(|part| part.split(|letter: char| !letter.is_alphabetic()));
    words.filter(|word| word.len() > 1).count()
}

/// Blanks each item with `#[cfg(test)]`, up to its `;` or its closing brace.
fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut kept = code.as_bytes().to_vec();
    for (at, _) in code.match_indices(ATTRIBUTE) {
        let mut depth = 0_usize;
        for byte in kept.iter_mut().skip(at) {
            let ends = match *byte {
                b'{' => {
                    depth += 1;
                    false
                }
                b'}' => {
                    depth = depth.saturating_sub(1);
                    depth == 0
                }
                byte => byte == b';' && depth == 0,
            };
            blank(byte);
            if ends {
                break;
            }
        }
    }
    String::from_utf8(kept).expect("blanks are ASCII and replace whole items")
}

fn blank(byte: &mut u8) {
    if *byte != b'\n' {
        *byte = b' ';
    }
}

/// Blanks comments and literals. Byte offsets are unchanged.
fn blanked(text: &str) -> String {
    let mut kept = text.as_bytes().to_vec();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let follows_word = text.get(..at).is_some_and(|before| before.ends_with(is_word));
        let length = blank_length(rest, follows_word);
        kept.iter_mut().skip(at).take(length).for_each(blank);
        let step = rest.chars().next().map_or(1, char::len_utf8);
        at += length.max(step);
    }
    String::from_utf8(kept).expect("blanks are ASCII and replace whole characters")
}

/// Returns the length in bytes of the comment or literal that the text begins with, or 0.
fn blank_length(text: &str, follows_word: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    if text.starts_with('\'') {
        return character_length(text);
    }
    if follows_word { 0 } else { raw_string_length(text).unwrap_or(0) }
}

/// Returns the length of a block comment, which may contain nested ones.
fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of a character literal, or 0 for a lifetime, which has no closing quote.
fn character_length(text: &str) -> usize {
    let mut characters = text.chars().skip(1);
    let (first, second) = (characters.next(), characters.next());
    if first == Some('\\') || second == Some('\'') { quoted_length(text, '\'') } else { 0 }
}

/// Returns the length of a raw string: `r"…"`, `r#"…"#` or `br"…"`.
fn raw_string_length(text: &str) -> Option<usize> {
    let prefix = if text.starts_with("br") { "br" } else { "r" };
    let rest = text.strip_prefix(prefix)?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |found| found + end.len());
    Some(prefix.len() + hashes + 1 + length)
}
