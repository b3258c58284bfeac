//! Where a package comes from on the source, and whether the target can have it from there.

use std::collections::BTreeSet;

use super::Both;
use crate::escape::escape_str;
use crate::modules::packages::apt::simulate::Forecast;
use crate::modules::packages::apt::sources::{self, origin};
use crate::modules::packages::apt::state::{
    SOURCES, SOURCES_FILE, State, TRUSTED, is_for_subscribers,
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
        let offer = offer?;
        let version = package.held.then_some(package.version.as_str());
        let origins = offer.origins(version);
        let is_locked_up = !origins.is_empty()
            && origins.iter().all(|origin| is_for_subscribers(origin))
            && both.target.subscribed == Some(false);
        if is_locked_up {
            return Some(format!(
                "it would come from Ubuntu Pro, which {} is not attached to (`sudo pro attach` there)",
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
    if declared_by_target(both, &vendors) {
        return None;
    }
    files_for(both.source, &vendors).err()
}

/// Whether the target uses one of these places already.
pub(super) fn declared_by_target(both: &Both<'_>, vendors: &[&str]) -> bool {
    vendors
        .iter()
        .any(|vendor| !both.target.files_declaring(vendor).is_empty())
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

/// The places that a file of sources names.
pub(super) fn origins_in(path: &str, text: &str) -> BTreeSet<String> {
    (sources::parse(path, text).iter())
        .flat_map(|entry| entry.uris.iter().map(|uri| origin(uri)))
        .collect()
}
