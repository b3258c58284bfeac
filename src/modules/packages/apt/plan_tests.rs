//! The comparison of two machines' apt, on machines made up for it.

use super::*;
use crate::modules::packages::apt::simulate::{Forecast, Offer, Question};
use crate::modules::packages::apt::state::Key;
use crate::modules::packages::effects::Effects;
use crate::modules::packages::item::{Item, Proposal, Settled, Stand, Verb};
use crate::modules::packages::patterns::Patterns;
use crate::modules::packages::rules::Rules;

#[path = "plan_architecture_tests.rs"]
mod architectures;
#[path = "plan_trust_tests.rs"]
mod trust;

const DEBIAN: &str = "deb.example/debian";
const VENDOR: &str = "vendor.example/apt";

/// A machine of a test.
#[derive(Clone, Default)]
struct Made(State);

impl Made {
    fn new() -> Self {
        let mut made = Self::default();
        made.0.architecture = "amd64".to_owned();
        made.source(
            "/etc/apt/sources.list",
            "deb http://deb.example/debian stable main\n",
        );
        made.0.labels.insert(DEBIAN.to_owned(), "Debian".to_owned());
        made.package("base-files", "12", DEBIAN);
        made
    }

    fn source(&mut self, path: &str, text: &str) -> &mut Self {
        self.0.sources.insert(path.to_owned(), text.to_owned());
        self
    }

    fn vendor(&mut self) -> &mut Self {
        let line =
            "deb [signed-by=/etc/apt/keyrings/v.gpg] https://vendor.example/apt stable main\n";
        self.source("/etc/apt/sources.list.d/v.list", line);
        let key = Key {
            content: Bytes(b"key".to_vec()),
            package: None,
        };
        self.0
            .keys
            .insert("/etc/apt/keyrings/v.gpg".to_owned(), key);
        self
    }

    /// A package asked for.
    fn package(&mut self, name: &str, version: &str, origin: &str) -> &mut Self {
        let number = match self.0.origins.iter().position(|o| o == origin) {
            _ if origin.is_empty() => None,
            Some(number) => Some(number),
            None => {
                self.0.origins.push(origin.to_owned());
                Some(self.0.origins.len() - 1)
            }
        };
        let package = Package {
            version: version.to_owned(),
            manual: true,
            held: false,
            needs: Vec::new(),
            origins: number
                .map(|n| u16::try_from(n).unwrap())
                .into_iter()
                .collect(),
        };
        self.0.packages.insert(name.to_owned(), package);
        self
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Package)) -> &mut Self {
        change(self.0.packages.get_mut(name).unwrap());
        self
    }
}

/// What comes of the two when `decide` chooses.
fn outcome(
    source: &Made,
    target: &Made,
    marked: &[&str],
    answer: &Forecast,
    chosen: impl Fn(&Item) -> bool,
) -> (Proposal<Question>, Settled<Work>, Work) {
    let marked = marked.iter().map(|m| (*m).to_owned()).collect();
    let rules = Rules {
        left_alone: Patterns::new(["linux-image*", "nvidia-*"]),
        ..Rules::default()
    };
    let nothing = BTreeMap::new();
    let view = View {
        source: &source.0,
        target: &target.0,
        names: ("atlas", "vega"),
        marked: &marked,
        rules: &rules,
        source_all: &nothing,
        target_all: &nothing,
    };
    let mut draft = draft(&view);
    let is_asked = draft.question.is_some();
    let forecast = if is_asked {
        answer.clone()
    } else {
        Forecast::default()
    };
    if is_asked {
        consider(&view, &forecast, &mut draft.items);
    }
    let ids: BTreeSet<String> = (draft.items.iter())
        .filter(|item| matches!(item.stand, Stand::Asked(_)) && chosen(item))
        .map(|item| item.id.clone())
        .collect();
    let settled = settle(&view, &draft.items, &forecast, &ids);
    let work = settled.work.clone();
    (draft, settled, work)
}

