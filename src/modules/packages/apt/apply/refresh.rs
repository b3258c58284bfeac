//! The first part of the work: what the packages need of `/etc/apt` and of the machine's architectures, and
//! apt's own look at what its places then offer. All of it, or none.

use super::Apply;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::apt::etc::{self, Before};
use crate::modules::packages::apt::plan::Install;
use crate::modules::packages::apt::state::{PINS, PINS_FILE, SOURCES};
use crate::modules::packages::item::Outcome;

impl Apply<'_, '_> {
    /// `/etc/apt`, and apt's own look at what its places offer. Returns the installs that are left, and what
    /// the unit was before, if that still is to be known.
    pub(super) fn refresh(&mut self) -> Result<(Vec<Install>, Before), Silence> {
        let work = self.work;
        let mut installs = work.install.clone();
        let before = etc::change(self.tools, work)?;
        if before.is_empty() && installs.is_empty() {
            return Ok((installs, before));
        }
        (self.say)("asking the package sources what is new");
        let refreshed = self.refresh_new_sources().and_then(|()| self.refresh_all());
        if let Err(why) = refreshed {
            // Pins have no part in a refresh; new sources and keys have.
            let is_about_pins = work.architectures.is_empty()
                && (work.files.keys().chain(&work.deletions))
                    .all(|path| path == PINS_FILE || path.starts_with(PINS));
            if is_about_pins && self.tools.supplied {
                (self.say)(&format!(
                    "going on with the package index that is there: {why}"
                ));
                for path in work.files.keys().chain(&work.deletions) {
                    self.outcomes.push(Outcome::done(path));
                }
                return Ok((installs, before));
            }
            if before.is_empty() {
                // Once, with all that does not come for it.
                let names: Vec<String> = installs.drain(..).map(|install| install.name).collect();
                self.fail(&names.join(", "), why.0);
                return Ok((installs, before));
            }
            etc::put_back(self.tools, &before)?;
            self.fail(
                &before.changed(),
                format!("put back as it was, because {}", why.0),
            );
            // What needs nothing of it can still come, if apt is well without it.
            let again = self.refresh_all();
            for install in std::mem::take(&mut installs) {
                match &again {
                    Ok(()) if install.needs.iter().any(|name| before.has_added(name)) => {
                        self.fail(&install.name, "its architecture could not be added");
                    }
                    Ok(()) if install.origins.is_empty() => installs.push(install),
                    Ok(()) => self.fail(&install.name, "its source could not be added"),
                    Err(why) => self.fail(&install.name, why.0.clone()),
                }
            }
            return Ok((installs, Before::default()));
        }
        for path in work.files.keys().chain(&work.deletions) {
            self.outcomes.push(Outcome::done(path));
        }
        Ok((installs, before))
    }

    /// Each new file of sources by itself and strictly, so that a place which is broken for long is
    /// not taken for a new one's fault.
    fn refresh_new_sources(&mut self) -> Result<(), Silence> {
        for path in self
            .work
            .files
            .keys()
            .filter(|path| path.starts_with(SOURCES))
        {
            let file = self.tools.at(path);
            let list = format!("Dir::Etc::SourceList={}", file.display());
            self.tools.act(&[
                "apt-get",
                "--quiet=2",
                "-o",
                &list,
                "-o",
                "Dir::Etc::SourceParts=/dev/null",
                "-o",
                "APT::Get::List-Cleanup=false",
                "-o",
                "APT::Update::Error-Mode=any",
                "update",
            ])?;
        }
        Ok(())
    }

    fn refresh_all(&mut self) -> Result<(), Silence> {
        let argv = ["apt-get", "--quiet=2", "update"];
        self.tools.act(&argv).map(|_| ())
    }

    /// An architecture that came for packages none of which can come goes again.
    pub(super) fn keep_added(&mut self, before: Before, installs: &[Install]) {
        let (kept, vain) = before.split_added(|name| {
            (installs.iter()).any(|install| install.needs.iter().any(|need| need == name))
        });
        for name in kept {
            self.outcomes
                .push(Outcome::done(format!("architecture {name}")));
        }
        if vain.is_empty() {
            return;
        }
        let id = vain.changed();
        match etc::put_back(self.tools, &vain) {
            Ok(()) => self.fail(&id, "taken away again: nothing of it can come"),
            Err(why) => self.fail(&id, why.0),
        }
    }
}
