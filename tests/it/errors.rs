//! What goes wrong for a new user first, made to happen for real, with everything the program says about
//! it: complete, as it stands in `snapshots/`, apart from what differs in each run.
//!
//! When words change on purpose: `INSTA_UPDATE=always cargo test --test it errors::`, and read the diff.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::awkward::{chmod, chown};
use crate::support::lab::{ATLAS, Kept, Lab, Running, VEGA};
use crate::support::processes::{self, Part};
use crate::support::scenario::{FILTER, home};
use crate::support::told::{Changed, QUICK, told};

const SYNC: [&str; 4] = ["sync", "vega", "--yes", "--allow-first-sync"];

/// A lab in which a sync would go through.
fn lab() -> Option<Kept> {
    let lab = Lab::kept()?;
    lab.configure_with(ATLAS, QUICK, FILTER);
    Some(lab)
}

/// Fails the test unless a sync ended with `status` and said what is kept under `name`, changed nothing, and
/// left nothing running.
#[track_caller]
fn refused(lab: &Lab, name: &str, status: i32) {
    let before = home(lab, VEGA);
    told(name, lab.pc_switcher(&SYNC), status);
    assert_eq!(before.differences(&home(lab, VEGA)), []);
    lab.assert_nothing_left_running();
}

/// A drop-in for sshd on vega while `test` runs.
fn with_sshd(lab: &Lab, settings: &str, test: impl FnOnce()) {
    let directory = lab.disk(VEGA).join("@/etc/systemd/system/ssh.service.d");
    fs::create_dir_all(&directory).expect("root may");
    let restart = "systemctl daemon-reload && systemctl restart ssh";
    let file = Changed::to(
        directory.join("test.conf"),
        format!("[Service]\n{settings}"),
    );
    lab.exec(VEGA, &["sh", "-c", restart]).ok();
    test();
    drop(file);
    lab.exec(VEGA, &["sh", "-c", restart]).ok();
}

/// A person who may run one harmless thing, and is not asked for a password to be told so.
const ONLY_TRUE: &str = "Defaults:dev !authenticate\ndev ALL=(root) /bin/true\n";

fn sudoers(lab: &Lab, host: &str) -> PathBuf {
    lab.disk(host).join("@/etc/sudoers.d/dev")
}

#[test]
fn a_host_that_nobody_knows() {
    let Some(lab) = lab() else { return };
    let run = lab.pc_switcher(&["sync", "no-such-host", "--yes"]);
    told("host_unknown", run, 5);
}

#[test]
fn a_host_key_that_is_not_known() {
    let Some(lab) = lab() else { return };
    let _known = Changed::to(lab.dev(ATLAS).join(".ssh/known_hosts"), "");
    refused(&lab, "host_key_unknown", 5);
}

#[test]
fn a_host_key_that_has_changed() {
    let Some(lab) = lab() else { return };
    let own = lab.disk(ATLAS).join("@/etc/ssh/ssh_host_ed25519_key.pub");
    let own = fs::read_to_string(own).expect("atlas has one");
    let wrong = format!("vega,10.77.0.2 {own}");
    let _known = Changed::to(lab.dev(ATLAS).join(".ssh/known_hosts"), wrong);
    refused(&lab, "host_key_changed", 5);
}

#[test]
fn a_key_that_is_refused() {
    let Some(lab) = lab() else { return };
    let _none = Changed::to(lab.dev(VEGA).join(".ssh/authorized_keys"), "");
    refused(&lab, "key_refused", 5);
}

#[test]
fn sudo_that_wants_a_password_or_does_not_allow_it_or_is_not_there() {
    let Some(lab) = lab() else { return };
    {
        let _asks = Changed::to(sudoers(&lab, VEGA), "dev ALL=(ALL) ALL\n");
        refused(&lab, "sudo_wants_a_password", 4);
    }
    {
        let _other = Changed::to(sudoers(&lab, VEGA), ONLY_TRUE);
        refused(&lab, "sudo_not_allowed", 5);
    }
    {
        let _other = Changed::to(sudoers(&lab, ATLAS), ONLY_TRUE);
        refused(&lab, "sudo_not_allowed_here", 1);
    }
    let sudo = lab.disk(VEGA).join("@/usr/bin/sudo");
    let away = sudo.with_file_name("sudo.away");
    fs::rename(&sudo, &away).expect("root may");
    let run = lab.pc_switcher(&SYNC);
    fs::rename(&away, &sudo).expect("root may");
    told("sudo_missing", run, 5);
}

