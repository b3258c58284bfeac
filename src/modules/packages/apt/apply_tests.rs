//! What is said to apt, and in which order, by an apt made for it that keeps its packages in files.

use super::*;
use crate::modules::packages::bytes::Bytes;
use crate::modules::packages::testing::FakeMachine;

/// `apt`: what is installed, a name a line. `offers`: name, version and place. `takes`: what comes,
/// together (`a+b`), and what goes then. `fails-NAME`: that one cannot be installed.
const APT_GET: &str = r#"
sim=; case "$*" in *--simulate*) sim=1 ;; *) echo "apt-get $*" >>$TEST_ROOT/log ;; esac
case "$*" in *update) exit 0 ;; esac
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
[ $# = 0 ] && exit 0; shift
out=
for word; do name=${word%%=*}; case $word in
  *-) out="$out Remv:${name%-}" ;;
  *) [ -z "$sim" ] && [ -e $TEST_ROOT/fails-$name ] && { echo "E: $name cannot be" >&2; exit 100; }
     out="$out Inst:$name" ;;
esac; done
while read causes gone; do
  hit=1
  for cause in $(echo $causes | tr + ' '); do case " $* $(cat $TEST_ROOT/apt | tr '\n' ' ') " in *" $cause "*) ;; *) hit= ;; esac; done
  [ "$hit" ] && grep -qx $gone $TEST_ROOT/apt && out="$out Remv:$gone"
