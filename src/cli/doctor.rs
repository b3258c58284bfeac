//! `doctor`: what a sync needs, looked at on this machine and another.
//!
//! With `--json` it prints one object; `manual/texts/doctor.md` says what is in it.

use serde_json::{Value, json};

use super::args::{DoctorArgs, GlobalArgs};
use super::config_path;
use super::errand::Errand;
use super::table::print;
use super::{ended_by, known};
use crate::config;
use crate::event::{Host, LogLevel};
use crate::exit::ExitStatus;
use crate::jsonline::{redact_value, safe};
use crate::modules;
use crate::run::doctor::{Check, Checkup, Examination, State, examine};
use crate::run::error::RunError;
use crate::run::reach::Reach;
use crate::ui::{self, CheckGroup, CheckRow, Mark};

/// Looks at this machine, and at another if one is named.
#[must_use]
pub fn run(global: &GlobalArgs, args: &DoctorArgs) -> ExitStatus {
    let path = match config_path(global) {
        Ok(path) => path,
        Err(error) => return ended_by(&error),
    };
    let config = config::load(&path, &known(&modules::registry()));
    let errand = Errand::start(global, LogLevel::Warning);
    let host = args.host.as_deref();
    let looked = examine(Examination {
        config,
        config_path: path,
        host: host.map(str::to_owned),
        machines: std::sync::Arc::new(Reach::new(host.unwrap_or_default())),
        prompter: errand.console.prompter(),
        events: errand.console.events.clone(),
        abort: errand.console.abort.clone(),
        modules: &modules::registry,
    });
    let mut found = None;
    let status = errand.finish(looked.map(|checkup| found.insert(checkup).status()));
    // Not before the renderer has given the terminal back.
    match found {
        Some(checkup) if args.json => match print(&json_text(&checkup)) {
            ExitStatus::Done => status,
            failed => failed,
        },
        Some(checkup) => show(&checkup, status),
        None => status,
    }
}

/// What a check is called.
fn title(id: &'static str) -> &'static str {
    match id {
        "config" => "configuration",
        "ssh_config" => "ssh settings",
        "host_key" => "host key",
        "version" => "pc-switcher",
        "run" => "/run",
        "disk" => "disk space",
        "btrfs_snapshots" => "snapshots",
        "user_data" => "folders",
        other => other,
    }
}

fn mark(state: State) -> Mark {
    match state {
        State::Ok => Mark::Good,
        State::Unknown => Mark::Unknown,
        State::Warning => Mark::Warning,
        State::Failed => Mark::Bad,
    }
}

fn show(checkup: &Checkup, status: ExitStatus) -> ExitStatus {
    let rows = |host: Option<Host>| -> Vec<CheckRow> {
        let checks = checkup.checks.iter().filter(|check| check.host == host);
        checks
            .map(|check| CheckRow {
                mark: mark(check.state),
                title: title(check.id).to_owned(),
                text: check.message.clone(),
                remedy: check.remedy.clone(),
            })
            .collect()
    };
    let group = |title: String, rows: Vec<CheckRow>| CheckGroup { title, rows };
    let (config, between): (Vec<_>, Vec<_>) = rows(None)
        .into_iter()
        .partition(|row| row.title == title("config"));
    let mut here = config;
    here.extend(rows(Some(Host::Source)));
    let mut groups = vec![group(format!("{} (this machine)", checkup.source), here)];
    if let Some(target) = &checkup.target {
        groups.push(group(target.clone(), rows(Some(Host::Target))));
        groups.push(group(format!("{} and {target}", checkup.source), between));
    }
    let (mark, words) = verdict(checkup, status);
    match ui::print_checks(&groups, (mark, &words)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ended_by(&RunError::Output(error))
        }
        _ => status,
    }
}

