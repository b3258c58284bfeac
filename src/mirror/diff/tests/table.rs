//! One test for each thing a snapshot diff is known to report, to hide or to get wrong.
//!
//! A directory whose entries change has another time and is named for that: `d: attributes`.

use std::fs::OpenOptions;

use super::*;
use crate::sys::testing::write_mapped;

macro_rules! shows {
    ($setup:expr, $change:expr, [$($line:expr),* $(,)?]) => {
        let Some(lines) = between($setup, $change) else { return };
        let expected: Vec<String> = vec![$($line.to_owned()),*];
        assert_eq!(lines, expected);
    };
}

/// Files that hold data throughout: `make FILE BLOCKS`, `put FILE FIRST COUNT` writes other data.
const FILES: &str = "make() { head -c $((4096 * $2)) /dev/zero | tr '\\0' a > $1; sync $1; }; \
     put() { head -c $((4096 * $3)) /dev/zero | tr '\\0' b | \
             dd of=$1 bs=4k seek=$2 conv=notrunc iflag=fullblock status=none; };";

fn with_files(script: &str) -> String {
    format!("{FILES} {script}")
}

#[test]
fn nothing_changed_is_nothing() {
    shows!("mkdir a; echo x > a/b; ln a/b a/c", "true", []);
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
        &with_files("make f 8"),
        "t=$(stat -c @%.9Y f); dd if=f of=f bs=4k skip=2 seek=2 count=3 conv=notrunc status=none; \
         touch -d $t f",
        ["f: content 8192..20480"]
    );
}

#[test]
fn what_was_written_through_a_mapping_is_found() {
    let Some(lab) = Lab::new() else { return };
    lab.shell(&with_files("make f 3; touch -d @1 f"));
    let older = lab.snapshot("older");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(lab.live.join("f"))
        .unwrap();
    write_mapped(&file, b"mapped");
    let newer = lab.snapshot("newer");
    assert_eq!(
        lines(&judged(&older, &newer, "mapping")),
        ["f: content attributes 0..4096"]
    );
}

#[test]
fn changed_ranges_are_named_and_nothing_else_of_the_file() {
    shows!(
        &with_files("make f 100"),
        &with_files("t=$(stat -c @%.9Y f); put f 3 1; put f 50 2; touch -d $t f"),
        ["f: content 12288..16384 204800..212992"]
    );
}

#[test]
fn what_is_appended_or_cut_off_is_a_range() {
    shows!(
        &with_files("make longer 4; make shorter 4; make regrown 4; make sparse 4; touch -d @1 *"),
        &with_files(
            "put longer 4 1; truncate -s 5000 shorter; truncate -s 4096 regrown; \
             truncate -s 16384 regrown; truncate -s 30000 sparse; touch -d @1 *"
        ),
        [
            "longer: content attributes 16384..20480",
            "regrown: content attributes 4096..16384",
            "shorter: content attributes 5000..16384",
            "sparse: content attributes 16384..30000",
        ]
    );
}

#[test]
fn a_hole_punched_into_a_file_is_a_range() {
    shows!(
        &with_files("make f 16; touch -d @1 f"),
        "fallocate -p -o 8192 -l 16384 f; touch -d @1 f",
        ["f: content attributes 8192..24576"]
    );
}

#[test]
fn a_hole_punched_at_the_end_is_a_range() {
    shows!(
        &with_files("make f 16; touch -d @1 f"),
        "fallocate -p -o 32768 -l 32768 f; touch -d @1 f",
        ["f: content attributes 32768..65536"]
    );
}

#[test]
fn room_behind_the_end_of_a_file_is_no_content() {
    shows!(
        &with_files("make f 4; touch -d @1 f"),
        "fallocate -n -o 16384 -l 65536 f; touch -d @1 f",
        ["f: attributes"]
    );
}

#[test]
fn a_reflink_copy_appears() {
    shows!(
        &with_files("mkdir d; make d/f 32; touch -d @1 d"),
        "cp --reflink=always d/f d/copy; touch -d @1 d",
        ["d/copy: appeared"]
    );
}

#[test]
fn a_reflink_copy_with_a_hole_appears() {
    shows!(
        &with_files("mkdir d; make d/f 32; touch -d @1 d"),
        "cp --reflink=always d/f d/copy; fallocate -p -o 8192 -l 8192 d/copy; touch -d @1 d",
        ["d/copy: appeared"]
    );
}

