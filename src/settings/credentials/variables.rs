//! `vars`: what is fixed, what a request chooses, and what follows from that for paths and secrets.
//!
//! A variable that a request chooses makes one token for each of its values. Whatever could make two of
//! those tokens one again, above all a first refresh token that they would all spend, is refused here.

use std::collections::BTreeSet;
use std::ops::Range;

use http::HeaderName;
use toml::Spanned;

use super::Part;
use crate::config::{Field, Problem, Variable};
use crate::credential::{
    self, InstanceSecret, MAX_VALUE_LEN, PathPrefix, SecretTemplate, VariableSource,
};
use crate::secret::SecretSource;
use crate::template::{Names, field_name};

/// The values in the key of a record, in bytes: with a name of 64 and what a store adds while it writes,
/// the key has to be a file's name, which is 255 bytes at most.
const LONGEST_VALUES: usize = 160;

/// The name of the variable that is the client's name.
const CLIENT: &str = "client";

/// What the review of one credential has found of its variables.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// What requests choose by `vars`, each with its place.
    variables: Vec<(credential::CredentialVariable, Range<usize>)>,
    /// The fields that templates name directly, with the place of the first.
    fields: Vec<(String, Range<usize>)>,
    /// The names in `vars` whose value is plain text.
    fixed: BTreeSet<String>,
    /// What may stand in the path of a secret.
    in_paths: Names,
    /// The secrets that each token has of its own.
    pub(super) secrets: Vec<SecretTemplate>,
    /// The variables in the path of the first refresh token, and where that is.
    seed: Option<(BTreeSet<String>, Range<usize>)>,
}

impl Part<'_, '_> {
    /// The names that this credential's templates may use. One that has been reported stands for
    /// nothing, so that nobody complains about it a second time.
    pub(super) fn names(&mut self) -> Names {
        let section = self.section;
        let mut names = Names::default();
        names.insert_fields();
        let mut in_paths = names.clone();
        for (name, variable) in section.vars.get().into_iter().flat_map(|entries| &entries.0) {
            self.check_name(name);
            let (name, span) = (name.get_ref(), variable.span());
            let chosen = match variable.get_ref() {
                Variable::Text(text) => match self.from(text, &span) {
                    Some(from) => from.map(|from| (from, None)),
                    None => {
                        names.insert(name, text);
                        in_paths.insert(name, text);
                        self.chosen.fixed.insert(name.clone());
                        continue;
                    }
                },
                Variable::Secret(source) => {
                    self.secret_variable(&mut names, name, &Spanned::new(span, source.clone()));
                    continue;
                }
                Variable::List(values) => {
                    Some((VariableSource::Path, Some(self.allowed(values, &span))))
                }
                Variable::From { from, values } => {
                    let allowed = values.as_ref().map(|values| self.allowed(values, &span));
                    let source = self.from(from.get_ref(), &from.span()).unwrap_or_else(|| {
                        let fix = "write from = \"${field.X-Club}\" with the name of a field";
                        self.report(
                            "vars",
                            "takes a value from something unknown",
                            from.span(),
                            fix,
                        );
                        None
                    });
                    source.map(|source| (source, allowed))
                }
            };
            names.insert_variable(name);
            in_paths.insert_variable(name);
            self.chosen.variables.extend(chosen.map(|(from, allowed)| {
                (credential::CredentialVariable { name: name.clone(), from, allowed }, span)
            }));
        }
        self.chosen.in_paths = in_paths;
        self.name_client(&mut names);
        names
    }

    fn check_name(&mut self, name: &Spanned<String>) {
        if !is_name(name.get_ref()) {
            let fix = "use letters of a-z, digits and `_`, beginning with a letter";
            self.report("vars", "has a name that no `${name}` can use", name.span(), fix);
        } else if Names::RESERVED.contains(&name.get_ref().as_str()) {
            self.report(
                "vars",
                "has a name that has a meaning already",
                name.span(),
                "choose another name",
            );
        }
    }

    fn secret_variable(&mut self, names: &mut Names, name: &str, source: &Spanned<SecretSource>) {
        names.insert(name, "");
        let field = Field::Given(source.clone());
        let Some((source, span)) = self.source(&field) else { return };
        match self.read(&source, span.clone()) {
            Ok(secret) => names.insert_secret(name, secret),
            Err(error) => self.unreadable("vars", &error.to_string(), span),
        }
    }

    /// Where `${field.X-Club}` takes its value from; `None` for a text that names nothing of the kind,
    /// `Some(None)` if that has been reported.
    fn from(&mut self, text: &str, span: &Range<usize>) -> Option<Option<VariableSource>> {
        let inner = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let field = inner.and_then(field_name);
        if let Some(field) = field {
            return Some(self.usable_field(field, span).map(VariableSource::Field));
        }
        if inner == Some(CLIENT) {
            return Some(Some(VariableSource::Client));
        }
        if text.contains("${field.") || text.contains("${client}") {
            let fix = "write \"${field.X-Club}\" or \"${client}\" and nothing else";
            self.report("vars", "takes a value from no field", span.clone(), fix);
            return Some(None);
        }
        None
    }

