//! `vars`: which values are fixed, which a request chooses, and what follows for paths and secrets.
//!
//! A variable that a request chooses makes one token for each of its values. Whatever could make two of those tokens one
//! again, above all a first refresh token that all of them would spend, is refused here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use http::HeaderName;
use toml::Spanned;

use super::CredentialReview;
use super::templates::is_of_connection;
use crate::config::{Problem, VariableValue};
use crate::credential::{
    CredentialVariable, InstanceSecret, MAX_VALUE_LEN, PathPrefix, SecretTemplate, VariableSource,
};
use crate::secret::SecretSource;
use crate::template::{Names, Template, Values, Variables, field_name};

/// The longest sum of the values in the key of a record, in bytes. With a name of 64 bytes and what a store adds while
/// it writes, the key must be a file name, which has at most 255 bytes.
const LONGEST_VALUES: usize = 160;

/// The name of the variable that is the client's name.
const CLIENT: &str = "client";

/// The fix for a variable whose value comes from a field that has a meaning.
const OWN_FIELD: &str = "use a field of your own, such as X-Club";

/// What the review of one credential has found about its variables.
#[derive(Debug, Default)]
pub(super) struct RequestVariables {
    /// The variables of `vars` that requests choose, each with its place.
    listed: Vec<(CredentialVariable, Range<usize>)>,
    /// The fields, and the client's name, that templates name directly, each with the place of the first use.
    direct: Vec<(String, Range<usize>)>,
    /// The names in `vars` whose value is plain text.
    fixed: BTreeSet<String>,
    /// The names that the path of a secret may contain.
    in_paths: Names,
    /// The secrets that each token has of its own.
    pub(super) secrets: Vec<SecretTemplate>,
    /// The variables in the path of the first refresh token, and the place of that path.
    seed: Option<(BTreeSet<String>, Range<usize>)>,
}

impl CredentialReview<'_, '_> {
    /// Returns the names that this credential's templates may use. A name that has been reported has an empty value, so
    /// that it is not reported twice.
    pub(super) fn names(&mut self) -> Names {
        let section = self.section;
        let mut names = Names::default();
        names.insert_fields();
        let mut in_paths = names.clone();
        for (name, value) in section.vars.entries() {
            self.check_name(name);
            let (name, span) = (name.get_ref(), value.span());
            let chosen = match value.get_ref() {
                VariableValue::Text(text) => match self.source_of(text, &span) {
                    Some(from) => from.map(|from| (from, None)),
                    None => {
                        names.insert(name, text);
                        in_paths.insert(name, text);
                        self.variables.fixed.insert(name.clone());
                        continue;
                    }
                },
                VariableValue::Secret(source) => {
                    names.insert(name, "");
                    if let Some(secret) = self.secret("vars", &Spanned::new(span, source.clone())) {
                        names.insert_secret(name, secret);
                    }
                    continue;
                }
                VariableValue::List(values) => {
                    Some((VariableSource::Path, Some(self.allowed(values, &span))))
                }
                VariableValue::Chosen(chosen) => {
                    let allowed =
                        chosen.values.given().map(|values| self.allowed(values.get_ref(), &span));
                    let from = chosen.from.given();
                    let source = from
                        .map(|from| (self.source_of(from.get_ref(), &from.span()), from.span()));
                    match source {
                        Some((Some(source), _)) => source.map(|source| (source, allowed)),
                        Some((None, place)) => {
                            let fix = "write from = \"${field.X-Club}\" with the name of a field";
                            self.error("vars", "takes a value from something unknown", place, fix);
                            None
                        }
                        None => None,
                    }
                }
            };
            names.insert_variable(name);
            in_paths.insert_variable(name);
            self.variables.listed.extend(chosen.map(|(from, allowed)| {
                (CredentialVariable { name: name.clone(), from, allowed }, span)
            }));
        }
        self.variables.in_paths = in_paths;
        self.name_client(&mut names);
        names
    }

    fn check_name(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        let is_usable = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_usable {
            let fix = "use letters of a-z, digits and `_`, beginning with a letter";
            self.error("vars", "has a name that no `${name}` can use", name.span(), fix);
        } else if Names::RESERVED.contains(&text.as_str()) {
            let message = "has a name that already has a meaning";
            self.error("vars", message, name.span(), "choose another name");
        }
    }

    /// Returns where `${field.X-Club}` or `${client}` takes its value from; `Some(None)` if that has been reported, and
    /// `None` for any other text.
    fn source_of(&mut self, text: &str, span: &Range<usize>) -> Option<Option<VariableSource>> {
        let inner = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        if let Some(field) = inner.and_then(field_name) {
            let is_usable = self.check_field("vars", &field, span);
            return Some(is_usable.then_some(VariableSource::Field(field)));
        }
        if inner == Some(CLIENT) {
            return Some(Some(VariableSource::Client));
        }
        if text.contains("${field.") || text.contains("${client}") {
            let fix = "write \"${field.X-Club}\" or \"${client}\" and nothing else";
            self.error("vars", "takes a value from no field", span.clone(), fix);
            return Some(None);
        }
        None
    }

