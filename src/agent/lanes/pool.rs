//! The CLI's half: opens lanes once a stream is worth it, and deals its frames out to them.
//!
//! A stream begins on the first connection alone. When so much of it has gone that more connections are
//! worth their logins, they are opened beside it, one after the other, and each takes its share as soon as it
//! is there. From then on frames are numbered. The first frame of each request goes over
//! the first connection, behind the request itself, and what comes earlier elsewhere waits for it.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::LaneOffer;
use super::order::NUMBER;
use crate::agent::link::{Closed, Outgoing, Traffic};
use crate::agent::protocol::{HEAD, PEER_SILENCE, encode_numbered};
use crate::buffers;
use crate::host::stream::ByteSink;
use crate::interrupt::AbortFlag;

/// When so much of streams has gone over one connection, more are opened.
const WORTH_IT: u64 = 16 << 20;

/// The agent and all its connections may have ended together: then that of the first one is told.
const GRACE: Duration = Duration::from_millis(500);

/// What a frame needs besides its payload.
const AROUND: usize = HEAD + NUMBER;

/// Opens one more connection to a machine.
pub trait OpenLane: Send + Sync {
    /// Connects without asking anybody, and hands the lane to a thread; what it says goes to `sink`.
    fn open(
        &self,
        offer: &LaneOffer,
        sink: Box<dyn ByteSink>,
        traffic: Traffic,
        abort: &AbortFlag,
    ) -> Result<Outgoing, Box<dyn Error + Send + Sync>>;
}

/// How many connections there may be, and how they are opened.
#[derive(Clone)]
pub struct LanePlan {
    /// Besides the first one.
    pub lanes: usize,
    /// How.
    pub opener: Arc<dyn OpenLane>,
}

impl std::fmt::Debug for LanePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanePlan")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealt {
    /// As it is over the first connection, which is the only one.
    Plain,
    /// With this number over the first one.
    First(u64),
    /// It has gone over a lane; or nowhere, because a lane is lost and the stream with it.
    Gone,
}

/// All lanes of an agent.
#[derive(Debug)]
pub struct Pool {
    plan: Mutex<Option<LanePlan>>,
    dealer: Mutex<Dealer>,
    /// Requests whose stream is under way: without one, no lane is missed.
    streaming: AtomicUsize,
    lost: Arc<Mutex<Option<(Instant, Closed)>>>,
    /// No more lanes, and those there are may end when they have sent everything.
    ended: AbortFlag,
    /// They end at once, whatever they have to send.
    abandoned: AbortFlag,
    opening: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug, Default)]
struct Dealer {
    lanes: Vec<Lane>,
    /// Gone so far over the first connection alone.
    streamed: u64,
    is_numbered: bool,
    next: u64,
    /// The next frame goes over the first connection, whatever waits there.
    is_first: bool,
    /// Whose turn it is where nothing waits anywhere.
    turn: usize,
}

/// One further connection.
#[derive(Debug)]
struct Lane {
    outgoing: Outgoing,
    traffic: Traffic,
    queued: u64,
    health: Arc<Health>,
}

/// What is heard of a lane.
#[derive(Debug)]
struct Health {
    heard: Mutex<Instant>,
    closed: Mutex<Option<Closed>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// No lanes, and none to come before [`plan`](Self::plan). What is under way to open one ends with `abort`.
    #[must_use]
    pub fn new(abort: &AbortFlag) -> Self {
        Self {
            plan: Mutex::default(),
            dealer: Mutex::default(),
            streaming: AtomicUsize::new(0),
            lost: Arc::default(),
            ended: abort.below(),
            abandoned: abort.below(),
            opening: Mutex::default(),
        }
    }

    /// Lanes may be opened like this.
    pub fn plan(&self, plan: LanePlan) {
        if plan.lanes > 0 {
            *lock(&self.plan) = Some(plan);
        }
    }

