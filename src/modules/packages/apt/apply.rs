//! Carrying out what was decided, on the target, with the target's own apt.

mod refresh;

use std::collections::{BTreeMap, BTreeSet};

use super::architectures;
use super::names::{is_architecture, is_name, is_version, own_name};
use super::plan::{Install, Work, origins_in};
use super::simulate::{argument, offers, simulate};
use super::state::{SOURCES, State, lock_holder, manual, read_labels_and_sources};
use super::timers;
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::Transaction;
use crate::modules::packages::item::Outcome;
use crate::modules::packages::list;
use crate::modules::packages::tools::{Tools, failed};

/// What apt is always told: no questions, configuration files as dpkg leaves them without a person,
/// a while for whoever else is just finishing.
const MANNERS: [&str; 8] = [
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=120",
    "-o",
    "Dpkg::Use-Pty=0",
];

/// Does the work.
pub fn apply(
    tools: &Tools<'_>,
    work: &Work,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Outcome>, Silence> {
    check(work)?;
    if let Some(holder) = lock_holder(tools)? {
        return Err(Silence(format!("packages are being changed by {holder}")));
    }
    // That a timer does not stop is nothing that speaks against apt.
    let paused = timers::pause(&tools.with_abort(tools.abort));
    let result = Apply {
        tools,
        work,
        say,
        outcomes: Vec::new(),
        architecture: String::new(),
        keep: work.keep.clone(),
    }
    .all();
    // Also when we were told to stop.
    let calm = AbortFlag::new();
    if !timers::resume(&tools.with_abort(&calm), &paused) {
        say("the timers of apt could not be started again; systemd will start them within 6 hours");
    }
    result
}

/// Whether all of it can be packages: apt would take other words for options, files or removals.
fn check(work: &Work) -> Result<(), Silence> {
    let names = [
        &work.along,
        &work.remove,
        &work.manual,
        &work.auto,
        &work.hold,
        &work.unhold,
    ];
    let bad = (work.install.iter().map(|install| &install.name))
        .chain(names.into_iter().flatten())
        .find(|name| !is_name(name))
        .or_else(|| {
            (work
                .install
                .iter()
                .filter_map(|install| install.version.as_ref()))
            .find(|version| !is_version(version))
        })
        .or_else(|| {
            (work.architectures.iter().chain(&work.disused)).find(|name| !is_architecture(name))
        });
    bad.map_or(Ok(()), |bad| {
        Err(Silence(format!("{} cannot be a package", escape_str(bad))))
    })
}

struct Apply<'a, 'b> {
    tools: &'a Tools<'b>,
    work: &'a Work,
    say: &'a mut dyn FnMut(&str),
    outcomes: Vec<Outcome>,
    architecture: String,
    /// What may never go unasked: as planned, and what somebody has asked for here since.
    keep: BTreeSet<String>,
}

impl Apply<'_, '_> {
    fn all(mut self) -> Result<Vec<Outcome>, Silence> {
        self.architecture = architectures::own(self.tools)?;
        let manual = manual(self.tools, &self.architecture)?;
        self.keep.extend(manual);
        let (installs, before) = self.refresh()?;
        let installs = match self.verified(installs) {
            Ok(installs) => self.harmless(installs),
            Err(why) => {
                self.keep_added(before, &[]);
                return Err(why);
            }
        };
        self.keep_added(before, &installs);
        self.transaction(&installs)?;
        self.tell_of_unused_sources();
        self.drop_disused();
        self.notes()?;
        Ok(self.outcomes)
    }

    fn fail(&mut self, id: &str, why: impl Into<String>) {
        self.outcomes.push(Outcome::failed(id, why));
    }

    /// The installs whose candidate, after the refresh, comes from where the source's comes from.
    fn verified(&mut self, installs: Vec<Install>) -> Result<Vec<Install>, Silence> {
        if installs.is_empty() {
            return Ok(installs);
        }
        let state: State = read_labels_and_sources(self.tools)?;
        let own = state.distribution();
        let names: Vec<&str> = installs.iter().map(|i| i.name.as_str()).collect();
        let mut known = BTreeMap::new();
        for (name, policy) in offers(self.tools, &names)? {
            known.insert(own_name(&name, &self.architecture).to_owned(), policy);
        }
        let mut good = Vec::new();
        for install in installs {
            let Some(policy) = known.get(&install.name) else {
                self.fail(&install.name, "no package source here knows it");
                continue;
            };
            let version = install.version.as_deref().or(policy.candidate.as_deref());
            let Some(version) = version else {
                self.fail(&install.name, "no package source here offers it");
                continue;
            };
            let origins = policy.origins_of(version);
            let expected = if install.origins.is_empty() {
                origins.iter().any(|origin| own.contains(origin))
            } else {
                origins
                    .iter()
                    .any(|origin| install.origins.contains(origin))
            };
            if expected {
                good.push(install);
                continue;
            }
            let wanted = if install.origins.is_empty() {
                "the distribution".to_owned()
            } else {
                install.origins.join(", ")
            };
            let why = if origins.is_empty() {
                format!(
                    "version {version}, which is held on the other machine, is offered by nobody here"
                )
            } else {
                format!(
                    "it would come from {} and not from {wanted}",
                    origins.join(", ")
                )
            };
            self.fail(&install.name, escape_str(&why));
        }
        Ok(good)
    }

    fn arguments(&self, installs: &[Install]) -> Vec<String> {
        let comes = installs
            .iter()
            .map(|i| argument(&i.name, i.version.as_deref()));
        let along = self
            .work
            .along
            .iter()
            .filter(|_| !installs.is_empty())
            .cloned();
        let goes = self.work.remove.iter().map(|name| format!("{name}-"));
        comes.chain(along).chain(goes).collect()
    }

    /// What a transaction would take that nobody agreed to.
    fn taken(&self, transaction: &Transaction) -> Vec<String> {
        let agreed: BTreeSet<&String> = self
            .work
            .remove
            .iter()
            .chain(&self.work.may_remove)
            .collect();
        (transaction.removes.iter())
            .filter(|name| self.keep.contains(*name) && !agreed.contains(name))
            .cloned()
            .collect()
    }

    /// Leaves out what would take away something that was not agreed to: the machine may have changed
    /// since the plan, and a new source may have brought other dependencies.
    fn harmless(&mut self, installs: Vec<Install>) -> Vec<Install> {
        let arguments = self.arguments(&installs);
        if arguments.is_empty() {
            return installs;
        }
        let together = simulate(self.tools, &arguments, false, &self.architecture);
        if together
            .as_ref()
            .is_ok_and(|transaction| self.taken(transaction).is_empty())
        {
            return installs;
        }
        let mut good = Vec::new();
        for install in installs {
            let argument = [argument(&install.name, install.version.as_deref())];
            match simulate(self.tools, &argument, false, &self.architecture) {
                Err(why) => self.fail(&install.name, Silence::from(why).0),
                Ok(alone) => match self.taken(&alone)[..] {
                    [] => good.push(install),
                    ref taken => {
                        let why = format!("it would also remove {}", taken.join(", "));
                        self.fail(&install.name, escape_str(&why));
                    }
                },
            }
        }
        good
    }

    /// All at once; what that does not bring about is tried one by one.
    fn transaction(&mut self, installs: &[Install]) -> Result<(), Silence> {
        let arguments = self.arguments(installs);
        if arguments.is_empty() {
            return Ok(());
        }
        let all: Vec<&String> = arguments.iter().collect();
        (self.say)(&format!("changing {} packages", arguments.len()));
        let first = self.run(&all);
        let mut whys: BTreeMap<&str, String> = BTreeMap::new();
        let mut there = self.installed()?;
        if first.is_err() {
            // One that came does not go again for the next one.
            (self.keep).extend(installs.iter().map(|install| install.name.clone()));
            for install in installs.iter().filter(|i| !there.contains(&i.name)) {
                self.tools.check()?;
                let argument = argument(&install.name, install.version.as_deref());
                (self.say)(&format!("installing {}", install.name));
                if let Err(why) = self.run(&[&argument]) {
                    whys.insert(&install.name, why.0);
                }
            }
            for name in self.work.remove.iter().filter(|name| there.contains(*name)) {
                (self.say)(&format!("removing {name}"));
                if let Err(why) = self.run(&[&format!("{name}-")]) {
                    whys.insert(name, why.0);
                }
            }
            there = self.installed()?;
        }
        let together = first.err().map(|why| why.0);
        let why = |name: &str| {
            (whys.get(name).cloned())
                .or_else(|| together.clone())
                .unwrap_or_else(|| "apt did not do it, and did not say why".to_owned())
        };
        for install in installs {
            if there.contains(&install.name) {
                self.outcomes.push(Outcome::done(&install.name));
            } else {
                self.fail(&install.name, why(&install.name));
            }
        }
        for name in &self.work.remove {
            if there.contains(name) {
                self.fail(name, why(name));
            } else {
                self.outcomes.push(Outcome::done(name));
            }
        }
        let along: Vec<&str> = (self.work.along.iter())
            .filter(|name| there.contains(*name))
            .map(String::as_str)
            .collect();
        self.mark("auto", &along)
    }

    /// One transaction, which may remove only what it names.
    fn run(&mut self, arguments: &[&String]) -> Result<(), Silence> {
        self.tools.go_on()?;
        let given: Vec<String> = arguments.iter().map(|a| (*a).clone()).collect();
        let foreseen = simulate(self.tools, &given, false, &self.architecture)?;
        let taken = self.taken(&foreseen);
        if !taken.is_empty() {
            let why = format!("it would also remove {}", taken.join(", "));
            return Err(Silence(escape_str(&why)));
        }
        if !foreseen.upgrades.is_empty() {
            let text = format!("also changes the version of {}", list(&foreseen.upgrades));
            (self.say)(&text);
        }
        let mut argv = vec![
            "apt-get",
            "--assume-yes",
            "--quiet=2",
            "--no-install-recommends",
        ];
        argv.extend(MANNERS);
        if foreseen.removes.is_empty() {
            argv.push("--no-remove");
        }
        // A held package's exact version may be older than one that is there.
        if given.iter().any(|argument| argument.contains('=')) {
            argv.push("--allow-downgrades");
        }
        argv.extend(["install", "--"]);
        argv.extend(given.iter().map(String::as_str));
        let done = self.tools.change(&argv)?;
        // dpkg says it where it would ask: on stderr.
        let said = [&done.stdout[..], &done.stderr[..]].concat();
        for path in kept_files(&String::from_utf8_lossy(&said)) {
            (self.say)(&format!(
                "{} stays as it is there; what the package ships lies beside it",
                escape_str(&path)
            ));
        }
        if done.code() == 0 {
            Ok(())
        } else {
            Err(failed(&argv, &done))
        }
    }

    /// Names of the packages that are wholly installed.
    fn installed(&self) -> Result<BTreeSet<String>, Silence> {
        let format = "${Package}:${Architecture}\t${db:Status-Status}\n";
        let answer = self
            .tools
            .ask(&["dpkg-query", "--show", "--showformat", format])?;
        Ok((answer.lines())
            .filter_map(|line| line.split_once('\t'))
            .filter(|(_, status)| {
                ["installed", "triggers-pending", "triggers-awaited"].contains(status)
            })
            .map(|(name, _)| own_name(name, &self.architecture).to_owned())
            .collect())
    }

    /// A source that came for packages none of which came stays for the next run, and is named.
    fn tell_of_unused_sources(&mut self) {
        let came: BTreeSet<&str> = (self.outcomes.iter())
            .filter(|outcome| outcome.error.is_none())
            .map(|outcome| outcome.id.as_str())
            .collect();
        for (path, content) in &self.work.files {
            let origins = origins_in(path, &String::from_utf8_lossy(&content.0));
            let mut users = (self.work.install.iter())
                .filter(|install| install.origins.iter().any(|o| origins.contains(o)));
            if path.starts_with(SOURCES)
                && came.contains(path.as_str())
                && !users.any(|install| came.contains(install.name.as_str()))
            {
                let path = escape_str(path);
                (self.say)(&format!("{path} stays, although nothing came from it"));
            }
        }
    }

    fn mark(&self, how: &str, names: &[&str]) -> Result<(), Silence> {
        if names.is_empty() {
            return Ok(());
        }
        let mut argv = vec!["apt-mark", how, "--"];
        argv.extend(names);
        self.tools.act(&argv).map(|_| ())
    }

    /// An architecture with nothing left of it goes, too.
    fn drop_disused(&mut self) {
        for name in &self.work.disused {
            let id = format!("architecture {name}");
            let result = self.tools.act(&["dpkg", "--remove-architecture", name]);
            match result {
                Ok(_) => self.outcomes.push(Outcome::done(id)),
                Err(why) => self.fail(&id, why.0),
            }
        }
    }

    /// What is noted of packages: asked for or not, held or not. Last, because a hold would be in the
    /// way of an install.
    fn notes(&mut self) -> Result<(), Silence> {
        let work = self.work;
        let there = self.installed()?;
        let lists = [
            ("manual", &work.manual),
            ("auto", &work.auto),
            ("unhold", &work.unhold),
            ("hold", &work.hold),
        ];
        for (how, names) in lists {
            let (present, absent): (Vec<&String>, Vec<&String>) =
                names.iter().partition(|name| there.contains(*name));
            let present: Vec<&str> = present.into_iter().map(String::as_str).collect();
            let result = self.mark(how, &present);
            for name in present {
                let id = format!("{how} {name}");
                match &result {
                    Ok(()) => self.outcomes.push(Outcome::done(id)),
                    Err(why) => self.fail(&id, why.0.clone()),
                }
            }
            for name in absent {
                self.fail(&format!("{how} {name}"), "the package is not there");
            }
        }
        Ok(())
    }
}

/// Configuration files that dpkg left as they were (`dpkg(1)`, `--force-confold`).
fn kept_files(output: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut file = None;
    for line in output.lines() {
        if let Some(rest) = line.trim().strip_prefix("Configuration file '") {
            file = rest.strip_suffix('\'').map(str::to_owned);
        } else if line.contains("Keeping old config file")
            && let Some(file) = file.take()
        {
            kept.push(file);
        }
    }
    kept
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod made_up;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_configuration_is_named() {
        let output = "Setting up foo (2.0) ...\n\nConfiguration file '/etc/foo.conf'\n ==> Modified (by you or by a script) since installation.\n ==> Package distributor has shipped an updated version.\n ==> Keeping old config file as default.\nConfiguration file '/etc/bar'\n ==> Using new file as default.\n";
        assert_eq!(kept_files(output), ["/etc/foo.conf"]);
    }
}
