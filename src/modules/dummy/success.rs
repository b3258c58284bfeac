//! `dummy_success`: pretends for the configured time and succeeds.

use std::time::Duration;

use super::{pretend, say_stopped};
use crate::event::{Host, LogLevel};
use crate::module::{
    ListPlan, Module, ModuleContext, ModuleError, ModuleKind, Plan, ValidationError,
};

/// The second on the source at which it logs its example of a warning.
const WARNING_AT: u64 = 6;

/// The dummy that succeeds.
#[derive(Debug, Clone, Copy, Default)]
pub struct DummySuccess;

impl Module for DummySuccess {
    fn name(&self) -> &'static str {
        "dummy_success"
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Sync
    }

    fn validate(&mut self, _: &ModuleContext<'_>) -> Result<Vec<ValidationError>, ModuleError> {
        Ok(Vec::new())
    }

    fn plan(&mut self, _: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        Ok(Box::new(ListPlan::default()))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let config = &context.config.dummy_success;
        let took = pretend(
            context,
            config.source_duration,
            config.target_duration,
            &mut |host, second, _| {
                if host == Host::Source && second == WARNING_AT {
                    context.log(LogLevel::Warning, host, "an example of a warning");
                }
                Ok(())
            },
        )?;
        Ok(format!("pretended for {took} s"))
    }

    fn abort(&mut self, context: &ModuleContext<'_>, _timeout: Duration) {
        say_stopped(context);
    }
}
