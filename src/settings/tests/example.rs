//! The `proxy.toml` that comes with bearerd says what this version does.

use super::*;
use crate::credential::HostPattern;

const EXAMPLE: &str = include_str!("../../../proxy.toml");

#[test]
fn the_example_starts_on_a_fresh_machine() {
    let settings = load(EXAMPLE).unwrap();
    assert_eq!(settings.warnings.iter().count(), 1, "{}", settings.warnings);
    assert!(settings.credentials.is_empty());
}

/// The example with every line that starts with `# ` and satisfies `setting` made active.
fn uncommented(setting: impl Fn(&str) -> bool) -> String {
    let lines = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| setting(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_setting(line: &str) -> bool {
    line.starts_with("[credential.")
        || (!line.starts_with(' ') && toml::de::DeTable::parse(line).is_ok())
}

#[test]
fn the_credentials_of_the_example_work_once_uncommented() {
    let dir = tempfile::tempdir().unwrap();
    let text = uncommented(is_setting).replace("/run/secrets", dir.path().to_str().unwrap());
    for secret in
        ["fanatics", "fanatics_seed", "resamania", "resamania_password", "admin_token", "store_key"]
    {
        write_private(&dir.path().join(secret));
    }
    std::fs::write(dir.path().join("store_key"), STORE_KEY).unwrap();
    let real = Environment { read_secret: SecretSource::read, ..environment() };
    let settings = Settings::from_text("proxy.toml", dir.path(), &text, &real)
        .unwrap_or_else(|problems| panic!("{problems}"));
    // Resamania has no better first grant than a password.
    let warnings = settings.warnings.to_string();
    assert!(settings.warnings.iter().count() == 1 && warnings.contains("password"), "{warnings}");
    let names: Vec<_> =
        settings.credentials.iter().map(|credential| credential.name.as_str()).collect();
    assert_eq!(names, ["fanatics", "resamania"]);
    let first = settings.credentials.first().unwrap();
    assert_eq!(first.hosts, [HostPattern::parse("api.fanatics.example").unwrap()]);
    assert_eq!(first.token.oauth.client_secret.as_ref().unwrap().expose(), "s3cret");
}
