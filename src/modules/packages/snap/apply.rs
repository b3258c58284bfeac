//! Carrying out what was decided, on the target, by its own snapd.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::plan::Work;
use super::state::{Snap, is_channel, is_name, read};
use crate::escape::escape_str;
use crate::interrupt::AbortFlag;
use crate::modules::packages::answer::Silence;
use crate::modules::packages::item::Outcome;
use crate::modules::packages::tools::Tools;

/// How long automatic refreshes are held off: they come back by themselves if we do not.
const PAUSE_TIME: SignedDuration = SignedDuration::from_hours(6);

/// Does the work, one snap after another.
pub fn apply(
    tools: &Tools<'_>,
    work: &Work,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Outcome>, Silence> {
    let snaps = work.install.iter().chain(&work.change);
    let is_good = (snaps.clone().map(|(name, _)| name))
        .chain(&work.remove)
        .chain(&work.hold)
        .chain(&work.unhold)
        .all(|name| is_name(name))
        && snaps.clone().all(|(_, snap)| {
            snap.is_from_store() && (snap.channel.is_empty() || is_channel(&snap.channel))
        });
    if !is_good {
        return Err(Silence(
            "the work names what cannot be a snap of the store".to_owned(),
        ));
    }
    let paused = pause(&tools.with_abort(tools.abort));
    if let Err(why) = &paused {
        let why = escape_str(&why.0);
        say(&format!(
            "automatic refreshes are not held off meanwhile: {why}"
        ));
    }
    let result = all(tools, work, say);
    if let Ok(Pause::Until(before)) = paused {
        // Also when we were told to stop.
        let calm = AbortFlag::new();
        if let Err(why) = resume(&tools.with_abort(&calm), before.as_deref()) {
            say(&format!(
                "refresh.hold could not be put back ({}); it ends by itself within 6 hours",
                escape_str(&why.0)
            ));
        }
    }
    result
}

fn all(tools: &Tools<'_>, work: &Work, say: &mut dyn FnMut(&str)) -> Result<Vec<Outcome>, Silence> {
    let mut outcomes = Vec::new();
    let mut note = |id: &str, result: Result<(), Silence>| {
        outcomes.push(match result {
            Ok(()) => Outcome::done(id),
            Err(why) => Outcome::failed(id, why.0),
        });
    };
    for (snaps, verb) in [(&work.install, "install"), (&work.change, "refresh")] {
        for (name, snap) in snaps {
            tools.check()?;
            say(&format!("{verb}ing {name}"));
            note(name, bring(tools, verb, name, snap));
        }
    }
    for name in &work.remove {
        say(&format!("removing {name}"));
        // Never --purge: snapd keeps a snapshot of the data.
        note(name, remove(tools, name));
    }
    // Never without a name: that would hold back everything.
    for name in &work.hold {
        let result = tools.act(&["snap", "refresh", "--hold=forever", name]);
        note(&format!("hold {name}"), result.map(|_| ()));
    }
    for name in &work.unhold {
        let result = tools.act(&["snap", "refresh", "--unhold", name]);
        note(&format!("no hold {name}"), result.map(|_| ()));
    }
    Ok(outcomes)
}

fn bring(tools: &Tools<'_>, verb: &str, name: &str, snap: &Snap) -> Result<(), Silence> {
    tools.go_on()?;
    let there = read(tools)?;
    if there
        .get(name)
        .is_none_or(|now| now.revision != snap.revision)
    {
        let revision = format!("--revision={}", snap.revision);
        let mut argv = vec!["snap", verb, &revision];
        // At most one of them, as on the source.
        if snap.devmode {
            argv.push("--devmode");
        } else if snap.classic {
            argv.push("--classic");
        }
        argv.push(name);
        tools.act(&argv)?;
    }
    if !snap.channel.is_empty() {
        let channel = format!("--channel={}", snap.channel);
        tools.act(&["snap", "switch", &channel, name])?;
    }
    match read(tools)?.get(name) {
        Some(now) if now.revision == snap.revision => Ok(()),
        Some(now) => Err(Silence(format!(
            "snapd gave revision {} and not {}",
            now.revision, snap.revision
        ))),
        None => Err(Silence(
            "snapd said that it was done, and it is not there".to_owned(),
        )),
    }
}

fn remove(tools: &Tools<'_>, name: &str) -> Result<(), Silence> {
    tools.act(&["snap", "remove", name])?;
    if read(tools)?.contains_key(name) {
        let why = "snapd said that it was done, and it is still there";
        return Err(Silence(why.to_owned()));
    }
    Ok(())
}

/// The setting as it is; `None`: there is none.
fn hold(tools: &Tools<'_>) -> Result<Option<String>, Silence> {
    // The whole document: asked for one that is not set, snap ends as if it had failed.
    let text = tools.ask(&["snap", "get", "-d", "system"])?;
    let document: Value = serde_json::from_str(&text)
        .map_err(|e| Silence(format!("`snap get -d system` printed nonsense: {e}")))?;
    Ok(document["refresh"]["hold"].as_str().map(str::to_owned))
}

/// What became of automatic refreshes.
enum Pause {
    /// They are held off for longer already: nothing was changed.
    Unneeded,
    /// They are held off, and this is what was set before.
    Until(Option<String>),
}

/// Holds automatic refreshes off for a while, unless they are held off for longer.
fn pause(tools: &Tools<'_>) -> Result<Pause, Silence> {
    let before = hold(tools)?;
    let until = Timestamp::now() + PAUSE_TIME;
    if let Some(before) = &before {
        let is_later = before.parse::<Timestamp>().is_ok_and(|time| time >= until);
        if before == "forever" || is_later {
            return Ok(Pause::Unneeded);
        }
    }
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let setting = format!("refresh.hold={until}");
    tools.act(&["snap", "set", "system", &setting])?;
    // snapd may accept it and not keep it.
    if hold(tools)?.as_deref() == Some(&*until) {
        Ok(Pause::Until(before))
    } else {
        resume(tools, before.as_deref())?;
        Err(Silence("snapd did not keep refresh.hold".to_owned()))
    }
}

/// Puts the setting back, word for word.
fn resume(tools: &Tools<'_>, before: Option<&str>) -> Result<(), Silence> {
    match before {
        Some(before) => {
            let setting = format!("refresh.hold={before}");
            tools.act(&["snap", "set", "system", &setting]).map(|_| ())
        }
        None => tools
            .act(&["snap", "unset", "system", "refresh.hold"])
            .map(|_| ()),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
