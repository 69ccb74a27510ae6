//! The secrets that the file names: where each is, what it is, and who else could read it.
//!
//! Every secret of a review is read here and nowhere else, so that [`Inputs`](super::Inputs) knows
//! them all.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use toml::Spanned;

use super::review::Review;
use crate::config::Problem;
use crate::credential::{SecretPath, Variable};
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

    /// Reads the secret at a place that [`Review::place_of`] gave.
    pub(super) fn read(&mut self, source: &SecretSource) -> Result<Secret, SecretError> {
        let read = (self.environment.read_secret)(source);
        self.inputs.note(source, &read);
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
        self.read(&source)
    }

    /// Notes the secrets that each token of a credential reads for itself, for all values that are
    /// written out. Values that only a request knows cannot be foreseen: their slots look after them.
    pub(super) fn note_own(&mut self, secrets: &[SecretPath], variables: &[Variable]) {
        for secret in secrets {
            let named: BTreeSet<&str> = secret.path.variables().collect();
            let named = variables.iter().filter(|variable| named.contains(&*variable.name));
            for values in written_out(named) {
                // What it holds, and whether it is there, matters to the token that needs it.
                let _noted = self.read(&secret.place(&values));
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

/// Every choice of values; none if one is chosen freely.
fn written_out<'a>(variables: impl Iterator<Item = &'a Variable>) -> Vec<Variables> {
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
