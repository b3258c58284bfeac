//! Where a package comes from on the source, and whether the target can have it from there.

use std::collections::BTreeSet;

use super::Both;
use crate::escape::escape_str;
use crate::modules::packages::apt::names::foreign_architecture;
use crate::modules::packages::apt::simulate::Forecast;
use crate::modules::packages::apt::sources::{self, origin};
use crate::modules::packages::apt::state::{
    Key, SOURCES, SOURCES_FILE, State, TRUSTED, is_for_subscribers,
};

/// Why a package cannot come from where the source has it.
pub(super) fn unreachable_reason(
    both: &Both<'_>,
    forecast: &Forecast,
    name: &str,
) -> Option<String> {
    let package = both.source.packages.get(name)?;
    let vendors = both.our_vendors(package);
    let offer = forecast.offers.get(name);
    if vendors.is_empty() {
        // The distribution's. A target that has not been refreshed for long may not know it yet.
        let version = package.held.then_some(package.version.as_str());
        let origins = offer.map(|o| o.origins(version)).unwrap_or_default();
        let is_locked_up = !origins.is_empty()
            && origins.iter().all(|origin| is_for_subscribers(origin))
            && both.target.subscribed == Some(false);
        if is_locked_up {
            return Some(format!(
                "it would come from Ubuntu Pro, which {} is not attached to (`sudo pro attach` there)",
                both.view.names.1
            ));
        }
        if let Some(architecture) = foreign_architecture(name)
            && !both
                .target
                .takes(architecture, |o| both.target_own.contains(o))
        {
            return Some(format!(
                "{} takes no packages of {architecture} from the distribution: its package sources \
                 name other architectures",
                both.view.names.1
            ));
        }
        let foreign = !origins.is_empty() && !origins.iter().any(|o| both.target_own.contains(*o));
        return foreign.then(|| {
            format!(
                "{} would take it from {}, not from the distribution",
                both.view.names.1,
                escape_str(&origins.join(", "))
            )
        });
    }
    if declared_by_target(both, name, &vendors) {
        return None;
    }
    files_for(both.source, &vendors).err()
}

/// Whether the target takes packages of this one's architecture from one of these places already.
pub(super) fn declared_by_target(both: &Both<'_>, name: &str, vendors: &[&str]) -> bool {
    let architecture = foreign_architecture(name).unwrap_or(&both.target.architecture);
    both.target
        .takes(architecture, |origin| vendors.contains(&origin))
}

/// The files a package of these vendors needs: one of the source's that declares a vendor and whose
/// keys can travel, and those keys.
pub(super) fn files_for<'s>(
    source: &'s State,
    vendors: &[&str],
) -> Result<(&'s str, Vec<String>), String> {
    let mut reason = format!(
        "no file of {SOURCES} declares {}",
        escape_str(&vendors.join(", "))
    );
    for vendor in vendors {
        for (path, _) in source.files_declaring(vendor) {
            if path == SOURCES_FILE {
                reason = format!(
                    "{} is declared in {SOURCES_FILE}, which is never copied: give it a file of its \
                     own in {SOURCES}",
                    escape_str(vendor)
                );
                continue;
            }
            let entries = sources::parse(path, &source.sources[path]);
            let mut keys: Vec<String> = entries.iter().flat_map(|e| e.keys.clone()).collect();
            if entries.iter().any(|entry| !entry.signed_by) {
                let trusted = source.keys.keys().filter(|key| key.starts_with(TRUSTED));
                keys.extend(trusted.cloned());
            }
            match keys.iter().find(|key| !source.keys.contains_key(*key)) {
                Some(missing) => {
                    reason = format!(
                        "{path} names the key {}, which cannot be read",
                        escape_str(missing)
                    );
                }
                None => return Ok((path, keys)),
            }
        }
    }
    Err(reason)
}

/// Whether the file that these vendors need would have apt take what is there unchecked.
pub(super) fn is_unchecked(both: &Both<'_>, name: &str, vendors: &[&str]) -> bool {
    let file =
        (!declared_by_target(both, name, vendors)).then(|| files_for(both.source, vendors).ok());
    file.flatten().is_some_and(|(path, _)| {
        (sources::parse(path, &both.source.sources[path]).iter()).any(|entry| entry.unchecked)
    })
}

/// Keys that the target's own entries for these vendors name, and which are others on the source: not
/// where a package of the target keeps them, nor where another place there is checked with them.
pub(super) fn other_keys<'s>(both: &'s Both<'_>, vendors: &[&str]) -> Vec<(&'s str, &'s Key)> {
    let named = |state: &State, vendor: &str| -> BTreeSet<String> {
        (state.files_declaring(vendor).into_iter())
            .flat_map(|(_, entries)| entries.into_iter().flat_map(|entry| entry.keys))
            .collect()
    };
    let is_shared = |key: &str| {
        (both.target.sources.iter())
            .flat_map(|(path, text)| sources::parse(path, text))
            .filter(|entry| entry.keys.iter().any(|named| named == key))
            .flat_map(|entry| entry.uris)
            .any(|uri| !vendors.contains(&&*origin(&uri)))
    };
    (both.source.keys.iter())
        .filter(|(path, ours)| {
            vendors.iter().any(|vendor| {
                named(both.source, vendor).contains(*path)
                    && named(both.target, vendor).contains(*path)
            }) && (both.target.keys.get(*path))
                .is_none_or(|theirs| theirs.content != ours.content && theirs.package.is_none())
                && !is_shared(path)
        })
        .map(|(path, key)| (path.as_str(), key))
        .collect()
}

/// The places that a file of sources names.
#[must_use]
pub fn origins_in(path: &str, text: &str) -> BTreeSet<String> {
    (sources::parse(path, text).iter())
        .flat_map(|entry| entry.uris.iter().map(|uri| origin(uri)))
        .collect()
}
