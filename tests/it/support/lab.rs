//! The lab from Rust: one per test process, booted when the first test asks, handed to one test at a time.
//!
//! The lab is held by a process of its own that waits for the end of its stdin, so it is taken
//! down however this process ends. The machines' disks are mounted outside too: tests prepare and
//! judge files there with plain system calls, as the same kernel sees them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::awkward::{OWNER, chown};
use super::processes;

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
    /// The last test left both machines as it got them; see [`Lab::kept`].
    kept: bool,
    cgroups: PathBuf,
    /// What each machine has mounted after booting.
    mounts: [Vec<String>; 2],
}

static LAB: OnceLock<Result<Mutex<Lab>, String>> = OnceLock::new();

impl Lab {
    /// The lab, both machines freshly booted with pristine disks; `None`, after saying so loudly, where
    /// there can be no lab. With `CI=true` that is a failure.
    pub fn fresh() -> Option<MutexGuard<'static, Self>> {
        let mut lab = Self::lent()?;
        lab.reset();
        Some(lab)
    }

    /// The lab as the last such test left it, or a fresh one: for tests that put back what they change,
    /// so that many of them need one boot. What stays is what a refused sync leaves: logs, and our own
    /// directory in `/run`. A test that fails costs the next one a fresh lab.
    pub fn kept() -> Option<Kept> {
        let mut lab = Self::lent()?;
        if !lab.kept {
            lab.reset();
        }
        Some(Kept(lab))
    }

    fn lent() -> Option<MutexGuard<'static, Self>> {
        match LAB.get_or_init(|| Self::boot().map(Mutex::new)) {
            // A test that failed while holding the lab left nothing that a reset does not mend.
            Ok(lab) => Some(lab.lock().unwrap_or_else(PoisonError::into_inner)),
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
        let cgroup = run(&name, &["cgroup-path", ATLAS]).ok().stdout;
        let cgroups = Path::new(cgroup.trim()).parent();
        let mut lab = Self {
            directory: directory.to_owned(),
            cgroups: cgroups.expect("one per machine").to_owned(),
            name,
            _holder: stdin,
            used: false,
            kept: false,
            mounts: [Vec::new(), Vec::new()],
        };
        lab.install()
            .map_err(|e| format!("installing the program: {e}"))?;
        lab.mounts = [lab.mount_points(ATLAS), lab.mount_points(VEGA)];
        Ok(lab)
    }

    fn reset(&mut self) {
        self.kept = false;
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

    /// A sync from atlas whose kernel does not know `BTRFS_IOC_SEND`: for everything that runs there because of
    /// this sync a filter of system calls says so.
    pub fn sync_without_send(&self, args: &[&str]) -> Output {
        let command = ["as", "dev", ATLAS, "timeout", "-k", "5", LIMIT_SECS];
        let sync = ["pc-switcher", "--batch", "sync", VEGA, "--yes"];
        let all = [&command[..], &sync, args].concat();
        let output = Command::new("perl")
            .args(["-e", WITHOUT_SEND])
            .arg(script_path())
            .args(&all)
            .env("LAB_NAME", &self.name)
            .env("LAB_OWNER", std::process::id().to_string())
            .stdin(Stdio::null())
            .output()
            .expect("perl is there");
        output_of(all.join(" "), &output)
    }

    /// Starts a sync on atlas and returns while it runs.
    pub fn start_sync(&self, args: &[&str]) -> Running {
        let command = [
            "pc-switcher",
            "--batch",
            "sync",
            VEGA,
            "--yes",
            "--allow-first-sync",
        ];
        self.start_as_dev(ATLAS, &[&command, args].concat())
    }

    /// Starts a command as the person and returns while it runs.
    pub fn start_as_dev(&self, host: &str, argv: &[&str]) -> Running {
        let command = ["as", "dev", host, "timeout", "-k", "5", LIMIT_SECS];
        let all = [&command, argv].concat();
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

    /// The logs of runs on atlas, seen from outside.
    pub fn logs(&self) -> BTreeSet<PathBuf> {
        let logs = fs::read_dir(self.dev(ATLAS).join(".local/state/pc-switcher/logs"));
        logs.into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect()
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

    /// Where the control group of a machine is.
    pub fn cgroup(&self, host: &str) -> PathBuf {
        self.cgroups.join(host)
    }

    /// Pid 1 of a machine, as seen from outside; `None` while it is down.
    pub fn init(&self, host: &str) -> Option<u32> {
        let file = self.directory.with_file_name(format!("{host}.pid"));
        let text = fs::read_to_string(file).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    /// A machine's own root directory, its mounts included; only for directories that nobody
    /// but root can put symlinks into.
    pub fn inside(&self, host: &str) -> PathBuf {
        let init = self.init(host).expect("the machine is up");
        PathBuf::from(format!("/proc/{init}/root"))
    }

    /// What mounts a machine has: place and type.
    fn mount_points(&self, host: &str) -> Vec<String> {
        let init = self.init(host).expect("the machine is up");
        let mounts = fs::read_to_string(format!("/proc/{init}/mounts")).expect("it has mounts");
        let point = |line: &str| {
            let words: Vec<&str> = line.split(' ').skip(1).take(2).collect();
            words.join(" ")
        };
        mounts.lines().map(point).collect()
    }

    /// What a run left on a machine that should not be there: processes, mounts, files in `/run`.
    pub fn left_running(&self, host: &str) -> Vec<String> {
        let mut left = Vec::new();
        for process in processes::all(self, host) {
            let named = process.args.iter().any(|a| a.contains("pc-switcher"));
            if process.is_program() || process.comm.contains("pc-switcher") || named {
                left.push(format!("process on {host}: {process:?}"));
            }
        }
        let before = &self.mounts[usize::from(host == VEGA)];
        for mount in self.mount_points(host) {
            // A login session may bring its own run directory.
            if !before.contains(&mount) && !mount.starts_with("/run/user/") {
                left.push(format!("mount on {host}: {mount}"));
            }
        }
        // The lock file stays on purpose: removing a locked file lets two lock it.
        for path in self.run_files(host) {
            if !path.ends_with("/lock") {
                left.push(format!("file on {host}: {path}"));
            }
        }
        if !self.is_free(host) {
            left.push(format!("lock held on {host}"));
        }
        left
    }

    /// What is below a machine's `/run/pc-switcher`, directories apart.
    pub fn run_files(&self, host: &str) -> Vec<String> {
        let root = self.inside(host);
        let mut found = Vec::new();
        let mut open = vec![root.join("run/pc-switcher")];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push(path);
                } else {
                    let inside = path.strip_prefix(&root).expect("it was found there");
                    found.push(format!("/{}", inside.display()));
                }
            }
        }
        found
    }

    /// Whether nobody holds this machine's lock.
    pub fn is_free(&self, host: &str) -> bool {
        // Not by trying to take it: that would be in the way of whoever does.
        let Ok(lock) = fs::metadata(self.inside(host).join("run/pc-switcher/lock")) else {
            return true;
        };
        let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
        let held = format!(" {major:02x}:{minor:02x}:{} ", lock.ino());
        let locks = fs::read_to_string("/proc/locks").expect("the kernel tells");
        !locks
            .lines()
            .any(|l| l.contains(" FLOCK ") && l.contains(&held))
    }

    /// Fails the test if after `limit` a run has left anything behind on a machine.
    #[track_caller]
    pub fn assert_nothing_left_running_on(&self, host: &str, limit: Duration) {
        let mut left = Vec::new();
        Self::wait_until(limit, || {
            left = self.left_running(host);
            left.is_empty()
        });
        assert_eq!(left, Vec::<String>::new());
    }

    /// Fails the test if a run left anything behind; gives it a moment to go.
    #[track_caller]
    pub fn assert_nothing_left_running(&self) {
        for host in [ATLAS, VEGA] {
            self.assert_nothing_left_running_on(host, Duration::from_secs(20));
        }
    }
}

