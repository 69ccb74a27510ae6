//! Holds `src/` to the drawing in `docs/architecture.md`: which module may use which, and the few
//! rules of style that a program can check.
//!
//! It reads source text, not a syntax tree: comments and literals are blanked, `#[cfg(test)]` items
//! and files of tests are left out, and what remains is searched for paths that begin with `crate`.

#[path = "architecture/documents.rs"]
mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Which top-level module may use which. An arrow that is not used any more has to go.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // `clock`: the program's edge is where the real clock comes in.
    // `ca`: `bearerd ca` works without a running proxy. `admin`: why there is no admin token.
    // `config`: the JSON Schema. `inputs`: what a running proxy watches.
    (
        "cli",
        &["admin", "app", "ca", "clock", "config", "inputs", "log", "secret", "settings", "tls"],
    ),
    // The composition root: it builds every part, so it may use them all but `config` and `cli`.
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
    // `settings` alone knows the file format. It fills the `Config` type that each part owns, which
    // is all it takes from them; `secret`: it finds out whether each secret is there.
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
    // The domain's enums, which are read directly; and where a secret is, never the secret itself.
    // `inputs`: the largest file that is read.
    ("config", &["credential", "inputs", "oauth", "proxy", "secret", "token"]),
    ("inputs", &["secret"]),
    // `store`, `token`: the words for why a credential is not ready, which operators read.
    ("admin", &["clock", "credential", "metrics", "origin", "secret", "store", "token"]),
    // `store`: the same words, for the client that gets a 503.
    // `coding`: an API may say in compressed content that it rejects a token.
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
    // `secret`: each token of a credential may have secrets of its own, read at first use.
    // `tls`: a credential's client certificate, where its tokens are bound to it.
    // `store`: why it is not known which of its tokens there are.
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
    // The only place where the protocol and its durability meet.
    // `template`: what the variables of a slot stand for.
    ("token", &["clock", "crash", "dpop", "metrics", "oauth", "secret", "store", "template"]),
    // `tls`: the words for what is wrong with a server's certificate.
    ("oauth", &["coding", "content_match", "crash", "dpop", "secret", "template", "tls"]),
    // `template`: random names for writes.
    ("store", &["crash", "secret", "template"]),
    // `origin`: a leaf is made for a host. `secret`: the key is one. `tls`: the library's provider.
    ("ca", &["origin", "secret", "tls"]),
    // Below everything.
    ("clock", &[]),
    ("coding", &[]),
    ("content_match", &[]),
    ("crash", &[]),
    ("log", &[]),
    ("dpop", &["jwt", "secret"]),
    ("jwt", &[]),
    ("metrics", &[]),
    ("origin", &[]),
    // One for the process: its threads and answers are shared.
    ("resolver", &[]),
    ("secret", &[]),
    // Secret variables stand in templates, and are masked by their value.
    ("template", &["secret"]),
    ("tls", &[]),
];

/// Arrows that no edit of the table above may allow.
const NEVER: &[(&str, &str)] = &[
    // A protocol client that also persists is where others went wrong: `token` composes the two.
    ("oauth", "store"),
    ("store", "oauth"),
    // The local CA has nothing to do with how tokens are had and kept.
    ("ca", "oauth"),
    ("ca", "store"),
    ("ca", "token"),
];

/// What is below the proxy knows nothing of what is above it.
const BELOW: &[&str] = &["token", "oauth", "store", "ca", "credential"];
const ABOVE: &[&str] = &["proxy", "app", "admin", "settings", "config"];

/// Words that say too little; docs/architecture.md has better ones.
const BANNED_WORDS: &[&str] =
    &["upstream", "backend", "manager", "handler", "helper", "util", "common"];

/// What declares a name.
const DECLARING: &[&str] =
    &["mod", "struct", "enum", "union", "trait", "fn", "type", "static", "macro_rules"];

const MOST_LINES: usize = 500;

#[test]
fn modules_use_only_what_the_table_allows() {
    let modules = modules();
    let mut complaints = String::new();
    for arrow in arrows() {
        if !modules.contains(&arrow.to) {
            complain(
                &mut complaints,
                &arrow.place,
                &format!("`{}` is no module of src/", arrow.to),
            );
        } else if !is_allowed(&arrow.from, &arrow.to) {
            let text = format!("{} → {} is not in the table of arrows", arrow.from, arrow.to);
            complain(&mut complaints, &arrow.place, &text);
        }
    }
    assert!(complaints.is_empty(), "forbidden arrows:\n{complaints}");
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
    assert_eq!(modules(), known, "the modules of src/, and those the table has a line for");
}

