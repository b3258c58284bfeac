//! Packages of a foreign architecture, on machines made up for it.

use super::*;

#[test]
fn an_architecture_is_added_for_what_needs_it_alone_and_goes_with_the_last_of_its_packages() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.0.foreign = vec!["armhf".to_owned(), "i386".to_owned()];
    source.package("game:i386", "1", DEBIAN);
    source.package("launcher", "1", DEBIAN);
    source.with("launcher", |p| p.needs = vec!["i386".to_owned()]);
    let forecast = offers(&[("launcher", "1", DEBIAN)]);
    let (draft, settled, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    let question = draft.question.unwrap();
    assert_eq!(question.later.len(), 2, "nothing of it can be foreseen");
    assert!(draft.items[0].consequences[0].contains("vega gets the architecture i386"));
    assert_eq!(work.architectures, BTreeSet::from(["i386".to_owned()]));
    assert!(work.install.iter().all(|install| install.needs == ["i386"]));
    let line = (settled.changes.iter()).find(|change| change.item == b"apt architecture i386");
    assert_eq!(line.unwrap().detail, "for game:i386, launcher");
    // Nobody wants it, nothing is added.
    let (_, settled, _) = outcome(&source, &target, &[], &forecast, |_| false);
    assert!(settled.work.is_idle() && settled.changes.is_empty());
    // It is there.
    target.0.foreign = vec!["i386".to_owned()];
    let (draft, _, work) = outcome(&source, &target, &[], &forecast, DEFAULTS);
    assert!(draft.question.unwrap().later.is_empty());
    assert!(work.architectures.is_empty() && work.install.iter().all(|i| i.needs.is_empty()));
    // The other way round.
    target.package("game:i386", "1", DEBIAN);
    target.package("lib:i386", "1", DEBIAN);
    let (_, _, work) = outcome(&Made::new(), &target, &[], &Forecast::default(), ALL);
    assert_eq!(work.disused, ["i386"]);
    let but_one = |item: &Item| item.id != "lib:i386";
    let (_, _, work) = outcome(&Made::new(), &target, &[], &Forecast::default(), but_one);
    assert!(work.disused.is_empty() && work.remove == ["game:i386"]);
    let (_, _, work) = outcome(&source, &target, &[], &Forecast::default(), ALL);
    assert!(work.disused.is_empty(), "atlas has it, too");
}

#[test]
fn where_the_targets_places_do_not_give_an_architecture_it_is_said_or_the_sources_file_comes() {
    let (mut source, mut target) = (Made::new(), Made::new());
    source.0.foreign = vec!["i386".to_owned()];
    source.vendor();
    source.package("game:i386", "1", DEBIAN);
    source.package("tool:i386", "1", VENDOR);
    let own = "deb [arch=amd64] http://deb.example/debian stable main\n";
    target.source("/etc/apt/sources.list", own);
    let path = "/etc/apt/sources.list.d/v.list";
    let narrow =
        "deb [arch=amd64 signed-by=/etc/apt/keyrings/v.gpg] https://vendor.example/apt x y\n";
    target.vendor().source(path, narrow);
    let (draft, _, work) = outcome(&source, &target, &[], &Forecast::default(), DEFAULTS);
    let told = draft
        .items
        .iter()
        .find(|item| item.id == "game:i386")
        .unwrap();
    let Stand::Told(why) = &told.stand else {
        panic!("{told:?}");
    };
    assert!(why.contains("takes no packages of i386"), "{why}");
    assert_eq!(work.files.keys().collect::<Vec<_>>(), [path]);
    assert_eq!(work.install[0].name, "tool:i386");
}
