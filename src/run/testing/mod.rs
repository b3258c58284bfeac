//! Two machines in memory, for tests of whole runs.

mod fakes;
mod trial;
mod world;

pub(crate) use fakes::{Scripted, TestModule};
pub(crate) use trial::{Outcome, Trial};
pub(crate) use world::{World, history_entry, name};
