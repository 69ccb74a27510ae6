//! What is generated from the declarations of the keys: the JSON Schema, the page `docs/settings.md` and the example
//! `proxy.toml`. A test compares both files; `BEARERD_WRITE_REFERENCE=1 cargo test --lib reference` rewrites them.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::keys::{
    AdminSection, CaSection, CredentialSection, LimitsSection, LogSection, ProxySection,
    StoreSection, TlsSection,
};
use super::reader::{Key, Table, table_schema};
use super::values::SECRET_KEYS;

/// A section of the file: its name, what it is for, its keys.
pub(super) struct Section {
    pub(super) name: &'static str,
    doc: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

const fn section<T: Table>(name: &'static str) -> Section {
    Section { name, doc: T::DOC, keys: T::KEYS }
}

/// The sections, in the order of the example.
pub(super) const SECTIONS: [Section; 8] = [
    section::<ProxySection>("proxy"),
    section::<CredentialSection>("credential"),
    section::<StoreSection>("store"),
    section::<CaSection>("ca"),
    section::<TlsSection>("tls"),
    section::<AdminSection>("admin"),
    section::<LogSection>("log"),
    section::<LimitsSection>("limits"),
];

/// The section whose tables have names of the operator's.
const NAMED: &str = "credential";

/// Returns true if `word` is a section or a key. Reports show such words even where they hide values.
pub(crate) fn is_known_word(word: &str) -> bool {
    fn contains(keys: &[Key], word: &str) -> bool {
        keys.iter().any(|key| key.name == word || contains((key.keys)(), word))
    }
    SECRET_KEYS.contains(&word)
        || SECTIONS.iter().any(|section| section.name == word || contains(section.keys, word))
}

/// Returns the JSON Schema (draft 7, which editors understand best) of `proxy.toml`.
pub fn schema() -> Json {
    let sections = SECTIONS.iter().map(|section| {
        let mut schema = table_schema(section.keys);
        if section.name == NAMED {
            let name = "^[a-z0-9][a-z0-9_-]{0,63}$";
            schema = json!({ "type": "object", "additionalProperties": false, "patternProperties": { name: schema } });
        }
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), joined(section.doc).into());
        }
        (section.name.to_owned(), schema)
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of bearerd",
        "type": "object",
        "additionalProperties": false,
        "properties": sections.collect::<serde_json::Map<String, Json>>(),
    })
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Returns what a key does and what applies without it, as one paragraph.
pub(super) fn paragraph(key: &Key) -> String {
    match key.has_default {
        true => format!("{} The default: {}.", joined(key.doc), key.note),
        false => format!("{} Without it: {}.", joined(key.doc), key.note),
    }
}

/// Returns the reference page in Markdown.
pub fn page() -> String {
    let mut page = PAGE.to_owned();
    for section in &SECTIONS {
        let name = if section.name == NAMED { "credential.NAME" } else { section.name };
        let _ = write!(page, "\n## [{name}]\n\n{}\n", joined(section.doc));
        for key in section.keys {
            let _ =
                write!(page, "\n### `{}.{}`\n\n{}\n\n", section.name, key.name, joined(key.doc));
            describe(&mut page, key, "");
            for inner in (key.keys)() {
                let _ = writeln!(page, "- `{}`: {}", inner.name, joined(inner.doc));
                describe(&mut page, inner, "  ");
            }
        }
    }
    page
}

fn describe(page: &mut String, key: &Key, indent: &str) {
    let _ = writeln!(page, "{indent}- Type: {}", (key.expected)());
    match key.has_default {
        true => _ = writeln!(page, "{indent}- Default: `{}`, because {}", key.text, key.note),
        false => {
            _ = writeln!(
                page,
                "{indent}- Without it: {}\n{indent}- Example: `{}`",
                key.note, key.text
            )
        }
    }
    if key.is_secret {
        let _ = writeln!(page, "{indent}- May contain secrets: reports do not show its value");
    }
    let _ = writeln!(page, "{indent}- Since: {}", key.since);
}

/// Returns the example configuration `proxy.toml`, in which every key stands with its default or an example.
pub fn example() -> String {
    let mut example = HEADER.to_owned();
    for section in &SECTIONS {
        match section.name == NAMED {
            true => example.push_str(CREDENTIALS),
            false => _ = write!(example, "\n[{}]\n", section.name),
        }
        comment(&mut example, &joined(section.doc));
        for key in section.keys {
            let note = if key.has_default { "" } else { " (Example.)" };
            example.push('\n');
            comment(&mut example, &format!("{}{note}", paragraph(key)));
            // Indented, the settings of a credential are not taken for those of the ones above.
            let (indent, mark) = match section.name {
                NAMED => ("  ", "# "),
                "proxy" if key.name == "listen" => ("", ""),
                _ => ("", "# "),
            };
            let _ = writeln!(example, "{mark}{indent}{} = {}", key.name, key.text);
        }
    }
    example
}