    /// A field of the connection is no choice of a token, and `Authorization` is what gets replaced.
    fn usable_field(&mut self, field: HeaderName, span: &Range<usize>) -> Option<HeaderName> {
        if super::templates::is_of_connection(&field) || field == http::header::AUTHORIZATION {
            let fix = "use a field of your own, such as X-Club";
            self.report("vars", "takes a value from a field with a meaning", span.clone(), fix);
            return None;
        }
        Some(field)
    }

    /// The values that a request may choose.
    fn allowed(&mut self, values: &[Spanned<String>], span: &Range<usize>) -> Vec<String> {
        if values.is_empty() {
            let fix = "write the values that are allowed";
            self.report("vars", "has an empty list, which allows nothing", span.clone(), fix);
        }
        let mut allowed: Vec<String> = Vec::new();
        for value in values {
            if !is_value(value.get_ref()) {
                let fix =
                    "use 1 to 64 visible ASCII characters without `/`, `\\`, `%`, `?`, `#` and `$`";
                let message = "allows a value that cannot be one segment of a path";
                self.report("vars", message, value.span(), fix);
            } else if allowed.contains(value.get_ref()) {
                self.report("vars", "allows a value twice", value.span(), "remove one of the two");
            }
            allowed.push(value.get_ref().clone());
        }
        allowed
    }

