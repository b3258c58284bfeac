//! The fixed scripts that start an agent as root on the other machine.
//!
//! They are arguments of `/bin/sh -c '…'` in a command line that the person's login shell parses,
//! whatever shell that is: no single quote, no `!`, no line break. What is filled in is made of
//! digits and hex digits.
//!
//! The file that receives the binary is unlinked before its first byte arrives, and started through
//! its descriptor, so nothing is left however anything ends. Where `/run` is mounted noexec (Debian,
//! Ubuntu), the file lies on a tmpfs of a private mount namespace; the agent is then started back in
//! the namespace everything came from, and the tmpfs goes with its last user.

/// What a refusal line begins with.
pub(super) const REFUSED: &str = "pc-switcher-refused ";

/// The line that says that the binary may come.
pub(super) const READY: &str = "pc-switcher-ready";

/// The pattern of `uname -m` that runs binaries for `arch` (as Rust names it).
fn uname_pattern(arch: &str) -> &'static str {
    match arch {
        "x86_64" => "x86_64",
        "aarch64" => "aarch64",
        "x86" => "i?86|x86_64",
        "arm" => "arm*|aarch64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64*",
        "s390x" => "s390x",
        // Unknown here: the kernel there will judge.
        _ => "*",
    }
}

const PRELUDE: &str = "umask 077; cd /; \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; \
    r() { echo pc-switcher-refused $*; exit 70; }; ";

/// Receives `bytes` bytes with the checksum `sha256` on stdin and becomes the agent.
///
/// To be run as `sh -c 'eval "$1"' sh SCRIPT`: it runs itself again in the private namespace.
pub(super) fn streamed(bytes: usize, sha256: &str, session: &str) -> String {
    let pattern = uname_pattern(std::env::consts::ARCH);
    let mut script = String::from(PRELUDE);
    for line in [
        "d=/run/pc-switcher;",
        &format!("f=$d/bin-{session};"),
        "if [ \"$2\" = private ]; then",
        "mount -t tmpfs -o size=64m,mode=700,nosuid,nodev pc-switcher $d || r noexec;",
        "else",
        "[ \"$(id -u)\" = 0 ] || r root;",
        &format!("m=$(uname -m); case $m in {pattern}) ;; *) r arch $m;; esac;"),
        "for t in sha256sum head; do command -v $t >/dev/null || r tool $t; done;",
        // The very same binary, installed and root's own, need not come over the wire again.
        &format!("for i in {}; do", super::INSTALLED.join(" ")),
        &format!(
            "[ -L $i ] || {{ [ -f $i ] && [ -O $i ] && [ \"$(sha256sum <$i)\" = \"{sha256}  -\" ] && exec $i agent; }};"
        ),
        "done;",
        "mkdir -m 711 $d 2>/dev/null;",
        "[ -L $d ] && r directory;",
        "[ -d $d ] && [ -O $d ] || r directory;",
        "o=; while read -r a b c e g; do case $b in /run|/run/pc-switcher) o=,$e,;; esac; done </proc/self/mounts;",
        "case $o in *,noexec,*)",
        "for t in unshare nsenter mount; do command -v $t >/dev/null || r tool $t; done;",
        "unshare --mount --propagation slave true 2>/dev/null || r noexec;",
        "exec 7</proc/$$/ns/mnt;",
        "exec unshare --mount --propagation slave /bin/sh -c \"$1\" sh \"$1\" private;;",
        "esac; fi;",
        // A failing redirection of a special builtin (exec) would end the shell without a word.
        "true 9<>$f || r space; exec 9<>$f; rm -f $f;",
        &format!("echo {READY};"),
        &format!("head -c {bytes} >&9 || r space;"),
        &format!("[ \"$(sha256sum </proc/$$/fd/9)\" = \"{sha256}  -\" ] || r hash;"),
        "chmod 700 /proc/$$/fd/9; exec 8</proc/$$/fd/9; exec 9>&-;",
        "if [ \"$2\" = private ]; then exec nsenter --mount=/proc/$$/fd/7 /proc/self/fd/8 agent; fi;",
        "exec /proc/self/fd/8 agent",
    ] {
        script.push_str(line);
        script.push(' ');
    }
    script.trim_end().to_owned()
}

/// Becomes an agent from the binary the process `pid` runs, if it is the one with this checksum.
pub(super) fn extra(pid: u32, sha256: &str) -> String {
    format!(
        "{PRELUDE}true 8</proc/{pid}/exe || r gone; exec 8</proc/{pid}/exe; \
         [ \"$(sha256sum </proc/$$/fd/8)\" = \"{sha256}  -\" ] || r hash; \
         exec /proc/self/fd/8 agent"
    )
}

/// As the person: runs the installed pc-switcher through `sudo` if there is one with this checksum.
pub(super) fn installed(sha256: &str) -> String {
    let run = with_installed(sha256, "exec env LC_ALL=C sudo -n -- $i agent");
    format!("{run}; echo {REFUSED}installed none")
}

/// As the person: prints where [`installed`] finds it.
pub(super) fn where_installed(sha256: &str) -> String {
    with_installed(sha256, "echo $i; exit")
}

/// Does `then` with the first `$i` of all places that is a program of root's with this checksum.
fn with_installed(sha256: &str, then: &str) -> String {
    let places = super::INSTALLED.join(" ");
    format!(
        "for i in {places}; do if [ -L $i ]; then continue; fi; \
         [ -x $i ] && [ \"$(stat -c %u $i)\" = 0 ] && [ \"$(sha256sum <$i)\" = \"{sha256}  -\" ] || continue; \
         {then}; done"
    )
}

/// The command line that runs `script` as root.
pub(super) fn as_root(script: &str, sudo: Sudo<'_>) -> String {
    let shell = format!("/bin/sh -c {} sh {}", quoted("eval \"$1\""), quoted(script));
    match sudo {
        Sudo::NotNeeded => shell,
        Sudo::Silent => format!("env LC_ALL=C sudo -n -- {shell}"),
        Sudo::Password(prompt) => {
            format!("env LC_ALL=C sudo -k -S -p {} -- {shell}", quoted(prompt))
        }
    }
}

/// The command line that runs `script` as the person.
pub(super) fn as_person(script: &str) -> String {
    format!("/bin/sh -c {}", quoted(script))
}

/// How `sudo` is called.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sudo<'a> {
    /// We log in as root.
    NotNeeded,
    /// It may not ask.
    Silent,
    /// It reads the password from stdin and prints this prompt.
    Password(&'a str),
}

fn quoted(text: &str) -> String {
    assert!(
        !text.contains(['\'', '!', '\n', '\\']),
        "our own scripts hold nothing that any shell would see inside single quotes"
    );
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_safe_in_single_quotes_of_any_shell() {
        let sha256 = "0".repeat(64);
        for script in [
            streamed(12_345, &sha256, "00c0ffee"),
            extra(4711, &sha256),
            installed(&sha256),
            where_installed(&sha256),
        ] {
            assert!(as_root(&script, Sudo::Silent).ends_with('\''));
            assert!(script.len() < 4096);
        }
    }

    #[test]
    fn this_machine_matches_its_own_pattern() {
        let machine = rustix::system::uname()
            .machine()
            .to_string_lossy()
            .into_owned();
        let pattern = uname_pattern(std::env::consts::ARCH);
        let done = crate::sys::command::command("/bin/sh")
            .args([
                "-c",
                &format!("case {machine} in {pattern}) ;; *) exit 1;; esac"),
            ])
            .status()
            .unwrap();
        assert!(done.success());
    }
}
