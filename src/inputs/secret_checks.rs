//! What is wrong around a secret: who else can read its file, and what stands around its value.

use std::os::unix::fs::MetadataExt;

use crate::secret::SecretSource;

/// Returns the mode of a secret's file if others than its owner can read it.
pub(crate) fn exposed_mode(source: &SecretSource) -> Option<u32> {
    let SecretSource::File(path) = source else { return None };
    let file = std::fs::metadata(path).ok()?;
    let permissions = Permissions { mode: file.mode(), owner: file.uid(), group: file.gid() };
    is_exposed(permissions, &ProcessIds::current()).then_some(file.mode() & 0o7777)
}

/// Returns what editors, shells and web pages have left around a secret.
pub(crate) fn surroundings(secret: &str) -> Option<&'static str> {
    const QUOTES: [(char, char); 5] =
        [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’')];
    // A zero-width space and the byte order mark are invisible too.
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

/// The owner of a file, and who may do what with it.
#[derive(Clone, Copy, Debug)]
struct Permissions {
    mode: u32,
    owner: u32,
    group: u32,
}

/// The user and the groups of this process.
#[derive(Debug)]
struct ProcessIds {
    user: u32,
    groups: Vec<u32>,
}

impl ProcessIds {
    fn current() -> Self {
        let mut groups = rustix::process::getgroups().unwrap_or_default();
        groups.push(rustix::process::getegid());
        Self {
            user: rustix::process::geteuid().as_raw(),
            groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        }
    }
}

/// Returns true if others can read the file.
///
/// A file of root that the process reads through a group is not exposed: Kubernetes hands secrets to a container that
/// is not root like this (`fsGroup`), and nobody inside could change it.
fn is_exposed(file: Permissions, process: &ProcessIds) -> bool {
    let by_group_alone = file.mode & 0o037 == 0;
    let is_from_root = file.owner == 0 && process.user != 0 && process.groups.contains(&file.group);
    file.mode & 0o077 != 0 && !(by_group_alone && is_from_root)
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
            let found = surroundings(secret);
            assert_eq!(found.is_some(), says.is_some(), "{secret:?}");
            assert!(found.unwrap_or_default().contains(says.unwrap_or_default()), "{secret:?}");
        }
    }

    #[test]
    fn a_secret_is_exposed_unless_root_hands_it_over_by_a_group_of_this_process() {
        let (user, root) = (|| ProcessIds { user: 65532, groups: vec![65532, 2000] }, 0);
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
        assert!(is_exposed(file, &ProcessIds { user: 0, groups: vec![0] }));
    }
}