fn offer(version: &str, origin: &str) -> Offer {
    Offer {
        candidate: Some(version.to_owned()),
        versions: vec![(version.to_owned(), vec![origin.to_owned()])],
    }
}

fn offers(list: &[(&str, &str, &str)]) -> Forecast {
    Forecast {
        offers: (list.iter())
            .map(|(name, version, origin)| ((*name).to_owned(), offer(version, origin)))
            .collect(),
        ..Forecast::default()
    }
}

fn ids(draft: &Proposal<Question>, stand: impl Fn(&Stand) -> bool) -> Vec<(&str, Verb)> {
    (draft.items.iter())
        .filter(|item| stand(&item.stand))
        .map(|item| (item.id.as_str(), item.verb))
        .collect()
}

fn is_asked(stand: &Stand) -> bool {
    matches!(stand, Stand::Asked(_))
}

const DEFAULTS: fn(&Item) -> bool = |item| item.stand == Stand::Asked(true);
const ALL: fn(&Item) -> bool = |_| true;

#[test]
fn what_is_equal_plans_nothing() {
    let mut both = Made::new();
    both.vendor()
        .package("tool", "1", VENDOR)
        .package("vim", "9", DEBIAN);
    let (draft, settled, _) = outcome(&both, &both, &[], &Forecast::default(), ALL);
    assert!(draft.items.is_empty() && draft.question.is_none() && draft.notes.is_empty());
    assert!(settled.work.is_idle() && settled.changes.is_empty());
}

#[test]
fn what_the_target_lacks_comes_and_what_only_it_has_stays_unless_said() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source
        .package("vim", "9", DEBIAN)
        .package("dep", "1", DEBIAN);
    source.with("dep", |p| p.manual = false);
    target.package("nano", "7", DEBIAN);
    let forecast = offers(&[("vim", "9.1", DEBIAN)]);
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert_eq!(
        ids(&draft, is_asked),
        [("vim", Verb::Install), ("nano", Verb::Remove)]
    );
    assert_eq!(
        work.install,
        [Install {
            name: "vim".into(),
            version: None,
            origins: vec![],
            needs: vec![]
        }]
    );
    assert!(work.remove.is_empty() && work.files.is_empty());
    let (_, _, work) = outcome(&source, &target, &[], &forecast, ALL);
    assert_eq!(work.remove, ["nano"]);
    let (draft, settled, _) = outcome(&source, &target, &["vim", "nano"], &forecast, ALL);
    assert!(
        draft.items.is_empty() && settled.work.is_idle(),
        "marks hold for both machines"
    );
}

#[test]
fn asked_for_or_not_follows_the_source() {
    let (mut source, mut target) = (Made::new(), Made::new());
    for machine in [&mut source, &mut target] {
        machine.package("a", "1", DEBIAN).package("b", "1", DEBIAN);
    }
    source.with("a", |p| p.manual = false);
    target.with("b", |p| p.manual = false);
    let (draft, _, work) = outcome(&source, &target, &[], &Forecast::default(), DEFAULTS);
    assert_eq!(
        ids(&draft, is_asked),
        [("b", Verb::Note), ("a", Verb::Note)]
    );
    assert_eq!(
        (work.manual, work.auto),
        (vec!["b".to_owned()], vec!["a".to_owned()])
    );
}

#[test]
fn a_vendors_package_brings_its_source_and_key() {
    let (mut source, target) = (Made::new(), Made::new());
    source.vendor().package("tool", "2", VENDOR);
    let (_, settled, work) = outcome(&source, &target, &[], &Forecast::default(), DEFAULTS);
    let paths: Vec<&String> = work.files.keys().collect();
    assert_eq!(
        paths,
        ["/etc/apt/keyrings/v.gpg", "/etc/apt/sources.list.d/v.list"]
    );
    assert_eq!(work.install[0].origins, [VENDOR]);
    let lines: Vec<String> = (settled.changes.iter())
        .map(|c| format!("{} {}", String::from_utf8_lossy(&c.item), c.detail))
        .collect();
    assert!(
        lines.contains(&"apt source /etc/apt/sources.list.d/v.list for tool".to_owned()),
        "{lines:?}"
    );
    // Declined: nothing of it is written.
    let (_, settled, _) = outcome(&source, &target, &[], &Forecast::default(), |_| false);
    assert!(settled.work.is_idle());
}

