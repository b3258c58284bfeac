//! What an agent says: one thread owns the output, everybody else hands it frames.
//!
//! Three bounded queues lead to it, so that whoever produces faster than the pipe takes is held
//! up: pongs (first, and dropped rather than waited for), control frames, and stream frames. Log
//! lines come from the event sink. The queues are emptied in turn, so that a stream that saturates
//! the pipe holds up no answer.
//!
//! One order is promised across queues: an answer is written after everything its call has sent
//! before, stream frames and log lines alike. It carries a number of each that is enough, and does not wait
//! for more than there are.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::fault::Fault;
use super::protocol::{AgentLog, Answer, HEAD, Kind, MAX_FRAME, Reply, encode_frame, encode_head};
use crate::buffers;
use crate::event::{Event, EventSink, LogEvent};

/// Frames that wait for the pipe before their producers do.
const CONTROL_QUEUE: usize = 64;
const STREAM_QUEUE: usize = 8;

/// Bytes gathered for one write.
const BATCH: usize = 1 << 20;

/// A payload at least this large is written as it is, after what was gathered.
const LARGE: usize = 64 << 10;

/// A log line's text is cut beyond this.
const MAX_MESSAGE: usize = 64 << 10;

/// Something for the control queue.
enum Control {
    /// An encoded frame, to be written when so many stream frames are out, or all there are; and so many events.
    Frame {
        bytes: Vec<u8>,
        after_stream: u64,
        after_events: u64,
    },
    /// Write what there is and end.
    Finish,
}

/// Hands frames to the writer; cheap to clone. Everything fails quietly once the writer is gone:
/// nobody listens any more, and the agent is about to end.
#[derive(Clone)]
pub struct Outgoing {
    pongs: Sender<()>,
    control: Sender<Control>,
    stream: Sender<Vec<u8>>,
    queued_events: Receiver<Event>,
    written: Arc<Written>,
}

/// How much the writer has taken off its queues.
#[derive(Default)]
struct Written {
    stream: AtomicU64,
    events: AtomicU64,
}

/// The thread's side.
pub struct Writer<W> {
    output: W,
    pongs: Receiver<()>,
    control: Receiver<Control>,
    stream: Receiver<Vec<u8>>,
    events: Receiver<Event>,
    written: Arc<Written>,
    /// Answers that wait for what goes before them.
    held: VecDeque<(Vec<u8>, u64, u64)>,
    /// Written without being gathered, since the last flush.
    direct: usize,
    is_finishing: bool,
}

/// Queues leading to `output`, the sink whose log lines go the same way, and the writer to
/// [`run`](Writer::run) on a thread.
pub fn outgoing<W: Write>(output: W) -> (Outgoing, EventSink, Writer<W>) {
    let (pongs, pongs_rx) = bounded(4);
    let (control, control_rx) = bounded(CONTROL_QUEUE);
    let (stream, stream_rx) = bounded(STREAM_QUEUE);
    let mut sink = EventSink::none();
    let events = sink.subscribe();
    let written = Arc::new(Written::default());
    let out = Outgoing {
        pongs,
        control,
        stream,
        queued_events: events.clone(),
        written: Arc::clone(&written),
    };
    let writer = Writer {
        output,
        pongs: pongs_rx,
        control: control_rx,
        stream: stream_rx,
        events,
        written,
        held: VecDeque::new(),
        direct: 0,
        is_finishing: false,
    };
    (out, sink, writer)
}

impl Outgoing {
    /// Answers a ping. Never waits: with a full queue pongs are on their way already.
    pub fn pong(&self) {
        let _ = self.pongs.try_send(());
    }

    /// Queues the answer to call `id`, after everything the calling thread has sent so far.
    pub fn answer(&self, id: u64, result: Result<Reply, Fault>) {
        // Read the counts before the lengths: what is taken in between is then written anyway
        // before the writer looks at the next answer. One of each may be taken and not counted yet.
        let stream_written = self.written.stream.load(Ordering::SeqCst);
        let events_written = self.written.events.load(Ordering::SeqCst);
        let after_stream = stream_written + self.stream.len() as u64 + 1;
        let after_events = events_written + self.queued_events.len() as u64 + 1;
        let _ = self.control.send(Control::Frame {
            bytes: encode_answer(id, result),
            after_stream,
            after_events,
        });
    }

    /// Where a service puts stream payloads.
    #[must_use]
    pub fn stream(&self) -> Sender<Vec<u8>> {
        self.stream.clone()
    }

    /// Lets the writer write what is queued, and end.
    pub fn finish(&self) {
        let _ = self.control.try_send(Control::Finish);
    }
}

fn encode_answer(id: u64, result: Result<Reply, Fault>) -> Vec<u8> {
    let encode = |result| {
        serde_json::to_vec(&Answer { id, result })
            .expect("answers are plain data that JSON can hold")
    };
    let mut payload = encode(result);
    if payload.len() >= MAX_FRAME {
        let text = format!(
            "the answer has {} bytes, too many for a frame",
            payload.len()
        );
        payload = encode(Err(Fault::invalid(text)));
    }
    frame(Kind::Answer, &payload)
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + HEAD);
    encode_frame(kind, payload, &mut bytes);
    bytes
}

