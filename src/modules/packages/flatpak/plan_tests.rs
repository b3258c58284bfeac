//! The comparison of two machines' flatpak, on machines made up for it.

use super::*;
use crate::modules::packages::flatpak::state::Installed;
use crate::modules::packages::item::{Item, Proposal, Settled, Stand, Verb};
use crate::modules::packages::rules::Rules;

const HUB: &str = "https://hub.example/repo/";
const APP: &str = "app/org.x.App/x86_64/stable";
const SDK: &str = "runtime/org.x.Sdk/x86_64/23.08";

/// A machine of a test: the system's installation only.
fn made(change: impl FnOnce(&mut Scope)) -> State {
    let mut scope = Scope {
        store: "/var/lib/flatpak".to_owned(),
        ..Scope::default()
    };
    change(&mut scope);
    let mut state = State::default();
    state.scopes.insert(SYSTEM.to_owned(), scope);
    state
}

fn hub() -> Remote {
    Remote {
        url: HUB.to_owned(),
        verify: true,
        keys: vec![Bytes(b"key".to_vec())],
        ..Remote::default()
    }
}

fn with_hub(scope: &mut Scope) {
    scope.remotes.insert("hub".to_owned(), hub());
}

fn has(scope: &mut Scope, name: &str, origin: &str) {
    let installed = Installed {
        origin: origin.to_owned(),
        runtime: None,
    };
    scope.refs.insert(name.to_owned(), installed);
}

fn outcome(
    source: &State,
    target: &State,
    marked: &[&str],
    chosen: impl Fn(&Item) -> bool,
) -> (Proposal<()>, Settled<Work>, Work) {
    let nothing = BTreeMap::new();
    let view = View {
        source,
        target,
        names: ("atlas", "vega"),
        marked: &marked.iter().map(|m| (*m).to_owned()).collect(),
        rules: &Rules::default(),
        source_all: &nothing,
        target_all: &nothing,
    };
    let draft = draft(&view);
    let ids: BTreeSet<String> = (draft.items.iter())
        .filter(|item| matches!(item.stand, Stand::Asked(_)) && chosen(item))
        .map(|item| item.id.clone())
        .collect();
    let settled = settle(&view, &draft.items, &ids);
    let work = settled.work.clone();
    (draft, settled, work)
}

fn told(draft: &Proposal<()>) -> Vec<&str> {
    (draft.items.iter())
        .filter_map(|item| match &item.stand {
            Stand::Told(why) => Some(why.as_str()),
            Stand::Asked(_) => None,
        })
        .collect()
}

#[test]
fn an_app_brings_its_remote_with_its_key_and_a_yes_is_the_default() {
    let source = made(|scope| {
        with_hub(scope);
        has(scope, APP, "hub");
    });
    let (draft, settled, work) = outcome(&source, &State::default(), &[], |_| true);
    assert_eq!(draft.items[0].stand, Stand::Asked(true));
    let system = &work[SYSTEM];
    assert_eq!(system.install[0].remote, "hub");
    assert_eq!(system.remotes[0].like, hub());
    assert!(!system.remotes[0].exists);
    assert_eq!(settled.changes.len(), 2, "{:?}", settled.changes);
    let (_, settled, _) = outcome(&source, &source, &[], |_| true);
    assert!(
        settled.work.is_empty() && settled.changes.is_empty(),
        "equal machines"
    );
    let (_, settled, work) = outcome(&source, &State::default(), &[], |_| false);
    assert!(
        settled.changes.is_empty() && work.is_empty(),
        "no app, no remote"
    );
}

#[test]
fn a_remote_is_its_address_and_not_its_name() {
    let source = made(|scope| {
        with_hub(scope);
        has(scope, APP, "hub");
    });
    // Under another name.
    let target = made(|scope| {
        scope.remotes.insert("mine".to_owned(), hub());
    });
    let (_, _, work) = outcome(&source, &target, &[], |_| true);
    assert_eq!(work[SYSTEM].install[0].remote, "mine");
    assert!(work[SYSTEM].remotes.is_empty());
    // The name stands for another place, which nothing but the source's own apps comes from.
    let other = |scope: &mut Scope| {
        let url = "https://beta.example/".to_owned();
        scope
            .remotes
            .insert("hub".to_owned(), Remote { url, ..hub() });
    };
    let (_, _, work) = outcome(&source, &made(other), &[], |_| true);
    assert!(work[SYSTEM].remotes[0].exists);
    assert_eq!(work[SYSTEM].remotes[0].like.url, HUB);
    // Something of the target's own comes from it: then it stays.
    let used = made(|scope| {
        other(scope);
        has(scope, "app/org.y.Own/x86_64/beta", "hub");
    });
    let (draft, _, work) = outcome(&source, &used, &[], |item| item.verb == Verb::Install);
    assert!(work.is_empty());
    assert!(told(&draft)[0].contains("org.y.Own"), "{draft:?}");
}