    /// Sends a request whose stream may follow. It is told the number of the next frame, if frames have numbers;
    /// that one goes over the first connection, behind the request.
    pub fn begin<T>(&self, send: impl FnOnce(Option<u64>) -> T) -> T {
        let mut dealer = lock(&self.dealer);
        let result = send(dealer.is_numbered.then_some(dealer.next));
        dealer.is_first = true;
        result
    }

    /// Sends a frame of a stream over a lane, or says how it goes over the first connection, where `waiting`
    /// bytes wait already.
    pub fn deal(&self, payload: &[u8], waiting: u64) -> Dealt {
        let mut dealer = lock(&self.dealer);
        if lock(&self.lost).is_some() {
            return Dealt::Gone;
        }
        if self.streaming.load(Ordering::SeqCst) == 0 {
            // Nobody minds that they are gone.
            dealer.lanes.retain(|lane| lane.lost().is_none());
        }
        if !dealer.is_numbered {
            dealer.streamed += payload.len() as u64;
            if dealer.lanes.is_empty() {
                return Dealt::Plain;
            }
            // What went before is on the first connection, so the first number goes there.
            dealer.is_numbered = true;
            dealer.is_first = true;
        }
        dealer.deal(payload, waiting)
    }

    /// How to open lanes, if that is worth it now; it is said once.
    pub fn wanted(&self) -> Option<LanePlan> {
        if lock(&self.dealer).streamed < WORTH_IT {
            return None;
        }
        lock(&self.plan).take()
    }

    /// Whoever opens lanes calls this once; it is waited for at the end until the sender is dropped.
    pub fn opens(&self) -> Sender<()> {
        let (done, is_done) = bounded(0);
        *lock(&self.opening) = Some(is_done);
        done
    }

    /// Opens one more lane.
    pub fn open(
        &self,
        opener: &dyn OpenLane,
        offer: &LaneOffer,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let health = Arc::new(Health {
            heard: Mutex::new(Instant::now()),
            closed: Mutex::default(),
        });
        let sink = LaneEnd {
            health: Arc::clone(&health),
        };
        let traffic = Traffic::default();
        let outgoing = opener.open(offer, Box::new(sink), traffic.clone(), &self.abandoned)?;
        let mut dealer = lock(&self.dealer);
        if !self.ended.is_raised() {
            dealer.lanes.push(Lane {
                outgoing,
                traffic,
                queued: 0,
                health,
            });
        }
        Ok(())
    }

    /// While this lives, a lane that ends is a lost connection.
    #[must_use]
    pub fn streams(self: &Arc<Self>) -> Streaming {
        self.streaming.fetch_add(1, Ordering::SeqCst);
        Streaming(Arc::clone(self))
    }

    /// How a lane was lost that had something to carry, if one was.
    pub fn lost(&self) -> Option<Closed> {
        if self.ended.is_raised() || self.streaming.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let dealer = lock(&self.dealer);
        let mut lost = lock(&self.lost);
        if lost.is_none()
            && let Some(closed) = dealer.lanes.iter().find_map(Lane::lost)
        {
            *lost = Some((Instant::now(), closed));
        }
        let (since, closed) = lost.as_ref()?;
        (since.elapsed() > GRACE).then(|| closed.clone())
    }

    /// Ends all lanes, and waits up to `limit` for what is being opened to be given up.
    pub fn end(&self, limit: Duration) {
        self.ended.raise();
        if let Some(opening) = lock(&self.opening).take() {
            if opening.try_recv() == Err(TryRecvError::Empty) {
                self.abandoned.raise();
            }
            let _ = opening.recv_timeout(limit);
        }
        lock(&self.dealer).lanes.clear();
    }

    /// Ends all lanes at once: nobody wants what is under way, and the line is needed for something else.
    pub fn abandon(&self) {
        self.ended.raise();
        self.abandoned.raise();
        lock(&self.dealer).lanes.clear();
    }