done <$TEST_ROOT/takes
for one in $out; do
  verb=${one%%:*}; name=${one#*:}
  if [ "$sim" ]; then echo "$verb $name"
  elif [ $verb = Remv ]; then sed -i "/^$name\$/d" $TEST_ROOT/apt
  else grep -qx $name $TEST_ROOT/apt || echo $name >>$TEST_ROOT/apt; fi
done"#;

const APT_CACHE: &str = r#"
shift; [ "$1" = -- ] && shift
[ $# = 0 ] && { printf 'Package files:\n 500 http://d.example/debian stable/main\n     release o=Debian\n'; exit; }
for name; do
  grep -q "^$name " $TEST_ROOT/offers || continue
  set -- $(grep "^$name " $TEST_ROOT/offers)
  [ "$2" = none ] && { printf '%s:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n' $name; continue; }
  printf '%s:\n  Installed: (none)\n  Candidate: %s\n  Version table:\n     %s 500\n        500 %s x/y\n' $name $2 $2 $3
done"#;

const VENDOR: &str = "vendor.example/apt";
const LIST: &str = "/etc/apt/sources.list.d/v.list";
const KEY: &str = "/etc/apt/keyrings/v.gpg";

fn machine(installed: &str, takes: &str) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.program("dpkg", "case $1 in --print-arch*) echo amd64 ;; esac");
    let query = r"sed 's/.*/&:all\tinstalled/' $TEST_ROOT/apt";
    machine.program("dpkg-query", query);
    let mark = r#"[ $1 = showmanual ] && { cat $TEST_ROOT/apt; exit; }; echo "apt-mark $*" >>$TEST_ROOT/log"#;
    machine.program("apt-mark", mark);
    machine.program("apt-cache", APT_CACHE);
    machine.program("apt-get", APT_GET);
    machine.file("/apt", installed);
    machine.file("/takes", takes);
    let sources = "deb http://d.example/debian stable main\n";
    machine.file("/etc/apt/sources.list", sources);
    machine
}

/// A package of the distribution, or of a vendor.
fn install(name: &str, vendor: Option<&str>) -> Install {
    Install {
        name: name.to_owned(),
        origins: vendor.into_iter().map(str::to_owned).collect(),
        ..Install::default()
    }
}

fn with_source(mut work: Work) -> Work {
    let line = format!("deb [signed-by={KEY}] https://{VENDOR} stable main\n");
    work.files.insert(LIST.to_owned(), Bytes(line.into_bytes()));
    work.files.insert(KEY.to_owned(), Bytes(b"key".to_vec()));
    work
}

/// What became of it: why each thing failed, what was said, what was run.
fn run(machine: &FakeMachine, work: &Work) -> (BTreeMap<String, String>, Vec<String>, String) {
    let abort = AbortFlag::new();
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let outcomes = apply(&machine.tools(&abort), work, &mut say).unwrap();
    let failed = (outcomes.into_iter())
        .filter_map(|outcome| Some((outcome.id, outcome.error?)))
        .collect();
    (failed, said, machine.content("/log").unwrap_or_default())
}

#[test]
fn one_refresh_is_before_one_transaction_that_asks_nobody_and_overrides_no_hold() {
    let machine = machine("base\nold\n", "");
    machine.file(
        "/offers",
        "tool 2 https://vendor.example/apt\nvim 9 http://d.example/debian\n",
    );
    let work = with_source(Work {
        install: vec![install("tool", Some(VENDOR)), install("vim", None)],
        remove: vec!["old".to_owned()],
        hold: vec!["vim".to_owned()],
        ..Work::default()
    });
    let (failed, said, log) = run(&machine, &work);
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(machine.content("/apt").unwrap(), "base\ntool\nvim\n");
    let lines: Vec<&str> = log.lines().collect();
    let place = |what: &dyn Fn(&str) -> bool| lines.iter().position(|line| what(line)).unwrap();
    let strict = place(&|line| line.contains(LIST) && line.ends_with("update"));
    let refresh = place(&|line| line == "apt-get --quiet=2 update");
    let transaction = place(&|line| line.ends_with("-- tool vim old-"));
    let hold = place(&|line| line == "apt-mark hold -- vim");
    assert_eq!([strict, refresh, transaction, hold], [0, 1, 2, 3], "{log}");
    for word in [" --assume-yes ", " --no-install-recommends ", "confold"] {
        assert!(lines[transaction].contains(word), "{word}: {log}");
    }
    assert!(!log.contains("held") && !log.contains("purge"), "{log}");
    assert!(!said.iter().any(|line| line.contains("stays")), "{said:?}");
}

#[test]
fn what_would_come_from_elsewhere_after_the_refresh_does_not_come() {
    let machine = machine("base\n", "");
    machine.file(
        "/offers",
        "tool 2 https://other.example/apt\nvim 9 https://vendor.example/apt\n\
         jq 1 http://d.example/debian\nvirtual none -\n",
    );
    let names = [("tool", Some(VENDOR)), ("vim", None), ("jq", None)];
    let unknown = [("virtual", None), ("ghost", None)];
    let work = with_source(Work {
        install: (names.iter().chain(&unknown))
            .map(|(name, vendor)| install(name, *vendor))
            .collect(),
        ..Work::default()
    });
    let (failed, said, log) = run(&machine, &work);
    for (name, words) in [
        (
            "tool",
            "from other.example/apt and not from vendor.example/apt",
        ),
        (
            "vim",
            "from vendor.example/apt and not from the distribution",
        ),
        ("virtual", "offers it"),
        ("ghost", "knows it"),
    ] {
        assert!(failed[name].contains(words), "{failed:?}");
    }
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert_eq!(machine.content("/apt").unwrap(), "base\njq\n", "{log}");
    // Its source stays for the next run, and is named.
    assert!(machine.content(LIST).is_some());
    let stays = format!("{LIST} stays, although nothing came from it");
    assert!(said.contains(&stays), "{said:?}");
}

#[test]
fn what_somebody_wants_there_is_not_taken_also_if_only_two_together_would() {
    let machine = machine("base\nmine\nagreed\n", "a+b mine\nc mine\nd agreed\n");
    let offers = ["a", "b", "c", "d", "e"].map(|n| format!("{n} 1 http://d.example/debian\n"));
    machine.file("/offers", &offers.concat());
    let work = Work {
        install: ["a", "b", "c", "d", "e"]
            .map(|name| install(name, None))
            .to_vec(),
        may_remove: BTreeSet::from(["agreed".to_owned()]),
        ..Work::default()
    };
    let (failed, _, log) = run(&machine, &work);
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["b", "c"], "{failed:?}");
    for why in failed.values() {
        assert!(why.contains("it would also remove mine"), "{failed:?}");
    }
    let there = machine.content("/apt").unwrap();
    assert_eq!(there, "base\nmine\na\nd\ne\n", "{log}");
}

#[test]
fn each_fails_with_its_own_words_takes_nothing_that_came_and_is_not_held() {
    // `last` would take `first`, which comes before it.
    let machine = machine("base\n", "last first\n");
    let names = ["bad", "first", "last", "worse"];
    machine.file(
        "/offers",
        &names
            .map(|n| format!("{n} 1 http://d.example/debian\n"))
            .concat(),
    );
    for name in ["bad", "worse"] {
        machine.file(&format!("/fails-{name}"), "");
    }
    let work = Work {
        install: names.map(|name| install(name, None)).to_vec(),
        hold: vec!["bad".to_owned(), "first".to_owned()],
        ..Work::default()
    };
    let (failed, _, log) = run(&machine, &work);
    for (id, words) in [
        ("bad", "bad cannot be"),
        ("worse", "worse cannot be"),
        ("last", "it would also remove first"),
        ("hold bad", "not there"),
    ] {
        assert!(failed[id].contains(words), "{id}: {failed:?}");
    }
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert_eq!(machine.content("/apt").unwrap(), "base\nfirst\n", "{log}");
    assert!(log.contains("apt-mark hold -- first\n"), "{log}");
}
