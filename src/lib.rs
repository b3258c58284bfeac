//! pc-switcher: work on one Linux machine, sync, and go on working on the other.
//!
//! ARCHITECTURE.md has the map. Layers import only downwards:
//! `cli` → `run` → `modules` → `mirror` → `agent` → `snapshot` → `host` → `record` → `ui` → the rest.

pub mod agent;
pub mod cli;
pub mod config;
pub mod escape;
pub mod event;
pub mod exit;
pub mod host;
pub mod interrupt;
pub mod mirror;
pub mod module;
pub mod prompt;
pub mod record;
pub mod snapshot;
pub mod sys;
