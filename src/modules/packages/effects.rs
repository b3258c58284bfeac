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
    /// Other changes without which it would remove less.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
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
            ..Effects::default()
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

/// Most changes that only together remove something, and most such groups that are looked for.
const JOINT: usize = 8;

/// What these changes remove only together: it is noted of the last one of the fewest that it takes, so that
/// the others are what they are without it. After [`attribute_halves`]; `together` is what was foreseen of
/// all of them, if it was.
pub fn attribute_jointly(
    all: &mut AllEffects,
    names: &[&str],
    together: Option<&Transaction>,
    foresee: &mut dyn FnMut(&[&str]) -> Result<Transaction, Unforeseen>,
) -> Result<(), Silence> {
    let mut asked = |names: &[&str]| match foresee(names) {
        Ok(transaction) => Ok(transaction.removes),
        Err(Unforeseen::Refused(_)) => Ok(BTreeSet::new()),
        Err(Unforeseen::Silent(why)) => Err(why),
    };
    let is_refused = |all: &AllEffects, name: &str| {
        (all.get(name)).is_some_and(|effects| effects.refused.is_some())
    };
    let mut left: Vec<&str> = (names.iter().copied())
        .filter(|name| !is_refused(all, name))
        .collect();
    let mut removes = match together {
        Some(together) if left.len() == names.len() => together.removes.clone(),
        _ if left.len() < 2 => return Ok(()),
        _ => asked(&left)?,
    };
    for _ in 0..JOINT {
        let noted = |name: &str| all.values().any(|e| e.removes.iter().any(|n| n == name));
        removes.retain(|name| !left.contains(&name.as_str()) && !noted(name));
        if removes.is_empty() || left.len() < 2 {
            return Ok(());
        }
        let cause = fewest(&left, &removes, &mut asked)?;
        let Some((last, with)) = cause.split_first() else {
            return Ok(());
        };
        let theirs = asked(&cause)?;
        let effects = all.entry((*last).to_owned()).or_default();
        (effects.removes).extend(removes.intersection(&theirs).cloned());
        (effects.with).extend(with.iter().map(|&name| name.to_owned()));
        left.retain(|name| name != last);
        removes = asked(&left)?;
    }
    Ok(())
}

/// What would be removed by some changes together.
type Removed<'f> = dyn FnMut(&[&str]) -> Result<BTreeSet<String>, Silence> + 'f;

/// The fewest of these changes that remove any of `gone`, the last of them first.
fn fewest<'n>(
    names: &[&'n str],
    gone: &BTreeSet<String>,
    asked: &mut Removed<'_>,
) -> Result<Vec<&'n str>, Silence> {
    let mut found: Vec<&str> = Vec::new();
    let mut open = names;
    while found.len() < JOINT {
        // How many of those that are open it takes besides: surely not fewer than `low`.
        let (mut low, mut enough) = (0, open.len());
        while low < enough {
            let some = usize::midpoint(low, enough);
            let question = [&open[..some], &found].concat();
            if asked(&question)?.is_disjoint(gone) {
                low = some + 1;
            } else {
                enough = some;
            }
        }
        let Some((last, before)) = open[..enough].split_last() else {
            break;
        };
        found.push(last);
        open = before;
    }
    Ok(found)
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
    let also = if effects.with.is_empty() {
        "also".to_owned()
    } else {
        format!("together with {} also", list(&effects.with))
    };
    let (wanted, others): (Vec<&String>, Vec<&String>) =
        (effects.removes.iter()).partition(|name| is_wanted(name));
    if !wanted.is_empty() {
        item.costly = true;
        item.stand = Stand::Asked(false);
        let text = format!("{also} removes what was asked for there: {}", list(wanted));
        item.consequences.push(text);
    }
    if !others.is_empty() {
        let text = format!("{also} removes {}", list(others));
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

    #[test]
    fn what_only_some_together_remove_is_noted_of_the_last_of_them() {
        let names: Vec<String> = (0..64).map(|n| format!("p{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let sets: [(&[&str], &str); 3] = [
            (&["p05"], "alone"),
            (&["p03", "p40"], "mine"),
            (&["p03", "p17", "p60"], "other"),
        ];
        let mut asked = 0;
        let mut foresee = |some: &[&str]| {
            asked += 1;
            let mut foreseen = Transaction::default();
            for (cause, gone) in sets {
                if cause.iter().all(|name| some.contains(name)) {
                    foreseen.removes.insert(gone.to_owned());
                }
            }
            if some.contains(&"p20") {
                return Err(Unforeseen::Refused(Silence("held".to_owned())));
            }
            Ok(foreseen)
        };
        let mut found = AllEffects::new();
        attribute_halves(&mut found, &names, &mut foresee).unwrap();
        attribute_jointly(&mut found, &names, None, &mut foresee).unwrap();
        let noted: Vec<(&str, &[String], &[String])> = (found.iter())
            .map(|(name, e)| (name.as_str(), &e.removes[..], &e.with[..]))
            .collect();
        let one = |name: &str| vec![name.to_owned()];
        let with = ["p17".to_owned(), "p03".to_owned()];
        assert_eq!(
            noted,
            [
                ("p05", &one("alone")[..], &[][..]),
                ("p20", &[][..], &[][..]),
                ("p40", &one("mine")[..], &one("p03")[..]),
                ("p60", &one("other")[..], &with[..]),
            ]
        );
        assert!(asked < 80, "{asked}");
        let mut item = Item::asked("p40", crate::modules::packages::item::Verb::Install, "p40");
        consider("apt", &found["p40"], &mut item, |name| name == "mine");
        assert!(item.costly && item.stand == Stand::Asked(false));
        assert_eq!(
            item.consequences,
            ["together with p03 also removes what was asked for there: mine"]
        );
        let mut silent = |_: &[&str]| Err(Unforeseen::Silent(Silence("dead".to_owned())));
        assert!(attribute_jointly(&mut found, &names, None, &mut silent).is_err());
    }
}
