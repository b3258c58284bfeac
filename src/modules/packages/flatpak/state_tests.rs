//! What flatpak prints and keeps, and what is nonsense.

use super::*;
use crate::interrupt::AbortFlag;
use crate::modules::packages::testing::FakeMachine;

/// A repository's configuration as flatpak 1.14 writes it.
const CONFIG: &str = "[core]\nrepo_version=1\nmode=bare-user-only\nmin-free-space-size=500MB\n\
    xa.masked=org.x.Never;\n\n[remote \"flathub\"]\nurl=https://dl.example/repo/\ngpg-verify=true\n\
    gpg-verify-summary=true\nxa.title=Hub\nxa.filter=/etc/flatpak/hub.filter\nxa.subset=verified\n\n\
    [remote \"plain-origin\"]\nurl=\ngpg-verify=false\nxa.noenumerate=true\nxa.disable=true\n";

fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    machine.file("/var/lib/flatpak/repo/config", CONFIG);
    machine.file(
        "/var/lib/flatpak/repo/flathub.trustedkeys.gpg",
        "key of the hub",
    );
    machine.file("/etc/flatpak/hub.filter", "deny *\n");
    machine.program(
        "flatpak",
        r"case $1$3 in
            --version) echo 'Flatpak 1.14.10' ;;
            list--app) printf 'org.x.App/x86_64/stable\tflathub\torg.x.Platform/x86_64/23.08\n' ;;
            list--runtime) printf 'org.x.Platform/x86_64/23.08\tflathub\norg.x.Sdk/x86_64/23.08\tflathub\n' ;;
            mask) echo org.x.Never ;;
            pin) echo runtime/org.x.Sdk/x86_64/23.08 ;;
            *) echo unknown: $* >&2; exit 1 ;;
        esac",
    );
    machine
}

#[test]
fn everything_is_read() {
    let machine = machine();
    let abort = AbortFlag::new();
    let Answer::Is(state) = read(&machine.tools(&abort)) else {
        panic!("it answers");
    };
    let scope = &state.scopes[SYSTEM];
    let asked: Vec<&str> = scope.asked().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        asked,
        [
            "app/org.x.App/x86_64/stable",
            "runtime/org.x.Sdk/x86_64/23.08"
        ]
    );
    assert_eq!(scope.refs.len(), 3);
    let hub = &scope.remotes["flathub"];
    assert_eq!(hub.address(), "https://dl.example/repo");
    assert!(hub.verify && !hub.disabled && hub.subset == "verified");
    assert_eq!(hub.keys, [Bytes(b"key of the hub".to_vec())]);
    assert_eq!(hub.filter_content, Some(Bytes(b"deny *\n".to_vec())));
    // Keys that somebody put elsewhere and named there count like its own.
    machine.file("/srv/keys/a.gpg", "a");
    machine.file("/srv/keys/b.gpg", "b");
    machine.file("/srv/c.gpg", "c");
    let named = "gpg-verify=true\ngpgkeypath=/srv/keys;/srv/c.gpg,/srv/gone.gpg\n";
    let config = CONFIG.replacen("gpg-verify=true\n", named, 1);
    machine.file("/var/lib/flatpak/repo/config", &config);
    let Answer::Is(state) = read(&machine.tools(&abort)) else {
        panic!("it answers");
    };
    let keys: Vec<&[u8]> = (state.scopes[SYSTEM].remotes["flathub"].keys.iter())
        .map(|key| &key.0[..])
        .collect();
    assert_eq!(keys, [&b"key of the hub"[..], b"a", b"b", b"c"]);
    let plain = &scope.remotes["plain-origin"];
    assert!(!plain.verify && plain.disabled && plain.hidden && plain.url.is_empty());
    assert!(scope.masks.contains("org.x.Never"));
}

#[test]
fn silence_and_nonsense_are_not_nothing() {
    let abort = AbortFlag::new();
    let silent = |machine: &FakeMachine| match read(&machine.tools(&abort)) {
        Answer::Silent(why) => why,
        other => panic!("{other:?}"),
    };
    for (script, words) in [
        ("echo broken >&2; exit 1", "broken"),
        ("exit 0", "nonsense"),
        (
            "[ $1 = --version ] && echo 'Flatpak 1.14' || { echo dead >&2; exit 3; }",
            "dead",
        ),
        (
            "[ $1 = --version ] && echo 'Flatpak 1.14' || echo 'error: no bus'",
            "nonsense",
        ),
        (
            "[ $1 = --version ] && echo 'Flatpak 1.14' || kill -9 $$",
            "137",
        ),
    ] {
        let machine = machine();
        machine.program("flatpak", script);
        let why = silent(&machine);
        assert!(why.contains(words), "{script}: {why}");
    }
    for config in ["", "nonsense", "[core]\n[remote \"../x\"]\nurl=http://x\n"] {
        let machine = machine();
        machine.file("/var/lib/flatpak/repo/config", config);
        assert!(silent(&machine).contains("repo/config"), "{config}");
    }
}

#[test]
fn a_machine_without_flatpak_or_without_an_installation() {
    let abort = AbortFlag::new();
    let none = FakeMachine::new();
    assert_eq!(read(&none.tools(&abort)), Answer::Absent);
    none.program("flatpak", "[ $1 = --version ] && echo 'Flatpak 1.14'");
    let Answer::Is(state) = read(&none.tools(&abort)) else {
        panic!("it answers");
    };
    assert!(state.scopes.is_empty());
}

#[test]
fn names_are_names_and_no_options() {
    for name in ["flathub", "_x", "a.b-c"] {
        assert!(is_remote_name(name));
    }
    for name in ["", "-x", "--from", "../x", "a/b", "a b"] {
        assert!(!is_remote_name(name), "{name}");
    }
    assert!(is_ref("app/org.x.App/x86_64/stable") && is_ref("runtime/org.x.P/i386/23.08"));
    for name in [
        "app/x/y",
        "app/-x/a/b",
        "x/a/b/c",
        "app/a/b/../c",
        "app//a/b",
    ] {
        assert!(!is_ref(name), "{name}");
    }
    assert!(is_address("https://dl.example/repo/") && is_address("file:///srv/x"));
    for url in ["", "-x", "ext::sh", "https://a b", "javascript:x"] {
        assert!(!is_address(url), "{url}");
    }
    assert!(is_pattern("org.x.*") && !is_pattern("--remove") && !is_pattern("a b"));
}

#[test]
fn a_remote_without_keys_of_its_own_has_those_of_the_whole_machine() {
    let machine = machine();
    std::fs::remove_file(
        machine
            .root()
            .join("var/lib/flatpak/repo/flathub.trustedkeys.gpg"),
    )
    .unwrap();
    let abort = AbortFlag::new();
    let keys = || {
        let Answer::Is(state) = read(&machine.tools(&abort)) else {
            panic!("it answers");
        };
        let remotes = &state.scopes[SYSTEM].remotes;
        assert!(remotes["plain-origin"].keys.is_empty(), "nothing checks it");
        remotes["flathub"].keys.clone()
    };
    assert!(keys().is_empty(), "there are none anywhere");
    for name in ["b.gpg", "a.asc", "c.txt"] {
        machine.file(&format!("/usr/share/ostree/trusted.gpg.d/{name}"), name);
    }
    assert_eq!(keys(), [Bytes(b"a.asc".to_vec()), Bytes(b"b.gpg".to_vec())]);
}
