//! Which remote of the target is, or will be, one of the source's, and which goes.

use std::collections::BTreeSet;

use super::{Pair, RemoteWork, ScopeWork, short};
use crate::modules::packages::flatpak::state::{Installed, Remote, is_address};

/// A remote of the target that is, or will be, one of the source's.
pub(super) struct Place {
    /// Its name there.
    pub(super) name: String,
    /// Whether signatures are checked.
    pub(super) verify: bool,
    /// What must be done for it.
    pub(super) work: Option<RemoteWork>,
}

/// Where an app comes from on the target, and what it runs on: the first is its own place.
pub(super) fn places(pair: &Pair<'_>, installed: &Installed) -> Result<Vec<Place>, String> {
    let mut places = vec![place(pair, &installed.origin)?];
    let runtime = (installed.runtime.as_ref()).map(|runtime| format!("runtime/{runtime}"));
    if let Some(runtime) = runtime
        && !pair.target.refs.contains_key(&runtime)
        && let Some(base) = pair.source.refs.get(&runtime)
        && base.origin != installed.origin
    {
        places.push(place(pair, &base.origin)?);
    }
    Ok(places)
}

fn place(pair: &Pair<'_>, origin: &str) -> Result<Place, String> {
    let ours = (pair.source.remotes.get(origin))
        .filter(|remote| is_address(&remote.url))
        .ok_or("no remote offers it: it was installed from a file; install it there by hand")?;
    if ours.disabled {
        return Err(format!("its remote {origin} is switched off"));
    }
    if !ours.filter.is_empty() && ours.filter_content.is_none() {
        return Err(format!(
            "the filter of {origin} ({}) cannot be read",
            ours.filter
        ));
    }
    let is_same =
        |theirs: &Remote| theirs.address() == ours.address() && theirs.subset == ours.subset;
    let same = (pair.target.remotes.get_key_value(origin))
        .filter(|(_, theirs)| is_same(theirs))
        .or_else(|| {
            pair.target
                .remotes
                .iter()
                .find(|(_, theirs)| is_same(theirs))
        });
    if let Some((name, theirs)) = same {
        return Ok(Place {
            name: name.clone(),
            verify: theirs.verify || ours.verify,
            work: adapted(name, theirs, ours),
        });
    }
    let taken = pair.target.remotes.get(origin);
    if taken.is_some() {
        let user = (pair.target.asked())
            .find(|(name, there)| there.origin == origin && !pair.source.refs.contains_key(*name));
        if let Some((name, _)) = user {
            return Err(format!(
                "its remote {origin} is another place there, which {} comes from",
                short(name)
            ));
        }
    }
    Ok(Place {
        name: origin.to_owned(),
        verify: ours.verify,
        work: Some(RemoteWork {
            name: origin.to_owned(),
            exists: taken.is_some(),
            like: ours.clone(),
            enable: taken.is_some_and(|theirs| theirs.disabled),
            unfilter: taken.is_some_and(|t| !t.filter.is_empty()) && ours.filter.is_empty(),
        }),
    })
}

/// What must be done to a remote of the same address, if anything. Checking of signatures is never
/// switched off where it is on.
fn adapted(name: &str, theirs: &Remote, ours: &Remote) -> Option<RemoteWork> {
    let mut like = ours.clone();
    theirs.url.clone_into(&mut like.url);
    if theirs.verify && !ours.verify {
        like.verify = true;
        like.keys.clear();
    }
    if theirs.keys == like.keys {
        like.keys.clear();
    }
    let same_filter = theirs.filter == ours.filter && theirs.filter_content == ours.filter_content;
    let work = RemoteWork {
        name: name.to_owned(),
        exists: true,
        enable: theirs.disabled,
        unfilter: !theirs.filter.is_empty() && ours.filter.is_empty(),
        like,
    };
    let is_needed = work.enable
        || work.unfilter
        || !work.like.keys.is_empty()
        || work.like.verify != theirs.verify
        || !same_filter;
    is_needed.then_some(work)
}

/// Remotes that only the target has go with the last thing of theirs that this run removes.
pub(super) fn unused_remotes(pair: &Pair<'_>, work: &mut ScopeWork) {
    let goes: BTreeSet<&String> = work.remove.iter().collect();
    for (name, theirs) in &pair.target.remotes {
        let ours = pair.source.remotes.values();
        if pair.source.remotes.contains_key(name)
            || ours
                .into_iter()
                .any(|remote| remote.address() == theirs.address())
        {
            continue;
        }
        let users = |left: bool| {
            (pair.target.refs.iter())
                .any(|(r, there)| there.origin == *name && goes.contains(r) != left)
        };
        if users(false) && !users(true) {
            work.drop.push(name.clone());
        }
    }
}