#[test]
fn a_range_cloned_into_a_file_is_a_range() {
    shows!(
        &with_files("make f 32; make g 32; put g 0 32; touch -d @1 f"),
        "t=$(stat -c @%.9Y f); cp --reflink=always g h; xfs=$(cp --reflink=always h f 2>&1); \
         rm h; touch -d @1 f",
        [": attributes", "f: content 0..131072"]
    );
}

#[test]
fn inode_flags_are_found_by_both_formats() {
    shows!(
        "for f in a i j d; do echo x > $f; done; : > C; mkdir dir; chattr +i j; touch -d @1 dir",
        "chattr +a a; chattr +i i; chattr -i j; chattr +d d; chattr +C C dir",
        [
            "C: attributes",
            "a: attributes",
            "d: attributes",
            "dir: attributes",
            "i: attributes",
            "j: attributes",
        ]
    );
}

#[test]
fn reading_alone_is_nothing() {
    shows!(
        "mkdir d; echo x > d/f; echo y > g",
        "touch -a -d '2031-01-01' d d/f g .",
        []
    );
}

#[test]
fn a_change_that_changes_nothing_is_nothing() {
    shows!(
        "mkdir d; echo x > f; chmod 640 f; chmod 750 d",
        "chmod 640 f; chmod 750 d; chown 0:0 f d; touch -r f f; setfattr -n user.a -v b f; \
         setfattr -x user.a f",
        []
    );
}

#[test]
fn owner_mode_and_time_are_attributes() {
    shows!(
        "for f in a b c d; do echo x > $f; done",
        "chmod 600 a; chown 1:2 b; touch -d @5.000000001 c; chmod 600 d; chmod 644 d",
        ["a: attributes", "b: attributes", "c: attributes"]
    );
}

#[test]
fn extended_attributes_and_capabilities_are_attributes() {
    shows!(
        "for f in a b c d e; do cp /bin/true $f; done; setfattr -n user.x -v 1 a; \
         setfattr -n user.x -v 1 b; mkdir dir",
        "setfattr -n user.x -v 2 a; setfattr -x user.x b; setfattr -n user.new -v '' c; \
         setcap cap_net_raw+ep d; setfacl -m u:7:r e; setfacl -d -m u:7:rx dir",
        [
            "a: attributes",
            "b: attributes",
            "c: attributes",
            "d: attributes",
            "dir: attributes",
            "e: attributes",
        ]
    );
}

#[test]
fn a_hard_link_added_names_the_others() {
    shows!(
        "mkdir d e; echo x > d/a; touch -d @1 d e",
        "ln d/a e/b; touch -d @1 e",
        ["d/a: attributes", "e/b: appeared"]
    );
}

#[test]
fn a_hard_link_removed_names_the_others() {
    shows!(
        "mkdir d; echo x > d/a; ln d/a d/b; ln d/a d/c; touch -d @1 d",
        "rm d/b; touch -d @1 d",
        ["d/a: attributes", "d/b: gone", "d/c: attributes"]
    );
}

#[test]
fn content_of_a_hard_link_is_said_of_all_its_names() {
    shows!(
        &with_files("mkdir d; make a 8; ln a d/b; ln a d/c; touch -d @1 a"),
        &with_files("put d/b 1 1; touch -d @1 a"),
        [
            "a: content 4096..8192",
            "d/b: content 4096..8192",
            "d/c: content 4096..8192",
        ]
    );
}

#[test]
fn a_hard_link_renamed_names_the_others() {
    shows!(
        "mkdir d; echo x > d/a; ln d/a d/b; touch -d @1 d",
        "mv d/a d/c; touch -d @1 d",
        [
            "d/a: gone",
            "d/b: attributes",
            "d/c: appeared attributes <- d/a"
        ]
    );
}

#[test]
fn a_hard_link_into_a_renamed_directory_is_what_it_was() {
    shows!(
        "mkdir -p p/d/e; echo x > p/d/e/a; ln p/d/e/a p/b; echo y > p/d/f; touch -d @1 p",
        "mv p/d p/z; touch -d @1 p",
        ["p/d: gone subtree", "p/z: appeared subtree <- p/d"]
    );
}

#[test]
fn a_renamed_directory_is_two_names() {
    shows!(
        "mkdir -p p/old/sub; for i in 1 2 3; do echo $i > p/old/sub/$i; done; touch -d @1 p",
        "mv p/old p/new; touch -d @1 p",
        ["p/new: appeared subtree <- p/old", "p/old: gone subtree"]
    );
}