    /// What raises when lanes are not wanted any more.
    #[must_use]
    pub fn ended(&self) -> &AbortFlag {
        &self.ended
    }

    /// How many lanes there are.
    pub fn count(&self) -> usize {
        lock(&self.dealer).lanes.len()
    }
}

impl Dealer {
    fn deal(&mut self, payload: &[u8], waiting: u64) -> Dealt {
        let number = self.next;
        self.next += 1;
        if std::mem::take(&mut self.is_first) {
            return Dealt::First(number);
        }
        // Where the least waits; among equals each in turn.
        let all = self.lanes.len() + 1;
        self.turn = (self.turn + 1) % all;
        let waits = |at: usize| match at {
            0 => waiting,
            at => self.lanes[at - 1].waiting(),
        };
        let order = (0..all).map(|step| (self.turn + step) % all);
        match order.min_by_key(|at| waits(*at)) {
            None | Some(0) => Dealt::First(number),
            Some(at) => {
                self.lanes[at - 1].send(payload, number);
                Dealt::Gone
            }
        }
    }
}

impl Lane {
    fn send(&mut self, payload: &[u8], number: u64) {
        let mut bytes = buffers::take(payload.len() + AROUND);
        encode_numbered(number, payload, &mut bytes);
        self.queued += bytes.len() as u64;
        // If it has ended, that is told as what it is.
        let _ = self.outgoing.send(bytes);
    }

    /// Bytes that were queued and have not gone.
    fn waiting(&self) -> u64 {
        self.queued.saturating_sub(self.traffic.totals().0)
    }

    /// How it ended, or seems to have.
    fn lost(&self) -> Option<Closed> {
        let closed = lock(&self.health.closed).clone();
        closed.or_else(|| {
            let heard = *lock(&self.health.heard);
            (heard.elapsed() > PEER_SILENCE).then(|| Closed::silent(heard))
        })
    }
}

