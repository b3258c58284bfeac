//! How managers are run on a machine: never through a shell, never waiting for input, always with a
//! limit of time, in a language whose output can be read.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::answer::Silence;
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::sys::command::{Finished, Limits, RunError, command, run};
use crate::sys::trusted::{Directory, read_regular};

/// Where root's programs are looked for.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kept of a program's output.
const OUTPUT_BYTES: usize = 32 << 20;

/// Kept of what a program said before it failed, for people.
const STDERR_SHOWN: usize = 600;

/// Time for a question.
pub const ASK: Duration = Duration::from_mins(2);

/// The machine's programs and files.
pub struct Tools<'a> {
    /// Stops what runs.
    pub abort: &'a AbortFlag,
    /// Time for one command that changes something.
    pub patience: Duration,
    /// Whether everything the work needs is on this machine: then no network is needed.
    pub supplied: bool,
    place: Place,
    hung: Hung,
}

/// Where things are.
#[derive(Clone)]
struct Place {
    /// Below this are the machine's files (`/`; tests have their own).
    root: PathBuf,
    /// Where programs are looked for.
    path: OsString,
    /// How the command begins that never ends: it is not waited for as long as others.
    #[cfg(test)]
    hanging: Option<String>,
}

/// What did not end in time: that is waited for once. After it nothing is changed any more, and after
/// a second one, which may be a question about what has become of it, nothing is run at all.
#[derive(Default)]
struct Hung {
    first: OnceLock<Silence>,
    again: AtomicBool,
}

impl Hung {
    fn note(&self, why: &Silence) {
        if self.first.set(why.clone()).is_err() {
            self.again.store(true, Ordering::Relaxed);
        }
    }
}

impl<'a> Tools<'a> {
    fn new(abort: &'a AbortFlag, patience: Duration, place: Place) -> Self {
        Self {
            abort,
            patience,
            supplied: false,
            place,
            hung: Hung::default(),
        }
    }

    /// The machine we are on.
    #[must_use]
    pub fn of_machine(abort: &'a AbortFlag, patience: Duration) -> Self {
        let place = Place {
            root: PathBuf::from("/"),
            path: OsString::from(ROOT_PATH),
            #[cfg(test)]
            hanging: None,
        };
        Self::new(abort, patience, place)
    }

    /// A machine of a test: its files below `root`, its programs in `root`'s `bin`; the command that
    /// begins with `hanging` never ends.
    #[cfg(test)]
    pub(super) fn below(root: &Path, abort: &'a AbortFlag, hanging: Option<String>) -> Self {
        let place = Place {
            root: root.to_owned(),
            // Nothing of the machine the tests run on: a program that is missing is missing.
            path: root.join("bin").into_os_string(),
            hanging,
        };
        Self::new(abort, Duration::from_secs(20), place)
    }

