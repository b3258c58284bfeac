//! `install_on_target`: leaves the target with a pc-switcher that is not older than ours, so that
//! the way back can begin there.
//!
//! The sync itself never depends on it: its agents run from `/run`.

use std::cmp::Ordering;

use crate::agent::client::AgentError;
use crate::agent::protocol::{AgentFacts, Installed, Reply, Request};
use crate::event::{Host, LogLevel};
use crate::module::{
    Action, Change, ListPlan, Machine, Module, ModuleContext, ModuleError, ModuleKind, Plan,
    ValidationError,
};

/// Where it is installed.
const PATH: &str = "/usr/local/bin/pc-switcher";

/// The version of this binary.
const OURS: &str = env!("CARGO_PKG_VERSION");

/// Compares two versions as semver orders them; `None` if either is no version.
/// Text before the version (`pc-switcher 1.2.3`) is passed over.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (Version::parse(a)?, Version::parse(b)?);
    Some(
        a.numbers
            .cmp(&b.numbers)
            .then_with(|| match (a.prerelease, b.prerelease) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(a), Some(b)) => compare_prereleases(a, b),
            }),
    )
}

struct Version<'a> {
    numbers: [u64; 3],
    prerelease: Option<&'a str>,
}

impl<'a> Version<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.split_whitespace().last()?;
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (core, prerelease) = match text.split_once('-') {
            Some((core, prerelease)) => (core, Some(prerelease)),
            None => (text, None),
        };
        let mut parts = core.trim_start_matches('v').split('.');
        let mut number = || parts.next()?.parse().ok();
        let numbers = [number()?, number()?, number()?];
        parts.next().is_none().then_some(Self {
            numbers,
            prerelease,
        })
    }
}

/// Dot-separated identifiers: numbers below words, shorter below longer (semver.org, 11.4).
fn compare_prereleases(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Whether the pc-switcher installed on a machine is newer than this one.
#[must_use]
pub fn is_newer(installed: &Installed) -> bool {
    installed
        .version
        .as_deref()
        .and_then(|version| compare_versions(version, OURS))
        == Some(Ordering::Greater)
}

/// What is to be done on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The same version is there.
    Keep,
    /// Nothing is there.
    Install,
    /// Something older, or something that does not run, is there.
    Upgrade { from: String },
}

fn step(installed: Option<&Installed>) -> Step {
    let Some(installed) = installed else {
        return Step::Install;
    };
    let same_version = installed
        .version
        .as_deref()
        .and_then(|version| compare_versions(version, OURS))
        == Some(Ordering::Equal);
    if installed.same_binary || same_version {
        Step::Keep
    } else {
        Step::Upgrade {
            from: installed
                .version
                .clone()
                .unwrap_or_else(|| "one that does not run".to_owned()),
        }
    }
}

/// The installing module.
#[derive(Debug, Default)]
pub struct InstallOnTarget {
    step: Option<Step>,
}

impl InstallOnTarget {
    fn ask(machine: &Machine, session: &str) -> Result<AgentFacts, AgentError> {
        let hello = Request::Hello {
            session: session.to_owned(),
            uid: None,
        };
        match machine.agent.call(hello)? {
            Reply::Hello(facts) => Ok(*facts),
            _ => Err(machine.agent.nonsense("no greeting")),
        }
    }
}

impl Module for InstallOnTarget {
    fn name(&self) -> &'static str {
        "install_on_target"
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::System
    }

    fn validate(
        &mut self,
        context: &ModuleContext<'_>,
    ) -> Result<Vec<ValidationError>, ModuleError> {
        let facts = Self::ask(context.target, &context.session.id)?;
        let newer = facts.installed.filter(is_newer);
        Ok(newer
            .map(|installed| ValidationError {
                module: self.name().to_owned(),
                host: Host::Target,
                message: format!(
                    "{} is newer than this machine's {OURS}",
                    installed.version.as_deref().unwrap_or(&installed.path)
                ),
                hint: Some("upgrade pc-switcher on this machine".to_owned()),
            })
            .into_iter()
            .collect())
    }

    fn plan(&mut self, context: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        let facts = Self::ask(context.target, &context.session.id)?;
        let step = self.step.insert(step(facts.installed.as_ref()));
        let change = |action, detail: String| Change {
            action,
            item: PATH.as_bytes().to_vec(),
            detail,
            bytes: 0,
            from: None,
        };
        let changes = match step {
            Step::Keep => Vec::new(),
            Step::Install => vec![change(Action::Create, format!("pc-switcher {OURS}"))],
            Step::Upgrade { from } => vec![change(
                Action::Change,
                format!("pc-switcher {OURS}, before: {from}"),
            )],
        };
        Ok(Box::new(ListPlan::new(changes)))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let step = self
            .step
            .take()
            .ok_or_else(|| ModuleError::failed("executed without a plan"))?;
        if let Step::Keep = step {
            return Ok(format!("{OURS} was there already"));
        }
        let agent = &context.target.agent;
        match agent.call(Request::InstallSelf)? {
            Reply::Done => {}
            _ => return Err(agent.nonsense("no answer to installing").into()),
        }
        let summary = match step {
            Step::Upgrade { from } => format!("{OURS} installed at {PATH}, before: {from}"),
            Step::Install | Step::Keep => format!("{OURS} installed at {PATH}"),
        };
        context.log(LogLevel::Info, Host::Target, summary.clone());
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(version: Option<&str>, same_binary: bool) -> Installed {
        Installed {
            path: "/usr/bin/pc-switcher".into(),
            version: version.map(str::to_owned),
            same_binary,
        }
    }

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let sorted = [
            "0.9.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.2",
            "1.0.0-rc.11",
            "1.0.0",
            "1.0.1",
            "1.10.0",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(
                compare_versions(pair[0], pair[1]),
                Some(Ordering::Less),
                "{pair:?}"
            );
        }
        assert_eq!(
            compare_versions("pc-switcher 1.2.3+deb1", "v1.2.3"),
            Some(Ordering::Equal)
        );
        for nonsense in ["", "1.2", "1.2.3.4", "one"] {
            assert_eq!(compare_versions(nonsense, "1.2.3"), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_absent_or_older_or_broken_is_installed_and_the_same_is_kept() {
        assert_eq!(step(None), Step::Install);
        assert!(matches!(
            step(Some(&installed(Some("0.0.1"), false))),
            Step::Upgrade { .. }
        ));
        assert!(matches!(
            step(Some(&installed(None, false))),
            Step::Upgrade { .. }
        ));
        for same in [installed(Some(OURS), false), installed(None, true)] {
            assert!(matches!(step(Some(&same)), Step::Keep));
        }
    }

    #[test]
    fn only_a_higher_version_is_newer() {
        assert!(is_newer(&installed(Some("pc-switcher 999.0.0"), false)));
        assert!(!is_newer(&installed(Some(OURS), false)));
        assert!(!is_newer(&installed(None, false)));
    }
}
