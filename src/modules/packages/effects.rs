//! What a change takes with it: foreseen by the target's manager, shown as consequence of its cause.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::answer::Silence;
use super::item::{Item, Stand};
use super::list;

/// One transaction as a manager would do it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Packages that come, new.
    pub installs: BTreeSet<String>,
    /// Packages that get another version.
    pub upgrades: BTreeSet<String>,
    /// Packages that go.
    pub removes: BTreeSet<String>,
}

impl Transaction {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.installs.extend(other.installs);
        self.upgrades.extend(other.upgrades);
        self.removes.extend(other.removes);
        self
    }
}

/// Why a transaction was not foreseen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unforeseen {
    /// The manager would not do it, for this reason: that is an answer.
    Refused(Silence),
    /// It did not answer.
    Silent(Silence),
}

#[cfg(test)]
impl Unforeseen {
    /// The reason of a refusal, which it must be.
    pub fn refused(self) -> String {
        match self {
            Self::Refused(why) => why.0,
            Self::Silent(why) => panic!("no refusal: {why}"),
        }
    }
}

impl From<Silence> for Unforeseen {
    fn from(why: Silence) -> Self {
        Self::Silent(why)
    }
}

impl From<Unforeseen> for Silence {
    fn from(why: Unforeseen) -> Self {
        match why {
            Unforeseen::Refused(why) | Unforeseen::Silent(why) => why,
        }
    }
}

/// What one change takes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// Other packages removed.
    pub removes: Vec<String>,
    /// Installed packages whose version changes.
    pub upgrades: Vec<String>,
    /// Why the manager would not do it at all.
    pub refused: Option<String>,
}

/// The same by the name of what is changed; what has none is not in it.
pub type AllEffects = BTreeMap<String, Effects>;

impl Effects {
    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removes.is_empty() && self.upgrades.is_empty() && self.refused.is_none()
    }
}

/// Notes what comes of changing `name` alone, as it was foreseen; that there was no answer is no effect.
pub fn note(
    all: &mut AllEffects,
    name: &str,
    alone: Result<Transaction, Unforeseen>,
) -> Result<(), Silence> {
    let others = |names: BTreeSet<String>| names.into_iter().filter(|n| n != name).collect();
    let effects = match alone {
        Ok(alone) => Effects {
            removes: others(alone.removes),
            upgrades: others(alone.upgrades),
            refused: None,
        },
        Err(Unforeseen::Refused(why)) => Effects {
            refused: Some(why.0),
            ..Effects::default()
        },
        Err(Unforeseen::Silent(why)) => return Err(why),
    };
    if !effects.is_empty() {
        all.insert(name.to_owned(), effects);
    }
    Ok(())
}

/// Which of these changes is it that has effects? They are foreseen by halves, and each alone only where
/// a half would do more than it names: what is harmless in company is harmless.
///
/// `names` are to be installed: a removal may hide another one that it implies.
pub fn attribute(
    all: &mut AllEffects,
    names: &[&str],
    foresee: &mut dyn FnMut(&[&str]) -> Result<Transaction, Unforeseen>,
) -> Result<(), Silence> {
    let is_named = |other: &String| names.contains(&other.as_str());
    match (names, foresee(names)) {
        (_, Ok(foreseen)) if (foreseen.removes.iter().chain(&foreseen.upgrades)).all(is_named) => {
            Ok(())
        }
        ([name], alone) => note(all, name, alone),
        (_, Err(Unforeseen::Silent(why))) => Err(why),
        _ => attribute_halves(all, names, foresee),
    }
}

/// The same where it is known that all of them together have some.
pub fn attribute_halves(
    all: &mut AllEffects,
    names: &[&str],
    foresee: &mut dyn FnMut(&[&str]) -> Result<Transaction, Unforeseen>,
) -> Result<(), Silence> {
    let (first, second) = names.split_at(names.len() / 2);
    for half in [first, second] {
        if !half.is_empty() {
            attribute(all, half, foresee)?;
        }
    }
    Ok(())
}

/// Takes what one change takes with it into its item: what `is_wanted` on the target makes it costly.
pub fn consider(
    manager: &str,
    effects: &Effects,
    item: &mut Item,
    is_wanted: impl Fn(&String) -> bool,
) {
    if let Some(why) = &effects.refused {
        item.stand = Stand::Told(format!("{manager} would not: {why}"));
        return;
    }
    let (wanted, others): (Vec<&String>, Vec<&String>) =
        (effects.removes.iter()).partition(|name| is_wanted(name));
    if !wanted.is_empty() {
        item.costly = true;
        item.stand = Stand::Asked(false);
        let text = format!("also removes what was asked for there: {}", list(wanted));
        item.consequences.push(text);
    }
    if !others.is_empty() {
        let text = format!("also removes {}", list(others));
        item.consequences.push(text);
    }
    if !effects.upgrades.is_empty() {
        let text = format!("also changes the version of {}", list(&effects.upgrades));
        item.consequences.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_effects_is_found_in_few_questions() {
        let names: Vec<String> = (0..200).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = 0;
        let mut found = AllEffects::new();
        let mut foresee = |some: &[&str]| {
            asked += 1;
            let mut foreseen = Transaction::default();
            if some.contains(&"p7") {
                foreseen.removes.insert("mta".to_owned());
            }
            if some.contains(&"p150") {
                return Err(Unforeseen::Refused(Silence("held".to_owned())));
            }
            Ok(foreseen)
        };
        attribute_halves(&mut found, &names, &mut foresee).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["p150", "p7"]);
        assert_eq!(found["p7"].removes, ["mta"]);
        assert_eq!(found["p150"].refused.as_deref(), Some("held"));
        assert!(asked <= 32, "{asked}");
        let mut silent = |_: &[&str]| Err(Unforeseen::Silent(Silence("dead".to_owned())));
        let why = attribute_halves(&mut found, &names, &mut silent).unwrap_err();
        assert_eq!(why.0, "dead");
        attribute_halves(&mut found, &[], &mut silent).unwrap();
    }
}
