//! Kills process groups when this process can no longer do it itself.
//!
//! `PR_SET_PDEATHSIG` reaches only a child, not what the child has started. So the agent tells a
//! small shell which groups run; when the pipe to it closes, which a SIGKILL of the agent cannot
//! prevent, the shell kills those that are left and ends. A group's number is not given to another
//! process while the group has members, so nobody else is hit.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::command::command;

/// Reads `+ GROUP` and `- GROUP`; only numbers ever get here.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT
groups=' '
while read -r sign group; do
    case $sign in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do
    kill -s KILL -- "-$group"
done
"#;

static WANTED: AtomicBool = AtomicBool::new(false);
static GUARDIAN: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// From now on, groups that [`run`](super::command::run) starts are guarded. The guardian itself
/// is started with the first of them.
pub fn guard_groups() {
    WANTED.store(true, Ordering::SeqCst);
}

/// Tells the guardian that a group has begun (`+`) or ended (`-`).
pub(super) fn tell(sign: char, group: i32) {
    if !WANTED.load(Ordering::SeqCst) {
        return;
    }
    let mut guardian = GUARDIAN.lock().unwrap_or_else(PoisonError::into_inner);
    if guardian.is_none() && sign == '+' {
        *guardian = start();
    }
    if let Some(pipe) = &mut *guardian
        && writeln!(pipe, "{sign} {group}").is_err()
    {
        *guardian = None;
    }
}

/// It must not hold our output open, nor be hit by what is sent to our group.
fn start() -> Option<ChildStdin> {
    let mut child = command("/bin/sh")
        .args(["-c", SCRIPT])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    child.stdin.take()
}
