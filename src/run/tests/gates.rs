//! Questions: gates, the configuration, single commands.

use crate::agent::health::Login;
use crate::event::{Host, LogLevel, SessionState};
use crate::prompt::Question;
use crate::run::testing::{Scripted, Trial, World, history_entry, name};

use super::{BOTH, gated, marker, nothing_was_changed, world};

/// Worlds in which one gate is closed, with the gate's flag.
fn closed_gates() -> Vec<(&'static str, World)> {
    let first = world();
    for host in BOTH {
        first.with(host, |m| m.state.history.clear());
    }
    let elsewhere = world();
    elsewhere.with(Host::Target, |m| {
        let entry = history_entry("00000002", &name("rigel"), &name("vega"), Host::Target);
        m.state.history.push(entry);
    });
    let twice = world();
    for host in BOTH {
        twice.with(host, |m| {
            let entry = history_entry("00000002", &name("atlas"), &name("vega"), host);
            m.state.history.push(entry);
        });
    }
    let died = world();
    died.with(Host::Target, |m| {
        m.state.incomplete = Some(marker("atlas", "vega", Host::Target));
    });
    vec![
        ("--allow-first-sync", first),
        ("--allow-out-of-order", elsewhere),
        ("--allow-out-of-order", twice),
        ("--allow-incomplete", died),
        ("--allow-conflicts", world()),
        ("--allow-mass-delete", world()),
        ("--allow-logged-in", {
            let busy = world();
            busy.with(Host::Target, |m| {
                m.health.logins = Some(vec![desktop(true)]);
            });
            busy
        }),
    ]
}

/// Anna at work on a machine.
fn desktop(is_graphical: bool) -> Login {
    Login {
        user: "anna".into(),
        home: Some("/home/anna".into()),
        is_graphical,
        place: "seat0".into(),
    }
}

fn give(trial: &mut Trial, flag: &str) {
    let options = &mut trial.options;
    *match flag {
        "--allow-first-sync" => &mut options.allow_first_sync,
        "--allow-out-of-order" => &mut options.allow_out_of_order,
        "--allow-incomplete" => &mut options.allow_incomplete,
        "--allow-conflicts" => &mut options.allow_conflicts,
        "--allow-mass-delete" => &mut options.allow_mass_delete,
        "--allow-logged-in" => &mut options.allow_logged_in,
        _ => unreachable!(),
    } = true;
}

const GATE_FLAGS: [&str; 6] = [
    "--allow-first-sync",
    "--allow-out-of-order",
    "--allow-incomplete",
    "--allow-conflicts",
    "--allow-mass-delete",
    "--allow-logged-in",
];

#[test]
fn a_closed_gate_refuses_with_batch_and_names_its_flag() {
    for (flag, world) in closed_gates() {
        let outcome = gated(&world, flag).run();
        assert_eq!(outcome.code(), 4, "{flag}: --yes opens no gate");
        assert!(outcome.error().contains(flag), "{}", outcome.error());
        assert_eq!(outcome.ended.report.state, SessionState::Aborted);
        nothing_was_changed(&world);
    }
}

#[test]
fn a_gate_opens_for_its_own_flag_and_for_no_other() {
    for (number, (flag, _)) in closed_gates().into_iter().enumerate() {
        for given in GATE_FLAGS {
            let (_, world) = closed_gates().swap_remove(number);
            let mut trial = gated(&world, flag);
            give(&mut trial, given);
            let code = trial.run().code();
            assert_eq!(
                code,
                if given == flag { 0 } else { 4 },
                "{flag} given {given}"
            );
        }
    }
}

#[test]
fn a_person_opens_a_gate_or_leaves_it_closed_by_default() {
    // Ctrl-C is no answer: it ends the run as interrupted.
    for (keys, code) in [("c", 0), ("a", 4), ("", 4), ("!", 130)] {
        for (flag, world) in closed_gates() {
            let prompter = Scripted::new(keys);
            let mut trial = gated(&world, flag);
            trial.options.batch = false;
            trial.prompter = prompter.clone();
            assert_eq!(trial.run().code(), code, "{flag} answered {keys:?}");
            let asked = prompter.asked.lock().unwrap();
            let [question] = asked.as_slice() else {
                panic!("{asked:?}");
            };
            assert_reads_well(question);
            assert_eq!(question.flag.as_deref(), Some(flag));
            assert_eq!(question.choices[question.default].label, "abort");
            if code != 0 {
                nothing_was_changed(&world);
            }
        }
    }
}

