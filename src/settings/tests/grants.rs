//! What grants, client authentication and their keys send, and what is refused.

use super::providers::{configured, sent};
use super::*;
use crate::oauth::{Grant, GrantRenewal};

fn bare(more: &str) -> String {
    format!(
        "[credential.x]\nhosts = [\"api.test\"]\ntoken_url = \"https://as.test/token\"\n{more}\n"
    )
}

#[track_caller]
fn own(more: &str) -> String {
    sent(&configured(&bare(more)).unwrap_or_else(|problems| panic!("{problems}")), Grant::Own)
}

const CLIENT: &str = "client_id = \"acme\"\nclient_secret = { env = \"S\" }\n";

#[test]
fn a_password_is_presented_first_and_then_refreshed() {
    let text = format!(
        "{CLIENT}grant = \"password\"\nusername = \"svc\"\npassword = {{ env = \"P\" }}\nscope = \"a b\""
    );
    let config = configured(&bare(&text)).unwrap();
    assert_eq!(config.token.oauth.grant.renewal(), GrantRenewal::RefreshToken);
    let token = Secret::new("rt".to_owned());
    let client = "&scope=a+b&client_id=acme&client_secret=value";
    let begin = "POST https://as.test/token\ngrant_type=";
    assert_eq!(
        sent(&config, Grant::Bootstrap),
        format!("{begin}password&username=svc&password=value{client}")
    );
    assert_eq!(
        sent(&config, Grant::RefreshToken(&token)),
        format!("{begin}refresh_token&refresh_token=rt{client}")
    );
    let warnings = report(&bare(&text));
    assert!(warnings.contains("RFC 9700"), "{warnings}");
}

#[test]
fn a_bootstrap_has_its_own_scope_and_parameters() {
    let text = format!(
        "{CLIENT}scope = \"a\"\nparams = {{ p = \"1\", q = \"1\" }}\nbootstrap = {{ grant = \"password\", username = \"${{client_id}}-svc\", password = {{ env = \"P\" }}, scope = \"b\", params = {{ q = \"2\" }} }}"
    );
    let config = configured(&bare(&text)).unwrap();
    assert_eq!(
        sent(&config, Grant::Bootstrap),
        "POST https://as.test/token\ngrant_type=password&username=acme-svc&password=value&scope=b\
         &client_id=acme&client_secret=value&p=1&q=2"
    );
    assert!(!report(&bare(&text)).contains("no first refresh token"));
}

#[test]
fn a_token_is_exchanged_for_another() {
    let text = format!(
        "{CLIENT}client_auth = \"none\"\ngrant = \"token_exchange\"\nsubject_token = {{ file = \"t\" }}\nactor_token = {{ file = \"u\" }}\nactor_token_type = \"urn:x\"\nparams = {{ resource = [\"a\", \"b\"] }}"
    );
    assert_eq!(
        own(&text),
        "POST https://as.test/token\n\
         grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=subject\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&actor_token=actor\
         &actor_token_type=urn%3Ax&client_id=acme&resource=a&resource=b"
    );
}

#[test]
fn codes_are_exchanged_as_the_standards_say() {
    let config =
        configured(&bare(&format!("{CLIENT}grant = \"device_code\"\nscope = \"a\""))).unwrap();
    let (code, verifier) = (Secret::new("c".to_owned()), Secret::new("v".to_owned()));
    let grant = Grant::AuthorizationCode {
        code: &code,
        redirect_uri: "http://127.0.0.1:1/",
        verifier: Some(&verifier),
    };
    let client = "&client_id=acme&client_secret=value";
    assert_eq!(
        sent(&config, grant),
        format!(
            "POST https://as.test/token\ngrant_type=authorization_code&code=c\
             &redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2F&code_verifier=v{client}"
        )
    );
    assert_eq!(
        sent(&config, Grant::DeviceCode(&code)),
        format!(
            "POST https://as.test/token\n\
             grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=c{client}"
        )
    );
}

#[test]
fn parameters_travel_as_form_as_json_or_in_the_query() {
    let with = |encoding: &str| {
        own(&format!(
            "{CLIENT}grant = \"client_credentials\"\nencoding = \"{encoding}\"\nparams = {{ a = [\"x\", \"y\"], b = [\"z\"], c = \"\\\"é\", client_secret = \"\" }}"
        ))
        .replace("https://as.test/token", "URL")
    };
    let pairs = "grant_type=client_credentials&client_id=acme&a=x&a=y&b=z&c=%22%C3%A9";
    assert_eq!(with("form"), format!("POST URL\n{pairs}"));
    assert_eq!(with("query"), format!("POST URL?{pairs}\n"));
    assert_eq!(with("get"), format!("GET URL?{pairs}\n"));
    assert_eq!(
        with("json"),
        "POST URL\n{\"grant_type\":\"client_credentials\",\"client_id\":\"acme\",\
         \"a\":[\"x\",\"y\"],\"b\":[\"z\"],\"c\":\"\\\"é\"}"
    );
}

