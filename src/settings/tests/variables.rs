//! `vars` and `paths`: what a request may choose, and what that asks of the rest of a credential.

use super::*;
use crate::credential::{CredentialVariable, InstanceSecret, VariableSource};
use crate::template::Variables;

/// A credential whose seed is a file, with these lines added.
fn with_seed(path: &str, more: &str) -> String {
    credential(more).replace(
        "refresh_token = { env = \"R\" }",
        &format!("refresh_token = {{ file = \"{path}\" }}"),
    )
}

fn only(text: &str) -> credential::Config {
    let settings = load(text).unwrap_or_else(|problems| panic!("{problems}"));
    settings.credentials.first().unwrap().clone()
}

fn field(name: &'static str) -> VariableSource {
    VariableSource::Field(http::HeaderName::from_static(name))
}

const CLUBS: &str = "paths = [\"/${club}/\"]\nvars = { club = [\"paris\", \"lyon\"] }";

#[test]
fn a_list_of_values_is_chosen_by_the_path() {
    let config = only(&with_seed("seeds/${club}", CLUBS));
    let allowed = Some(vec!["paris".to_owned(), "lyon".to_owned()]);
    let club = CredentialVariable { name: "club".to_owned(), from: VariableSource::Path, allowed };
    assert_eq!(config.variables, [club]);
    assert!(config.token.seed.is_none());
    let [seed] = config.secrets.as_slice() else { panic!() };
    assert_eq!(seed.secret, InstanceSecret::RefreshToken);
    let paris = Variables::from([("club".to_owned(), "paris".to_owned())]);
    assert_eq!(seed.source_for(&paris), SecretSource::File("/etc/bearerd/seeds/paris".into()));
}

#[test]
fn a_field_is_named_in_vars_or_where_it_is_used() {
    for (lines, name, allowed) in [
        ("vars = { club = \"${field.X-Club}\" }", "club", None),
        ("vars = { club = { from = \"${field.X-Club}\" } }", "club", None),
        (
            "vars = { club = { from = \"${field.X-Club}\", values = [\"a\"] } }",
            "club",
            Some(vec!["a".to_owned()]),
        ),
        ("params = { tenant = \"${field.X-Club}\" }", "field.x-club", None),
        (
            "headers = { A = \"${field.X-CLUB}\" }\ninject = { T = \"${access_token}${field.x-club}\" }",
            "field.x-club",
            None,
        ),
    ] {
        let config = only(&with_seed("seeds/${field.X-Club}", lines).replace(
            "seeds/${field.X-Club}",
            if name == "club" { "seeds/${club}" } else { "seeds/${field.X-Club}" },
        ));
        let expected = CredentialVariable { name: name.to_owned(), from: field("x-club"), allowed };
        assert_eq!(config.variables, [expected], "{lines}");
    }
}

#[test]
fn a_fixed_variable_stands_in_the_path_of_a_secret() {
    let config = only(&with_seed("/run/${tenant}/seed", "vars = { tenant = \"acme\" }"));
    assert!(config.variables.is_empty() && config.secrets.is_empty());
    let seed = config.token.seed.unwrap();
    assert_eq!(seed.source, SecretSource::File("/run/acme/seed".into()));
    let literal = only(&with_seed("/run/$x/seed", ""));
    assert_eq!(literal.token.seed.unwrap().source, SecretSource::File("/run/$x/seed".into()));
}