    /// Reports a field of the connection, which cannot choose a token, and `Authorization`, which gets replaced.
    fn check_field(&mut self, key: &str, field: &HeaderName, span: &Range<usize>) -> bool {
        let is_usable = !is_of_connection(field) && *field != http::header::AUTHORIZATION;
        if !is_usable {
            let message = "takes a value from a field with a meaning";
            self.error(key, message, span.clone(), OWN_FIELD);
        }
        is_usable
    }

    /// Returns the values that a request may choose.
    fn allowed(&mut self, values: &[Spanned<String>], span: &Range<usize>) -> Vec<String> {
        if values.is_empty() {
            let fix = "write the values that are allowed";
            self.error("vars", "has an empty list, which allows nothing", span.clone(), fix);
        }
        let mut allowed: Vec<String> = Vec::new();
        for value in values {
            if !is_segment(value.get_ref()) {
                let fix =
                    "use 1 to 64 visible ASCII characters without `/`, `\\`, `%`, `?`, `#` and `$`";
                let message = "allows a value that cannot be one segment of a path";
                self.error("vars", message, value.span(), fix);
            } else if allowed.contains(value.get_ref()) {
                self.error("vars", "allows a value twice", value.span(), "remove one of the two");
            }
            allowed.push(value.get_ref().clone());
        }
        allowed
    }

