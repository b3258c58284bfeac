//! What apt says it would do (`apt-get --simulate`), before it does it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::architectures;
use super::names::own_name;
use super::policy::{self, Policy};
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::{self, AllEffects, Transaction, Unforeseen};
use crate::modules::packages::tools::{ASK, Tools, failed};

/// Names in one question.
const NAMES_A_CALL: usize = 4000;

/// What planning asks the target's apt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Packages to install, with the exact version where only that will do.
    pub install: Vec<(String, Option<String>)>,
    /// Those of them whose architecture is not there yet: nothing can be foreseen of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub later: BTreeSet<String>,
    /// Packages to remove.
    pub remove: Vec<String>,
}

/// What it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// For each name to install that apt knows: candidate and, per version, who offers it.
    pub offers: BTreeMap<String, Offer>,
    /// For each item that takes more with it than itself: what.
    pub effects: AllEffects,
    /// Packages that would come along only because something recommends them.
    pub recommended: Vec<String>,
}

/// What apt could install under a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The version it would take.
    pub candidate: Option<String>,
    /// Every version with who offers it.
    pub versions: Vec<(String, Vec<String>)>,
}

impl Offer {
    /// Who offers `version`, or else the candidate.
    #[must_use]
    pub fn origins(&self, version: Option<&str>) -> Vec<&str> {
        let version = version.or(self.candidate.as_deref());
        (self.versions.iter())
            .filter(|(v, _)| Some(v.as_str()) == version)
            .flat_map(|(_, origins)| origins.iter().map(String::as_str))
            .collect()
    }
}

impl From<Policy> for Offer {
    fn from(policy: Policy) -> Self {
        Self {
            candidate: policy.candidate,
            versions: policy.versions,
        }
    }
}

/// Reads what `apt-get --simulate` printed.
#[must_use]
pub fn parse(text: &str, architecture: &str) -> Transaction {
    let mut transaction = Transaction::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(what), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let name = own_name(name, architecture).to_owned();
        match what {
            // `Inst name [old] (new …)`: with an old version it is an upgrade.
            "Inst" if words.next().is_some_and(|word| word.starts_with('[')) => {
                transaction.upgrades.insert(name);
            }
            "Inst" => {
                transaction.installs.insert(name);
            }
            "Remv" | "Purg" => {
                transaction.removes.insert(name);
            }
            _ => {}
        }
    }
    transaction
}

/// How a change is written on apt's command line: a trailing `-` removes.
#[must_use]
pub fn argument(name: &str, version: Option<&str>) -> String {
    match version {
        Some(version) => format!("{name}={version}"),
        None => name.to_owned(),
    }
}

/// How apt ends when it would not, and also when it cannot work at all.
const REFUSED: i32 = 100;

/// Simulates one transaction.
pub fn simulate(
    tools: &Tools<'_>,
    arguments: &[String],
    recommends: bool,
    architecture: &str,
) -> Result<Transaction, Unforeseen> {
    let mut argv = vec!["apt-get", "--simulate", "--assume-yes", "--quiet=2"];
    argv.extend(["-o", "Debug::NoLocking=true"]);
    argv.push(if recommends {
        "--install-recommends"
    } else {
        "--no-install-recommends"
    });
    argv.push("install");
    argv.push("--");
    argv.extend(arguments.iter().map(String::as_str));
    let done = tools.run(&argv, ASK)?;
    match done.code() {
        0 => Ok(parse(&String::from_utf8_lossy(&done.stdout), architecture)),
        REFUSED => Err(Unforeseen::Refused(failed(&argv, &done))),
        _ => Err(Unforeseen::Silent(failed(&argv, &done))),
    }
}

/// What apt offers under these names.
pub fn offers(tools: &Tools<'_>, names: &[&str]) -> Result<BTreeMap<String, Policy>, Silence> {
    let mut all = BTreeMap::new();
    for chunk in names.chunks(NAMES_A_CALL) {
        if chunk.is_empty() {
            continue;
        }
        let mut argv = vec!["apt-cache", "policy", "--"];
        argv.extend(chunk);
        all.append(&mut policy::parse(&tools.ask(&argv)?));
    }
    Ok(all)
}