#[test]
fn what_changed_in_a_renamed_directory_is_named_where_it_is_now() {
    shows!(
        &with_files(
            "mkdir -p p/old/sub; make p/old/sub/f 4; echo x > p/old/gone; echo x > p/old/moved; \
             mkdir p/old/dir; echo x > p/old/dir/x; touch -d @1 p p/old p/old/sub p/old/sub/f"
        ),
        &with_files(
            "mv p/old p/new; put p/new/sub/f 1 1; rm p/new/gone; mv p/new/moved p/new/there; \
             rm -r p/new/dir; echo y > p/new/made; touch -d @1 p p/new p/new/sub p/new/sub/f"
        ),
        [
            "p/new: appeared subtree <- p/old",
            "p/new/dir: gone subtree <- p/old/dir",
            "p/new/gone: gone <- p/old/gone",
            "p/new/made: appeared",
            "p/new/moved: gone <- p/old/moved",
            "p/new/sub/f: appeared content 4096..8192 <- p/old/sub/f",
            "p/new/there: appeared <- p/old/moved",
            "p/old: gone subtree",
        ]
    );
}

#[test]
fn two_files_that_changed_places_are_followed() {
    shows!(
        "mkdir d; echo a > d/a; echo b > d/b; touch -d @1 d",
        "mv d/a d/t; mv d/b d/a; mv d/t d/b; touch -d @1 d",
        ["d/a: appeared gone <- d/b", "d/b: appeared gone <- d/a"]
    );
}

#[test]
fn two_directories_that_changed_places_are_followed() {
    shows!(
        "mkdir -p d/a d/b; echo a > d/a/x; echo b > d/b/x; touch -d @1 d",
        "mv d/a d/t; mv d/b d/a; mv d/t d/b; touch -d @1 d",
        [
            "d/a: appeared gone subtree <- d/b",
            "d/b: appeared gone subtree <- d/a",
        ]
    );
}

#[test]
fn another_kind_of_thing_under_the_same_name_is_gone_and_appeared() {
    shows!(
        "mkdir d d/dir d/full; echo x > d/full/x; echo x > d/file; mknod d/node c 1 3; \
         ln -s a d/link; mkfifo d/fifo; touch -d @1 d",
        "rmdir d/dir; echo x > d/dir; rm -r d/full; ln -s x d/full; rm d/file; mkdir d/file; \
         rm d/node; mknod d/node c 1 5; rm d/link; ln -s b d/link; rm d/fifo; mkfifo d/fifo; \
         touch -d @1 d",
        [
            "d/dir: appeared gone subtree",
            "d/fifo: appeared gone",
            "d/file: appeared gone subtree",
            "d/full: appeared gone subtree",
            "d/link: appeared gone",
            "d/node: appeared gone",
        ]
    );
}

#[test]
fn a_file_replaced_by_another_is_gone_and_appeared() {
    shows!(
        "mkdir d; echo x > d/f; touch -d @1 d",
        "echo y > d/f.new; mv d/f.new d/f; touch -d @1 d",
        ["d/f: appeared gone"]
    );
}

#[test]
fn a_directory_made_anew_is_looked_at_as_a_whole() {
    shows!(
        "mkdir -p d/e/f; echo x > d/e/f/x; touch -d @1 d",
        "rm -r d/e; mkdir -p d/e/f; echo x > d/e/f/x; touch -d @1 d",
        ["d/e: appeared gone subtree"]
    );
}

#[test]
fn a_deleted_tree_is_its_top() {
    shows!(
        "mkdir -p d/e/f/g; for i in 1 2 3 4 5; do echo $i > d/e/f/$i; echo $i > d/e/$i; done; \
         touch -d @1 d",
        "rm -r d/e; touch -d @1 d",
        ["d/e: gone subtree"]
    );
}

#[test]
fn a_new_tree_is_its_top_and_what_moved_into_it() {
    shows!(
        "mkdir d; echo x > d/x; mkdir d/sub; echo y > d/sub/y; touch -d @1 d",
        "mkdir -p d/new/deep; echo n > d/new/deep/n; mv d/x d/new/deep/x; mv d/sub d/new/s; \
         touch -d @1 d",
        [
            "d/new: appeared subtree",
            "d/new/deep/x: appeared <- d/x",
            "d/new/s: appeared subtree <- d/sub",
            "d/sub: gone subtree",
            "d/x: gone",
        ]
    );
}

