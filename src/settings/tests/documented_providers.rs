//! Every block of `docs/providers.md` is a configuration that this version takes.

use std::collections::BTreeSet;

use super::providers::{configured, lines, sent};
use super::*;
use crate::oauth::{Grant, GrantRenewal};

const PAGE: &str = include_str!("../../../docs/providers.md");

/// What is said about blocks on purpose: the block and a part of the warning.
const EXPECTED: &[(&str, &str)] = &[("resamania", "uses a person's password")];

/// The blocks, each with the name of its credential.
pub(super) fn blocks() -> Vec<(String, &'static str)> {
    let texts = PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let name = |text: &str| {
        let names: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("[credential.")).collect();
        let [name] = names.as_slice() else { panic!("one credential in a block, not {names:?}") };
        name.trim_end_matches(']').to_owned()
    };
    texts.map(|text| (name(text), text)).collect()
}

#[test]
fn every_block_is_a_configuration_without_a_problem() {
    let environment = Environment { read_lines: lines, ..environment() };
    let mut found = Vec::new();
    for (name, text) in blocks() {
        match Settings::from_text(&name, Path::new("/etc/bearerd"), text, &environment) {
            Err(problems) => found.push(problems.to_string()),
            Ok(settings) => {
                let [credential] = settings.credentials.as_slice() else { panic!("{name}") };
                assert_eq!(credential.name, name);
                let expected = |warning: &Problem| {
                    EXPECTED.iter().any(|(of, part)| *of == name && warning.message.contains(part))
                };
                let warnings = settings.warnings.iter().filter(|warning| !expected(warning));
                found.extend(warnings.map(|warning| format!("{name}: {}", warning.message)));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_provider_has_one_block_and_stands_in_the_table() {
    let blocks = blocks();
    let names: BTreeSet<_> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), blocks.len());
    assert!(names.len() >= 25, "{}", names.len());
    let linked: BTreeSet<_> = PAGE
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.split_once("| [")?.1.split_once(']'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, linked);
    let readme = include_str!("../../../README.md");
    let count = format!("{} complete blocks", names.len());
    assert!(readme.contains(&count), "README.md does not say that there are {count}");
}

/// The block of one provider, and what it sends for a refresh token or for its own grant.
fn request_of(name: &str) -> String {
    let (_, text) = blocks().into_iter().find(|(of, _)| of == name).unwrap();
    let config = configured(text).unwrap_or_else(|problems| panic!("{problems}"));
    let token = Secret::new("rt".to_owned());
    match config.token.oauth.grant.renewal() {
        GrantRenewal::RefreshToken => sent(&config, Grant::RefreshToken(&token)),
        GrantRenewal::Repeatable => sent(&config, Grant::Own),
    }
}

#[test]
fn a_token_that_renews_itself_is_presented_where_the_server_wants_it() {
    let place = "https://graph.instagram.com/refresh_access_token";
    let query = "access_token=rt&grant_type=ig_refresh_token";
    assert_eq!(request_of("instagram"), format!("GET {place}?{query}\n"));
}

#[test]
fn every_block_makes_a_whole_token_request() {
    // The URL of the others is published by their issuer.
    let with_a_url = blocks().into_iter().filter(|(_, text)| text.contains("\ntoken_url "));
    let mut requests = 0;
    for (name, _) in with_a_url {
        let request = request_of(&name);
        let is_whole = request.starts_with("POST https://") || request.starts_with("GET https://");
        assert!(is_whole && !request.contains("${"), "{name}: {request}");
        requests += 1;
    }
    assert!(requests >= 35, "{requests}");
}