#[test]
fn a_client_secret_signs_and_an_issuer_is_the_audience() {
    let text = format!(
        "{CLIENT}grant = \"client_credentials\"\nclient_auth = \"client_secret_jwt\"\nissuer = \"https://as.test\""
    );
    let request = own(&text);
    assert!(request.contains("{\"alg\":\"HS256\",\"typ\":\"JWT\"}"), "{request}");
    assert!(request.contains("\"aud\":\"https://as.test\""), "{request}");
    assert!(!request.contains("client_secret="), "{request}");
}

#[test]
fn a_granted_assertion_and_the_clients_own_are_two() {
    let text = "client_id = \"acme\"\ngrant = \"jwt_bearer\"\nclient_auth = \"private_key_jwt\"\n\
                assertion = { key = { file = \"jwk\" }, iss = \"me\", sub = \"you\", claims = { n = [1, true, { a = \"${client_id}\" }] } }";
    let request = own(text);
    let claims = "\"exp\":1700000270,\"iat\":1699999970";
    assert!(
        request.contains(&format!(
            "&assertion={{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}}.{{\"aud\":\"https://as.test/token\",{claims},\"iss\":\"me\",\"jti\":\"U\",\"n\":[1,true,{{\"a\":\"acme\"}}],\"nbf\":1699999970,\"sub\":\"you\"}}"
        )),
        "{request}"
    );
    assert!(
        request.contains(&format!(
            "&client_assertion={{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}}.{{\"aud\":\"https://as.test/token\",{claims},\"iss\":\"acme\",\"jti\":\"U\",\"nbf\":1699999970,\"sub\":\"acme\"}}"
        )),
        "{request}"
    );
}