#[test]
fn checking_of_signatures_is_switched_on_and_never_off() {
    let source = made(|scope| {
        with_hub(scope);
        has(scope, APP, "hub");
    });
    let unverified = |scope: &mut Scope| {
        let remote = Remote {
            verify: false,
            keys: Vec::new(),
            ..hub()
        };
        scope.remotes.insert("hub".to_owned(), remote);
    };
    let (_, _, work) = outcome(&source, &made(unverified), &[], |_| true);
    assert!(work[SYSTEM].remotes[0].like.verify);
    let loose = made(|scope| {
        unverified(scope);
        has(scope, APP, "hub");
    });
    let (_, _, work) = outcome(&loose, &made(with_hub), &[], |_| true);
    assert!(work[SYSTEM].remotes.is_empty());
    let (draft, settled, _) = outcome(&loose, &State::default(), &[], |_| true);
    assert!(draft.items[0].consequences[0].contains("not verified"));
    assert!(
        settled
            .changes
            .iter()
            .any(|c| c.detail.contains("not verified"))
    );
}

#[test]
fn what_came_from_a_file_is_for_a_person() {
    let source = made(|scope| {
        let remote = Remote::default();
        scope.remotes.insert("app-origin".to_owned(), remote);
        has(scope, APP, "app-origin");
        has(scope, "app/org.y.Lost/x86_64/stable", "no-such-remote");
    });
    let (draft, settled, _) = outcome(&source, &State::default(), &[], |_| true);
    assert_eq!(told(&draft).len(), 2);
    assert!(settled.work.is_empty());
}

#[test]
fn branches_and_marks_and_removals() {
    let source = made(|scope| {
        with_hub(scope);
        has(scope, APP, "hub");
    });
    let target = made(|scope| {
        with_hub(scope);
        has(scope, "app/org.x.App/x86_64/beta", "hub");
        let url = "https://only.example/".to_owned();
        scope
            .remotes
            .insert("only".to_owned(), Remote { url, ..hub() });
        has(scope, "app/org.y.Own/x86_64/stable", "only");
        has(scope, "runtime/org.y.Unasked/x86_64/stable", "hub");
    });
    let (draft, _, work) = outcome(&source, &target, &[], |_| true);
    let removals: Vec<_> = (draft.items.iter())
        .filter(|item| item.verb == Verb::Remove)
        .collect();
    assert!(
        removals
            .iter()
            .all(|item| item.stand == Stand::Asked(false))
    );
    assert_eq!(work[SYSTEM].remove.len(), 2, "no runtime nobody asked for");
    assert_eq!(work[SYSTEM].drop, ["only"]);
    let own = "system app/org.y.Own/x86_64/stable";
    let (draft, _, work) = outcome(&source, &target, &[own], |_| true);
    assert!(!draft.items.iter().any(|item| item.id == own));
    assert!(work[SYSTEM].drop.is_empty());
}

#[test]
fn pins_and_masks_follow_but_not_those_of_what_only_one_machine_has() {
    let source = made(|scope| {
        with_hub(scope);
        has(scope, SDK, "hub");
        scope.pins.insert(SDK.to_owned());
        scope.masks.insert("org.x.Never".to_owned());
    });
    let target = made(|scope| {
        has(scope, "runtime/org.y.Own/x86_64/1", "hub");
        scope.pins.insert("runtime/org.y.Own/x86_64/1".to_owned());
        scope.pins.insert("runtime/org.gone/x86_64/1".to_owned());
        scope.masks.insert("org.y.Old".to_owned());
    });
    let (_, _, work) = outcome(&source, &target, &[], |item| item.verb == Verb::Install);
    let system = &work[SYSTEM];
    assert_eq!(system.install[0].name, SDK);
    assert_eq!(system.pin, [SDK]);
    assert_eq!(system.unpin, ["runtime/org.gone/x86_64/1"]);
    assert_eq!((system.mask.len(), system.unmask.len()), (1, 1));
    let (_, _, work) = outcome(&source, &target, &[], |_| false);
    assert!(work[SYSTEM].pin.is_empty(), "not without the runtime");
    let marked = ["system app/org.y.Old/x86_64/stable"];
    let (_, _, work) = outcome(&source, &target, &marked, |_| false);
    assert!(work[SYSTEM].unmask.is_empty());
}

#[test]
fn a_person_who_is_not_there_gets_nothing() {
    let mut source = State::default();
    let scope = Scope {
        store: "/home/kim/.local/share/flatpak".to_owned(),
        ..Scope::default()
    };
    source.scopes.insert("user kim".to_owned(), scope);
    let (draft, settled, _) = outcome(&source, &State::default(), &[], |_| true);
    assert!(draft.notes[0].contains("no such person on vega"));
    assert!(settled.work.is_empty());
}

