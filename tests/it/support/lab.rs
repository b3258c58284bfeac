//! The lab from Rust: one per test process, booted when the first test asks, handed to one test at a time.
//!
//! The lab is held by a process of its own that waits for the end of its stdin, so it is taken
//! down however this process ends. The machines' disks are mounted outside too: tests prepare and
//! judge files there with plain system calls, as the same kernel sees them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::awkward::{OWNER, chown};

/// The machine the command is typed on.
pub const ATLAS: &str = "atlas";
/// The machine that is changed.
pub const VEGA: &str = "vega";

/// Longer than any command in the lab takes; then it hangs.
const LIMIT_SECS: &str = "300";

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run.
    pub command: String,
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Both streams, for assertions about messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails the test unless the command ended with `status`.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(
            self.status,
            Some(status),
            "`{}` printed:\n{}\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect(0)
    }
}

/// Two machines. Dropping the guard that [`Lab::fresh`] returns lets the next test have it.
pub struct Lab {
    name: String,
    directory: PathBuf,
    /// Its end is the end of the lab.
    _holder: ChildStdin,
    used: bool,
    mounts: [String; 2],
}

static LAB: OnceLock<Result<Mutex<Lab>, String>> = OnceLock::new();

impl Lab {
    /// The lab, both machines freshly booted with pristine disks; `None`, after saying so loudly, where
    /// there can be no lab. With `CI=true` that is a failure.
    pub fn fresh() -> Option<MutexGuard<'static, Self>> {
        match LAB.get_or_init(|| Self::boot().map(Mutex::new)) {
            Ok(lab) => {
                // A test that failed while holding the lab left nothing that a reset does not mend.
                let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
                lab.reset();
                Some(lab)
            }
            Err(reason) => {
                assert!(
                    std::env::var_os("CI").is_none_or(|v| v != "true"),
                    "with CI=true nothing may be skipped: {reason}"
                );
                let test = thread::current().name().unwrap_or("a test").to_owned();
                // Not `eprintln!`: the test harness would keep it to itself.
                let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
                None
            }
        }
    }

    fn boot() -> Result<Self, String> {
        missing()?;
        let name = format!("pcs-it-{}", std::process::id());
        run(&name, &["sweep"]);
        let mut holder = script(&name)
            .arg("hold")
            .process_group(0) // what a terminal or a test runner kills is not this
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", script_path().display()))?;
        let stdin = holder.stdin.take().expect("stdin is piped");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("stdout is piped");
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line.trim() != "ready" {
            let output = holder.wait_with_output().map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "the lab did not come up: {}",
                text.trim().replace('\n', "; ")
            ));
        }
        let disk = run(&name, &["disk", ATLAS]).ok().stdout;
        let directory = Path::new(disk.trim())
            .parent()
            .expect("a directory per machine");
        let mut lab = Self {
            directory: directory.to_owned(),
            name,
            _holder: stdin,
            used: false,
            mounts: [String::new(), String::new()],
        };
        lab.install()
            .map_err(|e| format!("installing the program: {e}"))?;
        lab.mounts = [lab.mount_points(ATLAS), lab.mount_points(VEGA)];
        Ok(lab)
    }

    fn reset(&mut self) {
        if self.used {
            run(&self.name, &["reset"]).ok();
            self.install().expect("the program fits on the disk");
        }
        self.used = true;
    }

    /// Puts the program under test on atlas; vega has nothing.
    fn install(&self) -> std::io::Result<()> {
        static STRIPPED: OnceLock<Vec<u8>> = OnceLock::new();
        let binary = STRIPPED.get_or_init(stripped_binary);
        let path = self.disk(ATLAS).join("@/usr/local/bin/pc-switcher");
        fs::write(&path, binary)?;
        super::awkward::chmod(&path, 0o755)
    }

    /// Where a machine's disk is mounted outside: `@`, `@home` and `.snapshots` are in it.
    pub fn disk(&self, host: &str) -> PathBuf {
        self.directory.join(host)
    }

    /// A machine's `/home`, seen from outside.
    pub fn home(&self, host: &str) -> PathBuf {
        self.disk(host).join("@home")
    }

    /// Home of the person, seen from outside.
    pub fn dev(&self, host: &str) -> PathBuf {
        self.home(host).join("dev")
    }

    /// One verb of `lab.sh`.
    pub fn verb(&self, args: &[&str]) -> Output {
        run(&self.name, args)
    }

    /// Runs a command as root.
    pub fn exec(&self, host: &str, argv: &[&str]) -> Output {
        self.verb(&[&["exec", host, "timeout", "-k", "5", LIMIT_SECS], argv].concat())
    }

    /// Runs a command as the person.
    pub fn as_dev(&self, host: &str, argv: &[&str]) -> Output {
        self.verb(&[&["as", "dev", host, "timeout", "-k", "5", LIMIT_SECS], argv].concat())
    }

    /// Runs the program on atlas as the person.
    pub fn pc_switcher(&self, args: &[&str]) -> Output {
        self.as_dev(ATLAS, &[&["pc-switcher", "--batch"], args].concat())
    }

    /// `pc-switcher --batch sync vega --yes --allow-first-sync` with `args`, on atlas.
    pub fn sync(&self, args: &[&str]) -> Output {
        self.sync_from(ATLAS, args)
    }

    /// The same from either machine to the other.
    pub fn sync_from(&self, host: &str, args: &[&str]) -> Output {
        let to = if host == ATLAS { VEGA } else { ATLAS };
        let command = [
            "pc-switcher",
            "--batch",
            "sync",
            to,
            "--yes",
            "--allow-first-sync",
        ];
        self.as_dev(host, &[&command, args].concat())
    }

    /// Starts a sync on atlas and returns while it runs.
    pub fn start_sync(&self, args: &[&str]) -> Running {
        let command = [
            "as",
            "dev",
            ATLAS,
            "timeout",
            "-k",
            "5",
            LIMIT_SECS,
            "pc-switcher",
            "--batch",
            "sync",
            VEGA,
            "--yes",
            "--allow-first-sync",
        ];
        let all = [&command, args].concat();
        let child = script(&self.name)
            .args(&all)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash is there");
        Running {
            child,
            command: all.join(" "),
        }
    }

    /// Writes the person's configuration and its filter file on a machine: `/home` is mirrored, `@home` is
    /// snapshotted, and nothing else happens.
    pub fn configure(&self, host: &str, filter: &str) {
        self.configure_with(
            host,
            "sync_modules: { user_data: true }\n\
             disk: { preflight_minimum: \"1%\", runtime_minimum: \"1%\", warning_threshold: \"1%\", check_interval: 5 }\n\
             btrfs_snapshots: { subvolumes: [\"@home\"] }\n\
             user_data: { folders: [ { path: /home, filter: home.filter } ] }\n",
            filter,
        );
    }

    /// Writes any configuration.
    pub fn configure_with(&self, host: &str, yaml: &str, filter: &str) {
        let mut path = self.dev(host);
        for part in [".config", "pc-switcher"] {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).expect("the home is writable");
                chown(&path, OWNER, OWNER).expect("root may");
            }
        }
        for (name, text) in [("config.yaml", yaml), ("home.filter", filter)] {
            let file = path.join(name);
            fs::write(&file, text).expect("the directory is writable");
            chown(&file, OWNER, OWNER).expect("root may");
        }
    }

    /// Waits until `condition` holds; `false` after `limit`.
    pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        while !condition() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Sends a signal to every process of the program on a machine that has `argument`; fails if there is none.
    pub fn signal(&self, host: &str, signal: &str, argument: &str) -> Output {
        // By what is executed: sudo, timeout and this very shell have the name in their arguments too.
        // Only the lab's own pid namespace is seen from in there.
        let script = "found=1
            for p in /proc/[0-9]*; do
                case $(readlink $p/exe) in *pc-switcher* | *memfd*) ;; *) continue ;; esac
                if tr '\\0' '\\n' <$p/cmdline | grep -qxF -e \"$2\"; then kill \"$1\" ${p#/proc/} && found=0; fi
            done
            exit $found";
        self.exec(host, &["sh", "-c", script, "signal", signal, argument])
    }

    /// What mounts a machine has.
    fn mount_points(&self, host: &str) -> String {
        let awk = "{print $2, $3}";
        self.exec(host, &["awk", awk, "/proc/self/mounts"])
            .ok()
            .stdout
    }

    /// What a run left on a machine that should not be there: processes, mounts, files in `/run`.
    pub fn left_running(&self, host: &str) -> Vec<String> {
        let mut left = Vec::new();
        let processes = self
            .exec(host, &["ps", "-eo", "pid=,comm=,args="])
            .ok()
            .stdout;
        for line in processes.lines().filter(|l| l.contains("pc-switcher")) {
            left.push(format!("process on {host}: {line}"));
        }
        let list = "ls -l /proc/[0-9]*/exe 2>/dev/null; true";
        let executed = self.exec(host, &["sh", "-c", list]).ok().stdout;
        for line in executed.lines().filter(|l| l.contains("-> ")) {
            if line.contains("memfd:") || line.contains("pc-switcher") {
                left.push(format!("process on {host}: {line}"));
            }
        }
        let before = &self.mounts[usize::from(host == VEGA)];
        for line in self.mount_points(host).lines() {
            // A login session may bring its own run directory.
            if !before.lines().any(|b| b == line) && !line.starts_with("/run/user/") {
                left.push(format!("mount on {host}: {line}"));
            }
        }
        // The lock file stays on purpose: removing a locked file lets two lock it.
        let find = "test ! -e /run/pc-switcher || find /run/pc-switcher ! -type d ! -name '*lock*'";
        for line in self.exec(host, &["sh", "-c", find]).ok().stdout.lines() {
            left.push(format!("file on {host}: {line}"));
        }
        left
    }

    /// Fails the test if a run left anything behind; gives it a moment to go.
    #[track_caller]
    pub fn assert_nothing_left_running(&self) {
        for host in [ATLAS, VEGA] {
            Self::wait_until(Duration::from_secs(5), || {
                self.left_running(host).is_empty()
            });
            assert_eq!(self.left_running(host), Vec::<String>::new());
        }
    }
}

