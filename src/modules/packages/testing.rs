//! A machine for the tests of managers: programs that are small scripts, files below a directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::tools::Tools;
use crate::interrupt::AbortFlag;

/// See the module.
pub(crate) struct FakeMachine {
    root: tempfile::TempDir,
}

impl FakeMachine {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["bin", "var/lib", "etc/apt", "usr/share"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for program in ["sh", "rm", "head", "setpriv", "env", "cat", "touch"] {
            let real = (["/usr/bin", "/bin"].iter())
                .map(|directory| Path::new(directory).join(program))
                .find(|path| path.exists());
            if let Some(real) = real {
                std::os::unix::fs::symlink(real, root.path().join("bin").join(program)).unwrap();
            }
        }
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Installs a program: the text of a shell script.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.root().join("bin").join(name);
        let text = format!("#!/bin/sh\nPATH=$PATH:/usr/bin:/bin\n{script}\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file of the machine.
    pub(crate) fn file(&self, path: &str, content: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The content of one, if it is there.
    pub(crate) fn content(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(path.trim_start_matches('/'))).ok()
    }

    /// Breaks a program where its arguments match a pattern of the shell: then it does `instead`.
    pub(crate) fn breaks(&self, name: &str, pattern: &str, instead: &str) {
        let good = format!("{name}.good");
        let bin = self.root().join("bin");
        std::fs::rename(bin.join(name), bin.join(&good)).unwrap();
        let script = format!(
            "case \"$*\" in {pattern}) {instead} ;; esac\nexec $TEST_ROOT/bin/{good} \"$@\""
        );
        self.program(name, &script);
    }

    pub(crate) fn tools<'a>(&self, abort: &'a AbortFlag) -> Tools<'a> {
        self.tools_where(None, abort)
    }

    /// The same, where the command that begins with `hanging` never ends.
    pub(crate) fn tools_where<'a>(
        &self,
        hanging: Option<String>,
        abort: &'a AbortFlag,
    ) -> Tools<'a> {
        Tools::below(self.root(), abort, hanging)
    }
}
