//! Large files whose old version the target has: only what differs is sent and written.
//!
//! Without an anchor nothing is known of what differs. The target asks how the source's version is
//! cut into pieces (`cut`, `survey`) while it cuts its own, looks every piece up in it (`matching`),
//! asks closer about what it did not find, then for the parts that are nowhere (`parts`), and puts the
//! result together in the staging directory (`rebuild`, `files`). With an anchor the ranges that can
//! differ are known: they go with the question, hashed, and only those that do differ come (`ranged`).
//!
//! What is changed is a reflink copy of the target's version, so what stays where it is costs nothing;
//! what moved is copied on the target. The source keeps nothing between two questions. Every piece of
//! the result has a hash the source has said, of 256 bits, and what was written is read back for it.

pub mod ahead;
pub mod cut;
pub mod files;
pub mod list;
pub mod matching;
pub mod partial;
pub mod parts;
pub mod ranged;
pub mod rebuild;
pub mod survey;

use super::entry::Kind;
use super::plan::{Op, Step};
use super::ranges::Ranges;

/// A file smaller than this goes as a whole: asking would take as long.
pub const DELTA_MIN: u64 = 1 << 20;

/// With an anchor there is nothing to ask but the ranges, so smaller files are worth it.
pub const RANGED_MIN: u64 = 2 << 10;

/// A file smaller than this is copied where parts of it are kept: to share it would take as long and
/// leave fragments.
const SMALL: u64 = 64 << 10;

/// Where what can differ in a small file is cut: an edit is shorter than a block.
const SHRED: u64 = 512;

/// What filesystems keep data and holes in, and share.
pub const BLOCK: u64 = 4096;

/// Whether `op` brings new content for a file whose old version is worth a comparison.
#[must_use]
pub fn is_worth_it(op: &Op) -> bool {
    replaces_file_of(op, DELTA_MIN)
}

fn replaces_file_of(op: &Op, least: u64) -> bool {
    let old = op.old.as_ref().filter(|old| old.kind == Kind::File);
    op.step == Step::Fetch && op.meta.size >= least && old.is_some_and(|old| old.size >= least)
}

/// Whether a version of `size` bytes is copied rather than shared.
#[must_use]
pub fn is_small(size: u64) -> bool {
    size < SMALL
}

/// The ranges that can differ, if `op` is worth asking for them alone.
#[must_use]
pub fn worthy_ranges(op: &Op) -> Option<&Ranges> {
    let ranges = op.ranges.as_ref()?;
    let is_less = ranges.total() < op.meta.size || is_small(op.meta.size);
    (replaces_file_of(op, RANGED_MIN) && is_less).then_some(ranges)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_measure;
