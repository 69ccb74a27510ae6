//! Successes that deviate from the standards: no issued token is lost.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

const TOKENS: &str = r#"{"access_token":"at2","refresh_token":"rt2"}"#;

fn expose(secret: Option<Secret>) -> Option<String> {
    secret.map(|secret| secret.expose().to_owned())
}

/// Returns the tokens of a success and whether there were notes.
fn tokens(answer: &RawAnswer) -> (String, Option<String>, bool) {
    let tokens = read_by_default(answer, at(0), &[]);
    let tokens = tokens.unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    (expose(tokens.access_token).unwrap(), expose(tokens.refresh_token), !tokens.notes.is_empty())
}

fn both() -> (String, Option<String>, bool) {
    ("at2".to_owned(), Some("rt2".to_owned()), true)
}

/// E3.
#[test]
fn compressed_answers_are_read() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zlib = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |bytes: &[u8]| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    // An uncompressed brotli block (RFC 7932 §9.2), whose header is padded with zeros.
    let length = u16::try_from(TOKENS.len() - 1).unwrap();
    let header = (u32::from(length) << 4) | (1 << 20);
    let brotli = [&header.to_le_bytes()[..3], TOKENS.as_bytes(), &[3]].concat();
    let json = TOKENS.as_bytes();
    for (codings, body) in [
        (&["gzip"][..], gzip(json)),
        (&["x-gzip"], gzip(json)),
        (&["GZIP"], gzip(json)),
        (&[], gzip(json)),
        (&["identity"], gzip(json)),
        (&["br"], gzip(json)),
        (&["deflate"], zlib(json)),
        (&["deflate"], deflate(json)),
        (&["br"], brotli.clone()),
        (&["gzip, gzip"], gzip(json)),
        (&["gzip", "gzip"], gzip(&gzip(json))),
        (&["gzip"], gzip(&gzip(json))),
        (&["deflate", "gzip"], gzip(&zlib(json))),
        (&["br, gzip"], gzip(&brotli)),
        // Declared but not encoded.
        (&["gzip"], [json, b" "].concat()),
        (&["deflate"], [b"\xef\xbb\xbf ", json].concat()),
        // Without the checksum and the last bytes of the content.
        (&["gzip"], gzip(json).split_last_chunk::<8>().unwrap().0.to_vec()),
    ] {
        let mut compressed = RawAnswer { body, ..answer(200, "") };
        for coding in codings {
            compressed.fields.append("content-encoding", HeaderValue::from_static(coding));
        }
        let (access_token, refresh_token, _) = tokens(&compressed);
        assert_eq!(
            (access_token.as_str(), refresh_token.as_deref()),
            ("at2", Some("rt2")),
            "{codings:?}"
        );
    }
    let mut compressed = RawAnswer { body: gzip(json), ..answer(200, "") };
    compressed.fields.insert("content-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(tokens(&compressed), both());
    let mut error = RawAnswer { body: gzip(br#"{"error":"invalid_grant"}"#), ..answer(400, "") };
    error.fields.insert("content-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(read_by_default(&error, at(0), &[]).unwrap_err().class, ErrorClass::GrantDead);
    let mut unknown = answer(200, "\u{1f}abc");
    unknown.fields.insert("content-encoding", HeaderValue::from_static("zstd"));
    let error = read_by_default(&unknown, at(0), &[]).unwrap_err();
    assert_eq!(error.class, ErrorClass::Unreadable);
    assert!(error.to_string().contains("content coding zstd"), "{error}");
    assert!(error.unread.is_some());
}

#[test]
fn tokens_are_read_from_malformed_json() {
    for body in [
        // Surrounding text.
        &b"\n\n<b>Warning</b>: {x} in a.php\n{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}"[..],
        b")]}',\n{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}",
        b"cb({\"access_token\":\"at2\",\"refresh_token\":\"rt2\"})",
        b"<pre>{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}</pre>",
        b"{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}\r\n0\r\n\r\n",
        b"{\"ok\":1}{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}",
        // Errors inside.
        b"{\"name\":\"\xe9\",\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}",
        b"{\"name\":\"\\x\",\"access_token\":\"at2\",\"refresh_token\":\"rt2\",}",
        b"{\"name\":\"a\nb\",\"access_token\":\"at2\" \"refresh_token\":\"rt2\"}",
        // E4: the end is missing.
        b"{\"access_token\":\"at2\",\"refresh_token\":\"rt2\",\"name\":\"\xc3",
        b"{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"",
        b"{\"access_token\":\"at2\",\"refresh_token\":\"rt2\",\"expires_in\":36",
        // In other places and spellings.
        b"{\"data\":{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"}}",
        b"{\"data\":[{\"accessToken\":\"at2\"},{\"refreshToken\":\"rt2\"}]}",
        b"{\"AccessToken\":\"at2\",\"Refresh-Token\":\"rt2\"}",
        b"{\"access_token\":\"at2\",\"data\":{\"refresh_token\":\"rt2\"}}",
        b"{\"access_token\":\"at2\",\"refreshToken\":\"rt2\"}",
        b"{\"statusCode\":200,\"body\":\"{\\\"access_token\\\":\\\"at2\\\",\\\"refresh_token\\\":\\\"rt2\\\"}\"}",
        b"\"{\\\"access_token\\\":\\\"at2\\\",\\\"refresh_token\\\":\\\"rt2\\\"}\"",
        // Repeated tokens count once; another pair belongs to something else.
        b"{\"a\":{\"access_token\":\"at2\",\"refresh_token\":\"rt2\"},\"b\":{\"refresh_token\":\"rt2\"}}",
        b"{\"access_token\":\"at2\",\"x\":{\"refresh_token\":\"rt2\"},\"user\":{\"access_token\":\"u\",\"refresh_token\":\"ru\"}}",
    ] {
        let body = RawAnswer { body: body.to_vec(), ..answer(200, "") };
        assert_eq!(tokens(&body), both(), "{}", String::from_utf8_lossy(&body.body));
    }
    let lifetime = answer(200, r#"x {"access_token":"at2","expires_in":60,"refresh_token":"rt2","#);
    assert_eq!(read_by_default(&lifetime, at(0), &[]).unwrap().expires_at, Some(at(60)));
    for body in [
        r#"{"data":{"access_token":"at2","expires_in":60,"token_type":"bearer"}}"#,
        r#"{"accessToken":"at2","expiresIn":"60"}"#,
        r#"[{"access_token":"at2","expires_in":60}]"#,
    ] {
        let tokens = read_by_default(&answer(200, body), at(0), &[]).unwrap();
        assert_eq!(tokens.expires_at, Some(at(60)), "{body}");
    }
    let mac = answer(200, r#"{"data":{"access_token":"at2","token_type":"mac"}}"#);
    assert_eq!(read_by_default(&mac, at(0), &[]).unwrap_err().class, ErrorClass::Unusable);
    let cut = RawAnswer { cut: Some("it ended early".into()), ..answer(200, TOKENS) };
    assert_eq!(tokens(&cut), both(), "a complete object is an answer however the connection ended");
}

/// A refresh token that may be missing from a truncated answer is not treated as absent.
#[test]
fn a_truncated_answer_is_not_treated_as_complete() {
    for body in [
        r#"{"access_token":"at2","refresh_token":"rt"#,
        r#"{"access_token":"at2","refresh_tok"#,
        r#"{"access_token":"at2","refresh_token":"rt\q2"}"#,
        r#"{"access_token":"at2","refresh_token":"#,
        r#"{"access_t"#,
        r#"{"access_token":"at2","refresh_token":17"#,
        r#"{"access_token":"at2","sessions":[{"refresh_token":"a"},{"refresh_token":"b"}]}"#,
        r#"{"access_token":"at2","user":{"refresh_token":"another's"},"refresh_tok"#,
        r#"{"a":{"access_token":"x"},"b":{"access_token":"y"}}"#,
        "Hello",
    ] {
        let error = read_by_default(&answer(200, body), at(0), &[]).unwrap_err();
        assert_eq!((error.class, error.recovered), (ErrorClass::Unreadable, None), "{body}");
        assert_eq!(expose(error.unread).unwrap(), body);
    }
    // The credential's own grant has no refresh token to lose.
    let wanted = Expectation { rotates: false, for_steps: false };
    let cut = answer(200, r#"{"access_token":"at2","expires_in":60,"na"#);
    let own = read_as(wanted, &cut, &TokenResponseFormat::default(), at(0), &[]).unwrap();
    assert_eq!((expose(own.access_token).unwrap().as_str(), own.expires_at), ("at2", Some(at(60))));
    let others = r#"{"access_token":"at2","u":[{"access_token":"u","refresh_token":"a"}]}"#;
    assert_eq!(tokens(&answer(200, others)).1, None, "another's token");
}

/// E2: the configured places are empty.
#[test]
fn refresh_tokens_are_recovered_from_other_places() {
    let place = Mapping { access_token: Some(path("result.token")), ..Mapping::default() };
    let reading = mapped(place);
    let read = |body: &str, secrets: &[&Secret]| read(&answer(200, body), &reading, at(0), secrets);
    for body in [
        r#"{"data":{"token":"at2","refreshToken":"rt2"}}"#,
        r#"{"data":[{"refresh_token":"rt2"},{"refresh_token":"rt2"}]}"#,
    ] {
        let error = read(body, &[]).unwrap_err();
        assert_eq!((error.class, error.unread), (ErrorClass::Unreadable, None), "{body}");
        assert_eq!(expose(error.recovered).as_deref(), Some("rt2"), "{body}");
    }
    let two = r#"{"data":[{"refresh_token":"rt1"},{"refresh_token":"rt2"}]}"#;
    let error = read(two, &[]).unwrap_err();
    assert!(error.recovered.is_none() && error.unread.is_some());
    assert!(!format!("{error} {error:?}").contains("rt1"));
    let both = read(r#"{"data":{"access_token":"at2","refresh_token":"rt2"}}"#, &[]).unwrap();
    assert_eq!(expose(both.access_token).as_deref(), Some("at2"));
    assert!(both.notes.concat().contains("`response`"), "{:?}", both.notes);
    let inside = read(r#"{"result":{"token":"at2","refresh_token":"rt2"}}"#, &[]).unwrap();
    assert_eq!(expose(inside.refresh_token).as_deref(), Some("rt2"));
    let refused = r#"{"error":"weird","refresh_token":"rt2"}"#;
    let error = read(refused, &[]).unwrap_err();
    assert_eq!(
        (error.class, expose(error.recovered).as_deref()),
        (ErrorClass::Config, Some("rt2"))
    );
}

#[test]
fn unreadable_answers_are_kept_up_to_a_limit() {
    let long = format!("{}é", "a".repeat(reader::MAX_UNREAD - 1)).repeat(2);
    let error = read_by_default(&answer(200, &long), at(0), &[]).unwrap_err();
    let unread = expose(error.unread).unwrap();
    assert!(unread.len() <= reader::MAX_UNREAD && unread.starts_with("aaa"));
    let page = read_by_default(&answer(200, "<html>"), at(0), &[]).unwrap_err();
    assert_eq!((page.class, page.unread.is_some()), (ErrorClass::Gateway, true));
    for (status, body) in [(400, "x"), (500, "x"), (200, r#"{"error":"invalid_grant"}"#)] {
        let error = read_by_default(&answer(status, body), at(0), &[]).unwrap_err();
        assert!(error.unread.is_none(), "{status} {body}");
    }
}

/// E38.
#[test]
fn token_types_that_name_the_owner_mean_bearer() {
    let read_as_type = |kind: &str, wanted| {
        let body =
            serde_json::json!({ "access_token": "a", "refresh_token": "r", "token_type": kind });
        read_as(
            wanted,
            &answer(200, &body.to_string()),
            &TokenResponseFormat::default(),
            at(0),
            &[],
        )
    };
    let wanted = Expectation { rotates: true, for_steps: false };
    for (kind, is_noted) in [
        ("User Access Token", true),
        ("Application Access Token", true),
        ("Application", true),
        ("OrgUser", true),
        ("Bearer Token", true),
        ("jwt", true),
        ("urn:ietf:params:oauth:token-type:access_token", true),
        (" Bearer ", false),
        ("bOt", false),
    ] {
        let tokens = read_as_type(kind, wanted).unwrap();
        assert_eq!(
            (tokens.token_type, !tokens.notes.is_empty()),
            (TokenType::Bearer, is_noted),
            "{kind}"
        );
    }
    for kind in ["mac", "N_A", "pop", "SharedKey"] {
        let error = read_as_type(kind, wanted).unwrap_err();
        assert_eq!(
            (error.class, expose(error.recovered).as_deref()),
            (ErrorClass::Unusable, Some("r")),
            "{kind}"
        );
        let tokens = read_as_type(kind, Expectation { for_steps: true, ..wanted }).unwrap();
        assert_eq!(tokens.token_type, TokenType::Bearer, "{kind}");
    }
    let error = read_as_type("DPoP", Expectation { for_steps: true, ..wanted }).unwrap_err();
    assert_eq!(error.class, ErrorClass::Unusable);
}

/// E38 again.
#[test]
fn the_limit_for_access_tokens_is_named() {
    let body = |length: usize| {
        format!(r#"{{"access_token":"{}","refresh_token":"r"}}"#, "a".repeat(length))
    };
    assert!(read_by_default(&answer(200, &body(20_000)), at(0), &[]).is_ok());
    assert!(read_by_default(&answer(200, &body(65_536)), at(0), &[]).is_ok());
    let error = read_by_default(&answer(200, &body(65_537)), at(0), &[]).unwrap_err();
    assert_eq!(
        (error.class, expose(error.recovered.clone()).as_deref()),
        (ErrorClass::Unusable, Some("r"))
    );
    assert!(error.to_string().contains("65536 bytes (limits.token_bytes)"), "{error}");
}

/// E37, and E45 for other names.
#[test]
fn expiry_of_refresh_token_and_grant_is_read() {
    let body = r#"{"access_token":"a","refresh_token_timeout":60,"authorization_expires_in":"600","rt":{"ttl":90}}"#;
    let tokens = read_by_default(&answer(200, body), at(0), &[]).unwrap();
    assert_eq!((tokens.refresh_expires_at, tokens.grant_expires_at), (Some(at(60)), Some(at(600))));
    let place = Mapping { refresh_expires_in: Some(path("rt.ttl")), ..Mapping::default() };
    let tokens = read(&answer(200, body), &mapped(place), at(0), &[]).unwrap();
    assert_eq!(tokens.refresh_expires_at, Some(at(90)));
    let none = r#"{"access_token":"a","authorization_expires_in":0}"#;
    assert_eq!(read_by_default(&answer(200, none), at(0), &[]).unwrap().grant_expires_at, None);
}

/// A value under the name of a refresh token is a token, in any shape, and never "absent": the old
/// token would be presented again, which looks like token theft.
#[test]
fn refresh_tokens_in_other_shapes_are_used_or_reported() {
    let sent = Secret::new("rt1".to_owned());
    let read = |members: &str| {
        let body = format!(r#"{{"access_token":"at2",{members}}}"#);
        read_by_default(&answer(200, &body), at(0), &[&sent])
    };
    for (members, expected) in [
        (r#""refresh_token":{"token":"rt2"}"#, Some("rt2")),
        (r#""refresh_token":{"value":"rt2"}"#, Some("rt2")),
        (r#""refresh_token":["rt2"]"#, Some("rt2")),
        (r#""refresh_token":[{"token":"rt2","type":"opaque"}]"#, Some("rt2")),
        (r#""refreshToken":{"token":"rt2","expires_in":60,"type":"x"}"#, Some("rt2")),
        (r#""refreshToken":{"jwt":"rt2","expires_at":"2030-01-01"}"#, Some("rt2")),
        (r#""data":{"refresh_token":{"token":"rt2"}}"#, Some("rt2")),
        (r#""refresh":"rt2""#, Some("rt2")),
        (r#""refresh":{"token":"rt2","expires":60}"#, Some("rt2")),
        (r#""refresh_token_v2":"rt2""#, Some("rt2")),
        (r#""new_refresh_token":"rt2""#, Some("rt2")),
        (r#""refresh_token":"rt1","new_refresh_token":"rt2""#, Some("rt2")),
        (r#""refresh_token":{"new":{"token":"rt2"},"old":{"token":"rt1"}}"#, Some("rt2")),
        (r#""refresh_token":["rt1","rt2"]"#, Some("rt2")),
        (r#""data":{"refresh_token":"rt1","new_refresh_token":"rt2"}"#, Some("rt2")),
        (r#""refresh_token":"rt2\n""#, Some("rt2")),
        // The token that was sent.
        (r#""refresh_token":{"token":"rt1"}"#, Some("rt1")),
        // Numbers are kept as written.
        (r#""refresh_token":4243"#, Some("4243")),
        (r#""refresh_token":{"token":4243}"#, Some("4243")),
        (
            r#""refresh_token":123456789012345678901234567890"#,
            Some("123456789012345678901234567890"),
        ),
        (r#""refresh_token":1.50"#, Some("1.50")),
        (r#""data":{"refresh_token":12345678901234567890123}"#, Some("12345678901234567890123")),
        // Duplicates: the last one counts, as in JSON parsers and so in the server's own clients.
        (r#""refresh_token":"rt2","refresh_token":"rt2""#, Some("rt2")),
        (r#""refresh_token":"rt1","refresh_token":"rt2""#, Some("rt2")),
        (r#""refresh_token":"rt2","refresh_token":"rt1""#, Some("rt2")),
        (r#""refresh_token":"rt2","refresh_token":"rt3""#, Some("rt3")),
        // No token.
        (r#""refresh_token":"null""#, None),
        (r#""refresh_token":"undefined""#, None),
        (r#""refresh_token":"  ""#, None),
        (r#""refresh_token":false"#, None),
        (r#""refresh_token":{}"#, None),
        (r#""refresh_token":[]"#, None),
        (r#""refresh_token":{"token":null}"#, None),
        (
            r#""refresh_token_status":"approved","refresh_token_issued_at":"1","refresh_count":"0""#,
            None,
        ),
        (r#""refresh_token_expires_in":60,"refresh_token_id":"x","has_refresh_token":true"#, None),
        (r#""refresh":3600"#, None),
        (r#""refresh":"https://as.test/refresh""#, None),
        (r#""refresh":{"after":"tomorrow","how":"ask"}"#, None),
    ] {
        let tokens = read(members).unwrap_or_else(|error| panic!("{members}: {error}"));
        assert_eq!(expose(tokens.refresh_token).as_deref(), expected, "{members}");
    }
    for members in [
        r#""refresh_token":{"a":"rt2","b":"rt3"}"#,
        r#""refresh_token":["rt2","rt3"]"#,
        r#""refresh_token":["rt1","rt2","rt3"]"#,
        r#""refresh_token":true"#,
        r#""refresh_token":{"expires_in":60}"#,
        r#""refresh_token":[[{"id":7}]]"#,
        r#""a":{"refresh_token":"rt2"},"b":{"refresh_token":"rt3"}"#,
        r#""a":{"refresh_token":"rt1"},"b":{"refresh_token":"somebody else's"}"#,
        r#""refreshToken":["rt2","rt3"]"#,
    ] {
        let error = read(members).expect_err(members);
        assert_eq!((error.class, error.recovered), (ErrorClass::Unreadable, None), "{members}");
        assert!(error.unread.is_some(), "{members}");
    }
    let cut = answer(200, r#"{"access_token":"at2","refresh_token":["rt1""#);
    let error = read_by_default(&cut, at(0), &[&sent]).unwrap_err();
    assert_eq!(error.class, ErrorClass::Unreadable, "its successor may have followed");
    // The credential's own grant has no refresh token to lose.
    let wanted = Expectation { rotates: false, for_steps: false };
    let odd = answer(200, r#"{"access_token":"at2","refresh_token":{"a":"b","c":"d"}}"#);
    assert!(read_as(wanted, &odd, &TokenResponseFormat::default(), at(0), &[]).is_ok());
}

#[test]
fn tokens_are_read_from_markup_and_unusual_encodings() {
    let utf16 = |text: &str, bom: &[u8], to: fn(u16) -> [u8; 2]| {
        [bom, &text.encode_utf16().flat_map(to).collect::<Vec<_>>()].concat()
    };
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(TOKENS.as_bytes()).unwrap();
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
    deflate.write_all(TOKENS.as_bytes()).unwrap();
    for body in [
        b"<OAuth><access_token>at2</access_token><refresh_token>rt2</refresh_token></OAuth>".to_vec(),
        b"<?xml version='1.0'?>\n<o:OAuth xmlns:o='x'><o:access_token>at2</o:access_token>\n<o:refresh_token> <![CDATA[rt2]]> </o:refresh_token></o:OAuth>".to_vec(),
        b"<token access_token=\"at2\" refresh_token='rt2'/>".to_vec(),
        b"<form><input type=hidden name=access_token value='at2'><input value=\"rt2\" name=\"refresh_token\"></form>".to_vec(),
        b"<html><pre>{&quot;access_token&quot;:&quot;at2&quot;,&quot;refresh_token&quot;:&quot;rt2&quot;}</pre></html>".to_vec(),
        b"<html>{&#34;access_token&#34;:&#34;at2&#34;,&#x22;refresh_token&#x22;:&#34;rt2&#34;}</html>".to_vec(),
        utf16(TOKENS, b"\xff\xfe", u16::to_le_bytes),
        utf16(TOKENS, b"\xfe\xff", u16::to_be_bytes),
        utf16(TOKENS, b"", u16::to_le_bytes),
        utf16(TOKENS, b"", u16::to_be_bytes),
        zlib.finish().unwrap(),
        deflate.finish().unwrap(),
    ] {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = RawAnswer { body, ..answer(200, "") };
        let (access_token, refresh_token, _) = tokens(&answer);
        assert_eq!((&*access_token, refresh_token.as_deref()), ("at2", Some("rt2")), "{shown}");
    }
    let alone = read_by_default(&answer(200, "<p><refresh_token>rt2</refresh_token>"), at(0), &[]);
    let alone = alone.unwrap_err();
    assert_eq!(
        (alone.class, expose(alone.recovered).as_deref()),
        (ErrorClass::Unreadable, Some("rt2"))
    );
    let page = "<html><title>Refresh token</title><input name=refresh_token></html>";
    assert_eq!(class_of(200, page), ErrorClass::Gateway);
}

/// TikTok has an `error` object in every answer.
#[test]
fn an_empty_error_next_to_a_token_is_ignored() {
    let read = |error: &str| {
        let body = format!(r#"{{"access_token":"at2","refresh_token":"rt2","error":{error}}}"#);
        read_by_default(&answer(200, &body), at(0), &[])
    };
    for error in [
        r#""0""#,
        r#""00""#,
        r#""ok""#,
        r#""OK""#,
        r#""none""#,
        r#""success""#,
        r#""no_error""#,
        "{}",
        "[]",
        r#"{"code":"ok","message":"","log_id":"x"}"#,
        r#"{"code":0}"#,
        r#"{"code":null}"#,
        r#"{"code":null,"message":null}"#,
        r#"{"code":"0","type":"none"}"#,
        "0",
        "false",
    ] {
        let tokens = read(error).unwrap_or_else(|it| panic!("{error}: {it}"));
        assert_eq!(expose(tokens.refresh_token).as_deref(), Some("rt2"), "{error}");
    }
    for error in [
        r#""weird""#,
        "17",
        r#"{"code":"weird"}"#,
        r#"{"code":null,"message":"bad"}"#,
        r#"{"message":"bad"}"#,
        r#"{"code":0,"type":"weird"}"#,
    ] {
        let error = read(error).expect_err(error);
        assert_eq!(expose(error.recovered.clone()).as_deref(), Some("rt2"), "{error}");
        let said = error.to_string();
        assert!(said.contains("response.ok") && said.contains("response.error"), "{said}");
    }
    assert_eq!(class_of(200, r#"{"error":"ok"}"#), ErrorClass::Config);
}

#[test]
fn access_tokens_have_no_spaces() {
    let read = |token: &str, wanted| {
        let body = serde_json::json!({ "access_token": token, "refresh_token": "rt2" }).to_string();
        read_as(wanted, &answer(200, &body), &TokenResponseFormat::default(), at(0), &[])
    };
    let wanted = Expectation { rotates: true, for_steps: false };
    for token in ["at2\n", "at2\r\n"] {
        let tokens = read(token, wanted).unwrap();
        assert_eq!(expose(tokens.access_token).as_deref(), Some("at2"));
        assert!(tokens.notes.concat().contains("line break"), "{:?}", tokens.notes);
    }
    assert!(read("Bearer at2", wanted).is_ok(), "an injection of one's own may want it so");
    for token in ["Bearer error: no token", "an error occurred", "at 2", "a\nb"] {
        let error = read(token, wanted).unwrap_err();
        assert_eq!(
            (error.class, expose(error.recovered).as_deref()),
            (ErrorClass::Unusable, Some("rt2")),
            "{token}"
        );
    }
    assert!(read("at 2", Expectation { for_steps: true, ..wanted }).is_ok());
    for none in ["null", "undefined", " "] {
        assert_eq!(read(none, wanted).unwrap_err().class, ErrorClass::Unreadable, "{none}");
    }
}