/// A lab that the next test of the same kind may have as it is.
pub struct Kept(MutexGuard<'static, Lab>);

impl Deref for Kept {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kept = !thread::panicking();
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

/// Runs a program under a filter (seccomp(2)) that answers `BTRFS_IOC_SEND` as a kernel without it would.
const WITHOUT_SEND: &str = r#"
    chomp(my $arch = `uname -m`);
    my ($ioctl, $seccomp) = @{ { x86_64 => [16, 317], aarch64 => [29, 277] }->{$arch} };
    my $filter = join "", map { pack "SCCL", @$_ }
        [0x20, 0, 0, 0],           # the number of the system call
        [0x15, 0, 3, $ioctl],      # is it ioctl?
        [0x20, 0, 0, 24],          # its second argument
        [0x15, 0, 1, 0x40489426],  # is it BTRFS_IOC_SEND?
        [0x06, 0, 0, 0x50019],     # then ENOTTY
        [0x06, 0, 0, 0x7fff0000];  # else whatever it is
    my $program = pack "Sx6P", 6, $filter;
    syscall($seccomp, 1, 0, $program) == 0 or die "seccomp: $!";
    exec @ARGV or die "exec: $!";
"#;

fn run(name: &str, args: &[&str]) -> Output {
    let output = script(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("bash is there");
    output_of(args.join(" "), &output)
}

fn output_of(command: String, output: &std::process::Output) -> Output {
    Output {
        command,
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