/// Answers planning's question.
pub fn forecast(tools: &Tools<'_>, question: &Question) -> Result<Forecast, Silence> {
    let architecture = &architectures::own(tools)?;
    let names: Vec<&str> = (question.install.iter())
        .map(|(name, _)| name.as_str())
        .collect();
    let mut forecast = Forecast::default();
    for (name, policy) in offers(tools, &names)? {
        forecast
            .offers
            .insert(own_name(&name, architecture).to_owned(), policy.into());
    }
    // One unknown name refuses the whole transaction: such are left out until their source is there.
    let known: Vec<(&str, String)> = (question.install.iter())
        .filter(|(name, _)| !question.later.contains(name))
        .filter(|(name, version)| {
            forecast
                .offers
                .get(name)
                .is_some_and(|offer| match version {
                    Some(version) => offer.versions.iter().any(|(v, _)| v == version),
                    None => offer.candidate.is_some(),
                })
        })
        .map(|(name, version)| (name.as_str(), argument(name, version.as_deref())))
        .collect();
    let removals: Vec<(&str, String)> = (question.remove.iter())
        .map(|name| (name.as_str(), format!("{name}-")))
        .collect();
    let arguments = |items: &[(&str, String)]| -> Vec<String> {
        items.iter().map(|(_, argument)| argument.clone()).collect()
    };
    // One look at all of them; only when more would happen than was asked for, one at each.
    if !removals.is_empty() {
        let expected = |t: &Transaction| {
            (t.removes.iter()).all(|name| question.remove.contains(name))
                && t.installs.is_empty()
                && t.upgrades.is_empty()
        };
        let together = simulate(tools, &arguments(&removals), false, architecture);
        let is_about = |t: &Transaction| removals.iter().any(|(name, _)| t.removes.contains(*name));
        match answered(tools, together, is_about, architecture)? {
            Some(together) if expected(&together) => {}
            _ => {
                for (name, argument) in &removals {
                    let argument = std::slice::from_ref(argument);
                    let alone = simulate(tools, argument, false, architecture);
                    effects::note(&mut forecast.effects, name, alone)?;
                }
            }
        }
    }
    if known.is_empty() {
        return Ok(forecast);
    }
    let is_about = |t: &Transaction| {
        (known.iter()).any(|(name, _)| t.installs.contains(*name) || t.upgrades.contains(*name))
    };
    let together = simulate(tools, &arguments(&known), false, architecture);
    let together = answered(tools, together, is_about, architecture)?;
    let is_harmless = |t: &Transaction| t.removes.is_empty() && t.upgrades.is_empty();
    if !together.as_ref().is_some_and(is_harmless) {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let by_name: BTreeMap<&str, &String> = known.iter().map(|(n, a)| (*n, a)).collect();
        let mut foresee = |names: &[&str]| {
            let some: Vec<String> = names.iter().map(|name| by_name[name].clone()).collect();
            simulate(tools, &some, false, architecture)
        };
        effects::attribute_halves(&mut forecast.effects, &names, &mut foresee)?;
        let (all, together) = (&mut forecast.effects, together.as_ref());
        effects::attribute_jointly(all, &names, together, &mut foresee)?;
    }
    let Some(plain) = together else {
        return Ok(forecast);
    };
    let generous = simulate(tools, &arguments(&known), true, architecture);
    if let Some(generous) = answered(tools, generous, is_about, architecture)? {
        forecast.recommended = generous
            .installs
            .difference(&plain.installs)
            .cloned()
            .collect();
    }
    Ok(forecast)
}

/// The answer, nothing if it was a refusal. One that is not about what was asked is none, and a refusal
/// only counts from an apt that can do nothing at all without complaint.
fn answered(
    tools: &Tools<'_>,
    foreseen: Result<Transaction, Unforeseen>,
    is_about: impl Fn(&Transaction) -> bool,
    architecture: &str,
) -> Result<Option<Transaction>, Silence> {
    match foreseen {
        Ok(transaction) if is_about(&transaction) => Ok(Some(transaction)),
        Ok(_) => Err(Silence(
            "`apt-get --simulate` printed nonsense: nothing of what it was asked".to_owned(),
        )),
        Err(Unforeseen::Silent(why)) => Err(why),
        Err(Unforeseen::Refused(_)) => {
            simulate(tools, &[], false, architecture)?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read() {
        let text = "NOTE: This is only a simulation!\nInst libfoo (1.0-1 Debian:12/stable [amd64])\n\
                    Inst foo [1.0] (2.0 Vendor:stable [amd64]) []\nRemv bar [3.0] [baz:amd64 ]\n\
                    Inst libc6:i386 (2.36 Debian [i386])\nRemv qux:amd64 [1]\nConf foo (2.0 Vendor)\nPurg old [1]\n";
        let transaction = parse(text, "amd64");
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|n| (*n).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(transaction.installs, set(&["libfoo", "libc6:i386"]));
        assert_eq!(transaction.upgrades, set(&["foo"]));
        assert_eq!(transaction.removes, set(&["bar", "qux", "old"]));
    }
}
