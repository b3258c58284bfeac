//! What an agent does for each request; no threads and no frames here.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::Mode;

use super::facts::{agent_facts, disk_facts, machine_name};
use super::fault::{Fault, FaultKind};
use super::health::health;
use super::lanes::LaneOffer;
use super::lanes::door::{Door, Serve};
use super::person::{Person, find_person};
use super::places::Places;
use super::programs::{install_self, run_program};
use super::protocol::{Reply, Request};
use crate::interrupt::AbortFlag;
use crate::record::LockHolder;
use crate::record::lock::{LockOutcome, MachineLock};
use crate::record::state::StateStore;
use crate::snapshot::{manage, space, subvolumes};
use crate::sys::trusted::Directory;

/// Requests in one [`Request::Many`].
const MAX_MANY: usize = 256;

/// Everything that outlives a single request.
pub struct Handlers {
    places: Places,
    uid: OnceLock<u32>,
    lock: Mutex<Option<MachineLock>>,
    /// Held while a state file is replaced.
    state: Mutex<StateStore>,
}

impl Handlers {
    /// Handlers that keep to `places`.
    #[must_use]
    pub fn new(places: Places) -> Self {
        let state = StateStore::new(&places.state, Some(machine_name(&places)));
        Self {
            places,
            uid: OnceLock::new(),
            lock: Mutex::new(None),
            state: Mutex::new(state),
        }
    }

    /// Answers one request that needs neither the stream nor a service.
    pub fn answer(&self, request: Request, abort: &AbortFlag) -> Result<Reply, Fault> {
        match request {
            Request::Many(requests) => self.answer_many(requests, abort),
            other => self.answer_one(other, abort),
        }
    }

