//! Running programs for the CLI, and putting our own binary in its place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::facts::{is_same_content, program_version};
use super::fault::{Fault, FaultKind};
use super::places::Places;
use super::protocol::RunOutput;
use crate::interrupt::AbortFlag;
use crate::sys::command::{Limits, command, run};
use crate::sys::trusted::Directory;

/// Where root's programs are looked for.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Kept of stdout and of stderr each.
const MAX_OUTPUT: usize = 1 << 20;

/// Both together, as JSON, within one frame.
const MAX_ENCODED: usize = 3 << 20;

/// Runs a program without a shell and with a clean environment, to its end.
pub fn run_program(
    argv: &[String],
    env: &BTreeMap<String, String>,
    stdin: Option<&str>,
    timeout_millis: Option<u64>,
    abort: &AbortFlag,
) -> Result<RunOutput, Fault> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| Fault::invalid("no program to run"))?;
    if program.contains('/') && !program.starts_with('/') {
        return Err(Fault::invalid(format!(
            "{program} is neither an absolute path nor a plain name"
        )));
    }
    let mut prepared = command(program);
    prepared
        .args(arguments)
        .env_clear()
        .env("PATH", ROOT_PATH)
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("LANG", "C.UTF-8")
        .env("LC_ALL", "C.UTF-8")
        .envs(env)
        .current_dir("/");
    let limits = Limits {
        timeout: timeout_millis.map(Duration::from_millis),
        output_bytes: MAX_OUTPUT,
    };
    let input = stdin.unwrap_or_default().as_bytes();
    let done = run(&mut prepared, input, &limits, abort)?;
    let mut output = RunOutput {
        exit_code: done.code(),
        stdout: to_text(&done.stdout),
        stderr: to_text(&done.stderr),
    };
    shorten(&mut output);
    Ok(output)
}

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    // Replacement characters are longer than what they replace.
    text.truncate(text.floor_char_boundary(MAX_OUTPUT));
    text
}

/// Makes the output fit a frame: control characters grow sixfold in JSON.
fn shorten(output: &mut RunOutput) {
    let encoded = |text: &str| serde_json::to_string(text).map_or(usize::MAX, |t| t.len());
    while encoded(&output.stdout) + encoded(&output.stderr) > MAX_ENCODED {
        let longer = if output.stdout.len() >= output.stderr.len() {
            &mut output.stdout
        } else {
            &mut output.stderr
        };
        longer.truncate(longer.floor_char_boundary(longer.len() / 2));
    }
}

/// Puts the running binary where people's shells find it, and checks that it runs there.
pub fn install_self(places: &Places) -> Result<(), Fault> {
    let fail = |action: &str, path: &Path, e: &io::Error| {
        Fault::of_io(format!("cannot {action} {}: {e}", path.display()), e)
    };
    let mut own =
        File::open(&places.own_binary).map_err(|e| fail("open", &places.own_binary, &e))?;
    let (Some(parent), Some(name)) = (places.install.parent(), places.install.file_name()) else {
        return Err(Fault::invalid("no place to install to"));
    };
    let is_there = File::open(&places.install).is_ok_and(|there| {
        let mode = there.metadata().map_or(0, |m| m.mode() & 0o7777);
        let own = File::open(&places.own_binary);
        mode == 0o755 && own.is_ok_and(|own| is_same_content(own, there).unwrap_or(false))
    });
    if !is_there {
        let directory = open_program_directory(parent)?;
        let owner = (rustix::process::geteuid(), rustix::process::getegid());
        let mode = Mode::from_raw_mode(0o755);
        directory.replace(OsStr::new(name), &mut own, mode, Some(owner))?;
    }
    // A program forked elsewhere in this process may still hold the written file for a moment,
    // and the kernel runs nothing that is open for writing (ETXTBSY).
    for _ in 0..20 {
        if program_version(&places.install).is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Fault::new(
        FaultKind::Io,
        format!(
            "{} was installed but does not run",
            places.install.display()
        ),
    )
    .with_hint(format!(
        "check that {} is not mounted noexec",
        parent.display()
    )))
}

