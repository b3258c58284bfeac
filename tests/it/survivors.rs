//! What must outlive a sync on the target: excluded paths, nested subvolumes, mounts.

use std::fs;
use std::path::Path;

use crate::support::lab::{ATLAS, Lab, VEGA};
use crate::support::scenario::{DONE, FILTER};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
    fs::write(path, text).expect("writable");
}

#[test]
fn excluded_paths_on_the_target_survive() {
    let Some(lab) = Lab::fresh() else { return };
    let filter = format!("{FILTER}+ *.keep\n- /dev/excluded/\n- *.cache\n- /dev/gone/inner/\n");
    lab.configure(ATLAS, &filter);
    let (source, target) = (lab.dev(ATLAS), lab.dev(VEGA));
    write(&source.join("excluded/from atlas"), "must not travel");
    write(&source.join("project/a.cache"), "must not travel");
    write(&source.join("project/b.keep"), "travels");
    write(&target.join("excluded/on vega"), "stays");
    write(&target.join("project/on vega.cache"), "stays");
    write(&target.join("project/ordinary"), "goes");
    // The directory is gone on the source, but something excluded is in it here.
    write(&target.join("gone/inner/on vega"), "stays");
    write(&target.join("gone/ordinary"), "goes");
    let key = fs::read(target.join(".ssh/id_ed25519")).expect("vega has a key");

    let run = lab.sync(&["--allow-mass-delete"]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    for (path, there) in [
        ("excluded/on vega", true),
        ("project/on vega.cache", true),
        ("gone/inner/on vega", true),
        ("project/b.keep", true),
        ("excluded/from atlas", false),
        ("project/a.cache", false),
        ("project/ordinary", false),
        ("gone/ordinary", false),
    ] {
        assert_eq!(target.join(path).exists(), there, "{path}");
    }
    assert_eq!(
        fs::read(target.join(".ssh/id_ed25519")).expect("still"),
        key
    );
}

#[test]
fn rules_of_a_directory_protect_on_the_first_sync() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let (source, target) = (lab.dev(ATLAS), lab.dev(VEGA));
    write(&source.join("project/.pc-switcher-filter"), "- build/\n");
    write(&source.join("project/build/out"), "must not travel");
    write(&source.join("project/main.c"), "travels");
    write(&target.join("project/build/on vega"), "stays");
    let run = lab.sync(&["--allow-mass-delete"]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert!(target.join("project/build/on vega").exists());
    assert!(!target.join("project/build/out").exists());
    assert!(target.join("project/main.c").exists());
    assert!(target.join("project/.pc-switcher-filter").exists());
}

#[test]
fn everything_in_a_nested_subvolume_or_a_mount_on_the_target_survives() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    let plant = "mkdir -p kept gone both && btrfs -q subvolume create kept/nested && btrfs -q subvolume create gone/nested &&
        btrfs -q subvolume create both/nested && mkdir -p kept/mounted gone/mounted &&
        touch kept/nested/inside gone/nested/inside both/nested/inside gone/ordinary";
    lab.as_dev(VEGA, &["bash", "-c", plant]).ok();
    for path in ["kept/mounted", "gone/mounted"] {
        let mount = format!(
            "mount -t tmpfs lab /home/dev/{path} && echo precious >/home/dev/{path}/inside"
        );
        lab.exec(VEGA, &["sh", "-c", &mount]).ok();
    }
    let source = lab.dev(ATLAS);
    write(&source.join("kept/file"), "x");
    // On the source an ordinary directory stands where the target has a subvolume.
    write(&source.join("both/nested/inside"), "must not land in there");
    write(&source.join("both/nested/other"), "must not land in there");

    let run = lab.sync(&["--allow-mass-delete"]);
    assert!(
        matches!(run.status, Some(0 | 1 | 8)),
        "{:?}: {}",
        run.status,
        run.text()
    );
    for path in ["kept", "gone", "both"] {
        let inside = lab.dev(VEGA).join(path).join("nested/inside");
        assert_eq!(
            fs::read(&inside).ok().as_deref(),
            Some(&b""[..]),
            "{path}/nested/inside"
        );
    }
    assert!(!lab.dev(VEGA).join("both/nested/other").exists());
    assert!(!lab.dev(VEGA).join("gone/ordinary").exists());
    assert!(lab.dev(VEGA).join("kept/file").exists());
    for path in ["kept/mounted", "gone/mounted"] {
        let inside = format!("/home/dev/{path}/inside");
        assert_eq!(lab.exec(VEGA, &["cat", &inside]).ok().stdout, "precious\n");
    }
}

#[test]
fn a_mount_on_the_source_hides_nothing_and_is_not_copied() {
    let Some(lab) = Lab::fresh() else { return };
    lab.configure(ATLAS, FILTER);
    write(&lab.dev(ATLAS).join("mounted/below"), "under the mount");
    let mount = "mount -t tmpfs lab /home/dev/mounted && touch /home/dev/mounted/above";
    lab.exec(ATLAS, &["sh", "-c", mount]).ok();
    let run = lab.sync(&[]);
    assert!(DONE.contains(&run.status), "{}", run.text());
    assert!(lab.dev(VEGA).join("mounted/below").exists());
    assert!(!lab.dev(VEGA).join("mounted/above").exists());
}
