//! `docs/promises.md` names the test that shows each promise. Here: they are all there.

use std::path::Path;

const PAGE: &str = include_str!("../../docs/promises.md");

/// `file::test`, as the page writes it.
fn named() -> Vec<(&'static str, &'static str)> {
    let quoted = PAGE.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).filter(|(_, test)| *test != "test").collect()
}

#[test]
fn every_promise_is_shown_by_a_test_that_is_there() {
    let mut wrong = Vec::new();
    for (file, test) in named() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |path: String| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        // What breaks the engine on purpose is caught by its own tests.
        let text =
            read(format!("tests/it/{file}.rs")) + &read(format!("src/token/slot/tests/{file}.rs"));
        if !text.contains(&format!("fn {test}()")) {
            wrong.push(format!("there is no {file}::{test}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named().len() >= 40, "the page names {} tests", named().len());
}

#[test]
fn every_row_of_a_table_names_a_test() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<_> =
        rows.filter(|line| !line.starts_with("| ---") && !line.ends_with(" by |")).collect();
    assert!(rows.len() >= 40);
    for row in rows {
        assert!(row.contains("::"), "{row}");
    }
}
