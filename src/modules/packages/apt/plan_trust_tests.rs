//! What a source machine may not have the target do, and what a person is told of trust.

use super::*;

#[test]
fn what_cannot_be_a_package_is_nonsense() {
    let good = Made::new();
    assert_eq!(good.0.nonsense(), None);
    for (name, version) in [
        ("sudo-", "1"),
        ("-oX=y", "1"),
        ("/tmp/x.deb", "1"),
        ("x", "1*"),
    ] {
        let mut made = Made::new();
        made.package(name, version, DEBIAN);
        let why = made.0.nonsense().expect("it is said");
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn a_place_that_nobody_checks_is_said_to_be_one() {
    let (mut source, target) = (Made::new(), Made::new());
    source.vendor().package("tool", "2", VENDOR);
    let consequences = |source: &Made| {
        let (draft, _, _) = outcome(source, &target, &[], &Forecast::default(), ALL);
        draft.items[0].consequences.join(", ")
    };
    assert_eq!(consequences(&source), "");
    let line = "deb [trusted=yes] https://vendor.example/apt stable main\n";
    source.source("/etc/apt/sources.list.d/v.list", line);
    assert!(consequences(&source).contains("not verified"));
}

#[test]
fn a_vendors_new_key_comes_with_what_needs_it() {
    const KEY: &str = "/etc/apt/keyrings/v.gpg";
    let (mut source, mut target) = (Made::new(), Made::new());
    source.vendor().package("tool", "2", VENDOR);
    source.0.keys.get_mut(KEY).unwrap().content = Bytes(b"new key".to_vec());
    target.vendor();
    let files = |target: &Made, chosen: fn(&Item) -> bool| {
        let (_, settled, _) = outcome(&source, target, &[], &Forecast::default(), chosen);
        let paths: Vec<String> = settled.work.files.keys().cloned().collect();
        paths
    };
    assert_eq!(files(&target, DEFAULTS), [KEY]);
    assert!(files(&target, |_| false).is_empty(), "nothing needs it");
    // One that a package brings, or that another place is checked with, is not written over.
    let mut packaged = target.clone();
    packaged.0.keys.get_mut(KEY).unwrap().package = Some("v-keyring".to_owned());
    assert!(files(&packaged, DEFAULTS).is_empty());
    let line = format!("deb [signed-by={KEY}] https://other.example/apt stable main\n");
    target.source("/etc/apt/sources.list.d/other.list", &line);
    assert!(files(&target, DEFAULTS).is_empty());
}