/// A sync that is going on.
pub struct Running {
    child: Child,
    command: String,
}

impl Running {
    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait(self) -> Output {
        let output = self.child.wait_with_output().expect("it can be waited for");
        Output {
            command: self.command,
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab.sh")
}

fn script(name: &str) -> Command {
    let mut command = Command::new(script_path());
    command
        .env("LAB_NAME", name)
        .env("LAB_OWNER", std::process::id().to_string());
    command
}

fn run(name: &str, args: &[&str]) -> Output {
    let output = script(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("bash is there");
    Output {
        command: args.join(" "),
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Why there can be no lab here, if so.
fn missing() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root (`make test` uses sudo)".to_owned());
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.trim() == "btrfs") {
        let loaded = Command::new("modprobe").arg("btrfs").status();
        if !loaded.is_ok_and(|s| s.success()) {
            return Err("this kernel has no btrfs".to_owned());
        }
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/need.sh");
    let check = Command::new(tools).args(["--check", "lab"]).output();
    match check {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(error) => Err(format!("tests/lab/need.sh: {error}")),
    }
}

/// The program under test without its debug information, which is most of its size.
fn stripped_binary() -> Vec<u8> {
    let binary = env!("CARGO_BIN_EXE_pc-switcher");
    let stripped = std::env::temp_dir().join(format!("pc-switcher-{}", std::process::id()));
    let done = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&stripped)
        .arg(binary)
        .status();
    let bytes = match done {
        Ok(status) if status.success() => fs::read(&stripped),
        _ => fs::read(binary),
    };
    let _ = fs::remove_file(&stripped);
    bytes.expect("cargo built the program")
}
