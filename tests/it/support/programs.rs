//! Programs that some tests need and not every machine has.

use std::io::Write as _;

/// Whether all of these programs are installed. If not, says which test is skipped for want of
/// which; with `CI=true` that is a failure (`tests/lab/need.sh ci` installs them).
pub fn all_there(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&&str| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    let missing: Vec<_> = programs.iter().filter(|p| !is_there(p)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|v| v != "true"),
        "with CI=true nothing may be skipped: {missing:?} not installed"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`: the test harness would keep it to itself.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: {missing:?} not installed"
    );
    false
}