#[test]
fn what_a_person_has_whom_only_the_target_knows_is_not_taken() {
    let kim = Person {
        name: "kim".to_owned(),
        uid: 1001,
        gid: 1001,
        home: "/home/kim".to_owned(),
    };
    let mut target = State::default();
    let mut scope = Scope {
        store: "/home/kim/.local/share/flatpak".to_owned(),
        ..Scope::default()
    };
    has(&mut scope, APP, "hub");
    target.scopes.insert("user kim".to_owned(), scope);
    target.people.insert("user kim".to_owned(), kim.clone());
    let (draft, settled, _) = outcome(&State::default(), &target, &[], |_| true);
    assert!(draft.notes[0].contains("no such person on atlas"));
    assert!(draft.items.is_empty() && settled.work.is_empty());
    // Who is on both, and has nothing on one of them, wants it gone if a person says so.
    let mut source = State::default();
    source.people.insert("user kim".to_owned(), kim);
    let (draft, _, work) = outcome(&source, &target, &[], |_| true);
    assert_eq!(draft.items[0].verb, Verb::Remove);
    assert_eq!(work["user kim"].remove, [APP]);
}

#[test]
fn a_machine_without_an_installation_has_not_said_that_it_wants_nothing() {
    let target = made(|scope| has(scope, APP, "hub"));
    let (draft, settled, _) = outcome(&State::default(), &target, &[], |_| true);
    assert_eq!(
        draft.notes,
        ["system: atlas has no /var/lib/flatpak, so what vega has there stays"]
    );
    assert!(draft.items.is_empty() && settled.work.is_empty());
    // One that is there and empty has.
    let (draft, ..) = outcome(&made(|_| {}), &target, &[], |_| true);
    assert_eq!(draft.items[0].verb, Verb::Remove);
    // Nobody is told of what nobody asked for.
    let (draft, ..) = outcome(&State::default(), &made(with_hub), &[], |_| true);
    assert!(draft.notes.is_empty() && draft.items.is_empty());
}

#[test]
fn what_both_have_from_different_places_is_told_and_never_moved_and_no_secret_is_shown() {
    let place = |url: &str| {
        let url = url.to_owned();
        made(|scope| {
            scope
                .remotes
                .insert("hub".to_owned(), Remote { url, ..hub() });
            has(scope, APP, "hub");
        })
    };
    let (ours, theirs) = (
        place("https://me:secret@hub.example/?token=secret"),
        place("https://other.example/"),
    );
    let (draft, settled, _) = outcome(&ours, &theirs, &[], |_| true);
    assert!(draft.items.is_empty() && settled.work.is_empty());
    let note = &draft.notes[0];
    assert!(note.contains("https://***@hub.example") && note.contains("left as it is"));
    assert!(!note.contains("secret"), "{note}");
    // Nor where it comes with its remote.
    let (draft, settled, work) = outcome(&ours, &State::default(), &[], |_| true);
    let lines: Vec<String> = (settled.changes.iter())
        .map(|c| format!("{} {}", String::from_utf8_lossy(&c.item), c.detail))
        .chain(draft.items.iter().map(|item| item.text.clone()))
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines.iter().all(|line| !line.contains("secret")),
        "{lines:?}"
    );
    assert!(
        work[SYSTEM].remotes[0].like.url.contains("secret"),
        "but it is kept"
    );
}

#[test]
fn a_filter_is_the_sources_or_goes() {
    let filter = |content: &str| Remote {
        filter: "/etc/flatpak/hub.filter".to_owned(),
        filter_content: Some(Bytes(content.as_bytes().to_vec())),
        ..hub()
    };
    let with = |remote: Remote, apps: &[&str]| {
        made(|scope| {
            scope.remotes.insert("hub".to_owned(), remote);
            for app in apps {
                has(scope, app, "hub");
            }
        })
    };
    let remote = |ours: Remote, theirs: Remote| {
        let (_, _, work) = outcome(&with(ours, &[APP]), &with(theirs, &[]), &[], |_| true);
        work[SYSTEM].remotes.first().cloned()
    };
    assert_eq!(remote(filter("a"), filter("a")), None);
    let comes = remote(filter("a"), hub()).unwrap();
    assert_eq!(filter_of(&comes.like).unwrap().1, &Bytes(b"a".to_vec()));
    assert!(!comes.unfilter && remote(filter("a"), filter("b")).is_some());
    assert!(remote(hub(), filter("a")).unwrap().unfilter);
    // One that cannot be read would let through what the source does not take.
    let unreadable = Remote {
        filter_content: None,
        ..filter("")
    };
    let (draft, ..) = outcome(&with(unreadable, &[APP]), &State::default(), &[], |_| true);
    assert!(told(&draft)[0].contains("cannot be read"), "{draft:?}");
}