#[test]
fn what_a_grant_lacks_is_said_where_it_belongs() {
    for (more, place, says) in [
        ("client_id = \"a\"\ngrant = \"password\"", "5:9", "`credential.x.username` is missing"),
        ("client_id = \"a\"\ngrant = \"password\"", "5:9", "`credential.x.password` is missing"),
        (
            "client_id = \"a\"\ngrant = \"token_exchange\"",
            "5:9",
            "`credential.x.subject_token` is missing",
        ),
        ("grant = \"jwt_bearer\"", "4:9", "`credential.x.assertion` is missing"),
        ("grant = \"self_signed_jwt\"", "4:9", "`credential.x.assertion` is missing"),
        ("grant = \"static\"", "1:13", "the static grant has no token"),
        (
            "grant = \"static\"\ninject = { A = \"${access_token}\" }",
            "5:16",
            "the static grant has none",
        ),
        (
            "grant = \"client_credentials\"\nclient_id = \"a\"",
            "1:13",
            "the client_credentials grant needs it",
        ),
        ("client_id = \"a\"\nclient_auth = \"both\"", "1:13", "client_auth = \"both\" needs it"),
        (
            "client_id = \"a\"\nclient_auth = \"private_key_jwt\"",
            "5:15",
            "`credential.x.assertion` is missing",
        ),
        (
            "client_id = \"a\"\nassertion = { kid = \"k\" }",
            "5:13",
            "`credential.x.assertion.key` is missing",
        ),
        (
            "client_id = \"a\"\nassertion = { key = { file = \"junk\" } }",
            "5:21",
            "neither a private key in PEM nor",
        ),
        (
            "client_id = \"a\"\nassertion = { alg = \"RS1\", key = { file = \"jwk\" } }",
            "5:21",
            "an algorithm that is not known",
        ),
        (
            "client_id = \"a\"\nassertion = { alg = \"ES256\", key = { file = \"jwk\" } }",
            "5:36",
            "does not suit the algorithm",
        ),
        (
            "client_id = \"a\"\nclient_auth = \"private_key_jwt\"\nassertion = { alg = \"HS256\", key = { file = \"jwk\" } }",
            "6:21",
            "does not suit",
        ),
        (
            "client_id = \"a\"\nassertion = { nonsense = 1 }",
            "5:15",
            "`credential.x.assertion` has an unknown key",
        ),
        (
            "client_id = \"a\"\nassertion = { ttl = \"x\" }",
            "5:21",
            "`credential.x.assertion.ttl` must be",
        ),
        (
            "client_id = \"a\"\nbootstrap = { username = \"x\" }",
            "5:13",
            "`credential.x.bootstrap.grant` is missing",
        ),
        (
            "client_id = \"a\"\nbootstrap = { grant = \"device_code\" }",
            "5:23",
            "brings no refresh token by itself",
        ),
        (
            "client_id = \"a\"\nbootstrap = { grant = \"password\" }",
            "5:13",
            "`credential.x.bootstrap.username` is missing",
        ),
        (
            "client_id = \"a\"\nrefresh_url = \"http://x.test/\"",
            "5:15",
            "`credential.x.refresh_url` is not https",
        ),
        ("client_id = \"a\"\nissuer = \"as.test\"", "5:10", "`credential.x.issuer` is not a URL"),
        (
            "client_id = \"a\"\nsteps = [{ encoding = \"get\" }]",
            "5:10",
            "`credential.x.steps.url` is missing",
        ),
        (
            "client_id = \"a\"\nsteps = [{ url = \"https://x.test\", response = { access_token = \"a..b\" } }]",
            "5:64",
            "must be a path of names",
        ),
        ("client_id = \"a\"\nencoding = \"xml\"", "5:12", "`credential.x.encoding` must be"),
    ] {
        let report = configured(&bare(more)).expect_err(more).to_string();
        assert!(report.contains(&format!("--> proxy.toml:{place}\n")), "{report}");
        assert!(report.contains(says), "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn what_a_grant_does_not_use_is_warned_about() {
    for (more, key) in [
        ("grant = \"client_credentials\"\nusername = \"u\"", "username"),
        ("grant = \"client_credentials\"\nbootstrap = { grant = \"custom\" }", "bootstrap"),
        ("grant = \"client_credentials\"\nrefresh_token = { env = \"R\" }", "refresh_token"),
        ("grant = \"custom\"\nscope = \"a\"", "scope"),
        ("subject_token = { env = \"T\" }", "subject_token"),
    ] {
        let report = report(&bare(&format!("{CLIENT}{more}")));
        assert!(report.contains(&format!("`credential.x.{key}` is not used by the")), "{report}");
    }
}

#[test]
fn an_issuer_can_stand_for_the_token_endpoint() {
    let text =
        format!("{CLIENT}issuer = \"https://as.test/${{tenant}}\"\nvars = {{ tenant = \"acme\" }}");
    let text = bare(&text).replace("token_url", "#");
    let settings = load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(settings.summary().concat().ends_with("grant refresh_token, issuer as.test"));
    refused(&text.replace("issuer", "#"), "1:13", "or issuer = \"https://…\"");
}

#[test]
fn a_secret_of_a_grant_never_reaches_a_debug_text() {
    let text = format!(
        "{CLIENT}grant = \"password\"\nusername = \"svc\"\npassword = {{ env = \"P\" }}\nassertion = {{ key = {{ file = \"jwk\" }} }}"
    );
    let debug = format!("{:?}", configured(&bare(&text)).unwrap());
    assert!(!debug.contains("value") && !debug.contains("nWGxne"), "{debug}");
}

#[test]
fn a_grant_that_takes_a_person_wants_a_first_refresh_token() {
    for grant in ["refresh_token", "device_code", "authorization_code"] {
        let text = bare(&format!("{CLIENT}grant = \"{grant}\""));
        assert!(report(&text).contains("no first refresh token"), "{grant}");
    }
}

/// What is stored with a dead grant: it may change only where a key is used that was not there before.
#[test]
fn the_fingerprint_of_an_assertion_stays_what_it_was() {
    for (more, expected) in [
        (
            "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"jwk\" } }",
            "6263c7a04e69b82ce58a9b62cd3030c2be5baf162a0e5e8dd016dc628e1945a6",
        ),
        (
            "grant = \"jwt_bearer\"\nassertion = { key = { file = \"jwk\" }, alg = \"EdDSA\", kid = \"k\", iss = \"me\", \
             sub = \"you\", aud = \"them\", ttl = \"3m\", claims = { n = [1, true, { a = \"${client_id}\" }] } }",
            "9eb29ec7b527dfaa2fb505ac436b80203f5d1d4193691186b1576f093edd2fb0",
        ),
        (
            "client_auth = \"client_secret_jwt\"\nclient_secret = { env = \"S\" }",
            "bad0ac38411dd007a51de0ac321bb28dd102e77fac46a2fe1936343e8b1d2393",
        ),
    ] {
        let config = configured(&bare(&format!("client_id = \"acme\"\n{more}"))).unwrap();
        assert_eq!(config.token.oauth.fingerprint().as_str(), expected, "{more}");
    }
}

/// What a key file is read as, in `configured`: the sample of that name.
#[test]
fn an_assertion_says_what_people_ask_for() {
    let text = "client_id = \"acme\"\ngrant = \"client_credentials\"\nclient_auth = \"private_key_jwt\"\n\
                assertion = { key = { file = \"k.pem\" }, cert = \"cert.pem\", backdate = \"1m\", \
                header = { typ = \"client-authentication+jwt\", n = 1, who = \"${client_id}\" } }";
    let request = own(text);
    for says in [
        "\"typ\":\"client-authentication+jwt\"",
        "\"n\":1",
        "\"who\":\"acme\"",
        "\"x5t\":\"",
        "\"x5t#S256\":\"",
        "\"exp\":1700000240,\"iat\":1699999940",
    ] {
        assert!(request.contains(says), "{says} in {request}");
    }
    for (more, at, says) in [
        (
            "key = { file = \"jwk\" }, header = { alg = \"none\" }",
            "alg",
            "write alg = \"…\" in assertion",
        ),
        ("key = { file = \"jwk\" }, header = { b64 = false }", "b64", "`b64`"),
        (
            "key = { file = \"jwk\" }, header = { a = \"${b}\" }",
            "${b}",
            "`credential.x.assertion.header`",
        ),
        (
            "key = { file = \"jwk\" }, cert = \"cert.pem\"",
            "\"cert.pem",
            "is not the certificate of the assertion's key",
        ),
        (
            "key = { file = \"k.pem\" }, cert = \"junk\"",
            "\"junk",
            "`credential.x.assertion.cert` holds no certificate",
        ),
        (
            "alg = \"HS256\", key = { file = \"junk\" }, cert = \"cert.pem\"",
            "\"cert.pem",
            "signed with a shared secret",
        ),
        ("key = { file = \"jwk\" }, backdate = \"5m\"", "\"5m", "is not shorter than `ttl`"),
        (
            "key = { file = \"jwk\" }, ttl = \"20s\", backdate = \"30s\"",
            "\"30s",
            "is not shorter than `ttl`",
        ),
        (
            "key = { file = \"cert.pem\" }",
            "{ file",
            "is a certificate, but a private key is needed",
        ),
        (
            "alg = \"ES512\", key = { file = \"jwk\" }",
            "{ file",
            "ES512: it is an Ed25519 key, for EdDSA",
        ),
    ] {
        let column = "assertion = { ".len() + more.find(at).unwrap() + 1;
        let more = format!("client_id = \"a\"\nassertion = {{ {more} }}");
        let report = configured(&bare(&more)).expect_err(&more).to_string();
        assert!(report.contains(&format!("--> proxy.toml:5:{column}\n")), "{report}");
        assert!(report.contains(says) && report.contains("help: "), "{report}");
    }
}

/// Google's JSON is all that a service account needs.
#[test]
fn googles_json_brings_the_key_its_name_and_the_issuer() {
    let google = |_: &SecretSource| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let json = serde_json::json!({ "type": "service_account", "private_key": key,
            "private_key_id": "k1", "client_email": "svc$@x.test" });
        Ok(Some(Secret::new(json.to_string())))
    };
    let request = |more: &str| {
        let text = bare(&format!(
            "grant = \"jwt_bearer\"\nassertion = {{ key = {{ file = \"k\" }}{more} }}"
        ));
        let environment = Environment { read_lines: google, ..environment() };
        let settings = Settings::from_text("proxy.toml", Path::new("/"), &text, &environment);
        sent(settings.unwrap().credentials.first().unwrap(), Grant::Own)
    };
    let plain = request("");
    assert!(
        plain.contains("\"kid\":\"k1\"") && plain.contains("\"iss\":\"svc$@x.test\""),
        "{plain}"
    );
    assert!(!plain.contains("\"sub\""), "a subject is a person that the account acts for: {plain}");
    let other = request(", iss = \"me\", kid = \"k2\"");
    assert!(other.contains("\"kid\":\"k2\"") && other.contains("\"iss\":\"me\""), "{other}");
}

#[test]
fn the_authorization_server_alone_can_be_asked_in_plain_http() {
    let text = |more: &str| {
        let text = bare(&format!("{CLIENT}grant = \"client_credentials\"\n{more}"));
        text.replace("https://as.test", "http://as.test")
    };
    refused(&text(""), "3:13", "token_http = true");
    let settings = load(&text("token_http = true\nrevoke_url = \"http://as.test/r\"")).unwrap();
    assert!(!settings.credentials.first().unwrap().allow_http, "the API is asked over TLS");
    refused(&text("token_http = false"), "3:13", "is not https");
    let steps = "token_http = true\nsteps = [{ url = \"http://x.test/\" }]";
    refused(&text(steps), "8:18", "`credential.x.steps.url` is not https");
}