#[test]
fn what_no_request_could_choose_is_refused_where_it_stands() {
    for (lines, place, says) in [
        ("vars = { club = [\"a\"] }", "7:17", "not every path chooses from"),
        ("paths = [\"/${club}/\", \"/x/\"]\nvars = { club = [\"a\"] }", "8:17", "not every path"),
        ("paths = [\"/${gym}/\"]\nvars = { club = [\"a\"] }", "7:10", "without the list of values"),
        ("paths = [\"/${club}/\"]\nvars = { club = \"a\" }", "7:10", "has one value"),
        ("paths = [\"/${club}/\"]\nvars = { club = \"${field.A}\" }", "7:10", "without the list"),
        ("paths = [\"/${club}/\"]\nvars = { club = [] }", "8:17", "an empty list"),
        ("paths = [\"/${club}/\"]\nvars = { club = [\"a\", \"a\"] }", "8:23", "a value twice"),
        ("paths = [\"/${club}/\"]\nvars = { club = [\"a/b\"] }", "8:18", "one segment of a path"),
        ("paths = [\"/${club}/\"]\nvars = { club = [\"..\"] }", "8:18", "one segment of a path"),
        ("paths = [\"/${club}/\"]\nvars = { club = [\"a%41\"] }", "8:18", "one segment of a path"),
        ("paths = [\"/${club}/\"]\nvars = { club = [\"\"] }", "8:18", "one segment of a path"),
        ("vars = { club = \"x-${client}\" }", "7:17", "takes a value from no field"),
        ("vars = { club = \"x${field.A}\" }", "7:17", "from no field"),
        ("vars = { club = { from = \"paris\" } }", "7:26", "something unknown"),
        ("vars = { club = \"${field.Host}\" }", "7:17", "a field with a meaning"),
        ("vars = { club = \"${field.Authorization}\" }", "7:17", "a field with a meaning"),
        ("params = { a = \"${field.TE}\" }", "7:16", "a field with a meaning"),
        ("params = { a = \"${field.}\" }", "7:17", "names something unknown"),
    ] {
        refused(&with_seed("s${field.A}", lines), place, says);
    }
}

#[test]
fn several_tokens_never_share_a_first_refresh_token() {
    let says = "several tokens would spend one refresh token";
    refused(&credential(CLUBS), "6:17", says);
    refused(&with_seed("seed", CLUBS), "6:17", says);
    refused(&with_seed("seed", "params = { a = \"${field.X-Club}\" }"), "6:17", says);
    let two = "paths = [\"/${club}/\"]\nvars = { club = [\"a\", \"b\"], app = \"${field.App}\" }";
    refused(&with_seed("seeds/${club}", two), "6:17", says);
    assert!(load(&with_seed("seeds/${club}-${app}", two)).is_ok());
    assert!(load(&with_seed("seed", "paths = [\"/${club}/\"]\nvars = { club = [\"a\"] }")).is_ok());
    let no_seed = credential(&format!("{CLUBS}\ngrant = \"client_credentials\""));
    assert!(load(&no_seed.replace("refresh_token", "#")).is_ok());
}

/// `x` and `y`, each with its own line for the seed and more.
fn two(x: [&str; 2], y: [&str; 2]) -> String {
    let one = |name: &str, host: &str, [seed, more]: [&str; 2]| {
        let text = credential(more).replace("[credential.x]", &format!("[credential.{name}]"));
        let text = text.replace("api.test", host);
        text.replace("refresh_token = { env = \"R\" }", seed)
    };
    one("x", "x.test", x) + &one("y", "y.test", y)
}

#[test]
fn two_credentials_never_share_a_first_refresh_token() {
    let says = "would spend one refresh token";
    let env = ["refresh_token = { env = \"R\" }", ""];
    let file = ["refresh_token = { file = \"seed\" }", ""];
    refused(&two(env, env), "13:17", says);
    refused(&two(file, ["refresh_token = { file = \"/etc/bearerd/seed\" }", ""]), "13:17", says);
    let [seed, copy] =
        ["SEED", "COPY_OF_SEED"].map(|name| format!("refresh_token = {{ env = \"{name}\" }}"));
    refused(&two([&seed, ""], [&copy, ""]), "13:17", says);
    assert!(!load(&two([&seed, ""], [&copy, ""])).unwrap_err().to_string().contains("that of env"));
    assert!(load(&two(env, file)).is_ok());
    assert!(load(&two(env, [&seed, ""])).is_ok());
    for exempt in ["rotation = \"ignore\"", "grant = \"client_credentials\""] {
        assert!(load(&two(env, [env[0], exempt])).is_ok(), "{exempt}");
        assert!(load(&two([env[0], exempt], env)).is_ok(), "{exempt}");
    }
}