    /// Notes the fields and the client's name that a template names directly. Each becomes a variable.
    pub(super) fn note_fields<'a>(
        &mut self,
        key: &str,
        names: impl Iterator<Item = &'a str>,
        span: &Range<usize>,
    ) {
        for name in names {
            let field = field_name(name);
            let is_usable = match &field {
                Some(field) => self.check_field(key, field, span),
                None => name == CLIENT,
            };
            if is_usable && !self.variables.direct.iter().any(|(known, _)| known == name) {
                self.variables.direct.push((name.to_owned(), span.clone()));
            }
        }
    }

    /// Returns true if this secret is a file whose path contains what a request chooses. Then each token reads its own.
    pub(super) fn is_own(
        &mut self,
        key: &str,
        secret: InstanceSecret,
        given: Option<&Spanned<SecretSource>>,
    ) -> bool {
        let Some(given) = given else { return false };
        let template = path_text(given.get_ref()).map(|text| Spanned::new(given.span(), text));
        let names = self.variables.in_paths.clone();
        let path = template.and_then(|text| self.template(key, &text, &names));
        let chosen: BTreeSet<String> =
            path.iter().flat_map(|path| path.variables()).map(str::to_owned).collect();
        if secret == InstanceSecret::RefreshToken {
            self.variables.seed = Some((chosen.clone(), given.span()));
        }
        let Some(path) = path.filter(|_| !chosen.is_empty()) else { return false };
        let base = self.review.path("");
        self.variables.secrets.push(SecretTemplate { secret, base, path });
        true
    }

    /// Returns the place of a secret with the fixed variables of its path replaced.
    pub(super) fn with_fixed_path(&self, source: &SecretSource) -> SecretSource {
        let template = path_text(source)
            .and_then(|text| Template::parse(&text, &self.variables.in_paths).ok());
        match template.filter(|template| template.variables().next().is_none()) {
            Some(path) => SecretSource::File(path.expand(Values::at(UNIX_EPOCH)).into()),
            None => source.clone(),
        }
    }

    /// Notes the secrets that each token reads for itself, for all values that the file lists. Values that only a request
    /// knows cannot be foreseen; their slots watch their own secrets.
    pub(super) fn note_own_secrets(
        &mut self,
        secrets: &[SecretTemplate],
        variables: &[CredentialVariable],
    ) {
        for secret in secrets {
            let names: BTreeSet<&str> = secret.path.variables().collect();
            let named = variables.iter().filter(|variable| names.contains(&*variable.name));
            for values in combinations(named) {
                // Only the token that needs it cares whether it is there.
                let _noted = self.review.read(&secret.source_for(&values), self.span.clone());
            }
        }
    }

    /// Returns all variables that requests choose, checked against the paths, the URLs and the first refresh token.
    pub(super) fn variables(&mut self) -> Vec<CredentialVariable> {
        self.check_paths();
        let mut found = std::mem::take(&mut self.variables.listed);
        for (name, span) in std::mem::take(&mut self.variables.direct) {
            let from = match field_name(&name) {
                Some(field) => VariableSource::Field(field),
                None => VariableSource::Client,
            };
            found.push((CredentialVariable { name, from, allowed: None }, span));
        }
        self.check_urls(&found);
        self.check_seed(&found);
        self.check_length(&found);
        found.into_iter().map(|(variable, _)| variable).collect()
    }

    /// Checks that every name in a path has a list of values, and that every list is in every path.
    fn check_paths(&mut self) {
        let section = self.section;
        if section.vars.is_broken() || self.review.is_invalid {
            return;
        }
        let by_path =
            self.variables.listed.iter().filter(|(it, _)| it.from == VariableSource::Path);
        let by_path: Vec<(String, Range<usize>)> =
            by_path.map(|(it, span)| (it.name.clone(), span.clone())).collect();
        let paths: Vec<Spanned<PathPrefix>> = self.paths().to_vec();
        for path in &paths {
            let is_unlisted = |name: &&str| !by_path.iter().any(|(listed, _)| listed == name);
            let Some(name) = path.get_ref().variables().find(is_unlisted) else { continue };
            let message = match self.variables.fixed.contains(name) {
                true => {
                    "names a variable that has one value; a path needs the list of those that are allowed"
                }
                false => "names a variable without the list of values that are allowed",
            };
            let fix = "write vars = { club = [\"paris\", \"lyon\"] } with the name and the values";
            self.error("paths", message, path.span(), fix);
        }
        for (name, span) in by_path {
            let contains =
                |path: &Spanned<PathPrefix>| path.get_ref().variables().any(|it| it == name);
            if (paths.is_empty() || !paths.iter().all(contains)) && !section.paths.is_broken() {
                let message = "has a list of values that not every path chooses from";
                let fix = "write paths = [\"/${name}/\"] with its name, or take the value from a field: \
                           { from = \"${field.X-Club}\", values = [\"paris\"] }";
                self.error("vars", message, span, fix);
            }
        }
    }

    /// Checks that a value that no list names does not decide which server gets the client's secrets: the host must
    /// end with a name that the operator wrote.
    fn check_urls(&mut self, variables: &[(CredentialVariable, Range<usize>)]) {
        let section = self.section;
        let steps = section.steps.items().iter().map(|step| ("steps.url", &step.get_ref().url));
        for (key, field) in section.urls().into_iter().chain(steps) {
            let Some(text) = field.given() else { continue };
            let host = text.get_ref().split_once("://").map_or(&**text.get_ref(), |(_, rest)| rest);
            let host = host.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
            let is_open = |it: &CredentialVariable| {
                it.allowed.is_none() && host.contains(&format!("${{{}}}", it.name))
            };
            let (_, suffix) = host.rsplit_once('}').unwrap_or_default();
            let is_named = suffix.strip_prefix('.').is_some_and(|name| name.contains('.'));
            if variables.iter().any(|(it, _)| is_open(it)) && !is_named {
                let message =
                    "lets a request name the host that gets the client's secrets or tokens";
                let fix = "list the values that are allowed, or write \"https://${name}.login.example.com/\"";
                self.error(key, message, text.span(), fix);
            }
        }
    }

    /// Checks that several tokens do not share one first refresh token, which would be spent several times.
    fn check_seed(&mut self, variables: &[(CredentialVariable, Range<usize>)]) {
        let Some((names, span)) = self.variables.seed.take() else { return };
        let has_several =
            |it: &CredentialVariable| it.allowed.as_ref().is_none_or(|it| it.len() > 1);
        let missing = variables.iter().find(|(it, _)| has_several(it) && !names.contains(&it.name));
        if let Some((_, at)) = missing {
            let message = format!(
                "`{}.refresh_token` is the same for every value of a variable, so several tokens would \
                 spend one refresh token",
                self.path
            );
            let fix = "write the variable into its path: { file = \"/run/secrets/${club}\" }";
            let problem = Problem::error(message).at(span).related(at.clone(), "the variable");
            self.review.problems.push(problem.fix(fix));
        }
    }

    /// Checks that the key of a record can be a file name.
    fn check_length(&mut self, variables: &[(CredentialVariable, Range<usize>)]) {
        let longest = |it: &CredentialVariable| match &it.allowed {
            Some(values) => values.iter().map(|value| encoded_length(value)).max().unwrap_or(0),
            None => MAX_VALUE_LEN,
        };
        let length: usize = variables.iter().map(|(it, _)| 1 + longest(it)).sum();
        if let Some((_, span)) = variables.last().filter(|_| length > LONGEST_VALUES) {
            let fix = "use fewer variables, or shorter values: 160 bytes for all of them";
            self.error("vars", "makes the names of records too long", span.clone(), fix);
        }
    }
}

/// Returns the path of a secret's file if it contains a name.
fn path_text(source: &SecretSource) -> Option<String> {
    let SecretSource::File(path) = source else { return None };
    let path: &PathBuf = path;
    path.to_str().filter(|text| text.contains("${")).map(str::to_owned)
}

/// Returns every combination of the listed values; none if a value is not listed.
fn combinations<'a>(variables: impl Iterator<Item = &'a CredentialVariable>) -> Vec<Variables> {
    variables.fold(vec![Variables::new()], |combinations, variable| {
        let allowed = variable.allowed.as_deref().unwrap_or_default();
        let with = |values: &Variables, value: &String| {
            let mut values = values.clone();
            values.insert(variable.name.clone(), value.clone());
            values
        };
        let extended =
            combinations.iter().flat_map(|values| allowed.iter().map(move |it| with(values, it)));
        extended.collect()
    })
}

/// Returns the length of a value in the key of a record, where three bytes replace one that is not unreserved.
fn encoded_length(value: &str) -> usize {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

/// Returns true if a value can be one whole segment of a path and part of a file name.
fn is_segment(value: &str) -> bool {
    (1..=MAX_VALUE_LEN).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\%?#$".contains(&byte))
        && !matches!(value, "." | "..")
}
