//! Syncs that nobody watches: with nothing in sudoers but the one line that `init --sudoers` prints, and by the
//! units in `contrib/`, which the machine's own systemd judges and runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::awkward::{chmod, chown};
use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::oracle;
use crate::support::scenario::{DONE, FILTER, PRIVATE};
use crate::support::told::Changed;

const LOCAL: &str = "usr/local/bin/pc-switcher";
const PACKAGED: &str = "usr/bin/pc-switcher";

fn sudoers(lab: &Lab, host: &str) -> PathBuf {
    lab.disk(host).join("@/etc/sudoers.d/dev")
}

/// What `init --sudoers` prints, typed on a machine.
fn line(lab: &Lab, host: &str) -> String {
    let done = lab.as_dev(host, &["pc-switcher", "init", "--sudoers"]);
    let done = done.expect(0);
    assert_eq!(done.stderr, "");
    done.stdout
}

/// What sudo complained about on a machine since the lab was booted.
fn offences(lab: &Lab, host: &str) -> String {
    lab.exec(host, &["journalctl", "--sync"]).ok();
    let grep = "password is required|not allowed|NOT in sudoers";
    let journal = [
        "journalctl",
        "-q",
        "-t",
        "sudo",
        "-o",
        "cat",
        "--grep",
        grep,
    ];
    lab.exec(host, &journal).stdout
}

/// Takes from dev whatever else sudo allows, and puts these lines in its place while the test runs.
fn only(lab: &Lab, lines: [&str; 2]) -> [Changed; 2] {
    let changed = [(ATLAS, lines[0]), (VEGA, lines[1])].map(|(host, line)| {
        let checked = format!("printf %s '{line}' | visudo -c -f - >/dev/null");
        lab.exec(host, &["sh", "-c", &checked]).ok();
        Changed::to(sudoers(lab, host), line)
    });
    for host in [ATLAS, VEGA] {
        for other in [
            &["true"][..],
            &["/bin/sh", "-c", "true"],
            &["/usr/local/bin/pc-switcher"],
        ] {
            let refused = lab.as_dev(host, &[&["sudo", "-n"], other].concat());
            assert_eq!(refused.status, Some(1), "{other:?}: {}", refused.text());
        }
        lab.exec(host, &["journalctl", "--rotate"]).ok();
        lab.exec(host, &["journalctl", "--vacuum-time=1us"]).ok();
    }
    changed
}

fn edit(lab: &Lab, host: &str, text: &str) {
    let file = lab.dev(host).join("letter.txt");
    fs::write(&file, text).expect("root may");
    chown(&file, 1000, 1000).expect("root may");
}

#[test]
fn one_line_in_sudoers_on_each_machine_is_enough() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    lab.configure(VEGA, FILTER);
    edit(&lab, ATLAS, "first\n");
    // By hand: it installs the program there.
    assert!(DONE.contains(&lab.sync(&[]).status));
    let expected = "dev ALL=(root) NOPASSWD: /usr/local/bin/pc-switcher agent\n";
    let (here, there) = (line(&lab, ATLAS), line(&lab, VEGA));
    assert_eq!([&*here, &*there], [expected; 2]);
    {
        let _lines = only(&lab, [&here, &there]);
        edit(&lab, ATLAS, "second\n");
        let run = lab.sync(&["--allow-out-of-order"]);
        assert!(DONE.contains(&run.status), "{}", run.text());
        oracle::assert_homes_equal(&lab, PRIVATE);
        edit(&lab, VEGA, "back\n");
        let run = lab.sync_from(VEGA, &[]);
        assert!(DONE.contains(&run.status), "{}", run.text());
        oracle::assert_homes_equal(&lab, PRIVATE);
        let looked = lab.pc_switcher(&["doctor", "vega"]);
        assert!(DONE.contains(&looked.status), "{}", looked.text());
        // Nothing was tried that sudo reports to root.
        for host in [ATLAS, VEGA] {
            assert_eq!(offences(&lab, host), "", "{host}");
        }
        lab.assert_nothing_left_running();
    }
    // As a package has it: elsewhere, and found there. Nobody else's program is, whatever is in it.
    for host in [ATLAS, VEGA] {
        let root = lab.disk(host).join("@");
        fs::rename(root.join(LOCAL), root.join(PACKAGED)).expect("one file system");
    }
    let packaged = line(&lab, VEGA);
    assert_eq!(packaged, expected.replace("/usr/local/bin", "/usr/bin"));
    assert_eq!(line(&lab, ATLAS), packaged);
    let _lines = only_packaged(&lab, &packaged);
    edit(&lab, ATLAS, "third\n");
    let run = lab.sync(&["--allow-out-of-order"]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert!(!lab.disk(VEGA).join("@").join(LOCAL).exists());
    oracle::assert_homes_equal(&lab, PRIVATE);
    assert_eq!(offences(&lab, VEGA), "");

    let program = lab.disk(VEGA).join("@").join(PACKAGED);
    chown(&program, 1000, 1000).expect("root may");
    let run = lab.sync(&["--allow-out-of-order"]).expect(4);
    // It is what is to be installed; the line is the same that `init --sudoers` prints for it there.
    assert!(run.stderr.contains(expected.trim_end()), "{}", run.text());
    let none = lab.as_dev(VEGA, &["pc-switcher", "init", "--sudoers"]);
    let none = none.expect(2);
    assert!(
        none.stderr.contains("does not belong to root"),
        "{}",
        none.text()
    );
    assert_eq!(none.stdout, "");
}