#[test]
fn two_credentials_share_no_path_of_seeds_unless_their_values_differ() {
    let seed = "refresh_token = { file = \"seeds/${club}\" }";
    let listed =
        |values: &str| format!("paths = [\"/${{club}}/\"]\nvars = {{ club = [{values}] }}");
    let [paris, lyon, both] = ["\"paris\"", "\"lyon\"", "\"lyon\", \"paris\""].map(listed);
    let open = "vars = { club = \"${field.X-Club}\" }";
    let says = "would spend one refresh token";
    refused(&two([seed, &paris], [seed, &both]), "14:17", says);
    refused(&two([seed, open], [seed, open]), "13:17", says);
    refused(&two([seed, open], [seed, &both]), "13:17", says);
    assert!(load(&two([seed, &paris], [seed, &lyon])).is_ok());
}

#[test]
fn a_stranger_s_value_never_is_the_host_that_gets_the_secrets() {
    let with_url = |url: &str, lines: &str| {
        with_seed("${field.a}", lines).replace("https://login.test/token", url)
    };
    for url in [
        "https://${field.A}/token",
        "https://login.${field.a}/token",
        "https://${field.a}.com/token",
        "https://${field.a}:8443/token",
        "https://x.test.${field.a}",
    ] {
        refused(&with_url(url, ""), "3:13", "lets a request name the host");
    }
    let step = |url: &str| with_seed("${field.a}", &format!("steps = [{{ url = \"{url}\" }}]"));
    refused(&step("https://${field.A}/x"), "7:18", "lets a request name the host");
    assert!(load(&step("https://${field.a}.login.test/x")).is_ok());
    for key in ["device_url", "auth_url"] {
        let text = with_seed("${field.a}", &format!("{key} = \"https://${{field.a}}/\""));
        refused(&text, &format!("7:{}", key.len() + 4), "lets a request name the host");
    }
    assert!(load(&with_url("https://${field.a}.login.test/${field.a}/token", "")).is_ok());
    let listed = "vars = { a = { from = \"${field.a}\", values = [\"x.test\", \"y.test\"] } }";
    let listed =
        with_url("https://${a}/token", listed).replace("file = \"${field.a}", "file = \"${a}");
    assert!(load(&listed).is_ok());
}

#[test]
fn records_keep_names_that_are_file_names() {
    let three = "headers = { A = \"${field.A}${field.B}${field.C}\" }";
    let seed = "${field.A}${field.B}${field.C}";
    refused(&with_seed(seed, three), "7:17", "the names of records too long");
}

#[test]
fn a_variable_path_ties_with_another_of_the_same_shape() {
    let both = |one: &str, other: &str| {
        let other =
            with_seed("${club}", &format!("paths = [\"{other}\"]\nvars = {{ club = [\"b\"] }}"));
        with_seed("${club}", &format!("paths = [\"{one}\"]\nvars = {{ club = [\"a\"] }}"))
            + &other.replace("[credential.x]", "[credential.y]")
    };
    let says = "no two credentials are for the same host, path and method";
    refused(&both("/${club}/", "/${club}/"), "15:10", says);
    refused(&both("/v1/${club}/x", "/v1/${club}/x"), "15:10", says);
    let renamed = both("/${club}/", "/${gym}/").replace("{ club = [\"b\"] }", "{ gym = [\"b\"] }");
    refused(&renamed, "15:10", says);
    for (one, other) in
        [("/${club}/", "/${club}"), ("/${club}/", "/v1/${club}/"), ("/a/${club}", "/${club}/a")]
    {
        assert!(load(&both(one, other)).is_ok(), "{one} {other}");
    }
    let literal = credential("paths = [\"/paris/\"]").replace("[credential.x]", "[credential.y]");
    assert!(load(&(with_seed("${club}", CLUBS) + &literal)).is_ok());
}