#[test]
fn the_table_points_downward() {
    for (from, to) in table() {
        let upward = BELOW.contains(&from) && ABOVE.contains(&to);
        let to_the_top = to == "main" || (to == "cli" && from != "main");
        let never = upward || to_the_top || NEVER.contains(&(from, to));
        assert!(!never, "the table allows {from} → {to}, which nothing may");
    }
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let mut complaints = String::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            let _ = writeln!(complaints, "  {}: {lines} lines", source.name);
        }
    }
    assert!(complaints.is_empty(), "files of more than {MOST_LINES} lines:\n{complaints}");
}

#[test]
fn declarations_use_words_that_say_something() {
    let mut complaints = String::new();
    for source in sources() {
        for (at, name) in declared_names(&blanked(&source.text)) {
            for word in words(&name) {
                if BANNED_WORDS.contains(&word.trim_end_matches('s')) {
                    let text = format!("`{name}`: `{word}` is not one of our words");
                    complain(&mut complaints, &source.place(at), &text);
                }
            }
        }
    }
    assert!(complaints.is_empty(), "names that say too little:\n{complaints}");
}

/// Each part owns a `Config`; associated types are not declarations of their own.
#[test]
fn a_type_name_means_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for (at, name) in declared_types(&blanked(&source.text)) {
            places.entry(name).or_default().push(source.place(at));
        }
    }
    places.retain(|name, places| places.len() > 1 && name != "Config" && name != "$");
    assert!(places.is_empty(), "type names that are declared twice: {places:#?}");
}

#[test]
fn every_expect_says_why_it_holds() {
    let mut complaints = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (at, reason) in reasons(&source.text, &source.code()) {
            if reason.split_whitespace().count() < 3 {
                let text = format!("`{reason}` does not say why this cannot fail");
                complain(&mut complaints, &source.place(at), &text);
            }
        }
    }
    assert!(complaints.is_empty(), "expectations without a reason:\n{complaints}");
}

#[test]
fn unwrap_is_for_tests() {
    let mut complaints = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (at, _) in source.code().match_indices(".unwrap()") {
            complain(&mut complaints, &source.place(at), "unwrap: handle it, or say why it holds");
        }
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn every_assertion_of_an_integration_test_says_what_its_failure_means() {
    let mut complaints = String::new();
    for source in sources_in("tests/it") {
        for (at, message) in assertion_messages(&source.text) {
            if words_beside_values(&message) < 2 {
                let text = "this assertion does not say in words what its failure means";
                complain(&mut complaints, &source.place(at), text);
            }
        }
    }
    assert!(complaints.is_empty(), "assertions without a message:\n{complaints}");
}

// ===== the scanner, tested on texts =====

#[test]
fn a_grouped_use_is_several_arrows() {
    let code =
        "use crate::{admin, ca::{self, Leaf}, token::Token};\nlet a = crate::tls::provider();";
    assert_eq!(names(&crate_paths(code)), ["admin", "ca", "token", "tls"]);
}

#[test]
fn a_path_in_a_comment_or_a_literal_is_no_arrow() {
    let text = "/// [`crate::a`]\n// crate::b /* */\n/* crate::c /* x */ crate::d */\n\
                \"crate::e \\\" crate::f\" r#\"crate::g\"# '\"' crate::h &'a str";
    assert_eq!(names(&crate_paths(&blanked(text))), ["h"]);
}

#[test]
fn super_from_the_top_of_a_module_is_the_crate() {
    assert_eq!(names(&super_paths("use super::store; use super::super::token;", 1)), ["store"]);
    assert_eq!(names(&super_paths("use super::store; use super::super::token;", 2)), ["token"]);
}

#[test]
fn an_item_for_tests_is_left_out() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { crate::x::y() }\n}\nfn c() {}\n\
                #[cfg(test)]\nuse crate::z;\n";
    let code = without_tests(&blanked(text));
    assert!(code.contains("fn a()") && code.contains("fn c()"));
    assert!(!code.contains("crate"), "{code}");
    assert_eq!(code.len(), text.len());
}

