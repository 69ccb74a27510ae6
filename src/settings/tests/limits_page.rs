//! `docs/limits.md` says what is in force.

use super::*;

const PAGE: &str = include_str!("../../../docs/limits.md");
const EXAMPLE: &str = include_str!("../../../proxy.toml");

/// The default of a key, as the example writes it.
fn default_of(key: &str) -> Option<&'static str> {
    let (_, limits) = EXAMPLE.split_once("\n[limits]\n")?;
    let line = |line: &&str| line.starts_with(&format!("# {key} = "));
    limits.lines().find(line)?.split_once(" = ").map(|(_, value)| value)
}

#[test]
fn every_limit_is_on_the_page_with_its_default() {
    let rows: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
    for key in config::LIMITS_KEYS {
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row for {key}"));
        let default = default_of(key).unwrap_or_else(|| panic!("proxy.toml has no {key}"));
        assert!(row.contains(&format!("| `{default}`")), "{key} is {default}, but not in {row}");
    }
}