/// What it comes to, in a line.
fn verdict(checkup: &Checkup, status: ExitStatus) -> (Mark, String) {
    let counted = |state, noun: &str| match checkup.count(state) {
        0 => None,
        count => Some(crate::figures::counted(count as u64, noun)),
    };
    let warnings = counted(State::Warning, "warning");
    let other = match &checkup.target {
        Some(target) => format!("a sync to {target}"),
        None => "a sync".to_owned(),
    };
    match counted(State::Failed, "thing") {
        Some(failed) => {
            let also = warnings.map_or(String::new(), |w| format!(", {w}"));
            let code = status.code();
            (
                Mark::Bad,
                format!("{failed} to mend{also}; {other} would end with status {code}"),
            )
        }
        None => match warnings {
            Some(warnings) => (Mark::Warning, format!("{other} can begin; {warnings}")),
            None => (Mark::Good, format!("{other} can begin")),
        },
    }
}

/// The object for programs, on one line.
fn json_text(checkup: &Checkup) -> String {
    let hostname = |host: Option<Host>| match host {
        None => None,
        Some(Host::Source) => Some(checkup.source.as_str()),
        Some(Host::Target) => checkup.target.as_deref(),
    };
    let check = |check: &Check| {
        let remedy = check.remedy.as_deref();
        let commands: Vec<&str> = (remedy.unwrap_or_default().lines())
            .filter(|line| line.starts_with(' '))
            .map(str::trim)
            .collect();
        json!({
            "id": check.id,
            "host": check.host,
            "hostname": hostname(check.host),
            "state": check.state.word(),
            "message": check.message,
            "remedy": remedy,
            "commands": commands,
        })
    };
    let worst = checkup.checks.iter().map(|check| check.state).max();
    let checks: Vec<Value> = checkup.checks.iter().map(check).collect();
    let mut object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "source": checkup.source,
        "target": checkup.target,
        "state": worst.unwrap_or(State::Ok).word(),
        "status": checkup.status().code(),
        "checks": checks,
    });
    redact_value(&mut object);
    format!("{}\n", safe(&object.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonline::json_doc;

    fn checkup() -> Checkup {
        let check = |id, host, state, message: &str, remedy: Option<&str>| Check {
            id,
            host,
            state,
            message: message.to_owned(),
            remedy: remedy.map(str::to_owned),
            status: ExitStatus::Connection,
        };
        Checkup {
            source: "atlas".into(),
            target: Some("vega".into()),
            checks: vec![
                check("config", None, State::Ok, "fine", None),
                check(
                    "login",
                    Some(Host::Target),
                    State::Failed,
                    "refused\u{1b}[2J",
                    Some("`ssh vega` must work:\n    ssh-copy-id vega"),
                ),
                check(
                    "agent",
                    Some(Host::Target),
                    State::Unknown,
                    "not known yet",
                    None,
                ),
                check("disk", Some(Host::Source), State::Warning, "low", None),
            ],
        }
    }

    #[test]
    fn the_object_has_every_key_and_the_commands_apart() {
        let text = json_text(&checkup());
        assert!(!text.trim_end().contains(crate::escape::is_unsafe));
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["state"], "failed");
        assert_eq!(object["status"], 5);
        assert_eq!(object["target"], "vega");
        assert_eq!(
            object["checks"][1],
            json!({
                "id": "login", "host": "target", "hostname": "vega", "state": "failed",
                "message": "refused\u{1b}[2J",
                "remedy": "`ssh vega` must work:\n    ssh-copy-id vega",
                "commands": ["ssh-copy-id vega"],
            })
        );
        assert_eq!(object["checks"][0]["hostname"], Value::Null);
        json_doc::check("doctor", "The object", &object);
    }

    #[test]
    fn the_verdict_counts_what_is_to_mend() {
        let mut checkup = checkup();
        let words = |checkup: &Checkup| verdict(checkup, checkup.status()).1;
        assert_eq!(
            words(&checkup),
            "1 thing to mend, 1 warning; a sync to vega would end with status 5"
        );
        checkup.checks.remove(1);
        assert_eq!(words(&checkup), "a sync to vega can begin; 1 warning");
        assert_eq!(checkup.status(), ExitStatus::Warnings);
        checkup.checks.pop();
        checkup.target = None;
        assert_eq!(words(&checkup), "a sync can begin");
        assert_eq!(checkup.status(), ExitStatus::Done);
    }
}