#[test]
fn what_came_and_went_in_between_is_nothing() {
    shows!(
        "mkdir d; touch -d @1 d",
        "mkdir d/x; echo y > d/x/y; rm -r d/x; touch -d @1 d",
        []
    );
}

#[test]
fn names_of_any_bytes_are_themselves() {
    shows!(
        "mkdir d; touch -d @1 d",
        "cd d; touch $(printf '\\377\\376') \"$(printf 'a\\nb')\" '\\x41' ' ' 'o257-7-0'; \
         mkdir \"$(printf '\\033[31m')\"; touch -d @1 .",
        [
            "d/\\x1b[31m: appeared subtree",
            "d/ : appeared",
            "d/\\\\x41: appeared",
            "d/a\\x0ab: appeared",
            "d/o257-7-0: appeared",
            "d/\\xff\\xfe: appeared",
        ]
    );
}

#[test]
fn the_root_itself_has_attributes() {
    shows!(
        "echo x > f",
        "chmod 700 .; setfattr -n user.a -v b .",
        [": attributes"]
    );
}

const NESTED: &str = "nest() { btrfs -q subvolume create $1; echo x > $1/inner; }; \
     drop() { btrfs -q subvolume delete -c $1; };";

fn with_nested(script: &str) -> String {
    format!("{NESTED} {script}")
}

#[test]
fn an_edit_inside_a_nested_subvolume_is_nothing() {
    shows!(
        &with_nested("mkdir d; nest d/sub"),
        "echo y >> d/sub/inner; touch d/sub/new",
        []
    );
}

#[test]
fn a_nested_subvolume_that_appears_is_named() {
    shows!(
        &with_nested("mkdir d; echo x > d/x; touch -d @1 d"),
        &with_nested("nest d/sub; touch -d @1 d"),
        ["d/sub: appeared subtree nested"]
    );
}

#[test]
fn a_nested_subvolume_that_vanishes_is_named() {
    shows!(
        &with_nested("mkdir d; echo x > d/x; nest d/sub; nest d/kept; touch -d @1 d"),
        &with_nested("drop d/sub; touch -d @1 d"),
        ["d/sub: gone subtree nested"]
    );
}

#[test]
fn a_nested_subvolume_that_is_renamed_is_named_twice() {
    shows!(
        &with_nested("mkdir d; echo x > d/x; nest d/one; touch -d @1 d"),
        "mv d/one d/two; touch -d @1 d",
        [
            "d/one: gone subtree nested",
            "d/two: appeared subtree nested"
        ]
    );
}

#[test]
fn another_nested_subvolume_of_the_same_name_is_named() {
    shows!(
        &with_nested("mkdir d; echo x > d/x; nest d/one; touch -d @1 d"),
        &with_nested("drop d/one; nest d/one; touch -d @1 d"),
        ["d/one: appeared gone subtree nested"]
    );
}

#[test]
fn a_directory_replaced_by_a_nested_subvolume_is_named() {
    // The stream shows only that the directory was removed.
    shows!(
        &with_nested("mkdir -p d/docker; echo x > d/docker/x; touch -d @1 d"),
        &with_nested("rm -r d/docker; nest d/docker; touch -d @1 d"),
        ["d/docker: appeared gone subtree nested"]
    );
}

#[test]
fn a_nested_subvolume_replaced_by_a_directory_or_a_file_is_named() {
    shows!(
        &with_nested("mkdir -p d; nest d/dir; nest d/file; touch -d @1 d"),
        &with_nested(
            "drop d/dir; mkdir d/dir; echo x > d/dir/x; drop d/file; echo x > d/file; \
             touch -d @1 d"
        ),
        [
            "d/dir: appeared gone subtree nested",
            "d/file: appeared gone subtree nested",
        ]
    );
}

#[test]
fn a_moved_directory_takes_its_nested_subvolumes_along() {
    shows!(
        &with_nested("mkdir -p p/d; nest p/d/sub; nest p/d/lost; touch -d @1 p p/d"),
        &with_nested("mv p/d p/e; drop p/e/lost; touch -d @1 p p/e"),
        [
            "p/d: gone subtree",
            "p/e: appeared subtree <- p/d",
            "p/e/lost: gone subtree nested <- p/d/lost",
        ]
    );
}