#[test]
fn a_target_without_btrfs() {
    let Some(lab) = lab() else { return };
    // As on a live system: an overlay over what is installed, and nothing of the disk to be seen.
    let prepare = "mkdir -p /run/live/up /run/live/work /run/live/root && \
        mount -t overlay overlay -o lowerdir=/,upperdir=/run/live/up,workdir=/run/live/work /run/live/root && \
        cp -a /home/dev /run/live/root/home/";
    lab.exec(VEGA, &["sh", "-c", prepare]).ok();
    let settings = "RootDirectory=/run/live/root\nMountAPIVFS=yes\nBindPaths=/run\n";
    with_sshd(&lab, settings, || {
        told("no_btrfs", lab.pc_switcher(&SYNC), 3);
    });
    let undo = "umount /run/live/root && rm -rf /run/live";
    lab.exec(VEGA, &["sh", "-c", undo]).ok();
}

#[test]
fn a_snapshot_directory_that_is_a_plain_directory() {
    let Some(lab) = lab() else { return };
    lab.configure_with(ATLAS, &QUICK.replace("@home\"", "@\", \"@home\""), FILTER);
    lab.exec(VEGA, &["umount", "/.snapshots"]).ok();
    let run = lab.pc_switcher(&SYNC);
    lab.exec(VEGA, &["mount", "/.snapshots"]).ok();
    told("snapshot_dir_plain", run, 3);
}

#[test]
fn a_subvolume_that_is_missing() {
    let Some(lab) = lab() else { return };
    lab.configure_with(ATLAS, &QUICK.replace("@home", "@data"), FILTER);
    refused(&lab, "subvolume_missing", 3);
}

#[test]
fn a_target_that_has_a_newer_version_or_is_too_old_to_run_ours() {
    let Some(lab) = lab() else { return };
    {
        let installed = lab.disk(VEGA).join("@/usr/local/bin/pc-switcher");
        let _newer = Changed::to(installed.clone(), "#!/bin/sh\necho pc-switcher 99.0.0\n");
        chmod(&installed, 0o755).expect("root may");
        refused(&lab, "target_newer", 3);
    }
    // Linked against a library that the target does not have, as against a C library that is too old.
    let scratch = tempfile::tempdir().expect("a directory");
    let here = |name: &str| scratch.path().join(name);
    fs::write(here("new.c"), "int new_function(void) { return 0; }\n").expect("writable");
    let main = "int new_function(void);\nint main(void) { return new_function(); }\n";
    fs::write(here("main.c"), main).expect("writable");
    compile(
        &here("new.c"),
        &here("libnew.so.9"),
        &["-shared", "-fPIC", "-Wl,-soname,libnew.so.9"],
    );
    let library = here("libnew.so.9");
    let library = library.to_str().expect("plain");
    compile(&here("main.c"), &here("agent"), &[library]);
    let program = "/home/dev/agent";
    let _agent = Changed::to(
        lab.dev(ATLAS).join("agent"),
        fs::read(here("agent")).expect("built"),
    );
    let with_agent = |program: &str| {
        let variable = format!("PC_SWITCHER_AGENT_BINARY={program}");
        lab.as_dev(
            ATLAS,
            &[&["env", &variable, "pc-switcher", "--batch"], &SYNC[..]].concat(),
        )
    };
    told("target_too_old", with_agent(program), 5);
    let other = "#!/bin/sh\necho pc-switcher-agent 99 9.9.9 x86_64\nexec cat\n";
    fs::write(lab.dev(ATLAS).join("agent"), other).expect("root may");
    told("other_protocol", with_agent(program), 5);
}

fn compile(source: &Path, output: &Path, more: &[&str]) {
    let done = Command::new("cc")
        .arg("-o")
        .arg(output)
        .arg(source)
        .args(more)
        .status();
    assert!(done.expect("the lab needs cc too").success());
}

#[test]
fn a_target_of_another_architecture() {
    let Some(lab) = lab() else { return };
    with_sshd(&lab, "Personality=x86\n", || {
        refused(&lab, "other_architecture", 3);
    });
}

