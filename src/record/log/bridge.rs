//! What libraries say through the `log` crate, as events.

use serde_json::{Map, Value};

use crate::event::{EventSink, LogLevel};

/// Sends what libraries log to `events`. Their word for the weight of a thing is not ours: an
/// ERROR of ours fails the session, so their errors become warnings, the rest detail.
///
/// The logger is the process's own and keeps its sink for ever.
pub fn bridge(events: EventSink) -> Result<(), log::SetLoggerError> {
    dispatch(events).apply()
}

fn dispatch(events: EventSink) -> fern::Dispatch {
    fern::Dispatch::new()
        .level(log::LevelFilter::Debug)
        .chain(fern::Output::call(move |record| {
            let mut context = Map::new();
            context.insert("library".into(), Value::from(record.target()));
            let message = record.args().to_string();
            events.log(level(record.level()), "core", None, message, context);
        }))
}

fn level(level: log::Level) -> LogLevel {
    match level {
        log::Level::Error => LogLevel::Warning,
        log::Level::Warn => LogLevel::Full,
        log::Level::Info | log::Level::Debug | log::Level::Trace => LogLevel::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn an_error_of_a_library_is_a_warning_of_ours() {
        let mut sink = EventSink::none();
        let events = sink.subscribe();
        let (_, logger) = dispatch(sink).into_log();
        for (level, text) in [(log::Level::Error, "gone"), (log::Level::Trace, "bytes")] {
            logger.log(
                &log::Record::builder()
                    .level(level)
                    .target("ssh2")
                    .args(format_args!("{text}"))
                    .build(),
            );
        }
        let Ok(Event::Log(line)) = events.try_recv() else {
            panic!("no event");
        };
        assert_eq!(
            (line.level, line.message.as_str()),
            (LogLevel::Warning, "gone")
        );
        assert_eq!(line.context["library"], "ssh2");
        assert!(events.try_recv().is_err(), "trace is not passed on");
    }
}
