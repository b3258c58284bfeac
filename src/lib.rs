//! pc-switcher: work on one Linux machine, sync, and go on working on the other.
//!
//! ARCHITECTURE.md has the map. Each floor imports only what is below it:
//! `cli` → `run` → `modules` → `module` → `mirror` → `agent` → `record` → `snapshot` → `host` → `ui`
//! → the rest. `tests/it/layers.rs` holds the line.

pub mod age;
pub mod agent;
pub mod buffers;
pub mod change;
pub mod cli;
pub mod config;
pub mod escape;
pub mod event;
pub mod exit;
pub mod figures;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod interrupt;
pub mod jsonline;
pub mod mirror;
pub mod module;
pub mod modules;
pub mod prompt;
pub mod record;
pub mod run;
pub mod signals;
pub mod snapshot;
pub mod sys;
pub mod ui;