#[test]
fn a_name_is_taken_apart_into_words() {
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
fn the_reason_of_an_expect_is_found_across_lines() {
    let text = "a.expect(\n    \"the lock is never poisoned\").expect(LOCK)";
    assert_eq!(names(&reasons(text, &blanked(text))), ["the lock is never poisoned"]);
}

#[test]
fn the_message_of_an_assertion_stands_behind_what_it_compares() {
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

/// One module's use of another.
struct Arrow {
    from: String,
    to: String,
    place: String,
}

/// The arrows between different modules, outside tests.
fn arrows() -> Vec<Arrow> {
    let modules = modules();
    let mut arrows = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let code = source.code();
        let mut found = crate_paths(&code);
        // Further up than the file's own modules only if an inline module is left: then the name
        // tells.
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
    /// From the package's directory: `src/token/refresh.rs`.
    name: String,
    text: String,
}

impl Source {
    /// The parts of the path below `src`, without `.rs`.
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.trim_start_matches("src/").trim_end_matches(".rs").split('/')
    }

    /// The top-level module it belongs to.
    fn module(&self) -> String {
        self.parts().next().unwrap_or_default().to_owned()
    }

    /// How many modules deep the file is: 1 for `src/token.rs`.
    fn depth(&self) -> usize {
        self.parts().count()
    }

    fn is_test(&self) -> bool {
        self.parts().any(|part| part == "tests")
    }

    /// The text without comments, literals and tests, each byte where it was.
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

/// The files below a directory of the package, sorted.
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

/// The top-level modules: every file and directory of `src/` but the front page.
fn modules() -> BTreeSet<String> {
    sources().iter().map(Source::module).filter(|module| module != "lib").collect()
}

fn complain(complaints: &mut String, place: &str, text: &str) {
    let _ = writeln!(complaints, "  {place}: {text}");
}

// ===== the text =====

/// What follows `crate::`, and `bearerd::` in the program: module names, with their places.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    ["crate::", "bearerd::"].iter().flat_map(|root| paths_after(code, root)).collect()
}

/// What follows exactly as many `super::` as lead to the crate's root.
fn super_paths(code: &str, depth: usize) -> Vec<(usize, String)> {
    let root = "super::".repeat(depth);
    let mut found = paths_after(code, &root);
    found.retain(|(_, name)| name != "super");
    found
}

/// The first segment of each path after `root`, which may be a group of paths.
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

/// The first segments of the paths in a group, up to its closing brace.
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

/// The word a text begins with; a glob import is the word `*`.
fn first_word(text: &str) -> String {
    let text = text.trim_start();
    let word: String = text.chars().take_while(|character| is_word(*character)).collect();
    if word.is_empty() { text.chars().take(1).collect() } else { word }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The names that `mod`, `struct`, `fn` and the like declare.
fn declared_names(code: &str) -> Vec<(usize, String)> {
    let mut declared = Vec::new();
    let mut declaring = false;
    let mut at = 0;
    for piece in code.split_inclusive(|character| !is_word(character)) {
        let word: String = piece.chars().filter(|character| is_word(*character)).collect();
        if declaring && !word.is_empty() {
            declared.push((at, word.clone()));
        }
        // The exclamation mark of `macro_rules!` stands between the two words.
        declaring = DECLARING.contains(&word.as_str()) || (declaring && word.is_empty());
        at += piece.len();
    }
    declared
}

/// The names of types, with their places; of aliases only those that no `impl` or `trait` encloses.
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

/// `ErrorHandler` and `error_handler` are both `error` and `handler`.
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

/// The literal reasons given to `expect`; those that are constants are named for themselves.
fn reasons(text: &str, code: &str) -> Vec<(usize, String)> {
    let reason = |(at, call): (usize, &str)| {
        let after = text.get(at + call.len()..)?.trim_start();
        let literal = after.strip_prefix('"')?;
        Some((at, literal.get(..literal.find('"')?)?.to_owned()))
    };
    code.match_indices(".expect(").filter_map(reason).collect()
}

/// The message of each assertion as it is written; empty if there is none.
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

/// Where the arguments of a call stand; `start` is the place behind its parenthesis.
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

/// How many words the literal of a message has outside the braces of its values.
fn words_beside_values(message: &str) -> usize {
    let literal = message.rsplit_once('"').map_or(message, |(literal, _)| literal);
    let outside = literal.split('{').map(|part| part.rsplit_once('}').map_or(part, |(_, it)| it));
    let words = outside.flat_map(|part| part.split(|letter: char| !letter.is_alphabetic()));
    words.filter(|word| word.len() > 1).count()
}

/// Blanks each item that begins with `#[cfg(test)]`, up to its `;` or its closing brace.
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

/// The text with comments and the contents of literals made blank, byte for byte.
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

/// How many bytes of a comment or literal a text begins with; 0 when with neither.
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

/// Block comments nest.
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

/// A character literal; a lifetime has no closing quote after one character.
fn character_length(text: &str) -> usize {
    let mut characters = text.chars().skip(1);
    let (first, second) = (characters.next(), characters.next());
    if first == Some('\\') || second == Some('\'') { quoted_length(text, '\'') } else { 0 }
}

/// `r"…"`, `r#"…"#`, `br"…"`.
fn raw_string_length(text: &str) -> Option<usize> {
    let prefix = if text.starts_with("br") { "br" } else { "r" };
    let rest = text.strip_prefix(prefix)?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |found| found + end.len());
    Some(prefix.len() + hashes + 1 + length)
}
