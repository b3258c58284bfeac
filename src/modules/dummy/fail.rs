//! `dummy_fail`: pretends, warns, logs an error and fails at the configured second.

use std::time::Duration;

use super::{pretend, say_stopped};
use crate::config::Config;
use crate::event::LogLevel;
use crate::module::{
    ConfigError, ListPlan, Module, ModuleContext, ModuleError, ModuleKind, Plan, ValidationError,
};

/// The dummy that fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct DummyFail;

impl Module for DummyFail {
    fn name(&self) -> &'static str {
        "dummy_fail"
    }

    fn kind(&self) -> ModuleKind {
        ModuleKind::Sync
    }

    fn validate_config(&self, config: &Config) -> Vec<ConfigError> {
        let own = &config.dummy_fail;
        let total = own.source_duration.saturating_add(own.target_duration);
        if own.fail_at <= total {
            return Vec::new();
        }
        vec![ConfigError {
            module: Some(self.name().to_owned()),
            path: "dummy_fail.fail_at".to_owned(),
            message: format!(
                "second {} never comes: source_duration and target_duration are {total} s together",
                own.fail_at
            ),
            hint: None,
        }]
    }

    fn validate(&mut self, _: &ModuleContext<'_>) -> Result<Vec<ValidationError>, ModuleError> {
        Ok(Vec::new())
    }

    fn plan(&mut self, _: &ModuleContext<'_>) -> Result<Box<dyn Plan>, ModuleError> {
        Ok(Box::new(ListPlan::default()))
    }

    fn execute(&mut self, context: &ModuleContext<'_>) -> Result<String, ModuleError> {
        let config = &context.config.dummy_fail;
        let fail_at = config.fail_at;
        pretend(
            context,
            config.source_duration,
            config.target_duration,
            &mut |host, _, elapsed| {
                if elapsed + 1 == fail_at {
                    context.log(LogLevel::Warning, host, "an example of a warning");
                }
                if elapsed != fail_at {
                    return Ok(());
                }
                context.log(LogLevel::Error, host, "an example of an error");
                Err(ModuleError::Failed {
                    message: format!("failed at second {fail_at}, as configured"),
                    hint: Some("raise dummy_fail.fail_at, or switch dummy_fail off".to_owned()),
                })
            },
        )?;
        unreachable!("validate_config made sure that fail_at comes")
    }

    fn abort(&mut self, context: &ModuleContext<'_>, _timeout: Duration) {
        say_stopped(context);
    }
}
