#![allow(clippy::unwrap_used)] // a panic is a failed test
use std::time::UNIX_EPOCH;

use super::*;

#[test]
fn documents_have_two_locations() {
    for (issuer, openid, oauth) in [
        ("https://as.test", "", ""),
        ("https://as.test/", "", ""),
        ("https://as.test/a/b", "/a/b", "/a/b"),
        ("https://as.test:8443/a/", "/a", "/a"),
    ] {
        let host = if issuer.contains("8443") { "as.test:8443" } else { "as.test" };
        let found = locations(issuer).unwrap().map(String::from);
        assert_eq!(
            found,
            [
                format!("https://{host}{openid}/.well-known/openid-configuration"),
                format!("https://{host}/.well-known/oauth-authorization-server{oauth}"),
            ]
        );
    }
    assert_eq!(locations("as.test"), Err(DiscoveryError::Issuer));
}

const DOCUMENT: &str = r#"{"issuer":"https://as.test","token_endpoint":"https://as.test/t",
    "revocation_endpoint":"https://as.test/r","authorization_endpoint":"https://as.test/a",
    "mtls_endpoint_aliases":{"token_endpoint":"https://mtls.as.test/t","x":1},"x":1}"#;

fn plain(body: &str, issuer: &str) -> Result<Endpoints, DiscoveryError> {
    read(body.as_bytes(), issuer, false)
}

#[test]
fn only_the_configured_issuer_and_https_are_accepted() {
    use DiscoveryError::{Endpoint, Json, Mismatch, Nobody};
    let endpoints = plain(DOCUMENT, "https://as.test").unwrap();
    assert_eq!(endpoints.token.unwrap().as_str(), "https://as.test/t");
    assert_eq!(endpoints.revoke.unwrap().as_str(), "https://as.test/r");
    assert_eq!((endpoints.device, endpoints.token_alias), (None, None));
    let mismatch = |published: &str| Mismatch {
        configured: "https://as.test".to_owned(),
        published: published.to_owned(),
    };
    for (body, why) in [
        (DOCUMENT.replace("as.test\",\"tok", "as.test/\",\"tok"), mismatch("https://as.test/")),
        (DOCUMENT.replace("as.test\",\"tok", "AS.test\",\"tok"), mismatch("https://AS.test")),
        (DOCUMENT.replace("issuer", "issuers"), Nobody("https://as.test".to_owned())),
        ("[]".to_owned(), Json),
        ("<html>".to_owned(), Json),
        (DOCUMENT.replace("https://as.test/t", "http://as.test/t"), Endpoint),
        (DOCUMENT.replace("https://as.test/r", "nothing"), Endpoint),
    ] {
        assert_eq!(plain(&body, "https://as.test"), Err(why), "{body}");
    }
    let open = DOCUMENT.replace("https://", "http://");
    assert!(plain(&open, "http://as.test").is_ok());
    let elsewhere = open.replace("http://as.test/t", "http://other.test/t");
    assert_eq!(plain(&elsewhere, "http://as.test"), Err(Endpoint));
    let here = open.replace("http://as.test/t", "http://127.0.0.1/t");
    assert!(plain(&here, "http://as.test").is_ok());
}

/// Entra's multi-tenant document, an extra slash, and a hostile document.
#[test]
fn a_mismatched_issuer_is_reported_with_advice() {
    let message = |published: &str| {
        let body = serde_json::json!({ "issuer": published }).to_string();
        plain(&body, "https://login.test/common/v2.0").unwrap_err().to_string()
    };
    let entra = message("https://login.test/{tenantid}/v2.0");
    for says in
        ["https://login.test/common/v2.0", "https://login.test/{tenantid}/v2.0", "your own tenant"]
    {
        assert!(entra.contains(says), "{entra}");
    }
    let slash = message("https://login.test/common/v2.0/");
    assert!(slash.contains("write issuer = \"https://login.test/common/v2.0/\""), "{slash}");
    let hostile = message(&format!("a\n\u{1b}[2J\u{202e}{}", "x".repeat(10_000)));
    assert!(hostile.len() < 2000 && !hostile.contains(['\n', '\u{1b}', '\u{202e}']), "{hostile:?}");
}