#[test]
fn what_cannot_be_had_is_told_and_not_asked() {
    let (mut source, target) = (Made::new(), Made::new());
    source.vendor().package("tool", "2", VENDOR);
    source.0.keys.clear();
    let (draft, _, _) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    let Stand::Told(why) = &draft.items[0].stand else {
        panic!("asked about");
    };
    assert!(why.contains("/etc/apt/keyrings/v.gpg"), "{why}");
    let mut source = Made::new();
    source.package("ghost", "2", "gone.example/apt");
    let (draft, _, _) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    assert!(!is_asked(&draft.items[0].stand));
}

#[test]
fn another_vendors_package_of_the_same_name_is_not_it() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.package("vim", "9", DEBIAN);
    target.vendor();
    let forecast = offers(&[("vim", "99", VENDOR)]);
    let (draft, _, _) = outcome(&source, &target, &[], &forecast, ALL);
    let Stand::Told(why) = &draft.items[0].stand else {
        panic!("asked about");
    };
    assert!(why.contains(VENDOR), "{why}");
    // A vendor that calls itself the distribution is still none.
    target
        .0
        .labels
        .insert(VENDOR.to_owned(), "Debian".to_owned());
    assert!(!target.0.distribution().contains(VENDOR));
}

#[test]
fn two_mirrors_of_the_distribution_are_one() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source
        .package("vim", "9", DEBIAN)
        .package("jq", "1", DEBIAN);
    target.source(
        "/etc/apt/sources.list",
        "deb http://mirror.example/debian stable main\n",
    );
    target.0.labels = BTreeMap::from([("mirror.example/debian".to_owned(), "Debian".to_owned())]);
    target.0.origins = vec!["mirror.example/debian".to_owned()];
    target.package("jq", "1", "mirror.example/debian");
    let forecast = offers(&[("vim", "9", "mirror.example/debian")]);
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert!(draft.notes.is_empty(), "{:?}", draft.notes);
    assert_eq!(work.install.len(), 1);
}

#[test]
fn the_machines_own_is_left_alone_and_hand_made_is_anothers() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source
        .package("linux-image-6.1", "1", DEBIAN)
        .package("handmade", "1", "");
    target
        .package("nvidia-driver", "5", DEBIAN)
        .package("mine", "1", "");
    let (draft, settled, _) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    assert_eq!(
        ids(&draft, |_| true),
        [
            ("linux-image-6.1", Verb::Install),
            ("nvidia-driver", Verb::Remove)
        ]
    );
    assert!(ids(&draft, is_asked).is_empty() && settled.work.is_idle());
}

#[test]
fn holds_are_the_sources_and_an_absent_held_package_comes_in_that_version() {
    let (mut source, mut target) = (Made::new(), Made::new());
    for machine in [&mut source, &mut target] {
        machine.package("a", "1", DEBIAN).package("b", "1", DEBIAN);
    }
    source.with("a", |p| p.held = true);
    target.with("b", |p| p.held = true);
    source
        .package("c", "1.2", DEBIAN)
        .with("c", |p| p.held = true);
    target
        .package("only", "1", DEBIAN)
        .with("only", |p| p.held = true);
    let mut forecast = offers(&[("c", "2.0", DEBIAN)]);
    forecast
        .offers
        .get_mut("c")
        .unwrap()
        .versions
        .push(("1.2".to_owned(), vec![DEBIAN.to_owned()]));
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, ALL);
    assert_eq!(work.hold, ["a", "c"]);
    assert_eq!(work.unhold, ["b"]);
    assert_eq!(work.install[0].version.as_deref(), Some("1.2"));
    assert!(
        work.remove.is_empty(),
        "what is held there is not removed: {:?}",
        draft.items
    );
    // Declined: no hold for what does not come.
    let (_, _, work) = outcome(&source, &target, &[], &forecast, |_| false);
    assert_eq!(work.hold, ["a"]);
}