#[test]
fn a_disk_that_is_nearly_full() {
    let Some(lab) = lab() else { return };
    lab.configure_with(
        ATLAS,
        &QUICK.replace("preflight_minimum: \"1%\"", "preflight_minimum: \"50%\""),
        FILTER,
    );
    let fill =
        "fallocate -l $(($(df -B1 --output=size / | tail -n 1) * 6 / 10)) /fill && sync -f /";
    lab.exec(VEGA, &["sh", "-c", fill]).ok();
    let run = lab.pc_switcher(&SYNC);
    lab.exec(VEGA, &["sh", "-c", "rm /fill && sync -f /"]).ok();
    told("disk_low", run, 7);
}

#[test]
fn a_target_that_is_busy_with_a_sync_of_its_own() {
    let Some(lab) = lab() else { return };
    lab.configure_with(VEGA, QUICK, FILTER);
    let ours = fs::read(lab.disk(ATLAS).join("@/usr/local/bin/pc-switcher")).expect("it is there");
    let theirs = lab.disk(VEGA).join("@/usr/local/bin/pc-switcher");
    let _installed = Changed::to(theirs.clone(), ours);
    chmod(&theirs, 0o755).expect("root may");
    // Nobody answers at that address, and it takes long to give it up, for it seems to be known where it is: it
    // holds its own lock while it waits for the connection.
    let neighbour = |verb: &str| {
        let address =
            format!("ip neigh {verb} 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent");
        lab.exec(VEGA, &["sh", "-c", &address]).ok();
    };
    neighbour("replace");
    let mut busy = lab.start_as_dev(
        VEGA,
        &["pc-switcher", "--batch", "sync", "10.77.0.9", "--yes"],
    );
    assert!(Lab::wait_until(Duration::from_mins(1), || !lab.is_free(VEGA)));
    let run = lab.pc_switcher(&SYNC);
    assert!(busy.is_running(), "{}", busy.wait().text());
    assert!(processes::signal_on(&lab, VEGA, "sync", Signal::INT));
    busy.wait().expect(130);
    neighbour("del");
    told("lock_held", run, 6);
    forget(&lab);
}

#[test]
fn two_runs_at_once_and_one_that_is_interrupted() {
    let Some(lab) = lab() else { return };
    lab.configure_with(
        ATLAS,
        &QUICK.replace("target_duration: 0", "target_duration: 30"),
        FILTER,
    );
    let first = begin_to_pretend(&lab);
    let second = lab.pc_switcher(&SYNC);
    assert!(processes::signal(&lab, Part::Cli, Signal::INT));
    let first = first.wait();
    told("second_run", second, 6);
    told("interrupted", first, 130);
    lab.assert_nothing_left_running();
    refused(&lab, "after_an_interruption", 4);
    forget(&lab);
}

/// A sync that has begun to change the target, and takes its time.
fn begin_to_pretend(lab: &Lab) -> Running {
    let before = lab.logs();
    let mut run = lab.start_sync(&[]);
    let works = || {
        let logs = lab.logs();
        let mut texts = logs.difference(&before).flat_map(fs::read_to_string);
        // The disk monitor has a thread and a connection of its own: it shall have looked, once.
        let signs = ["pretending to work", "answer_millis"];
        texts.any(|text| signs.iter().all(|sign| text.contains(sign)))
    };
    if !Lab::wait_until(Duration::from_mins(1), works) {
        assert!(run.is_running(), "{}", run.wait().text());
        panic!("it does not work");
    }
    run
}

/// Makes both machines forget that there ever was a sync.
fn forget(lab: &Lab) {
    let snapshots = "rm -rf /var/lib/pc-switcher; \
        for s in /.snapshots/*; do test ! -e \"$s\" || btrfs subvolume delete \"$s\" >/dev/null; done";
    for host in [ATLAS, VEGA] {
        lab.exec(host, &["sh", "-c", snapshots]).ok();
    }
    let installed = "rm -rf /usr/local/bin/pc-switcher /home/dev/.config/pc-switcher";
    lab.exec(VEGA, &["sh", "-c", installed]).ok();
}