/// RFC 8705 §5.
#[test]
fn clients_with_a_certificate_use_the_aliases() {
    let endpoints = read(DOCUMENT.as_bytes(), "https://as.test", true).unwrap();
    assert_eq!(endpoints.token_alias.as_ref().unwrap().as_str(), "https://mtls.as.test/t");
    // The audience, and endpoints without an alias, stay.
    assert_eq!(endpoints.token.as_ref().unwrap().as_str(), "https://as.test/t");
    assert_eq!(endpoints.revoke.as_ref().unwrap().as_str(), "https://as.test/r");
    assert_eq!(endpoints.audience(), "https://as.test");
    let both = r#""mtls_endpoint_aliases":{"revocation_endpoint":"https://mtls.as.test/r","#;
    let more = DOCUMENT.replace("\"mtls_endpoint_aliases\":{", both);
    let endpoints = read(more.as_bytes(), "https://as.test", true).unwrap();
    assert_eq!(endpoints.revoke.unwrap().as_str(), "https://mtls.as.test/r");
    let open = DOCUMENT.replace("https://mtls", "http://mtls");
    assert_eq!(read(open.as_bytes(), "https://as.test", true), Err(DiscoveryError::Endpoint));
    assert!(
        read(open.as_bytes(), "https://as.test", false).is_ok(),
        "aliases are ignored without a certificate"
    );
    for odd in ["null", "[]", "7"] {
        let body = format!(
            r#"{{"issuer":"i","token_endpoint":"https://t.test/","mtls_endpoint_aliases":{odd}}}"#
        );
        assert_eq!(read(body.as_bytes(), "i", true).unwrap().token_alias, None, "{odd}");
    }
}

#[test]
fn a_configured_token_endpoint_takes_precedence_over_an_alias() {
    let published = read(DOCUMENT.as_bytes(), "https://as.test", true).unwrap();
    let token: Option<Url> = "https://mine.test/t".parse().ok();
    let configured = Endpoints { token: token.clone(), ..Endpoints::default() };
    let all = configured.or(published.clone());
    assert_eq!((all.token, all.token_alias), (token, None));
    assert!(Endpoints::default().or(published).token_alias.is_some());
}

#[test]
fn documents_are_cached_for_a_day_and_longer_after_failures() {
    let discovery = Discovery::default();
    let at = |hours: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + hours * 3600);
    let is_known = |issuer, now| matches!(discovery.lookup(issuer, now), CacheLookup::Published(_));
    discovery.store("i", Endpoints::default(), at(0));
    assert!(is_known("i", at(23)));
    for (issuer, now) in [("i", at(24)), ("other", at(1)), ("i", UNIX_EPOCH)] {
        assert!(matches!(discovery.lookup(issuer, now), CacheLookup::Fetch), "{issuer} {now:?}");
    }
    let error = || GrantError::without_answer(ErrorClass::NotSent, "away".to_owned());
    assert!(discovery.record_failure("i", error(), at(24)).is_some());
    assert!(is_known("i", at(24)), "the expired document is used without another request");
    assert!(matches!(discovery.lookup("i", at(25)), CacheLookup::Fetch));
    discovery.store("i", Endpoints::default(), at(25));
    assert!(discovery.record_failure("other", error(), at(25)).is_none());
}

#[test]
fn failures_are_cached_for_a_minute() {
    let discovery = Discovery::default();
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
    let error = GrantError::without_answer(ErrorClass::NotSent, "away".to_owned());
    assert!(discovery.record_failure("i", error, at(0)).is_none());
    for (issuer, seconds, failed) in
        [("i", 0, true), ("i", 59, true), ("i", 60, false), ("j", 1, false)]
    {
        let known = discovery.lookup(issuer, at(seconds));
        assert_eq!(matches!(known, CacheLookup::Failed(_)), failed, "{issuer} {seconds}");
    }
}

#[test]
fn only_server_failures_are_temporary() {
    for (status, class) in [
        (301, ErrorClass::Config),
        (401, ErrorClass::Config),
        (404, ErrorClass::Config),
        (429, ErrorClass::NotSent),
        (500, ErrorClass::NotSent),
        (503, ErrorClass::NotSent),
    ] {
        assert_eq!(refusal(StatusCode::from_u16(status).unwrap()).class, class, "{status}");
    }
}
