//! A machine for the tests of managers: programs that are small scripts, files below a directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::tools::Tools;
use crate::interrupt::AbortFlag;

/// See the module.
pub(super) struct FakeMachine {
    root: tempfile::TempDir,
}

impl FakeMachine {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["bin", "var/lib", "etc/apt", "usr/share"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Installs a program: the text of a shell script.
    pub(super) fn program(&self, name: &str, script: &str) {
        let path = self.root().join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file of the machine.
    pub(super) fn file(&self, path: &str, content: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The content of one, if it is there.
    pub(super) fn content(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(path.trim_start_matches('/'))).ok()
    }

    pub(super) fn tools<'a>(&self, abort: &'a AbortFlag) -> Tools<'a> {
        Tools::below(self.root(), abort)
    }
}