/// The frame of a log line; nothing else that a sink carries concerns the CLI.
fn encode_log(event: Event) -> Option<Vec<u8>> {
    let Event::Log(mut log) = event else {
        return None;
    };
    if log.message.len() > MAX_MESSAGE {
        log.message
            .truncate(log.message.floor_char_boundary(MAX_MESSAGE));
    }
    let mut payload = to_json(&log);
    if payload.len() >= MAX_FRAME / 4 {
        log.context.clear();
        payload = to_json(&log);
    }
    Some(frame(Kind::Log, &payload))
}

fn to_json(log: &AgentLog) -> Vec<u8> {
    let log: &LogEvent = log;
    serde_json::to_vec(log).expect("log lines are plain data that JSON can hold")
}

impl<W: Write> Writer<W> {
    /// Writes frames until told to finish, or until the output fails.
    pub fn run(mut self) -> std::io::Result<()> {
        let mut batch = Vec::with_capacity(64 << 10);
        loop {
            self.wait(&mut batch)?;
            while batch.len() + self.direct < BATCH && self.take_ready(&mut batch)? {}
            self.direct = 0;
            self.release_held(&mut batch);
            self.output.write_all(&batch)?;
            batch.clear();
            if self.is_finishing
                && self.control.is_empty()
                && self.events.is_empty()
                && self.stream.is_empty()
            {
                // Nothing is left that a held answer could wait for.
                for (bytes, ..) in self.held.drain(..) {
                    self.output.write_all(&bytes)?;
                }
                return self.output.flush();
            }
            self.output.flush()?;
        }
    }

    /// Waits for one thing to write.
    fn wait(&mut self, batch: &mut Vec<u8>) -> std::io::Result<()> {
        if self.is_finishing {
            return Ok(());
        }
        // The senders live as long as the agent, so a closed queue is not told apart.
        select! {
            recv(self.pongs) -> pong => if pong.is_ok() {
                encode_frame(Kind::Pong, &[], batch);
            },
            recv(self.control) -> control => match control {
                Ok(control) => self.take_control(control, batch),
                Err(_) => self.is_finishing = true,
            },
            recv(self.stream) -> payload => if let Ok(payload) = payload {
                self.take_stream(payload, batch)?;
            },
            recv(self.events) -> event => if let Ok(event) = event {
                self.take_event(event, batch);
            },
        }
        Ok(())
    }

    /// Takes one of each kind that is there; whether there was any.
    fn take_ready(&mut self, batch: &mut Vec<u8>) -> std::io::Result<bool> {
        let mut any = false;
        if self.pongs.try_recv().is_ok() {
            encode_frame(Kind::Pong, &[], batch);
            any = true;
        }
        if let Ok(control) = self.control.try_recv() {
            self.take_control(control, batch);
            any = true;
        }
        if let Ok(event) = self.events.try_recv() {
            self.take_event(event, batch);
            any = true;
        }
        if let Ok(payload) = self.stream.try_recv() {
            self.take_stream(payload, batch)?;
            any = true;
        }
        Ok(any)
    }

    fn take_control(&mut self, control: Control, batch: &mut Vec<u8>) {
        match control {
            Control::Finish => self.is_finishing = true,
            Control::Frame {
                bytes,
                after_stream,
                after_events,
            } => {
                self.held.push_back((bytes, after_stream, after_events));
                self.release_held(batch);
            }
        }
    }

    fn take_stream(&mut self, payload: Vec<u8>, batch: &mut Vec<u8>) -> std::io::Result<()> {
        if payload.len() >= MAX_FRAME {
            return Err(std::io::Error::other(format!(
                "a service sent a frame of {} bytes, which is not allowed",
                payload.len()
            )));
        }
        self.written.stream.fetch_add(1, Ordering::SeqCst);
        encode_head(Kind::Stream, payload.len(), batch);
        if payload.len() < LARGE {
            batch.extend_from_slice(&payload);
        } else {
            self.output.write_all(batch)?;
            batch.clear();
            self.output.write_all(&payload)?;
            self.direct += payload.len();
        }
        buffers::give(payload);
        self.release_held(batch);
        Ok(())
    }

    fn take_event(&mut self, event: Event, batch: &mut Vec<u8>) {
        self.written.events.fetch_add(1, Ordering::SeqCst);
        if let Some(bytes) = encode_log(event) {
            batch.extend_from_slice(&bytes);
        }
        self.release_held(batch);
    }

