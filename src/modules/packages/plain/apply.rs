//! Carrying out what was decided, on the target, with the target's own manager.

use super::plan::Work;
use super::{Dialect, Question, is_name};
use crate::escape::escape_str;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::effects::Transaction;
use crate::modules::packages::item::Outcome;
use crate::modules::packages::tools::Tools;

/// Does the work: all at once; what that does not bring about, one by one.
pub fn apply(
    dialect: &dyn Dialect,
    tools: &Tools<'_>,
    work: &Work,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Outcome>, Silence> {
    let names = [
        &work.wish.install,
        &work.wish.remove,
        &work.manual,
        &work.auto,
        &work.lock,
        &work.unlock,
    ];
    if let Some(bad) = names.into_iter().flatten().find(|name| !is_name(name)) {
        return Err(Silence(format!("{} cannot be a package", escape_str(bad))));
    }
    let mut apply = Apply {
        dialect,
        tools,
        work,
        say,
        outcomes: Vec::new(),
    };
    apply.transaction()?;
    apply.notes()?;
    Ok(apply.outcomes)
}

struct Apply<'a, 'b> {
    dialect: &'a dyn Dialect,
    tools: &'a Tools<'b>,
    work: &'a Work,
    say: &'a mut dyn FnMut(&str),
    outcomes: Vec<Outcome>,
}

impl Apply<'_, '_> {
    /// Carries out one transaction, which may take only what it names and what was shown.
    fn run(&mut self, wish: &Question) -> Result<(), Silence> {
        self.tools.go_on()?;
        let foreseen: Transaction = self.dialect.foresee(self.tools, wish)?;
        let taken: Vec<String> = (foreseen.removes.iter())
            .filter(|name| !wish.remove.contains(name) && !self.work.may_remove.contains(*name))
            .cloned()
            .collect();
        if !taken.is_empty() {
            let why = format!("it would also remove {}", taken.join(", "));
            return Err(Silence(escape_str(&why)));
        }
        self.dialect.change(self.tools, wish)
    }

    fn transaction(&mut self) -> Result<(), Silence> {
        let wish = &self.work.wish;
        if *wish == Question::default() {
            return Ok(());
        }
        (self.say)("asking the repositories what is new");
        // What can be had without it still comes.
        if let Err(why) = self.dialect.refresh(self.tools) {
            self.outcomes.push(Outcome::failed("repositories", why.0));
        }
        let count = wish.install.len() + wish.remove.len();
        (self.say)(&format!("changing {count} packages"));
        if let Err(all) = self.run(wish) {
            let alone = count == 1;
            let there = self.dialect.installed(self.tools)?;
            let comes = wish.install.iter().filter(|name| !there.contains(*name));
            let goes = wish.remove.iter().filter(|name| there.contains(*name));
            let mut whys: Vec<(String, String)> = Vec::new();
            for name in comes.chain(goes).filter(|_| !alone) {
                self.tools.check()?;
                (self.say)(&format!("changing {name}"));
                if let Err(why) = self.run(&wish.only(name)) {
                    whys.push((name.clone(), why.0));
                }
            }
            let there = self.dialect.installed(self.tools)?;
            for name in wish.install.iter().chain(&wish.remove) {
                let is_right = there.contains(name) == wish.install.contains(name);
                let own = whys.iter().find(|(named, _)| named == name);
                let why = own.map_or_else(|| all.0.clone(), |(_, why)| why.clone());
                self.judge(name, is_right, Some(why));
            }
            return Ok(());
        }
        let there = self.dialect.installed(self.tools)?;
        for name in wish.install.iter().chain(&wish.remove) {
            let is_right = there.contains(name) == wish.install.contains(name);
            self.judge(name, is_right, None);
        }
        Ok(())
    }

    fn judge(&mut self, name: &str, is_right: bool, why: Option<String>) {
        self.outcomes.push(if is_right {
            Outcome::done(name)
        } else {
            let why = why.unwrap_or_else(|| "it was not done, and nothing said why".to_owned());
            Outcome::failed(name, why)
        });
    }

    fn notes(&mut self) -> Result<(), Silence> {
        let there = self.dialect.installed(self.tools)?;
        let work = self.work;
        let lists = [
            ("manual", &work.manual),
            ("auto", &work.auto),
            ("unlock", &work.unlock),
            ("lock", &work.lock),
        ];
        for (what, names) in lists {
            let present: Vec<String> = names
                .iter()
                .filter(|name| there.contains(*name))
                .cloned()
                .collect();
            if present.is_empty() {
                continue;
            }
            let result = match what {
                "manual" | "auto" => self.dialect.mark(self.tools, what == "manual", &present),
                _ => self.dialect.lock(self.tools, what == "lock", &present),
            };
            for name in &present {
                let id = format!("{what} {name}");
                self.outcomes.push(match &result {
                    Ok(()) => Outcome::done(id),
                    Err(why) => Outcome::failed(id, why.0.clone()),
                });
            }
        }
        Ok(())
    }
}