#[test]
fn what_a_change_takes_with_it_is_shown_and_never_the_default() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.package("new-mta", "1", DEBIAN);
    target
        .package("old-mta", "1", DEBIAN)
        .package("helper", "1", DEBIAN);
    source.package("old-mta", "1", DEBIAN);
    target.with("helper", |p| p.manual = false);
    let mut forecast = offers(&[("new-mta", "1", DEBIAN)]);
    let effects = Effects {
        removes: vec!["helper".to_owned(), "old-mta".to_owned()],
        ..Effects::default()
    };
    forecast.effects.insert("new-mta".to_owned(), effects);
    let (draft, settled, _) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert!(draft.items[0].costly && draft.items[0].stand == Stand::Asked(false));
    assert!(draft.items[0].consequences[0].contains("old-mta"));
    assert!(settled.work.is_idle());
    let (_, _, work) = outcome(&source, &target, &[], &forecast, ALL);
    assert!(work.may_remove.contains("old-mta") && work.keep.contains("old-mta"));
    // Only a dependency goes: it is said, and no reason to refuse.
    forecast.effects.get_mut("new-mta").unwrap().removes.pop();
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert!(!draft.items[0].costly && work.install.len() == 1);
}

#[test]
fn pins_are_the_sources_but_those_of_software_only_there_stay() {
    let (mut source, mut target) = (Made::new(), Made::new());
    let pin = |package: &str| format!("Package: {package}\nPin: version 1*\nPin-Priority: 990\n");
    source
        .0
        .pins
        .insert("/etc/apt/preferences.d/a".into(), pin("base-files"));
    target
        .0
        .pins
        .insert("/etc/apt/preferences.d/b".into(), pin("base-files"));
    target
        .0
        .pins
        .insert("/etc/apt/preferences.d/c".into(), pin("mine"));
    target.package("mine", "1", VENDOR).vendor();
    target.0.pins.insert(
        "/etc/apt/preferences.d/d".into(),
        "Package: *\nPin: origin \"vendor.example\"\nPin-Priority: 1\n".into(),
    );
    let (_, _, work) = outcome(&source, &target, &[], &Forecast::default(), DEFAULTS);
    assert_eq!(
        work.files.keys().collect::<Vec<_>>(),
        ["/etc/apt/preferences.d/a"]
    );
    assert_eq!(work.deletions, ["/etc/apt/preferences.d/b"]);
}

#[test]
fn a_source_goes_with_the_last_of_its_packages() {
    let (source, mut target) = (Made::new(), Made::new());
    target
        .vendor()
        .package("one", "1", VENDOR)
        .package("two", "1", VENDOR);
    target.with("two", |p| p.manual = false);
    let (_, _, work) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    assert_eq!(
        (work.remove.len(), work.deletions.len()),
        (1, 0),
        "a dependency still is from there"
    );
    let mut forecast = Forecast::default();
    let effects = Effects {
        removes: vec!["two".to_owned()],
        ..Effects::default()
    };
    forecast.effects.insert("one".to_owned(), effects);
    let (_, _, work) = outcome(&source, &target, &[], &forecast, ALL);
    assert_eq!(work.deletions, ["/etc/apt/sources.list.d/v.list"]);
    let mut unused = Made::new();
    unused.vendor();
    let (_, settled, _) = outcome(&source, &unused, &[], &Forecast::default(), ALL);
    assert!(
        settled.work.is_idle(),
        "one that was never used is a person's business"
    );
}

#[test]
fn a_file_that_other_software_there_needs_is_not_written_over() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.vendor().package("tool", "1", VENDOR);
    target.source(
        "/etc/apt/sources.list.d/v.list",
        "deb http://other.example/apt x y\n",
    );
    target.package("theirs", "1", "other.example/apt");
    let (_, settled, work) = outcome(&source, &target, &[], &Forecast::default(), DEFAULTS);
    assert!(
        settled.withdrawn[0].1.contains("theirs"),
        "{:?}",
        settled.withdrawn
    );
    assert!(work.files.is_empty() && work.install.is_empty());
}

