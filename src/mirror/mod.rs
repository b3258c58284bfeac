//! How files move: scan both trees, plan on the side that deletes, send, apply.
//!
//! The source agent walks a snapshot and announces it (`scan`); the target agent follows with its
//! own tree, compares and keeps the plan (`compare`, `plan`); when it is carried out the target
//! asks for content (`apply`) and the source sends it (`serve`). The CLI relays (`relay`).

pub mod alike;
pub mod apply;
pub mod codec;
pub mod compare;
pub mod content;
pub mod delta;
pub mod diff;
pub mod drift;
pub mod entry;
pub mod exchange;
pub mod filter;
pub mod found;
pub mod frames;
pub mod given_way;
pub mod left;
pub mod links;
pub mod local;
pub mod look;
pub mod movable;
pub mod moves;
pub mod origins;
pub mod packing;
pub mod path;
pub mod place;
pub mod plan;
pub mod ranges;
pub mod relay;
pub mod scan;
pub mod scope;
pub mod serve;
pub mod service;
pub mod spool;
pub mod staging;
pub mod suspects;
pub mod told;
pub mod tree;
pub mod wire;

/// Version of what the mirror takes for equal and how it reads filters. Another one, and what an
/// earlier sync has called equal is compared anew.
pub const RULES: u32 = 1;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_alike;
#[cfg(test)]
mod tests_anchor;
#[cfg(test)]
mod tests_delta;
#[cfg(test)]
mod tests_folders;
#[cfg(test)]
mod tests_interrupt;
#[cfg(test)]
mod tests_look;
#[cfg(test)]
mod tests_moves;
#[cfg(test)]
mod tests_peer;
#[cfg(test)]
mod tests_property;
#[cfg(test)]
mod tests_random;
#[cfg(test)]
mod tests_restricted;
#[cfg(test)]
mod tests_user;
#[cfg(test)]
mod tests_user_moves;