/// A question is short, names both machines and nobody by role, and says what each answer does.
fn assert_reads_well(question: &Question) {
    let effects = question.choices.iter().map(|choice| choice.effect.as_str());
    let all: Vec<&str> = (question.detail.iter().map(String::as_str))
        .chain([question.text.as_str()])
        .chain(effects.clone())
        .collect();
    let text = all.join("\n");
    for name in ["atlas", "vega"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    for role in ["source", "target"] {
        assert!(!text.contains(role), "{role}: {text}");
    }
    assert!(
        question.text.ends_with('?') && question.text.len() <= 76,
        "{text}"
    );
    assert!(question.detail.len() <= 20, "{text}");
    assert!(effects.clone().all(|effect| !effect.is_empty()), "{text}");
}

#[test]
fn batch_does_not_ask_even_on_a_terminal() {
    let (_, world) = closed_gates().swap_remove(0);
    let prompter = Scripted::new("c");
    let mut trial = Trial::new(&world);
    trial.prompter = prompter.clone();
    assert_eq!(trial.run().code(), 4);
    assert!(prompter.texts().is_empty());
}

#[test]
fn a_dry_run_warns_at_every_closed_gate_and_goes_on() {
    for (flag, world) in closed_gates() {
        let mut trial = gated(&world, flag);
        trial.options.dry_run = true;
        let outcome = trial.run();
        assert_eq!(outcome.code(), 8, "{flag}");
        let warnings = outcome.logged(LogLevel::Warning);
        assert!(
            warnings.iter().any(|w| w.message.contains(flag)),
            "{warnings:?}"
        );
    }
}

#[test]
fn going_on_with_our_own_dead_first_sync_asks_only_about_its_death() {
    let world = world();
    for host in BOTH {
        world.with(host, |m| {
            m.state.history.clear();
            m.state.incomplete = Some(marker("atlas", "vega", host));
        });
    }
    let mut trial = Trial::new(&world);
    trial.options.allow_incomplete = true;
    assert_eq!(trial.run().code(), 0);
    for host in BOTH {
        assert_eq!(world.machine(host).state.incomplete, None);
    }
}

#[test]
fn a_dead_push_to_a_third_machine_is_no_gate_but_a_half_received_sync_is() {
    for (role, source, target, code) in [
        (Host::Source, "atlas", "rigel", 0),
        (Host::Target, "rigel", "atlas", 4),
    ] {
        let world = world();
        world.with(Host::Source, |m| {
            m.state.incomplete = Some(marker(source, target, role));
        });
        assert_eq!(Trial::new(&world).run().code(), code, "{role}");
    }
}

#[test]
fn a_differing_configuration_is_taken_kept_or_stops_the_run() {
    let run = |keys: Option<&str>, yes: bool, theirs: Option<&str>| {
        let world = world();
        world.with(Host::Target, |m| {
            m.config.clear();
            if let Some(theirs) = theirs {
                m.config.insert("config.yaml".into(), theirs.into());
            }
        });
        let mut trial = Trial::new(&world);
        trial.options.yes = yes;
        if let Some(keys) = keys {
            trial.options.batch = false;
            trial.prompter = Scripted::new(keys);
        }
        let outcome = trial.run();
        let now = world
            .machine(Host::Target)
            .config
            .get("config.yaml")
            .cloned();
        (outcome.code(), now.unwrap_or_default())
    };
    let ours = "ours\n".to_owned();
    assert_eq!(run(Some("t"), false, Some("theirs\n")), (0, ours.clone()));
    assert_eq!(
        run(Some("k"), false, Some("theirs\n")),
        (0, "theirs\n".into())
    );
    assert_eq!(
        run(Some("a"), false, Some("theirs\n")),
        (4, "theirs\n".into())
    );
    assert_eq!(
        run(Some(""), false, Some("theirs\n")),
        (4, "theirs\n".into()),
        "the default"
    );
    assert_eq!(run(Some("t"), false, None), (0, ours.clone()));
    assert_eq!(
        run(Some("k"), false, None),
        (4, String::new()),
        "nothing to keep"
    );
    assert_eq!(
        run(None, true, Some("theirs\n")),
        (0, ours),
        "--yes takes ours"
    );
    assert_eq!(
        run(None, false, Some("theirs\n")),
        (4, "theirs\n".into()),
        "--batch refuses"
    );
}

#[test]
fn a_long_difference_is_shown_in_part_until_it_is_asked_for() {
    let differing = || {
        let world = world();
        let theirs: Vec<String> = (0..40).map(|n| format!("line {n}\n")).collect();
        world.with(Host::Target, |m| {
            m.config.insert("config.yaml".into(), theirs.concat());
        });
        world
    };
    for (keys, code) in [("dt", 0), ("da", 4), ("d!", 130)] {
        let prompter = Scripted::new(keys);
        let mut trial = Trial::new(&differing());
        trial.options.yes = false;
        trial.options.batch = false;
        trial.prompter = prompter.clone();
        assert_eq!(trial.run().code(), code, "{keys}");
        let asked = prompter.asked.lock().unwrap();
        let [short, long] = asked.as_slice() else {
            panic!("{asked:?}");
        };
        assert_reads_well(short);
        assert!(
            short.detail.last().unwrap().ends_with("lines more)"),
            "{short:?}"
        );
        assert!(
            long.detail.iter().any(|line| line == "-line 39"),
            "{long:?}"
        );
        let keys = |question: &Question| question.choices.iter().map(|c| c.key).collect::<String>();
        assert_eq!((keys(short).as_str(), keys(long).as_str()), ("tkda", "tka"));
        assert_eq!(short.choices[short.default].label, "abort");
    }
}

#[test]
fn a_file_that_the_target_has_not_is_named_and_not_shown_line_by_line() {
    let prompter = Scripted::new("dt");
    let world = world();
    world.with(Host::Target, |m| m.config.clear());
    let mut trial = Trial::new(&world);
    trial.options.yes = false;
    trial.options.batch = false;
    trial.prompter = prompter.clone();
    assert_eq!(trial.run().code(), 0);
    let asked = prompter.asked.lock().unwrap();
    let [short, long] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert_reads_well(short);
    let named = "+ config.yaml (1 line, not there yet)";
    assert!(short.detail.iter().any(|line| line == named), "{short:?}");
    assert!(
        !short.detail.iter().any(|line| line == "+ours"),
        "{short:?}"
    );
    assert!(long.detail.iter().any(|line| line == "+ours"), "{long:?}");
}

#[test]
fn with_confirm_each_command_every_change_is_asked_about_and_no_stops_it() {
    let world = world();
    let prompter = Scripted::new("a");
    let mut trial = Trial::new(&world);
    trial.options.batch = false;
    trial.options.confirm_each_command = true;
    trial.prompter = prompter.clone();
    let outcome = trial.run();
    assert_eq!(outcome.code(), 4, "{}", outcome.error());
    assert!(
        prompter.texts()[0].contains("create snapshots"),
        "{:?}",
        prompter.texts()
    );
    nothing_was_changed(&world);

    let world = super::world();
    let prompter = Scripted::new("pppppppppppppppppppp");
    let mut trial = Trial::new(&world);
    trial.options.batch = false;
    trial.options.confirm_each_command = true;
    trial.prompter = prompter.clone();
    assert_eq!(trial.run().code(), 0);
    let changes = BOTH.map(|host| world.machine(host).mutations().len());
    assert_eq!(prompter.texts().len(), changes.iter().sum::<usize>());
}

#[test]
fn confirm_each_command_without_anyone_to_ask_is_refused_at_once() {
    let world = world();
    let mut trial = Trial::new(&world);
    trial.options.confirm_each_command = true;
    assert_eq!(trial.run().code(), 4);
    assert!(world.machine(Host::Source).requests.is_empty());
}
