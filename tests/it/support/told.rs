//! What a command says, whole, as it is kept under a name in `snapshots/`, apart from what differs in each
//! run.

use std::fs;
use std::path::PathBuf;

use super::lab::Output;

/// Nothing to do, so only what is wrong is told.
pub const QUICK: &str = "sync_modules: { dummy_success: true }\n\
    dummy_success: { source_duration: 0, target_duration: 0 }\n\
    btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
    disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\" }\n";

/// What differs in each run, and what stands for it.
const VOLATILE: &[(&str, &str)] = &[
    (r"\b\d{8}T\d{6}Z\b", "[time]"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "[time]"),
    (r"\b[0-9a-f]{8}\b", "[session]"),
    (r"\bSHA256:[A-Za-z0-9+/]{43}", "SHA256:[fingerprint]"),
    (r"\(process \d+ there\)", "(process [pid] there)"),
    (r"\bit needs \d+ MiB", "it needs [size]"),
    (r"\b\d+(\.\d+)? (ms|s)\b", "[duration]"),
    (r"\bLinux \d[^\s]*", "Linux [version]"),
    (
        r"\b\d+(\.\d+)? [KMG]iB free in /run",
        "[space] free in /run",
    ),
    (r"\b\d+(\.\d+)? [KMG]iB \(\d+%\)", "[space]"),
    // A heartbeat comes whenever nothing else did for two seconds.
    (r"(?m)^waiting for .*\n", ""),
    // Which of several threads notices first, and says so, depends on the moment.
    (
        r"(✖ dummy_success .* failed): (interrupted|lost the agent on vega.*)",
        "$1",
    ),
    // So does which process of a machine that goes down is the first to go.
    (
        r"lost the agent on vega: (the connection was closed by .*|agent (ended|exited|was killed).*)",
        "lost the agent on vega: [ended]",
    ),
    (r" +(\d+:\d\d|\d+ms|<?\d+(\.\d+)?s) +", " [took] "),
    // The disk monitor has a connection of its own, which may be the first to be lost, or never be.
    (r"(?m)^[✔✖] disk_monitor \[took\] (failed|looked).*\n", ""),
];

/// Fails the test unless a command ended with `status` and said what is kept under `name`.
#[track_caller]
pub fn told(name: &str, output: Output, status: i32) {
    let output = output.expect(status);
    let text = format!("{}{}status {status}\n", output.stdout, output.stderr);
    insta::with_settings!({
        filters => VOLATILE.to_vec(),
        prepend_module_to_snapshot => false,
        snapshot_path => "../snapshots",
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

/// A file that is put back when this is dropped.
pub struct Changed {
    path: PathBuf,
    before: Option<Vec<u8>>,
}

impl Changed {
    /// Writes `content` to the file.
    pub fn to(path: PathBuf, content: impl AsRef<[u8]>) -> Self {
        let before = fs::read(&path).ok();
        fs::write(&path, content).expect("root may write anywhere");
        Self { path, before }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = match &self.before {
            Some(before) => fs::write(&self.path, before),
            None => fs::remove_file(&self.path),
        };
    }
}