/// Opens a directory of programs. Links on the way are followed (some systems have `/usr/local`
/// elsewhere: only root could have made them), and a group may write to it: on older Debian
/// systems it is `staff`'s, which is as good as root.
fn open_program_directory(path: &Path) -> Result<Directory, Fault> {
    let fail = |e: io::Error| Fault::of_io(format!("cannot open {}: {e}", path.display()), &e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| fail(e.into()))?;
    let own = rustix::process::geteuid().as_raw();
    if (stat.st_uid != 0 && stat.st_uid != own) || stat.st_mode & 0o002 != 0 {
        return Err(
            Fault::invalid(format!("{} is not root's alone", path.display())).with_hint(format!(
                "sudo chown root {0} && sudo chmod o-w {0}",
                path.display()
            )),
        );
    }
    Ok(Directory::from_fd(fd, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::MAX_FRAME;
    use std::os::unix::fs::PermissionsExt;

    fn run_it(argv: &[&str], stdin: Option<&str>) -> Result<RunOutput, Fault> {
        let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
        let env = BTreeMap::from([("EXTRA".to_owned(), "yes".to_owned())]);
        run_program(&argv, &env, stdin, Some(10_000), &AbortFlag::new())
    }

    #[test]
    fn a_program_gets_its_arguments_unparsed_and_a_clean_environment() {
        let output = run_it(&["printf", "%s|", "a b", "$HOME", "`id`", "*"], None).unwrap();
        assert_eq!(output.stdout, "a b|$HOME|`id`|*|");
        let output = run_it(&["env"], None).unwrap();
        let mut names: Vec<&str> = output
            .stdout
            .lines()
            .filter_map(|l| l.split('=').next())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["EXTRA", "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "USER"]
        );
        let output = run_it(&["/bin/sh", "-c", "cat; pwd; umask; exit 3"], Some("in\n")).unwrap();
        assert_eq!(
            (output.stdout.as_str(), output.exit_code),
            ("in\n/\n0022\n", 3)
        );
    }

    #[test]
    fn what_cannot_be_run_is_an_answer_not_a_crash() {
        for (argv, part) in [
            (&[][..], "no program"),
            (&["no-such-program-here"], "not found"),
            (&["./relative"], "absolute"),
            (&["nul\0byte"], "nul"),
        ] {
            let fault = run_it(argv, None).unwrap_err();
            assert!(fault.message.contains(part), "{fault}");
        }
    }

    #[test]
    fn a_slow_program_is_a_timeout_fault() {
        let argv = ["sleep".to_owned(), "600".to_owned()];
        let fault =
            run_program(&argv, &BTreeMap::new(), None, Some(100), &AbortFlag::new()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Timeout);
    }

    #[test]
    fn output_that_grows_in_json_still_fits_a_frame() {
        let script = "head -c 2000000 /dev/zero; head -c 2000000 /dev/zero | tr '\\0' '\\377' >&2";
        let output = run_it(&["/bin/sh", "-c", script], None).unwrap();
        assert!(!output.stdout.is_empty() && !output.stderr.is_empty());
        assert!(serde_json::to_vec(&output).unwrap().len() < MAX_FRAME - 1000);
    }

    #[test]
    fn installing_replaces_atomically_and_checks_that_it_runs() {
        let root = tempfile::tempdir().unwrap();
        let mut places = Places::below(root.path());
        let parent = places.install.parent().unwrap().to_owned();
        places.own_binary = root.path().join("own");
        std::fs::write(&places.own_binary, "#!/bin/sh\necho pc-switcher 1.2.3\n").unwrap();
        assert!(install_self(&places).unwrap_err().message.contains("open"));

        std::fs::create_dir_all(&parent).unwrap();
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o2775)).unwrap();
        std::fs::write(&places.install, "old").unwrap();
        install_self(&places).unwrap();
        let meta = std::fs::metadata(&places.install).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o755);
        assert_eq!(
            std::fs::read(&places.install).unwrap(),
            std::fs::read(&places.own_binary).unwrap()
        );
        assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 1);

        // Already there: not written again.
        install_self(&places).unwrap();
        assert_eq!(
            std::fs::metadata(&places.install).unwrap().ino(),
            meta.ino()
        );

        std::fs::write(&places.own_binary, "#!/bin/sh\nexit 1\n").unwrap();
        let fault = install_self(&places).unwrap_err();
        assert!(fault.message.contains("does not run"), "{fault}");

        std::fs::write(&places.own_binary, "#!/bin/sh\necho pc-switcher 2\n").unwrap();
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o777)).unwrap();
        let fault = install_self(&places).unwrap_err();
        assert!(fault.message.contains("alone"), "{fault}");
    }
}