/// The same for the program in `/usr/bin` alone.
fn only_packaged(lab: &Lab, line: &str) -> [Changed; 2] {
    [ATLAS, VEGA].map(|host| Changed::to(sudoers(lab, host), line))
}

#[test]
fn the_hint_for_a_program_that_is_installed_is_the_line_for_it() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let ours = fs::read(lab.disk(ATLAS).join("@").join(LOCAL)).expect("it is there");
    let theirs = lab.disk(VEGA).join("@").join(PACKAGED);
    fs::write(&theirs, ours).expect("root may");
    chmod(&theirs, 0o755).expect("root may");
    let _asks = Changed::to(sudoers(&lab, VEGA), "dev ALL=(ALL) ALL\n");
    let run = lab.sync(&[]).expect(4);
    assert!(
        run.stderr.contains(line(&lab, VEGA).trim_end()),
        "{}",
        run.text()
    );
    let with_it = run.stderr.lines().map(str::trim);
    let mut commands = with_it.filter(|line| line.starts_with("echo '"));
    let command = commands.next().expect("a line to copy");
    lab.exec(VEGA, &["sh", "-c", command]).ok();
    let run = lab.sync(&[]);
    assert!(DONE.contains(&run.status), "{}", run.text());
}

/// The units, with `vega` for what comes after the `@`.
fn units() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/user");
    let units = fs::read_dir(directory).expect("it is there").map(|entry| {
        let entry = entry.expect("readable");
        let name = entry.file_name().into_string().expect("plain");
        (name, fs::read_to_string(entry.path()).expect("text"))
    });
    units.collect()
}

#[test]
fn the_units_are_good_and_a_timer_has_them_sync() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    edit(&lab, ATLAS, "first\n");
    assert!(DONE.contains(&lab.sync(&[]).status));
    let lines = [line(&lab, ATLAS), line(&lab, VEGA)];
    let _lines = only(&lab, [&lines[0], &lines[1]]);

    let place = ".config/systemd/user";
    lab.as_dev(ATLAS, &["mkdir", "-p", place]).ok();
    let units = units();
    assert_eq!(units.len(), 2);
    for (name, text) in &units {
        fs::write(lab.dev(ATLAS).join(place).join(name), text).expect("root may");
        // A copy under a whole name is what systemd can be asked about.
        let whole = name.replace('@', "@vega");
        fs::write(lab.dev(ATLAS).join(whole), text).expect("root may");
    }
    lab.exec(ATLAS, &["loginctl", "enable-linger", "dev"]).ok();
    lab.exec(ATLAS, &["systemctl", "start", "user@1000.service"])
        .ok();
    let with_manager = |program: &str, words: &[&str]| {
        let command = ["env", "XDG_RUNTIME_DIR=/run/user/1000", program, "--user"];
        lab.as_dev(ATLAS, &[&command, words].concat())
    };
    let user = |words: &[&str]| with_manager("systemctl", words);
    let copies = units
        .iter()
        .map(|(name, _)| format!("./{}", name.replace('@', "@vega")));
    let copies: Vec<String> = copies.collect();
    let mut verify = vec!["--man=no", "verify"];
    verify.extend(copies.iter().map(String::as_str));
    let judged = with_manager("systemd-analyze", &verify).expect(0);
    assert_eq!(judged.text(), "");
    // It would have had something to say.
    fs::write(
        lab.dev(ATLAS).join("bad.service"),
        "[Service]\nExecStrat=x\n",
    )
    .expect("root may");
    let judged = with_manager("systemd-analyze", &["verify", "./bad.service"]);
    assert!(judged.text().contains("ExecStrat"), "{}", judged.text());
    user(&["daemon-reload"]).ok();
    edit(&lab, ATLAS, "second\n");
    let run = user(&["start", "pc-switcher@vega.service"]);
    let journal = lab.exec(ATLAS, &["journalctl", "-q", "-o", "cat", "_UID=1000"]);
    assert_eq!(run.status, Some(0), "{}{}", run.text(), journal.text());
    oracle::assert_homes_equal(&lab, PRIVATE);
    let show = [
        "show",
        "--value",
        "-p",
        "Result",
        "pc-switcher@vega.service",
    ];
    assert_eq!(user(&show).stdout, "success\n");

    // A gate that is not opened by the unit wants a person.
    fs::remove_dir_all(lab.dev(VEGA).join(".config/pc-switcher")).expect("root may");
    lab.exec(ATLAS, &["rm", "-r", "/var/lib/pc-switcher"]).ok();
    lab.exec(VEGA, &["rm", "-r", "/var/lib/pc-switcher"]).ok();
    let refused = user(&["start", "pc-switcher@vega.service"]);
    assert_eq!(refused.status, Some(1), "{}", refused.text());
    let show = [
        "show",
        "--value",
        "-p",
        "ExecMainStatus",
        "pc-switcher@vega.service",
    ];
    assert_eq!(user(&show).stdout, "4\n");
    user(&["enable", "--now", "pc-switcher@vega.timer"]).ok();
    let timers = user(&["list-timers", "--no-legend"]).ok();
    assert!(
        timers.stdout.contains("pc-switcher@vega.service"),
        "{}",
        timers.text()
    );
    lab.assert_nothing_left_running();
}