    /// Writes the answers whose turn has come.
    fn release_held(&mut self, batch: &mut Vec<u8>) {
        // What was sent before an answer was in its queue before the answer was: of an empty queue all is out.
        let stream = self.written.stream.load(Ordering::SeqCst);
        let events = self.written.events.load(Ordering::SeqCst);
        let stream = if self.stream.is_empty() {
            u64::MAX
        } else {
            stream
        };
        let events = if self.events.is_empty() {
            u64::MAX
        } else {
            events
        };
        self.held.retain(|(bytes, after_stream, after_events)| {
            let is_due = *after_stream <= stream && *after_events <= events;
            if is_due {
                batch.extend_from_slice(bytes);
            }
            !is_due
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::{Frame, FrameSplitter};
    use crate::event::LogLevel;
    use serde_json::Map;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut splitter = FrameSplitter::new();
        splitter.feed(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = splitter.next_frame().unwrap() {
            frames.push(frame);
        }
        assert!(!splitter.is_mid_frame());
        frames
    }

    #[test]
    fn an_answer_follows_all_its_call_has_sent() {
        for round in 0..50 {
            let (mut near, far) = UnixStream::pair().unwrap();
            let (out, sink, writer) = outgoing(far);
            let thread = std::thread::spawn(move || writer.run());
            let worker = std::thread::spawn({
                let out = out.clone();
                move || {
                    let stream = out.stream();
                    for number in 0..100_u8 {
                        sink.log(LogLevel::Info, "t", None, number.to_string(), Map::new());
                        stream
                            .send(vec![number; 1 + 100 * usize::from(number)])
                            .unwrap();
                    }
                    out.answer(round, Ok(Reply::Done));
                }
            });
            // Others answer at the same time.
            out.answer(1000, Ok(Reply::Done));
            let reader = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                near.read_to_end(&mut bytes).unwrap();
                bytes
            });
            worker.join().unwrap();
            out.finish();
            thread.join().unwrap().unwrap();
            let frames = frames(&reader.join().unwrap());
            assert_eq!(frames.len(), 202);
            let answer = format!("\"id\":{round},");
            let last = frames.last().unwrap();
            assert_eq!(last.kind, Kind::Answer);
            assert!(String::from_utf8_lossy(&last.payload).contains(&answer));
        }
    }

    #[test]
    fn what_was_taken_and_not_counted_yet_goes_before_an_answer_as_well() {
        let (out, sink, mut writer) = outgoing(Vec::new());
        for number in 0..3 {
            out.stream().send(vec![number]).unwrap();
            sink.log(LogLevel::Info, "t", None, number.to_string(), Map::new());
        }
        let payload = writer.stream.recv().unwrap();
        let event = writer.events.recv().unwrap();
        out.answer(7, Ok(Reply::Done));
        let mut batch = Vec::new();
        let control = writer.control.recv().unwrap();
        writer.take_stream(payload, &mut batch).unwrap();
        writer.take_event(event, &mut batch);
        writer.take_control(control, &mut batch);
        while writer.take_ready(&mut batch).unwrap() {}
        let kinds: Vec<Kind> = frames(&batch).iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds.len(), 7);
        assert_eq!(kinds[6], Kind::Answer, "{kinds:?}");
    }

    #[test]
    fn a_saturating_stream_holds_up_no_answer() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (out, _sink, writer) = outgoing(far);
        let thread = std::thread::spawn(move || writer.run());
        let stream = out.stream();
        let flood = std::thread::spawn(move || while stream.send(vec![0; 100_000]).is_ok() {});
        let mut splitter = FrameSplitter::new();
        let mut buffer = vec![0; 1 << 16];
        let mut streamed = 0;
        let mut asked = false;
        loop {
            let count = near.read(&mut buffer).unwrap();
            splitter.feed(&buffer[..count]);
            let mut answered = false;
            while let Some(frame) = splitter.next_frame().unwrap() {
                streamed += u32::from(frame.kind == Kind::Stream);
                answered |= frame.kind == Kind::Answer;
            }
            if answered {
                break;
            }
            if streamed > 20 && !asked {
                out.answer(1, Ok(Reply::Done));
                (asked, streamed) = (true, 0);
            }
            assert!(!asked || streamed < 200, "the answer is starved");
        }
        drop(near);
        flood.join().unwrap();
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn an_answer_or_log_line_too_long_for_a_frame_is_cut() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (out, sink, writer) = outgoing(far);
        let long = "\u{1}".repeat(MAX_FRAME);
        let mut context = Map::new();
        context.insert("key".to_owned(), long.clone().into());
        sink.log(LogLevel::Info, "t", None, long.clone(), context);
        out.answer(7, Ok(Reply::Path(long)));
        out.finish();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            near.read_to_end(&mut bytes).unwrap();
            bytes
        });
        writer.run().unwrap();
        let frames = frames(&reader.join().unwrap());
        assert_eq!(frames[0].kind, Kind::Log);
        let line: LogEvent = serde_json::from_slice(&frames[0].payload).unwrap();
        assert_eq!(line.message.len(), MAX_MESSAGE);
        let answer: Answer = serde_json::from_slice(&frames[1].payload).unwrap();
        assert!(answer.result.unwrap_err().message.contains("too many"));
    }
}