#[test]
fn obstacles_are_named_with_their_remedy() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.0.absent_holds.push("gone".to_owned());
    target.0.unfinished.push("half".to_owned());
    target.0.locked_by = Some("unattended-upgr (process 7)".to_owned());
    let view = View {
        source: &source.0,
        target: &target.0,
        names: ("atlas", "vega"),
        marked: &BTreeSet::new(),
        rules: &Rules::default(),
        source_all: &BTreeMap::new(),
        target_all: &BTreeMap::new(),
    };
    let found = obstacles(&view);
    let words = ["gone", "half", "unattended-upgr"];
    assert_eq!(found.len(), words.len());
    for (obstacle, word) in found.iter().zip(words) {
        assert!(obstacle.message.contains(word) && obstacle.hint.is_some());
    }
}

#[test]
fn what_only_subscribers_get_is_told_where_there_is_no_subscription() {
    const ESM: &str = "esm.ubuntu.com/apps/ubuntu";
    let (mut source, mut target) = (Made::new(), Made::new());
    for made in [&mut source, &mut target] {
        made.source(
            "/etc/apt/sources.list.d/ubuntu-esm-apps.sources",
            "Types: deb\nURIs: https://esm.ubuntu.com/apps/ubuntu\nSuites: x\nComponents: main\n\
             Signed-By: /usr/share/keyrings/ubuntu-pro-esm-apps.gpg\n",
        );
    }
    source.package("fixed", "2", ESM);
    source.with("fixed", |p| p.manual = true);
    let offer = Offer {
        candidate: Some("2".to_owned()),
        versions: vec![("2".to_owned(), vec![ESM.to_owned()])],
    };
    let forecast = Forecast {
        offers: BTreeMap::from([("fixed".to_owned(), offer)]),
        ..Forecast::default()
    };
    for (subscribed, is_told) in [(Some(false), true), (Some(true), false), (None, false)] {
        target.0.subscribed = subscribed;
        let (draft, _, work) = outcome(&source, &target, &[], &forecast, |_| true);
        let told = (draft.items.iter())
            .any(|item| matches!(&item.stand, Stand::Told(why) if why.contains("pro attach")));
        assert_eq!(told, is_told, "{subscribed:?}: {draft:?}");
        assert_eq!(work.install.is_empty(), is_told);
        assert_eq!(
            draft.notes.iter().any(|note| note.contains("Ubuntu Pro")),
            is_told
        );
    }
}

#[test]
fn what_differs_in_place_or_version_is_told_and_the_place_outranks_the_version() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.vendor();
    source
        .package("tool", "2", VENDOR)
        .package("vim", "9", DEBIAN)
        .package("newer-there", "1", DEBIAN)
        .package("by-hand", "2", "");
    target
        .package("tool", "1", DEBIAN)
        .package("vim", "8", DEBIAN)
        .package("newer-there", "2", DEBIAN)
        .package("by-hand", "2", DEBIAN);
    let (draft, settled, _) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    assert_eq!(
        draft.notes,
        [
            "from another place on vega than on atlas, left as they are: tool",
            "1 older on vega than on atlas (`sudo apt upgrade` there brings them up to date): vim",
        ]
    );
    assert!(draft.items.is_empty() && settled.work.is_idle());
}

#[test]
fn a_target_that_does_not_know_a_package_yet_is_asked_again_after_its_refresh() {
    let (mut source, target) = (Made::new(), Made::new());
    source
        .package("new", "1", DEBIAN)
        .package("virtual", "1", DEBIAN);
    // One apt said nothing of, the other has no candidate today: neither is condemned for it.
    let mut forecast = Forecast::default();
    forecast
        .offers
        .insert("virtual".to_owned(), Offer::default());
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert_eq!(
        ids(&draft, is_asked),
        [("new", Verb::Install), ("virtual", Verb::Install)]
    );
    assert_eq!(work.install.len(), 2);
}
