//! Checks the documentation: the tests that it names exist, and relative links and paths are valid.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const BEHAVIOURS: &str = "docs/behaviours.md";
const PROMISES: &str = "docs/promises.md";

/// The folders that may contain the file of a test named `file::test`.
const TEST_FOLDERS: [&str; 3] = ["tests/it", "src", "src/token/tests"];

#[test]
fn every_test_named_in_a_page_exists() {
    let mut missing = String::new();
    for page in [BEHAVIOURS, PROMISES] {
        let text = read(&root().join(page));
        let names = named_tests(&text);
        assert!(names.len() >= 40, "{page} names only {} tests", names.len());
        for name in names.iter().filter(|name| !exists(name)) {
            let _ = writeln!(missing, "  {page}: {name}");
        }
    }
    assert!(missing.is_empty(), "pages name tests that do not exist:\n{missing}");
}

#[test]
fn every_row_of_a_test_page_names_a_test() {
    let mut without = String::new();
    for page in [BEHAVIOURS, PROMISES] {
        for row in rows(&read(&root().join(page))).filter(|row| named_tests(row).is_empty()) {
            let _ = writeln!(without, "  {page}: {row}");
        }
    }
    assert!(without.is_empty(), "rows without a test name:\n{without}");
}

#[test]
fn the_behaviours_are_numbered_from_1_to_48() {
    let text = read(&root().join(BEHAVIOURS));
    let first_word =
        |row: &str| row.trim_start_matches('|').split_whitespace().next()?.parse().ok();
    let numbers: Vec<usize> = rows(&text).filter_map(|row| first_word(&row)).collect();
    assert_eq!(numbers, Vec::from_iter(1..=48), "the first column of {BEHAVIOURS}");
}

#[test]
fn relative_links_are_valid() {
    let mut broken = String::new();
    for page in pages() {
        let text = read(&page);
        for link in links(&text).filter(|link| !link.contains(':')) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.with_file_name(file),
            };
            let found = target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !found {
                let _ = writeln!(broken, "  {}: {link}", page.display());
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{broken}");
}

#[test]
fn paths_in_pages_exist() {
    let mut missing = String::new();
    for page in pages() {
        for path in paths(&read(&page)).filter(|path| !root().join(path).exists()) {
            let _ = writeln!(missing, "  {}: {path}", page.display());
        }
    }
    assert!(missing.is_empty(), "pages name files that do not exist:\n{missing}");
}

#[test]
fn heading_anchors_match_those_of_github() {
    let text =
        "# One `two`: three!\n## Same\n```sh\n# a comment\n```\n## Same\n<a id=\"own\"></a>\n";
    let expected = ["one-two-three", "own", "same", "same-1"];
    assert_eq!(Vec::from_iter(anchors_in(text)), expected);
}

// ===== tests =====

/// Returns the names of the form `path::to::test` in backticks. `NAME` is a placeholder.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| {
        let last = name.rsplit("::").next().unwrap_or_default();
        name.contains("::") && last.len() > 12 && last.chars().all(is_lower_case)
    };
    quoted.filter(is_test).collect()
}

fn is_lower_case(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
}

fn exists(name: &str) -> bool {
    let Some((file, test)) = name.rsplit_once("::") else { return false };
    let file = file.replace("::", "/");
    TEST_FOLDERS.iter().any(|folder| {
        let path = root().join(folder).join(&file).with_extension("rs");
        fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {test}()")))
    })
}

/// Returns the rows of all tables of a page, without header rows.
fn rows(page: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &str| line.starts_with("| ---");
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| is_rule(next));
    let is_row = |at: usize, line: &str| line.starts_with("| ") && !is_rule(line) && !is_head(at);
    let rows = lines.iter().enumerate().filter(|(at, line)| is_row(*at, line));
    let rows: Vec<String> = rows.map(|(_, line)| (*line).to_owned()).collect();
    rows.into_iter()
}

// ===== links =====

/// Returns the Markdown pages of the repository, in the folders that contain some.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/adr", "certs", ".github"];
    let files = folders.iter().filter_map(|folder| fs::read_dir(root().join(folder)).ok());
    let paths = files.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let pages: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    assert!(pages.len() > 5, "the pages were not found");
    pages
}

/// Returns the targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Returns the paths in backticks that begin with a folder of the repository. Capitals are placeholders.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 8] =
        [".ci/", "benches/", "deploy/", "docs/", "examples/", "fuzz/", "src/", "tests/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| {
        let is_plain = |character: char| is_lower_case(character) || "./-".contains(character);
        FOLDERS.iter().any(|folder| text.starts_with(folder)) && text.chars().all(is_plain)
    };
    quoted.filter(is_path)
}

fn anchors(page: &Path) -> BTreeSet<String> {
    anchors_in(&read(page))
}

/// Returns the anchors that GitHub generates for the headings, and the explicit ones.
fn anchors_in(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if line.starts_with('#') && !in_code {
            let slug = slug(line.trim_start_matches('#').trim());
            let repeated = (1..).map(|number| format!("{slug}-{number}"));
            let mut candidates = std::iter::once(slug.clone()).chain(repeated);
            anchors.extend(candidates.find(|candidate| !anchors.contains(candidate)));
        }
        let own = line.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        anchors.extend(own.map(str::to_owned));
    }
    anchors
}

fn slug(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || "-_ ".contains(*character);
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
