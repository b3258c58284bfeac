//! One test for each thing a snapshot diff is known to report, to hide or to get wrong.

use super::*;

macro_rules! shows {
    ($setup:expr, $change:expr, [$($line:expr),* $(,)?]) => {
        let Some(lines) = between($setup, $change) else { return };
        let expected: Vec<String> = vec![$($line.to_owned()),*];
        assert_eq!(lines, expected);
    };
}

#[test]
fn nothing_changed_is_nothing() {
    shows!("mkdir a; echo x > a/b", "true", []);
}

#[test]
fn content_of_equal_size_and_time_is_found() {
    shows!(
        "echo before > f; echo other > g",
        "t=$(stat -c @%.9Y f); printf BEFORE | dd of=f conv=notrunc status=none; touch -d $t f",
        ["f: content 0..7"]
    );
}

#[test]
fn content_rewritten_as_it_was_is_a_suspect() {
    shows!(
        "dd if=/dev/zero bs=4k count=4 of=f status=none",
        "t=$(stat -c @%.9Y f); dd if=/dev/zero bs=4k seek=1 count=2 of=f conv=notrunc status=none; touch -d $t f",
        ["f: content 4096..12288"]
    );
}