/// A stream is under way.
#[derive(Debug)]
pub struct Streaming(Arc<Pool>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streaming.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a lane says: that it is there.
struct LaneEnd {
    health: Arc<Health>,
}

impl ByteSink for LaneEnd {
    fn received(&mut self, _: &[u8]) -> Result<(), String> {
        *lock(&self.health.heard) = Instant::now();
        Ok(())
    }

    fn closed(&mut self, closed: Closed) {
        *lock(&self.health.closed) = Some(closed);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::agent::protocol::{Frame, FrameSplitter, Kind};

    /// Lanes that keep what is sent over them.
    #[derive(Default)]
    struct Kept {
        sent: Mutex<Vec<Receiver<Vec<u8>>>>,
        sinks: Mutex<Vec<Box<dyn ByteSink>>>,
    }

    impl OpenLane for Kept {
        fn open(
            &self,
            _: &LaneOffer,
            sink: Box<dyn ByteSink>,
            _: Traffic,
            _: &AbortFlag,
        ) -> Result<Outgoing, Box<dyn Error + Send + Sync>> {
            let (outgoing, sent) = unbounded();
            lock(&self.sent).push(sent);
            lock(&self.sinks).push(sink);
            Ok(outgoing.into())
        }
    }

    impl Kept {
        fn close(&self, lane: usize) {
            lock(&self.sinks)[lane].closed(Closed {
                reason: "cut".to_owned(),
                stderr: String::new(),
                orderly: false,
            });
        }

        /// The numbers of the frames that went over a lane.
        fn numbers(&self, lane: usize) -> Vec<u64> {
            let mut splitter = FrameSplitter::new();
            for bytes in lock(&self.sent)[lane].try_iter() {
                splitter.feed(&bytes);
            }
            let mut numbers = Vec::new();
            while let Some(Frame { kind, payload }) = splitter.next_frame().unwrap() {
                assert_eq!(kind, Kind::Numbered);
                let (rest, number) = payload.split_last_chunk::<NUMBER>().unwrap();
                assert_eq!(rest, PAYLOAD);
                numbers.push(u64::from_le_bytes(*number));
            }
            numbers
        }
    }

    const PAYLOAD: &[u8] = &[7; 1000];

    fn pool() -> (Arc<Pool>, Arc<Kept>) {
        (Arc::new(Pool::new(&AbortFlag::new())), Arc::default())
    }

    fn open(pool: &Pool, kept: &Kept, count: usize) {
        let offer = LaneOffer {
            path: String::new(),
            secret: String::new(),
        };
        for _ in 0..count {
            pool.open(kept, &offer).unwrap();
        }
    }

    #[test]
    fn more_connections_are_wanted_once_and_only_when_there_is_much_to_send() {
        let (pool, kept) = pool();
        let lanes = LanePlan {
            lanes: 2,
            opener: kept,
        };
        pool.plan(lanes);
        let megabyte = vec![0; 1 << 20];
        let mut dealt = 0;
        while pool.wanted().is_none() {
            assert_eq!(pool.deal(&megabyte, 0), Dealt::Plain);
            dealt += 1;
        }
        assert_eq!(dealt << 20, WORTH_IT);
        assert!(pool.wanted().is_none());
    }

    #[test]
    fn every_frame_goes_once_and_the_first_of_a_request_behind_it() {
        let (pool, kept) = pool();
        let _streams = pool.streams();
        assert_eq!(pool.begin(|number| number), None);
        assert_eq!(pool.deal(PAYLOAD, 0), Dealt::Plain);
        open(&pool, &kept, 2);
        let mut numbers = Vec::new();
        for at in 0..99 {
            if at == 50 {
                assert_eq!(pool.begin(|number| number), Some(50));
            }
            match pool.deal(PAYLOAD, 0) {
                Dealt::First(number) => numbers.push(number),
                Dealt::Gone => assert!(at != 0 && at != 50),
                Dealt::Plain => panic!("without a number"),
            }
        }
        assert!(numbers.len() < 99 && numbers.contains(&0) && numbers.contains(&50));
        for lane in 0..2 {
            let of_lane = kept.numbers(lane);
            assert!(of_lane.is_sorted() && !of_lane.is_empty());
            numbers.extend(of_lane);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..99).collect::<Vec<_>>());
    }

    #[test]
    fn a_connection_on_which_much_waits_gets_nothing_more() {
        let (pool, kept) = pool();
        let _streams = pool.streams();
        open(&pool, &kept, 1);
        assert_eq!(pool.deal(PAYLOAD, u64::MAX), Dealt::First(0));
        for _ in 0..10 {
            assert_eq!(pool.deal(PAYLOAD, u64::MAX), Dealt::Gone);
        }
        // Nothing has gone of what is on the lane by now.
        assert_eq!(kept.numbers(0).len(), 10);
        assert_eq!(pool.deal(PAYLOAD, 0), Dealt::First(11));
    }

    #[test]
    fn a_lane_that_ends_is_missed_only_while_it_has_a_share() {
        let (pool, kept) = pool();
        open(&pool, &kept, 2);
        kept.close(0);
        assert_eq!(pool.lost(), None);
        pool.deal(PAYLOAD, 0);
        assert_eq!(pool.count(), 1);
        let streams = pool.streams();
        assert_eq!(pool.lost(), None);
        kept.close(1);
        let until = Instant::now() + Duration::from_secs(20);
        let lost = loop {
            match pool.lost() {
                Some(lost) => break lost,
                None => assert!(Instant::now() < until),
            }
        };
        assert_eq!(lost.reason, "cut");
        assert_eq!(pool.deal(PAYLOAD, 0), Dealt::Gone);
        drop(streams);
        assert_eq!(pool.lost(), None);
        pool.end(Duration::ZERO);
        assert_eq!(pool.count(), 0);
    }
}