/// Appends `text` as a comment whose lines are at most 116 characters long.
fn comment(to: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > 116 {
            to.push_str(&line);
            to.push('\n');
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    to.push_str(&line);
    to.push('\n');
}

const PAGE: &str = "\
# Settings

This page is generated from the declarations in `src/config/keys.rs`; `bearerd schema` prints the same as a JSON Schema.

Durations are \"30s\", \"5m\", \"1h\" or whole seconds; sizes are \"64KiB\", \"1MiB\" or bytes. Relative paths start at the
directory of the configuration file. A key that takes a list also takes a single value. A secret is never written into
the file, only its place: `{ file = \"PATH\" }`, `{ env = \"NAME\" }`, `{ cmd = [\"prog\", \"arg\"] }` or
`{ credential = \"NAME\" }` (systemd).
";

const HEADER: &str = "\
# Configuration of bearerd. `bearerd check` verifies it. docs/settings.md is the reference.
#
# A line that starts with \"# key =\" shows a setting with its default, or an example where it says so: remove the \"# \"
# to change it. Durations are \"30s\", \"5m\", \"1h\"; sizes \"64KiB\", \"1MiB\". Relative paths start at this file's
# directory. Never write a secret here; write where it is:
#   { file = \"PATH\" }   { env = \"NAME\" }   { cmd = [\"prog\", \"arg\"] }   { credential = \"NAME\" } (systemd)
# bearerd uses it verbatim, except for one trailing line break, and warns about surrounding blanks or quotes.
# A command must print the secret within 30 seconds and cannot prompt.
";

const CREDENTIALS: &str = r#"
# --- Credentials: one section for each way to get tokens. None is active until you uncomment one. ---

# Fanatics: one refresh token, one API host. The file "fanatics_seed" contains the first refresh token. It is used once;
# afterwards the store has a newer one and wins.

# [credential.fanatics]
# hosts         = ["api.fanatics.example"]
# token_url     = "https://api.fanatics.example/api/oauth2/token"
# client_id     = "acme"
# client_secret = { file = "/run/secrets/fanatics" }
# refresh_token = { file = "/run/secrets/fanatics_seed" }

# Resamania: each club has its own token endpoint and its own tokens, and the path of a request names the club; other
# clubs get 403. Each refresh returns a new refresh token and ends the old one. bearerd saves the new one in [store]
# before it uses it, so the store must survive restarts. The first token comes by password; if you do not want that,
# give each club a seed of its own: refresh_token = { file = "/run/secrets/seeds/${club}" }.

# [credential.resamania]
# hosts         = ["api.resamania.example"]
# paths         = ["/${club}/"]
# vars          = { club = ["paris", "lyon"] }
# token_url     = "https://api.resamania.example/${club}/oauth/v2/token"
# client_id     = "acme"
# client_secret = { file = "/run/secrets/resamania" }
# bootstrap     = { grant = "password", username = "svc", password = { file = "/run/secrets/resamania_password" } }

# --- Every key of a credential: copy what you need into its section. ---

"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::reader::parse_json;

    /// Returns every key with its dotted name.
    fn every_key() -> Vec<(String, &'static Key)> {
        fn add(all: &mut Vec<(String, &'static Key)>, path: &str, keys: &'static [Key]) {
            for key in keys {
                let path = format!("{path}.{}", key.name);
                add(all, &path, (key.keys)());
                all.push((path, key));
            }
        }
        let mut all = Vec::new();
        for section in &SECTIONS {
            add(&mut all, section.name, section.keys);
        }
        all
    }

    #[test]
    fn every_key_is_documented_and_its_text_is_toml() {
        for (path, key) in every_key() {
            assert!(!key.doc.is_empty() && !key.note.is_empty(), "{path} lacks documentation");
            assert!(parse_json(key.text).is_some(), "{path} = {} is not TOML", key.text);
        }
    }

    #[test]
    fn every_default_and_example_is_accepted_by_the_key() {
        for section in &SECTIONS {
            let name = if section.name == NAMED { "credential.x" } else { section.name };
            for key in section.keys {
                let text = format!("[{name}]\n{} = {}\n", key.name, key.text);
                let (_, problems) = crate::config::parse(&text);
                assert!(problems.is_empty(), "{text}{problems:?}");
            }
        }
    }

    #[test]
    fn the_page_about_limits_has_every_limit_with_its_default() {
        let page = include_str!("../../docs/limits.md");
        for key in SECTIONS.iter().filter(|section| section.name == "limits").flat_map(|it| it.keys)
        {
            let row = page.lines().find(|row| row.starts_with(&format!("| `{}` |", key.name)));
            let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row for {}", key.name));
            assert!(row.contains(&format!("| `{}`", key.text)), "{} is not in {row}", key.text);
        }
    }

    #[test]
    fn the_generated_files_are_up_to_date() {
        for (path, generated) in [("docs/settings.md", page()), ("proxy.toml", example())] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            if std::env::var_os("BEARERD_WRITE_REFERENCE").is_some() {
                std::fs::write(&path, &generated).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == generated,
                "{} differs from the declarations: run BEARERD_WRITE_REFERENCE=1 cargo test --lib reference",
                path.display()
            );
        }
    }
}