    /// The same machine, stopped by another flag, whatever has hung before.
    #[must_use]
    pub fn with_abort<'b>(&self, abort: &'b AbortFlag) -> Tools<'b> {
        Tools {
            supplied: self.supplied,
            ..Tools::new(abort, self.patience, self.place.clone())
        }
    }

    /// The same machine while something is changed.
    #[must_use]
    pub fn at_work(&self, patience: Duration, supplied: bool) -> Self {
        Self {
            supplied,
            ..Self::new(self.abort, patience, self.place.clone())
        }
    }

    /// The command that did not end in time, if there was one.
    #[must_use]
    pub fn hung(&self) -> Option<&Silence> {
        self.hung.first.get()
    }

    /// Whether nobody has stopped us.
    pub fn check(&self) -> Result<(), Silence> {
        self.abort.check().map_err(|e| Silence(e.to_string()))
    }

    /// Whether there is a point in going on: nobody has stopped us, and nothing has hung.
    pub fn go_on(&self) -> Result<(), Silence> {
        self.check()?;
        self.hung().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// `path` on this machine.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.place.root.join(path.trim_start_matches('/'))
    }

    /// Whether `program` is there.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        std::env::split_paths(&self.place.path).any(|dir| {
            #[cfg(test)]
            if self.place.root != Path::new("/") && !dir.starts_with(&self.place.root) {
                return false;
            }
            rustix::fs::access(dir.join(program), rustix::fs::Access::EXEC_OK).is_ok()
        })
    }

    /// Runs a program to its end, whatever its exit status.
    pub fn run(&self, argv: &[&str], patience: Duration) -> Result<Finished, Silence> {
        if let Some(why) = self
            .hung()
            .filter(|_| self.hung.again.load(Ordering::Relaxed))
        {
            return Err(why.clone());
        }
        let (program, arguments) = argv.split_first().expect("a command names its program");
        let mut prepared = command(program);
        prepared
            .args(arguments)
            .env_clear()
            .env("PATH", &self.place.path)
            .env("HOME", "/root")
            .env("USER", "root")
            .env("LOGNAME", "root")
            .env("LANG", "C.UTF-8")
            .env("LC_ALL", "C.UTF-8")
            // Nobody is asked anything (debconf(7), ucf(1), needrestart(1), apt-listchanges(1)).
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("UCF_FORCE_CONFFOLD", "1")
            .env("NEEDRESTART_SUSPEND", "1")
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("APT_LISTBUGS_FRONTEND", "none")
            .env("PAGER", "cat")
            .env("SYSTEMD_PAGER", "cat")
            .current_dir("/");
        #[cfg(test)]
        let patience = match &self.place.hanging {
            Some(start) if argv.join(" ").starts_with(start) => Duration::from_millis(300),
            _ => patience,
        };
        if cfg!(test) {
            prepared.env("TEST_ROOT", &self.place.root);
        }
        let limits = Limits {
            timeout: Some(patience),
            output_bytes: OUTPUT_BYTES,
        };
        run(&mut prepared, &[], &limits, self.abort).map_err(|error| match error {
            RunError::NotFound { .. } | RunError::Spawn { .. } | RunError::Watch { .. } => {
                Silence(escape_str(&error.to_string()))
            }
            RunError::TimedOut { limit, said, .. } => {
                let why = Silence(format!(
                    "`{}` did not end within {} s and was killed{}",
                    shown(argv),
                    limit.as_secs(),
                    last_words(&said, &[])
                ));
                self.hung.note(&why);
                why
            }
            RunError::Interrupted { .. } => Silence(format!("`{}` was interrupted", shown(argv))),
        })
    }

    /// What a program answers: its output as text, if it ended well and said all of it.
    pub fn ask(&self, argv: &[&str]) -> Result<String, Silence> {
        let done = self.run(argv, ASK)?;
        self.expect_success(argv, &done)?;
        if done.truncated {
            return Err(Silence(format!(
                "`{}` printed more than {} MiB",
                shown(argv),
                OUTPUT_BYTES >> 20
            )));
        }
        String::from_utf8(done.stdout)
            .map_err(|_| Silence(format!("`{}` printed what is not UTF-8", shown(argv))))
    }

    /// Runs a program that changes something to its end, whatever its exit status; not after one has hung.
    pub fn change(&self, argv: &[&str]) -> Result<Finished, Silence> {
        self.go_on()?;
        self.run(argv, self.patience)
    }

    /// Runs a program that changes something, to a good end.
    pub fn act(&self, argv: &[&str]) -> Result<Finished, Silence> {
        let done = self.change(argv)?;
        self.expect_success(argv, &done)?;
        Ok(done)
    }

    #[expect(clippy::unused_self, reason = "reads as a question to the machine")]
    fn expect_success(&self, argv: &[&str], done: &Finished) -> Result<(), Silence> {
        if done.code() == 0 {
            return Ok(());
        }
        Err(failed(argv, done))
    }

    /// A file's content, `None` if there is none; at most `limit` bytes, never through a link that
    /// somebody else than root could make (the last component is not followed).
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Silence> {
        let path = self.at(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => read_regular(File::from(fd), &path, limit)
                .map(Some)
                .map_err(|e| Silence(escape_str(&e.to_string()))),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Silence(format!(
                "cannot read {}: {errno}",
                escape_str(&path.to_string_lossy())
            ))),
        }
    }

    /// The same where a link of root's in a directory of root's is followed: what a program of root's finds
    /// there is what it names.
    pub fn read_linked(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Silence> {
        let place = self.at(path);
        let is_link = std::fs::symlink_metadata(&place).is_ok_and(|metadata| {
            let own = rustix::process::geteuid().as_raw();
            metadata.is_symlink() && [0, own].contains(&metadata.uid())
        });
        let is_roots = || (place.parent()).is_some_and(|parent| Directory::open(parent).is_ok());
        if !is_link || !is_roots() {
            return self.read(path, limit);
        }
        let fail =
            |e: &dyn std::fmt::Display| Silence(format!("cannot read {}: {e}", escape_str(path)));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&place, flags, Mode::empty()) {
            Ok(fd) => read_regular(File::from(fd), &place, limit)
                .map(Some)
                .map_err(|e| fail(&escape_str(&e.to_string()))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(fail(&errno)),
        }
    }

    /// Names in a directory, sorted; none if there is no such directory.
    pub fn names(&self, path: &str) -> Result<Vec<String>, Silence> {
        let fail = |e: &io::Error| Silence(format!("cannot list {}: {e}", escape_str(path)));
        let entries = match std::fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(&e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none that a package manager reads.
            if let Ok(name) = entry.map_err(|e| fail(&e))?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// The command for people, without secrets.
#[must_use]
pub fn shown(argv: &[&str]) -> String {
    let mut text = String::new();
    // Whose rights a command runs with is said by whoever reports it.
    let argv = match argv {
        ["setpriv", rest @ ..] => {
            let start = rest.iter().position(|word| *word == "--").unwrap_or(0);
            let words = &rest[start..];
            let named = words
                .iter()
                .position(|w| !w.contains('=') && !["--", "env"].contains(w));
            &words[named.unwrap_or(0)..]
        }
        _ => argv,
    };
    for word in argv {
        if text.len() > 160 {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&redact(word));
    }
    escape_str(&text)
}

/// That a command failed: its words and the last of what it said.
#[must_use]
pub fn failed(argv: &[&str], done: &Finished) -> Silence {
    Silence(format!(
        "`{}` ended with status {}{}",
        shown(argv),
        done.code(),
        last_words(&done.stderr, &done.stdout)
    ))
}

/// `: ` and the last lines a program wrote to stderr, or else to stdout.
fn last_words(stderr: &[u8], stdout: &[u8]) -> String {
    let text = [stderr, stdout]
        .into_iter()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .find(|text| !text.trim().is_empty());
    let Some(text) = text else {
        return String::new();
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    // What begins with `E:` is what apt means; everything else is what led to it.
    let errors: Vec<&str> = (lines.iter().copied())
        .filter(|line| line.starts_with("E:") || line.starts_with("error:"))
        .collect();
    let chosen = if errors.is_empty() {
        lines[lines.len().saturating_sub(3)..].to_vec()
    } else {
        errors
    };
    let mut joined = redact(&chosen.join("; "));
    joined.truncate(joined.floor_char_boundary(STDERR_SHOWN));
    format!(": {}", escape_str(&joined))
}

/// `text` with the user info and the query of every URL in it replaced.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '?' || c == '#' || c == '"')
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rfind('@') {
            Some(at) => {
                out.push_str("***");
                out.push_str(&authority[at..]);
            }
            None => out.push_str(authority),
        }
        let end = tail
            .find(|c: char| c.is_whitespace() || "\"'`<>".contains(c))
            .unwrap_or(tail.len());
        let (path, after) = tail.split_at(end);
        match path.find('?') {
            Some(at) => {
                out.push_str(&path[..=at]);
                out.push_str("***");
            }
            None => out.push_str(path),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::packages::testing::FakeMachine;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        for (text, shown) in [
            ("https://u:p@x.org/a", "https://***@x.org/a"),
            (
                "E: x http://tok@a/b and ftp://c:d@e",
                "E: x http://***@a/b and ftp://***@e",
            ),
            ("https://p@ss@host/", "https://***@host/"),
            ("https://o'brien:it's@host/x", "https://***@host/x"),
            ("https://plain.org/a@b", "https://plain.org/a@b"),
            (
                "`zypper ar https://h.org/x?credentials=me&t=1 n`: y?",
                "`zypper ar https://h.org/x?*** n`: y?",
            ),
            ("https://h.org?tok=1", "https://h.org?***"),
            ("no url a@b", "no url a@b"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn a_command_that_fails_hangs_or_is_missing_has_not_answered() {
        let machine = FakeMachine::new();
        machine.program("good", "echo yes");
        machine.program(
            "bad",
            "echo no; echo 'E: broken https://a:b@c/d' >&2; exit 100",
        );
        machine.program("binary", r"printf '\377'");
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        assert_eq!(tools.ask(&["good"]).unwrap(), "yes\n");
        let why = tools.ask(&["bad", "x"]).unwrap_err().0;
        assert_eq!(
            why,
            "`bad x` ended with status 100: E: broken https://***@c/d"
        );
        assert!(tools.ask(&["binary"]).unwrap_err().0.contains("not UTF-8"));
        assert!(tools.ask(&["nowhere-to-be-found"]).is_err());
        assert!(tools.has("good") && !tools.has("nowhere"));
    }

    #[test]
    fn what_hangs_is_waited_for_once_and_what_it_said_is_told() {
        let machine = FakeMachine::new();
        machine.program(
            "slow",
            "echo x >>$TEST_ROOT/run; echo 'Setting up y'; exec sleep 1000",
        );
        machine.program("quick", "echo yes");
        let abort = AbortFlag::new();
        let tools = machine.tools_where(Some("slow".to_owned()), &abort);
        assert_eq!(tools.go_on(), Ok(()));
        let why = tools.act(&["slow"]).unwrap_err();
        assert!(why.0.ends_with("was killed: Setting up y"), "{why}");
        assert_eq!(tools.act(&["slow"]).unwrap_err(), why);
        assert_eq!(tools.act(&["quick"]).unwrap_err(), why);
        assert_eq!(tools.ask(&["quick"]).unwrap(), "yes\n", "one may look");
        assert!(tools.ask(&["slow"]).is_err());
        assert_eq!(tools.ask(&["quick"]), Err(why), "but not for long");
        assert_eq!(machine.content("run").unwrap().lines().count(), 2);
        assert!(
            tools.with_abort(&abort).act(&["quick"]).is_ok(),
            "what tidies up goes on"
        );
    }

    #[test]
    fn a_link_of_roots_is_followed_where_that_is_said() {
        let machine = FakeMachine::new();
        machine.file("/usr/share/keyrings/v.pgp", "key");
        let link = machine.root().join("usr/share/keyrings/v.gpg");
        std::os::unix::fs::symlink("v.pgp", &link).unwrap();
        let abort = AbortFlag::new();
        let tools = machine.tools(&abort);
        let path = "/usr/share/keyrings/v.gpg";
        assert!(tools.read(path, 99).is_err());
        assert_eq!(tools.read_linked(path, 99).unwrap().unwrap(), b"key");
        std::fs::remove_file(machine.root().join("usr/share/keyrings/v.pgp")).unwrap();
        assert_eq!(tools.read_linked(path, 99), Ok(None));
    }

    #[test]
    fn nothing_waits_for_input() {
        let machine = FakeMachine::new();
        machine.program(
            "asks",
            "read answer && echo got:$answer || echo end of input",
        );
        let abort = AbortFlag::new();
        assert_eq!(
            machine.tools(&abort).ask(&["asks"]).unwrap(),
            "end of input\n"
        );
    }
}
