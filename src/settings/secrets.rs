//! The secrets that the file names: where each is, what it is, and who else could read it.
//!
//! Every secret of a review is read here and nowhere else, so that [`Inputs`](super::Inputs) knows
//! them all.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use toml::Spanned;

use super::review::Review;
use crate::config::Problem;
use crate::credential::{CredentialVariable, SecretTemplate};
use crate::secret::{Secret, SecretError, SecretSource};
use crate::template::Variables;

impl Review<'_> {
    /// The place of a secret, its path made absolute. Warns if others could read it.
    pub(super) fn place_of(&mut self, given: &Spanned<SecretSource>) -> SecretSource {
        let source = match given.get_ref() {
            SecretSource::File(path) => SecretSource::File(self.path(path)),
            other => other.clone(),
        };
        self.warn_if_readable(&source, given);
        source
    }

    /// Reads the secret at a place that [`Review::place_of`] gave, for `span` of the file. Warns if
    /// something is around it that hardly belongs to it; it is used all the same.
    pub(super) fn read(
        &mut self,
        source: &SecretSource,
        span: Range<usize>,
    ) -> Result<Secret, SecretError> {
        let read = (self.environment.read_secret)(source);
        self.inputs.note(source, &read);
        if let Some(what) = read.as_ref().ok().and_then(|secret| around(secret.expose())) {
            let problem = Problem::warning(format!("{source} {what}, which is used as it is"));
            let fix = "take it away there, unless the secret really has it";
            self.report(problem.at(span).fix(fix));
        }
        read
    }

    /// The same for one of several lines; `None` where nothing may be read.
    pub(super) fn read_lines(
        &mut self,
        source: &SecretSource,
    ) -> Result<Option<Secret>, SecretError> {
        let read = (self.environment.read_lines)(source);
        self.inputs.note_lines(source, &read);
        read
    }

    /// Both.
    pub(super) fn secret(&mut self, given: &Spanned<SecretSource>) -> Result<Secret, SecretError> {
        let source = self.place_of(given);
        self.read(&source, given.span())
    }

    /// Notes the secrets that each token of a credential reads for itself, for all values that are
    /// written out. Values that only a request knows cannot be foreseen: their slots look after them.
    pub(super) fn note_own(
        &mut self,
        secrets: &[SecretTemplate],
        variables: &[CredentialVariable],
        span: &Range<usize>,
    ) {
        for secret in secrets {
            let named: BTreeSet<&str> = secret.path.variables().collect();
            let named = variables.iter().filter(|variable| named.contains(&*variable.name));
            for values in written_out(named) {
                // What it holds, and whether it is there, matters to the token that needs it.
                let _noted = self.read(&secret.source_for(&values), span.clone());
            }
        }
    }

    fn warn_if_readable(&mut self, source: &SecretSource, given: &Spanned<SecretSource>) {
        let SecretSource::File(path) = source else { return };
        let Ok(file) = std::fs::metadata(path) else { return };
        if is_exposed(Permissions::of(&file), &Identity::of_process()) {
            let message = format!(
                "{source} can be read by others than its owner (mode {:04o})",
                file.mode() & 0o7777
            );
            self.report(Problem::warning(message).at(given.span()).fix("chmod 600"));
        }
    }
}

/// What editors, shells and web pages leave around a secret.
fn around(secret: &str) -> Option<&'static str> {
    const QUOTES: [(char, char); 5] =
        [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’')];
    // A zero-width space and the byte order mark cannot be seen either.
    let is_blank = |c: char| c.is_whitespace() || matches!(c, '\u{200b}' | '\u{feff}');
    let is_quoted = |(open, close): &(char, char)| {
        secret.strip_prefix(*open).is_some_and(|rest| rest.ends_with(*close))
    };
    match (secret.starts_with(is_blank), secret.ends_with(is_blank)) {
        (true, true) => Some("begins and ends with a blank"),
        (true, false) => Some("begins with a blank"),
        (false, true) => Some("ends with a blank"),
        _ => QUOTES.iter().any(is_quoted).then_some("is in quotes"),
    }
}