    fn answer_many(&self, requests: Vec<Request>, abort: &AbortFlag) -> Result<Reply, Fault> {
        if requests.len() > MAX_MANY {
            return Err(Fault::invalid(format!(
                "more than {MAX_MANY} requests at once"
            )));
        }
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            if abort.is_raised() {
                return Err(Fault::new(FaultKind::Interrupted, "interrupted"));
            }
            replies.push(self.answer_one(request, abort)?);
        }
        Ok(Reply::Many(replies))
    }

    fn answer_one(&self, request: Request, abort: &AbortFlag) -> Result<Reply, Fault> {
        match request {
            Request::Hello { uid, .. } => {
                if let Some(uid) = uid {
                    let _ = self.uid.set(uid);
                }
                let facts = agent_facts(&self.places, Some(self.uid()));
                Ok(Reply::Hello(Box::new(facts)))
            }
            Request::Lock(holder) => self.take_lock(holder),
            Request::ReadState => Ok(Reply::State(Box::new(self.store().read()?))),
            Request::Health => Ok(Reply::Health(Box::new(health(&self.places)?))),
            Request::WriteIncomplete(incomplete) => {
                self.check_locked()?;
                self.store().write_incomplete(incomplete.as_ref())?;
                Ok(Reply::Done)
            }
            Request::AppendHistory(entry) => {
                self.check_locked()?;
                self.store().append_history(*entry)?;
                Ok(Reply::Done)
            }
            Request::Disk { paths } => Ok(Reply::Disk(disk_facts(&paths)?)),
            Request::Subvolumes {
                names,
                snapshot_dir,
            } => {
                let facts = subvolumes::discover(&names, Path::new(&snapshot_dir))?;
                Ok(Reply::Subvolumes(Box::new(facts)))
            }
            Request::CreateSnapshots {
                snapshot_dir,
                snapshots,
            } => {
                let made = manage::create(Path::new(&snapshot_dir), &snapshots)?;
                Ok(Reply::Snapshots(made))
            }
            Request::ListSnapshots {
                snapshot_dir,
                with_space,
            } => {
                let found = manage::list(Path::new(&snapshot_dir), with_space)?;
                Ok(Reply::Snapshots(found))
            }
            Request::SnapshotSpace {
                snapshot_dir,
                limit_millis,
            } => {
                let limit = Duration::from_millis(limit_millis);
                Ok(Reply::Held(space::held(Path::new(&snapshot_dir), limit)?))
            }
            Request::DeleteSnapshots {
                snapshot_dir,
                names,
            } => {
                manage::delete(Path::new(&snapshot_dir), &names)?;
                Ok(Reply::Done)
            }
            Request::Run {
                argv,
                env,
                stdin,
                timeout_millis,
            } => {
                let output = run_program(&argv, &env, stdin.as_deref(), timeout_millis, abort)?;
                Ok(Reply::Run(output))
            }
            Request::InstallSelf => {
                install_self(&self.places)?;
                Ok(Reply::Done)
            }
            Request::ReadUserConfig => Ok(Reply::UserConfig(self.person()?.read_config()?)),
            Request::WriteUserConfig { name, content } => {
                self.person()?.write_config(&name, &content)?;
                Ok(Reply::Done)
            }
            Request::RunDirectory => {
                let path = self.person()?.run_directory(&self.run_directory()?)?;
                Ok(Reply::Path(path.to_string_lossy().into_owned()))
            }
            Request::Many(_)
            | Request::Service { .. }
            | Request::LetIn(_)
            | Request::LetInNoMore
            | Request::Abort
            | Request::Goodbye => Err(Fault::invalid("not possible among many requests")),
        }
    }

    /// Opens a door for further connections of the person.
    pub fn let_in(&self, count: usize, serve: Serve) -> Result<(Door, LaneOffer), Fault> {
        self.check_locked()?;
        Door::open(&self.run_directory()?, self.uid(), count, serve)
    }

    fn store(&self) -> std::sync::MutexGuard<'_, StateStore> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The person the CLI works for: as it said, else who called sudo, else whoever logged in.
    fn uid(&self) -> u32 {
        let of_sudo = || std::env::var("SUDO_UID").ok()?.parse().ok();
        *self
            .uid
            .get_or_init(|| of_sudo().unwrap_or_else(|| rustix::process::getuid().as_raw()))
    }

    fn person(&self) -> Result<Person, Fault> {
        find_person(&self.places.passwd, self.uid())
    }

    /// The run directory: root's, and passable for the people who have a directory in it.
    fn run_directory(&self) -> Result<Directory, Fault> {
        Ok(Directory::ensure(
            &self.places.run,
            Mode::from_raw_mode(0o711),
        )?)
    }

    fn take_lock(&self, holder: LockHolder) -> Result<Reply, Fault> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &*lock {
            return if held.holder().session == holder.session {
                Ok(Reply::Lock(None))
            } else {
                Ok(Reply::Lock(Some(held.holder().clone())))
            };
        }
        let holder = LockHolder {
            pid: std::process::id(),
            ..holder
        };
        match MachineLock::take(&self.run_directory()?, holder)? {
            LockOutcome::Taken(taken) => {
                *lock = Some(taken);
                Ok(Reply::Lock(None))
            }
            LockOutcome::Held(by) => Ok(Reply::Lock(Some(by))),
        }
    }

    /// What a machine remembers is only changed by the one who holds its lock.
    fn check_locked(&self) -> Result<(), Fault> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match &*lock {
            Some(_) => Ok(()),
            None => Err(Fault::invalid("the machine's lock is not held")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Host, SessionState};
    use crate::record::testing::entry;
    use std::os::unix::fs::MetadataExt;

    fn handlers() -> (tempfile::TempDir, Handlers) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run", "var/lib", "etc"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let handlers = Handlers::new(Places::below(root.path()));
        (root, handlers)
    }

    fn ask(handlers: &Handlers, request: Request) -> Result<Reply, Fault> {
        handlers.answer(request, &AbortFlag::new())
    }

    fn holder(session: &str) -> LockHolder {
        LockHolder {
            session: session.to_owned(),
            role: Host::Target,
            from: "atlas".to_owned(),
            pid: 0,
            since: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn one_lock_serves_both_roles_and_the_loser_learns_of_the_holder() {
        let (root, first) = handlers();
        let second = Handlers::new(Places::below(root.path()));
        let lock = |who: &Handlers, holder: LockHolder| match ask(who, Request::Lock(holder)) {
            Ok(Reply::Lock(held)) => held,
            other => panic!("{other:?}"),
        };
        assert_eq!(lock(&first, holder("aaaaaaaa")), None);
        assert_eq!(lock(&first, holder("aaaaaaaa")), None);
        let mut theirs = holder("bbbbbbbb");
        theirs.role = Host::Source;
        let held = lock(&second, theirs.clone()).unwrap();
        assert_eq!(
            (held.session.as_str(), held.pid),
            ("aaaaaaaa", std::process::id())
        );
        assert_eq!(lock(&first, theirs.clone()).unwrap().session, "aaaaaaaa");
        drop(first);
        assert_eq!(lock(&second, theirs), None);
        let run = std::fs::metadata(root.path().join("run/pc-switcher")).unwrap();
        assert_eq!(run.mode() & 0o7777, 0o711);
        let file = std::fs::metadata(root.path().join("run/pc-switcher/lock")).unwrap();
        assert_eq!(file.mode() & 0o7777, 0o600);
    }

    #[test]
    fn state_is_changed_only_under_the_lock() {
        let (root, handlers) = handlers();
        let append = || {
            let entry = entry("aaaaaaaa", "atlas", "vega", SessionState::Completed);
            ask(&handlers, Request::AppendHistory(Box::new(entry)))
        };
        for fault in [
            append().unwrap_err(),
            ask(&handlers, Request::WriteIncomplete(None)).unwrap_err(),
        ] {
            assert!(fault.message.contains("lock is not held"), "{fault}");
        }
        assert!(!root.path().join("var/lib/pc-switcher").exists());
        ask(&handlers, Request::Lock(holder("aaaaaaaa"))).unwrap();
        append().unwrap();
        match ask(&handlers, Request::ReadState).unwrap() {
            Reply::State(state) => assert_eq!(state.history.len(), 1),
            other => panic!("{other:?}"),
        }
        std::fs::write(root.path().join("var/lib/pc-switcher/history.json"), "{").unwrap();
        let fault = ask(&handlers, Request::ReadState).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Damaged);
        assert!(fault.hint.unwrap().contains("history.json"));
    }

    #[test]
    fn many_are_answered_in_order_until_the_first_fault() {
        let (_root, handlers) = handlers();
        let disk = |path: &str| Request::Disk {
            paths: vec![path.to_owned()],
        };
        let reply = ask(
            &handlers,
            Request::Many(vec![Request::ReadState, disk("/"), disk("/proc")]),
        );
        match reply.unwrap() {
            Reply::Many(replies) => assert!(matches!(
                &replies[..],
                [Reply::State(_), Reply::Disk(root), Reply::Disk(proc)]
                    if root[0].path == "/" && proc[0].fs_type == "proc"
            )),
            other => panic!("{other:?}"),
        }
        let fault = ask(&handlers, Request::Many(vec![disk("/"), disk("relative")])).unwrap_err();
        assert!(fault.message.contains("relative"), "{fault}");
        for bad in [Request::Many(Vec::new()), Request::Goodbye, Request::Abort] {
            assert!(ask(&handlers, Request::Many(vec![bad])).is_err());
        }
        let flood = vec![Request::ReadState; MAX_MANY + 1];
        assert!(ask(&handlers, Request::Many(flood)).is_err());
        let abort = AbortFlag::new();
        abort.raise();
        let fault = handlers
            .answer(Request::Many(vec![Request::ReadState]), &abort)
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Interrupted);
    }

    #[test]
    fn the_person_is_who_the_cli_says() {
        let (root, handlers) = handlers();
        std::fs::write(
            root.path().join("etc/passwd"),
            "dev:x:12345:12345::/nonexistent:/bin/sh\n",
        )
        .unwrap();
        let hello = Request::Hello {
            session: "aaaaaaaa".to_owned(),
            uid: Some(12345),
        };
        match ask(&handlers, hello).unwrap() {
            Reply::Hello(facts) => assert_eq!(facts.uid, Some(12345)),
            other => panic!("{other:?}"),
        }
        assert_eq!(handlers.person().unwrap().home, Path::new("/nonexistent"));
    }
}
