//! Integration tests: two real machines, real files, oracles written by others.
//!
//! Tests that need the lab (root, btrfs, namespaces) begin with [`support::lab::Lab::fresh`] and say
//! `SKIPPED` where there can be none.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start programs as a person does: untied, from outside"
)]

mod anchors;
mod by_hand;
mod completions;
mod damage;
mod deltas;
mod doctor;
mod documents;
mod dry_run;
mod errors;
mod faults;
mod first_sync;
mod flatpaks;
mod folders;
mod fuzz;
mod harness;
mod help;
mod history;
mod install;
mod interrupted;
mod lanes;
mod layers;
mod layouts;
mod logs;
mod losses;
mod manners;
mod manual;
mod moves;
mod package_architectures;
mod package_reviews;
mod package_scenarios;
mod packages;
mod refusals;
mod restore;
mod retention;
mod rollback;
mod round_trip;
mod status;
mod support;
mod survivors;
mod terminal;
mod timing;
mod unattended;
