#![allow(clippy::unwrap_used)]
use std::time::Duration;

use super::*;

fn names() -> Names {
    let mut names = Names::default();
    names.insert("client_id", "acme");
    names.insert("dollar", "${uuid}$");
    names.insert_secret("key", Secret::new("k-1".to_owned()));
    names.insert_variable("club");
    names.with(DeferredName::AccessToken)
}

fn values() -> Values<'static> {
    Values { access_token: "at", ..Values::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000)) }
}

#[test]
fn names_are_replaced_by_their_values() {
    for (text, expected) in [
        ("", ""),
        ("plain é", "plain é"),
        ("Bearer ${access_token}", "Bearer at"),
        ("${client_id}:${key}", "acme:k-1"),
        ("a$$b$$${now}$$", "a$b$1700000000$"),
        ("$${uuid}", "${uuid}"),
        ("${dollar}", "${uuid}$"),
        ("${access_token}${access_token}", "atat"),
    ] {
        let template = Template::parse(text, &names()).unwrap();
        assert_eq!(template.expand(values()), expected, "{text}");
    }
}

#[test]
fn errors_have_a_position() {
    use TemplateFault::{Dollar, NotHere, Unclosed, Unknown};
    for (text, at, why) in [
        ("a $b", 2..3, Dollar),
        ("$", 0..1, Dollar),
        ("$$$", 2..3, Dollar),
        ("x${now", 1..6, Unclosed),
        ("${}", 0..3, Unknown),
        ("x ${nothing} y", 2..12, Unknown),
        ("${ now }", 0..8, Unknown),
        ("${NOW}", 0..6, Unknown),
        ("${raw.a}", 0..8, NotHere),
        ("${assertion}", 0..12, NotHere),
        ("${raw.}", 0..7, Unknown),
        ("${raw..a}", 0..9, Unknown),
    ] {
        let error = Template::parse(text, &names()).unwrap_err();
        assert_eq!(error, TemplateError { at, why }, "{text}");
    }
    let error = Template::parse("${access_token}", &Names::default()).unwrap_err();
    assert_eq!(error.why, NotHere);
}

#[test]
fn field_values_are_sensitive_and_have_no_line_breaks() {
    let field = |text: &str| Template::parse(text, &names()).unwrap();
    assert!(field("a ${key}").expand_field(values()).unwrap().is_sensitive());
    for text in ["a\r\nb", "a\n", "\0", "é"] {
        assert!(!field(text).fits_field(), "{text:?}");
    }
    let broken = Values { access_token: "a\r\nb", ..values() };
    assert!(field("${access_token}").expand_field(broken).is_err());
}

#[test]
fn deferred_values_are_expanded() {
    let names = names().with_raw().with(DeferredName::TokenUrl).with(DeferredName::Assertion);
    let variables = Variables::from([("club".to_owned(), "paris".to_owned())]);
    let raw = BTreeMap::from([("a.b".to_owned(), Secret::new("x".to_owned()))]);
    let values = Values {
        variables: Some(&variables),
        raw: Some(&raw),
        token_url: "https://as/token",
        assertion: "j.w.t",
        ..values()
    };
    for (text, expected) in [
        ("/${club}/${raw.a.b}${raw.c}", "/paris/x"),
        ("${token_url} ${assertion}", "https://as/token j.w.t"),
    ] {
        let template = Template::parse(text, &names).unwrap();
        assert_eq!(template.expand(values), expected);
    }
    let template = Template::parse("${club}${raw.a.b}", &names).unwrap();
    assert_eq!(template.variables().collect::<Vec<_>>(), ["club"]);
    assert_eq!(template.raw().collect::<Vec<_>>(), ["a.b"]);
}

#[test]
fn request_fields_are_variables() {
    let mut names = names();
    assert_eq!(Template::parse("${field.X-Club}", &names).unwrap_err().why, TemplateFault::Unknown);
    names.insert_fields();
    let template = Template::parse("a ${field.X-Club}", &names).unwrap();
    assert_eq!(template.variables().collect::<Vec<_>>(), ["field.x-club"]);
    let variables = Variables::from([("field.x-club".to_owned(), "paris".to_owned())]);
    let values = Values { variables: Some(&variables), ..values() };
    assert_eq!(template.expand(values), "a paris");
    for text in ["${field.}", "${field.a b}", "${field}", "${Field.a}"] {
        assert_eq!(
            Template::parse(text, &names).unwrap_err().why,
            TemplateFault::Unknown,
            "{text}"
        );
    }
    let client = Template::parse("${client}", &names).unwrap();
    assert_eq!(client.variables().collect::<Vec<_>>(), ["client"]);
    let error = Template::parse("${client}", &Names::default()).unwrap_err();
    assert_eq!(error.why, TemplateFault::Client);
}

#[test]
fn uuids_are_random_and_have_version_4() {
    let template = Template::parse("${uuid}", &names()).unwrap();
    let (one, two) = (template.expand(values()), template.expand(values()));
    assert_ne!(one, two);
    let parts: Vec<_> = one.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert_eq!(one.chars().nth(14), Some('4'));
    assert!(one.chars().nth(19).is_some_and(|c| "89ab".contains(c)), "{one}");
}

#[test]
fn only_the_bearer_form_is_recognised() {
    let is_bearer = |text| Template::parse(text, &names()).unwrap().is_bearer();
    assert!(is_bearer("Bearer ${access_token}"));
    assert!(!is_bearer("bearer ${access_token}") && !is_bearer("Bearer ${access_token} "));
}

#[test]
fn templates_cannot_be_printed_and_fingerprints_differ() {
    let parse = |text| Template::parse(text, &names()).unwrap();
    assert_eq!(format!("{:?}", parse("geheim ${key}")), "Template(…)");
    assert_eq!(parse("a${now}").fingerprint(), parse("a${now}").fingerprint());
    assert_ne!(parse("a${now}").fingerprint(), parse("a${uuid}").fingerprint());
    assert_ne!(parse("a").fingerprint(), parse("b").fingerprint());
    assert_eq!(parse("${key}x").secrets().count(), 1);
}