    /// Notes the fields that a template names directly, and the client's name, each as a variable of its
    /// own.
    pub(super) fn note_fields<'a>(
        &mut self,
        key: &str,
        names: impl Iterator<Item = &'a str>,
        span: &Range<usize>,
    ) {
        for name in names {
            let is_new = !self.chosen.fields.iter().any(|(known, _)| known == name);
            if name == CLIENT && is_new {
                self.chosen.fields.push((name.to_owned(), span.clone()));
            }
            let Some(field) = field_name(name) else { continue };
            if super::templates::is_of_connection(&field) || field == http::header::AUTHORIZATION {
                let fix = "use a field of your own, such as X-Club";
                self.report(key, "takes a value from a field with a meaning", span.clone(), fix);
            } else if is_new {
                self.chosen.fields.push((name.to_owned(), span.clone()));
            }
        }
    }

    /// Is this secret a file whose path names what a request chooses? Then each token reads its own.
    pub(super) fn is_own(
        &mut self,
        key: &str,
        secret: InstanceSecret,
        field: &Field<SecretSource>,
    ) -> bool {
        let Some(given) = field.given() else { return false };
        let template = self.path_template(key, given);
        let names: BTreeSet<String> =
            template.iter().flat_map(|it| it.variables()).map(str::to_owned).collect();
        if secret == InstanceSecret::RefreshToken {
            self.chosen.seed = Some((names.clone(), given.span()));
        }
        let Some(path) = template.filter(|_| !names.is_empty()) else { return false };
        self.chosen.secrets.push(SecretTemplate { secret, base: self.review.path(""), path });
        true
    }

    /// The path of a secret as a template, if it names anything.
    fn path_template(
        &mut self,
        key: &str,
        source: &Spanned<SecretSource>,
    ) -> Option<crate::template::Template> {
        let SecretSource::File(path) = source.get_ref() else { return None };
        let text = path.to_str().filter(|text| text.contains("${"))?;
        let names = self.chosen.in_paths.clone();
        self.template(key, &Spanned::new(source.span(), text.to_owned()), &names)
    }

    /// The path with the fixed variables in it.
    pub(super) fn fixed_path(&self, source: &Spanned<SecretSource>) -> Option<std::path::PathBuf> {
        let SecretSource::File(path) = source.get_ref() else { return None };
        let names = &self.chosen.in_paths;
        let text = path.to_str().filter(|text| text.contains("${"));
        let template = text.and_then(|text| crate::template::Template::parse(text, names).ok());
        let expanded = template.filter(|it| it.variables().next().is_none()).map(|it| {
            let values = crate::template::Values::at(std::time::SystemTime::UNIX_EPOCH);
            it.expand(values).into()
        });
        Some(expanded.unwrap_or_else(|| path.clone()))
    }

    /// All variables that requests choose, checked against the paths and the first refresh token.
    pub(super) fn variables(
        &mut self,
        paths: &[(PathPrefix, Range<usize>)],
    ) -> Vec<credential::CredentialVariable> {
        self.check_paths(paths);
        let mut found = std::mem::take(&mut self.chosen.variables);
        for (name, span) in std::mem::take(&mut self.chosen.fields) {
            let from = match field_name(&name) {
                Some(field) => VariableSource::Field(field),
                None => VariableSource::Client,
            };
            found.push((credential::CredentialVariable { name, from, allowed: None }, span));
        }
        self.check_hosts(&found);
        self.check_seed(&found);
        self.check_length(&found);
        found.into_iter().map(|(variable, _)| variable).collect()
    }

    /// Every name in a path is a list of values, and every list is in every path.
    fn check_paths(&mut self, paths: &[(PathPrefix, Range<usize>)]) {
        let listed = self.chosen.variables.clone();
        let by_path = |name: &str| {
            listed.iter().any(|(it, _)| it.name == name && it.from == VariableSource::Path)
        };
        if matches!(self.section.vars, Field::Broken) || self.review.garbled {
            return;
        }
        for (path, span) in paths {
            if let Some(name) = path.variables().find(|name| !by_path(name)) {
                let message = match self.chosen.fixed.contains(name) {
                    true => {
                        "names a variable that has one value; a path needs the list of those that are allowed"
                    }
                    false => "names a variable without the list of values that are allowed",
                };
                let fix =
                    "write vars = { club = [\"paris\", \"lyon\"] } with the name and the values";
                self.report("paths", message, span.clone(), fix);
            }
        }
        for (variable, span) in &listed {
            let is_in = |path: &PathPrefix| path.variables().any(|name| name == variable.name);
            let everywhere = !paths.is_empty() && paths.iter().all(|(path, _)| is_in(path));
            let unread = matches!(self.section.paths, Field::Broken);
            if variable.from == VariableSource::Path && !everywhere && !unread {
                let message = "has a list of values that not every path chooses from";
                let fix = "write paths = [\"/${name}/\"] with its name, or take the value from a field: \
                           { from = \"${field.X-Club}\", values = [\"paris\"] }";
                self.report("vars", message, span.clone(), fix);
            }
        }
    }

    /// A value that no list names must not decide on whose server the client's secrets are sent to: behind
    /// it the host needs a name that the operator wrote.
    fn check_hosts(&mut self, variables: &[(credential::CredentialVariable, Range<usize>)]) {
        let section = self.section;
        let fields = [
            ("token_url", &section.token_url),
            ("refresh_url", &section.refresh_url),
            ("revoke_url", &section.revoke_url),
            ("auth_url", &section.auth_url),
            ("device_url", &section.device_url),
            ("issuer", &section.issuer),
        ];
        let steps = section.steps.get().into_iter().flatten();
        let steps = steps.map(|step| ("steps.url", &step.get_ref().url));
        for (key, field) in fields.into_iter().chain(steps) {
            let Some(text) = field.given() else { continue };
            let host = text.get_ref().split_once("://").map_or(&**text.get_ref(), |(_, rest)| rest);
            let host = host.split(['/', '?', '#']).next().unwrap_or_default();
            let is_in = |it: &credential::CredentialVariable| {
                host.to_ascii_lowercase().contains(&format!("${{{}}}", it.name))
            };
            let is_open = |it: &credential::CredentialVariable| it.allowed.is_none() && is_in(it);
            let behind = host.rsplit_once('}').map_or("", |(_, behind)| behind);
            let is_named = behind.strip_prefix('.').is_some_and(|name| name.contains('.'));
            if variables.iter().any(|(it, _)| is_open(it)) && !is_named {
                let message =
                    "lets a request name the host that gets the client's secrets or tokens";
                let fix = "list the values that are allowed, or write \"https://${name}.login.example.com/\"";
                self.report(key, message, text.span(), fix);
            }
        }
    }

    /// One first refresh token for several tokens would be spent several times.
    fn check_seed(&mut self, variables: &[(credential::CredentialVariable, Range<usize>)]) {
        let Some((names, span)) = self.chosen.seed.take() else { return };
        let has_several =
            |it: &credential::CredentialVariable| it.allowed.as_ref().is_none_or(|it| it.len() > 1);
        let missing = variables.iter().find(|(it, _)| has_several(it) && !names.contains(&it.name));
        if let Some((_, at)) = missing {
            let message = format!(
                "`{}.refresh_token` is the same for every value of a variable, so that several tokens \
                 would spend one refresh token",
                self.path
            );
            let problem = Problem::error(message).at(span).related(at.clone(), "the variable");
            let fix = "write the variable into its path: { file = \"/run/secrets/${club}\" }";
            self.review.report(problem.fix(fix));
        }
    }

    /// The key of a record has to be a file's name.
    fn check_length(&mut self, variables: &[(credential::CredentialVariable, Range<usize>)]) {
        let longest = |it: &credential::CredentialVariable| match &it.allowed {
            Some(values) => values.iter().map(|value| encoded_length(value)).max().unwrap_or(0),
            None => MAX_VALUE_LEN,
        };
        let length: usize = variables.iter().map(|(it, _)| 1 + longest(it)).sum();
        if let Some((_, span)) = variables.last().filter(|_| length > LONGEST_VALUES) {
            let message = "makes the names of records too long";
            let fix = "use fewer variables, or shorter values: 160 bytes for all of them";
            self.report("vars", message, span.clone(), fix);
        }
    }
}

/// As in the key of a record, where three bytes stand for one that is not unreserved.
fn encoded_length(value: &str) -> usize {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Can it be one whole segment of a path, and part of a file's name?
fn is_value(value: &str) -> bool {
    (1..=MAX_VALUE_LEN).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\%?#$".contains(&byte))
        && !matches!(value, "." | "..")
}