/// Every choice of values; none if one is chosen freely.
fn written_out<'a>(variables: impl Iterator<Item = &'a CredentialVariable>) -> Vec<Variables> {
    variables.fold(vec![Variables::new()], |choices, variable| {
        let allowed = variable.allowed.as_deref().unwrap_or_default();
        let with = |values: &Variables, value: &String| {
            let mut values = values.clone();
            values.insert(variable.name.clone(), value.clone());
            values
        };
        choices.iter().flat_map(|values| allowed.iter().map(move |it| with(values, it))).collect()
    })
}

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy, Debug)]
struct Permissions {
    mode: u32,
    owner: u32,
    group: u32,
}

impl Permissions {
    fn of(file: &std::fs::Metadata) -> Self {
        Self { mode: file.mode(), owner: file.uid(), group: file.gid() }
    }
}

/// Who this process is.
#[derive(Debug)]
struct Identity {
    user: u32,
    groups: Vec<u32>,
}

impl Identity {
    fn of_process() -> Self {
        let mut groups = rustix::process::getgroups().unwrap_or_default();
        groups.push(rustix::process::getegid());
        Self {
            user: rustix::process::geteuid().as_raw(),
            groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        }
    }
}

/// Could others read the secret?
///
/// Root's files that the process reads through a group are not exposed: that is how Kubernetes hands
/// secrets to a container that is not root (`fsGroup`), and nobody inside could change it.
fn is_exposed(file: Permissions, process: &Identity) -> bool {
    let by_group_alone = file.mode & 0o037 == 0;
    let is_handed_over =
        file.owner == 0 && process.user != 0 && process.groups.contains(&file.group);
    file.mode & 0o077 != 0 && !(by_group_alone && is_handed_over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_secret_is_seen_and_what_is_in_it_is_not() {
        for (secret, says) in [
            ("s3cret", None),
            ("a b", None),
            ("it's", None),
            ("'", None),
            ("\"begun", None),
            (" s", Some("begins with")),
            ("s ", Some("ends with")),
            ("s\t", Some("ends with")),
            ("s\u{a0}", Some("ends with")),
            ("\u{200b}s", Some("begins with")),
            (" s ", Some("begins and ends")),
            (" ", Some("begins and ends")),
            ("\"s\"", Some("quotes")),
            ("'s'", Some("quotes")),
            ("“s”", Some("quotes")),
        ] {
            let found = around(secret);
            assert_eq!(found.is_some(), says.is_some(), "{secret:?}");
            assert!(found.unwrap_or_default().contains(says.unwrap_or_default()), "{secret:?}");
        }
    }

    #[test]
    fn a_secret_is_exposed_unless_root_hands_it_over_by_a_group_of_this_process() {
        let (user, root) = (|| Identity { user: 65532, groups: vec![65532, 2000] }, 0);
        let me = 65532;
        for (mode, owner, group, exposed) in [
            (0o400, me, me, false),
            (0o600, me, me, false),
            (0o640, me, me, true),
            (0o604, me, me, true),
            // Kubernetes with fsGroup = 2000 and defaultMode = 0440.
            (0o440, root, 2000, false),
            (0o640, root, 2000, false),
            (0o400, root, root, false),
            // Its default mode, 0644.
            (0o644, root, 2000, true),
            (0o444, root, 2000, true),
            (0o460, root, 2000, true),
            (0o440, root, 3000, true),
            (0o440, 1000, 2000, true),
        ] {
            let file = Permissions { mode: 0o100_000 | mode, owner, group };
            assert_eq!(is_exposed(file, &user()), exposed, "{mode:o} {owner} {group}");
        }
        let file = Permissions { mode: 0o440, owner: root, group: 0 };
        assert!(is_exposed(file, &Identity { user: 0, groups: vec![0] }));
    }
}