#[test]
fn a_configuration_with_a_typo_and_a_filter_that_cannot_be_read() {
    let Some(lab) = lab() else { return };
    lab.configure_with(ATLAS, &QUICK.replace("sync_modules", "sync_module"), FILTER);
    refused(&lab, "config_typo", 2);
    let typos = QUICK
        .replace("\"1%\", runtime", "20, runtme")
        .replace("dummy_success:", "dumy_success:");
    lab.configure_with(ATLAS, &typos, FILTER);
    refused(&lab, "config_typos", 2);
    lab.as_dev(ATLAS, &["rm", ".config/pc-switcher/config.yaml"])
        .ok();
    refused(&lab, "no_config", 2);

    lab.configure(ATLAS, FILTER);
    let filter = lab.dev(ATLAS).join(".config/pc-switcher/home.filter");
    chown(&filter, 0, 0).expect("root may");
    chmod(&filter, 0o600).expect("root may");
    refused(&lab, "filter_unreadable", 2);
    chown(&filter, 1000, 1000).expect("root may");
    lab.configure(ATLAS, "- /dev/.cache/\n- [z-a]\n+\n");
    refused(&lab, "filter_wrong", 2);
}

#[test]
fn a_target_whose_desktop_is_in_use() {
    let Some(lab) = lab() else { return };
    lab.configure(ATLAS, FILTER);
    let log_in = "systemd-run --quiet --collect --unit=desktop -p PAMName=login -p User=dev \
        -E XDG_SESSION_TYPE=wayland -E XDG_SESSION_CLASS=user -E XDG_SEAT= sleep 300";
    lab.exec(VEGA, &["sh", "-c", log_in]).ok();
    let logged_in = || {
        lab.exec(VEGA, &["loginctl", "list-sessions", "--no-legend"])
            .stdout
            .contains("dev")
    };
    assert!(Lab::wait_until(Duration::from_mins(1), logged_in));
    let run = lab.pc_switcher(&SYNC);
    lab.exec(VEGA, &["systemctl", "stop", "desktop"]).ok();
    told("target_logged_in", run, 4);
}

#[test]
fn a_clock_that_is_off() {
    let Some(lab) = lab() else { return };
    // The machines share one kernel, and so one clock: vega's programs are lied to.
    let scratch = tempfile::tempdir().expect("a directory");
    let source = scratch.path().join("clock.c");
    fs::write(
        &source,
        "#define _GNU_SOURCE\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t id, struct timespec *t) {\n\
           int r = syscall(SYS_clock_gettime, id, t);\n\
           if (id == CLOCK_REALTIME) t->tv_sec += 2 * 3600 + 180;\n  return r;\n}\n",
    )
    .expect("writable");
    let library = scratch.path().join("clock.so");
    compile(&source, &library, &["-shared", "-fPIC"]);
    let root = lab.disk(VEGA).join("@");
    let _library = Changed::to(
        root.join("usr/local/lib/clock.so"),
        fs::read(&library).expect("built"),
    );
    let _preload = Changed::to(root.join("etc/ld.so.preload"), "/usr/local/lib/clock.so\n");
    refused(&lab, "clock_off", 3);
}

#[test]
fn no_space_in_run() {
    let Some(lab) = lab() else { return };
    // As Fedora mounts it, so that the agent lies in `/run` itself.
    let fill = "mount -o remount,exec /run && \
        fallocate -l $(($(df -B1 --output=avail /run | tail -n 1) - 65536)) /run/fill";
    lab.exec(VEGA, &["sh", "-c", fill]).ok();
    let run = lab.pc_switcher(&SYNC);
    lab.exec(
        VEGA,
        &["sh", "-c", "rm /run/fill && mount -o remount,noexec /run"],
    )
    .ok();
    told("no_space_in_run", run, 7);
}

#[test]
fn a_link_that_is_lost_and_a_target_that_reboots() {
    let Some(lab) = lab() else { return };
    lab.configure_with(
        ATLAS,
        &QUICK.replace("target_duration: 0", "target_duration: 60"),
        FILTER,
    );
    let run = begin_to_pretend(&lab);
    lab.verb(&["cut", "drop"]).ok();
    let lost = run.wait();
    lab.verb(&["heal"]).ok();
    // What waits there for the end of its connection goes at once.
    lab.verb(&["kill", VEGA]).ok();
    lab.verb(&["start", VEGA]).ok();
    told("link_lost", lost, 5);
    forget(&lab);

    let run = begin_to_pretend(&lab);
    lab.verb(&["reboot", VEGA]).ok();
    told("target_rebooted", run.wait(), 5);
    forget(&lab);
}
