//! The agent's half: a socket on which lanes are let in, for a moment and by who knows the words.
//!
//! It lies in root's run directory, belongs to the person and has mode 0600, so that nobody else
//! can reach it; who comes must be the person (or root), as the kernel says, and must say a secret that only
//! the CLI was told, over the connection it already has. It is closed as soon as all lanes are there.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{LANES_MAX, LaneOffer, WELCOME};
use crate::agent::fault::{Fault, FaultKind};
use crate::interrupt::AbortFlag;
use crate::sys::poll::wait_for;
use crate::sys::trusted::Directory;

/// How long the door stays open at most.
const OPEN_FOR: Duration = Duration::from_mins(2);

/// How long who has come may take to say the words.
const WORDS_WITHIN: Duration = Duration::from_secs(5);

/// Who has come and not said the words yet; more are sent away.
const WAITING_MAX: usize = 16;

/// What the sockets' names begin with.
const PREFIX: &str = "lanes-";

/// What happens with a lane that was let in: it is served to its end.
pub type Serve = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// An open door; dropping it closes it.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    closed: AbortFlag,
}

impl Door {
    /// Opens a door in `run` for `count` lanes of the person `uid`.
    pub fn open(
        run: &Directory,
        uid: u32,
        count: usize,
        serve: Serve,
    ) -> Result<(Self, LaneOffer), Fault> {
        if count == 0 || count > LANES_MAX {
            return Err(Fault::invalid(format!("not from 1 to {LANES_MAX} lanes")));
        }
        let failed =
            |e: io::Error| Fault::new(FaultKind::Io, format!("cannot listen for connections: {e}"));
        remove_left(run.path());
        let path = run.path().join(format!("{PREFIX}{}", random_hex::<8>()?));
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let door = Self {
            path,
            closed: AbortFlag::new(),
        };
        let offer = LaneOffer {
            path: door.path.to_string_lossy().into_owned(),
            secret: random_hex::<32>()?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        std::fs::set_permissions(&door.path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        std::os::unix::fs::lchown(&door.path, Some(uid), None).map_err(failed)?;
        let keeper = Keeper {
            path: door.path.clone(),
            uid,
            secret: offer.secret.clone(),
            closed: door.closed.clone(),
            left: Arc::new(AtomicUsize::new(count)),
            waiting: Arc::default(),
            serve,
        };
        std::thread::Builder::new()
            .name("lane-door".to_owned())
            .spawn(move || keeper.run(&listener))
            .map_err(failed)?;
        Ok((door, offer))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.raise();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the sockets of agents that were killed; we hold the machine's lock, so nobody listens.
fn remove_left(run: &Path) {
    let names = std::fs::read_dir(run).into_iter().flatten().flatten();
    for entry in names {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn random_hex<const N: usize>() -> Result<String, Fault> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled +=
            rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes[filled..], flags))
                .map_err(|e| Fault::new(FaultKind::Io, format!("no random numbers: {e}")))?;
    }
    let mut hex = String::with_capacity(2 * N);
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("a String takes every write");
    }
    Ok(hex)
}

/// Lets in.
struct Keeper {
    path: PathBuf,
    uid: u32,
    secret: String,
    closed: AbortFlag,
    /// How many more lanes are let in.
    left: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    serve: Serve,
}

impl Keeper {
    fn run(self, listener: &UnixListener) {
        let until = Instant::now() + OPEN_FOR;
        while !self.closed.is_raised()
            && Instant::now() < until
            && self.left.load(Ordering::SeqCst) > 0
        {
            match wait_for(listener, true, false, Duration::from_millis(100)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => break,
            }
            if let Ok((lane, _)) = listener.accept() {
                self.meet(lane);
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Hears who has come, on a thread of its own.
    fn meet(&self, lane: UnixStream) {
        let is_theirs = rustix::net::sockopt::socket_peercred(&lane)
            .is_ok_and(|peer| peer.uid.is_root() || peer.uid.as_raw() == self.uid);
        if !is_theirs || self.waiting.fetch_add(1, Ordering::SeqCst) >= WAITING_MAX {
            if is_theirs {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            return;
        }
        let (secret, closed) = (self.secret.clone(), self.closed.clone());
        let (left, waiting) = (Arc::clone(&self.left), Arc::clone(&self.waiting));
        let serve = Arc::clone(&self.serve);
        let met = std::thread::Builder::new()
            .name("lane".to_owned())
            .spawn(move || {
                let lane = hear(lane, &secret);
                waiting.fetch_sub(1, Ordering::SeqCst);
                let Some(mut lane) = lane else { return };
                let fewer = |left: usize| left.checked_sub(1);
                let is_room =
                    (left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)).is_ok();
                if is_room && !closed.is_raised() && writeln!(lane, "{WELCOME}").is_ok() {
                    serve(lane);
                }
            });
        if met.is_err() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Hears the words; `None` if they are wrong.
fn hear(mut lane: UnixStream, secret: &str) -> Option<UnixStream> {
    lane.set_nonblocking(true).ok()?;
    let until = Instant::now() + WORDS_WITHIN;
    let mut words = vec![0; secret.len() + 1];
    let mut heard = 0;
    while heard < words.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        wait_for(&lane, true, false, left).ok()?;
        match lane.read(&mut words[heard..]) {
            Ok(0) => return None,
            Ok(count) => heard += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    let expected = format!("{secret}\n");
    // Hashes are compared in the same time wherever they differ.
    (blake3::hash(&words) == blake3::hash(expected.as_bytes())).then_some(lane)
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded, unbounded};
    use rustix::fs::Mode;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    struct Opened {
        run: tempfile::TempDir,
        door: Door,
        offer: LaneOffer,
        served: Receiver<UnixStream>,
    }

    fn opened(count: usize) -> Opened {
        let run = tempfile::tempdir().unwrap();
        let directory = Directory::ensure(&run.path().join("run"), Mode::RWXU).unwrap();
        let (lanes, served) = unbounded();
        let serve: Serve = Arc::new(move |lane| lanes.send(lane).unwrap());
        let uid = rustix::process::getuid().as_raw();
        let (door, offer) = Door::open(&directory, uid, count, serve).unwrap();
        Opened {
            run,
            door,
            offer,
            served,
        }
    }

    fn said(offer: &LaneOffer, words: &str) -> String {
        let mut lane = UnixStream::connect(&offer.path).unwrap();
        lane.set_read_timeout(Some(SOON)).unwrap();
        lane.write_all(words.as_bytes()).unwrap();
        let mut answer = vec![0; WELCOME.len() + 1];
        match lane.read_exact(&mut answer) {
            Ok(()) => String::from_utf8(answer).unwrap(),
            Err(_) => String::new(),
        }
    }

    fn closes(path: &Path) {
        let (done, is_done) = bounded::<()>(0);
        let path = path.to_owned();
        std::thread::spawn(move || {
            while path.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(done);
        });
        let disconnected = crossbeam_channel::RecvTimeoutError::Disconnected;
        assert_eq!(is_done.recv_timeout(SOON), Err(disconnected));
    }

    #[test]
    fn who_knows_the_words_is_let_in_until_all_are_there() {
        let opened = opened(2);
        let right = format!("{}\n", opened.offer.secret);
        let wrong = right.replace(['0', '1', '2', '3'], "f");
        assert_eq!(said(&opened.offer, &wrong), "");
        assert_eq!(said(&opened.offer, &right), format!("{WELCOME}\n"));
        opened.served.recv_timeout(SOON).unwrap();
        assert_eq!(said(&opened.offer, &right), format!("{WELCOME}\n"));
        opened.served.recv_timeout(SOON).unwrap();
        closes(Path::new(&opened.offer.path));
        assert!(opened.served.is_empty());
    }

    #[test]
    fn a_door_that_is_dropped_is_closed_and_its_secret_is_not_shown() {
        let opened = opened(1);
        assert!(!format!("{:?}", opened.offer).contains(&opened.offer.secret));
        let path = opened.offer.path.clone();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(opened.door);
        assert!(!Path::new(&path).exists());
        drop(opened.run);
    }

    #[test]
    fn what_a_killed_agent_has_left_is_removed() {
        let opened = opened(1);
        let run = Directory::open(&opened.run.path().join("run")).unwrap();
        let left = run.path().join("lanes-0123");
        drop(UnixListener::bind(&left).unwrap());
        let uid = rustix::process::getuid().as_raw();
        let (_door, offer) = Door::open(&run, uid, 1, Arc::new(drop)).unwrap();
        assert!(!left.exists() && Path::new(&offer.path).exists());
        for count in [0, LANES_MAX + 1] {
            Door::open(&run, uid, count, Arc::new(drop)).unwrap_err();
        }
    }
}
