//! A disk that hangs, fails and is full, and a state directory that others tamper with.
//!
//! The disk is `tests/it/engine/faults.c`: it runs the program and decides about each call that makes a file durable.
//! Where there is no C compiler, or the kernel does not allow it, the disk is without faults, and that is said.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::dice::Dice;

/// What a program is run under.
pub(crate) struct Disk {
    wrapper: Option<PathBuf>,
    control: PathBuf,
}

impl Disk {
    /// A disk without faults so far.
    pub(crate) fn new(dir: &Path) -> Self {
        let wrapper = compile().filter(|wrapper| works(wrapper));
        if wrapper.is_none() {
            println!("    no C compiler or no seccomp: the disk has no faults");
        }
        Self { wrapper, control: dir.join("faults") }
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.wrapper.is_some()
    }

    /// What becomes `program`, on this disk.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Some(wrapper) = &self.wrapper else { return Command::new(program) };
        let mut command = Command::new(wrapper);
        command.arg(&self.control).arg("/dev/null").arg(program);
        command
    }

    /// From now on this, such as `hang sync`, and nothing else.
    pub(crate) fn set(&self, fault: &str) {
        let new = self.control.with_extension("new");
        std::fs::write(&new, format!("{fault};")).unwrap();
        std::fs::rename(new, &self.control).unwrap();
    }

    /// A fault by chance.
    pub(crate) fn any(dice: &mut Dice) -> &'static str {
        dice.pick(&[
            "hang sync",
            "hang dirsync",
            "hang rename",
            "hang flock",
            "fail sync",
            "fail dirsync",
            "fail rename",
            "full sync",
        ])
    }
}

fn compile() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engine/faults.c");
    let wrapper =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-o"]).arg(&wrapper).arg(source);
    compiler.status().ok()?.success().then_some(wrapper)
}

fn works(wrapper: &Path) -> bool {
    let nothing = ["/dev/null", "/dev/null", "/bin/true"];
    Command::new(wrapper).args(nothing).status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(wrapper) = &self.wrapper {
            let _litter = std::fs::remove_file(wrapper);
        }
    }
}

// ===== The state directory =====

/// Removes the locks: all of them, held or not.
pub(crate) fn remove_locks(state: &Path) {
    for entry in std::fs::read_dir(state).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".lock") {
            let _gone = std::fs::remove_file(entry.path());
        }
    }
}

/// Puts a copy of the directory in its place. It has another name while it is copied, so that only what was
/// being written already can still be written to it.
pub(crate) fn replace_by_a_copy(state: &Path) {
    let (old, copy) = (state.with_extension("old"), state.with_extension("copy"));
    std::fs::rename(state, &old).unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(&copy).unwrap();
    for entry in std::fs::read_dir(&old).unwrap().flatten() {
        // A temporary file may be gone by now.
        let _gone = std::fs::copy(entry.path(), copy.join(entry.file_name()));
    }
    std::fs::rename(&copy, state).unwrap();
    let _litter = std::fs::remove_dir_all(&old);
}

/// Puts `bytes` in the place of a record; `None` removes it.
pub(crate) fn replace_record(record: &Path, bytes: Option<&[u8]>) {
    match bytes {
        None => {
            let _gone = std::fs::remove_file(record);
        }
        Some(bytes) => super::stage::write_privately(record, bytes),
    }
}
