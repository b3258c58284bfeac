//! Frames of messages: collected and sent, received and taken apart.
//!
//! Frames in which nothing but files is spoken of are compressed; content has its own ways (see [`super::packing`]).

use std::borrow::Cow;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use super::codec::{Malformed, Reader, put_u64};
use super::packing::{TalkPacker, unpack_talk};
use super::wire::{BATCH, FOR_PEER, Message, Messages};
use crate::buffers;
use crate::interrupt::{AbortFlag, Interrupted};

/// In the place of a message's type: all that follows is messages, compressed. It is no message itself, so that nothing
/// is compressed twice.
pub const PACKED: u8 = 127;

/// Collects messages into frames and sends them, looking at the abort flag while the pipe is full.
pub struct Batch<'a> {
    class: u8,
    frame: Vec<u8>,
    body: Vec<u8>,
    outgoing: &'a Sender<Vec<u8>>,
    abort: &'a AbortFlag,
    packer: Option<TalkPacker>,
}

impl<'a> Batch<'a> {
    /// An empty batch of frames for `class`.
    #[must_use]
    pub fn new(class: u8, outgoing: &'a Sender<Vec<u8>>, abort: &'a AbortFlag) -> Self {
        Self {
            class,
            frame: Vec::new(),
            body: Vec::new(),
            outgoing,
            abort,
            packer: None,
        }
    }

    /// The same, and what is said is compressed: to the other agent, of files and not their content.
    #[must_use]
    pub fn packing(self) -> Self {
        Self {
            packer: (self.class == FOR_PEER).then(TalkPacker::default),
            ..self
        }
    }

    /// An empty batch that goes the same way.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            packer: self.packer.as_ref().map(|_| TalkPacker::default()),
            ..Self::new(self.class, self.outgoing, self.abort)
        }
    }

    /// Adds a message; sends what has been collected when it is enough.
    pub fn push(&mut self, message: &Message<'_>) -> Result<(), Interrupted> {
        self.body.clear();
        message.encode_body(&mut self.body);
        let content = message.content();
        let length = self.body.len() + content.len();
        if self.frame.len() + length > BATCH {
            self.flush()?;
        }
        if self.frame.is_empty() {
            if !content.is_empty() {
                // There will be more of it.
                self.frame = buffers::take(buffers::SIZE);
            }
            self.frame.push(self.class);
        }
        self.frame.push(message.tag());
        put_u64(&mut self.frame, length as u64);
        self.frame.extend_from_slice(&self.body);
        self.frame.extend_from_slice(content);
        Ok(())
    }

    /// Sends what has been collected.
    pub fn flush(&mut self) -> Result<(), Interrupted> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        if let Some(packed) = self.pack(&frame) {
            frame = packed;
        }
        loop {
            self.abort.check()?;
            match self.outgoing.send_timeout(frame, Duration::from_millis(50)) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) => frame = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Interrupted),
            }
        }
    }

    /// `frame` compressed, if that is wanted and makes it smaller.
    fn pack(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let messages = &frame[1..];
        let bytes = self.packer.as_mut()?.pack(messages)?;
        let mut packed = Vec::with_capacity(bytes.len() + 8);
        packed.extend_from_slice(&[self.class, PACKED]);
        put_u64(&mut packed, messages.len() as u64);
        packed.extend_from_slice(bytes);
        Some(packed)
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frame.is_empty()
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("class", &self.class)
            .field("waiting", &self.frame.len())
            .field("is_packing", &self.packer.is_some())
            .finish_non_exhaustive()
    }
}

/// The next frame, waited for.
pub(super) fn receive(
    incoming: &Receiver<Vec<u8>>,
    abort: &AbortFlag,
) -> Result<Vec<u8>, Interrupted> {
    loop {
        abort.check()?;
        match incoming.recv_timeout(Duration::from_millis(50)) {
            Ok(frame) => return Ok(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Interrupted),
        }
    }
}

/// A frame that is there, or with `wait` the next one, after everything of ours was sent.
pub(super) fn next_frame(
    batch: &mut Batch<'_>,
    incoming: &Receiver<Vec<u8>>,
    abort: &AbortFlag,
    wait: bool,
) -> Result<Option<Vec<u8>>, Interrupted> {
    if wait {
        batch.flush()?;
        return receive(incoming, abort).map(Some);
    }
    abort.check()?;
    Ok(incoming.try_recv().ok())
}

/// The messages of a frame that must come from the other agent.
pub fn peer_payload(frame: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    match frame {
        [FOR_PEER, PACKED, packed @ ..] => unpack(packed).map(Cow::Owned),
        [FOR_PEER, messages @ ..] => Ok(Cow::Borrowed(messages)),
        _ => Err(Malformed("not from the other agent")),
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(packed);
    let length = reader.u64()?;
    unpack_talk(reader.take(reader.len())?, length)
}

/// A frame being taken apart, message by message.
#[derive(Debug, Default)]
pub struct FrameCursor {
    messages: Vec<u8>,
    position: usize,
}

impl FrameCursor {
    /// Starts on a frame from the other agent.
    pub fn new(frame: Vec<u8>) -> Result<Self, Malformed> {
        match peer_payload(&frame)? {
            Cow::Owned(messages) => Ok(Self {
                messages,
                position: 0,
            }),
            Cow::Borrowed(_) => Ok(Self {
                messages: frame,
                position: 1,
            }),
        }
    }

    /// The next message, or `None` at the end of the frame.
    pub fn next_message(&mut self) -> Option<Result<Message<'_>, Malformed>> {
        let mut messages = Messages::new(&self.messages[self.position..]);
        let message = messages.next()?;
        self.position = self.messages.len() - messages.left();
        Some(message)
    }
}

impl Drop for FrameCursor {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.messages));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::delta::testing::noise;
    use crate::mirror::packing::TALK_MAX;
    use crossbeam_channel::unbounded;

    /// The frames in which `batch` sends messages with these paths.
    fn sent(is_packing: bool, class: u8, paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (tx, rx) = unbounded();
        let abort = AbortFlag::new();
        let mut batch = Batch::new(class, &tx, &abort);
        if is_packing {
            batch = batch.packing();
        }
        for (id, path) in (0..).zip(paths) {
            batch.push(&Message::Fetch { id, path }).unwrap();
        }
        batch.flush().unwrap();
        assert!(batch.is_empty());
        rx.try_iter().collect()
    }

    fn paths(count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("directory-{}/file-{n}.dat", n / 100).into_bytes())
            .collect()
    }

    fn received(frame: &[u8]) -> Vec<Vec<u8>> {
        let by_cursor = {
            let mut cursor = FrameCursor::new(frame.to_vec()).unwrap();
            let mut paths = Vec::new();
            while let Some(message) = cursor.next_message() {
                let Message::Fetch { path, .. } = message.unwrap() else {
                    panic!("nothing else was said");
                };
                paths.push(path.to_vec());
            }
            paths
        };
        let payload = peer_payload(frame).unwrap();
        let at_once: Vec<Vec<u8>> = Messages::new(&payload)
            .map(|message| match message.unwrap() {
                Message::Fetch { path, .. } => path.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(by_cursor, at_once);
        at_once
    }

    #[test]
    fn what_is_said_of_files_goes_in_a_third_and_comes_as_it_was() {
        let paths = paths(20_000);
        let plain = sent(false, FOR_PEER, &paths);
        let packed = sent(true, FOR_PEER, &paths);
        let bytes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).sum::<usize>();
        assert!(bytes(&packed) * 3 < bytes(&plain), "{}", bytes(&packed));
        for frames in [plain, packed] {
            let got: Vec<_> = frames.iter().flat_map(|frame| received(frame)).collect();
            assert!(got == paths);
        }
    }

    #[test]
    fn what_is_short_or_does_not_get_smaller_or_is_for_the_cli_is_sent_as_it_is() {
        let long: Vec<Vec<u8>> = (0..40)
            .map(|n| {
                let noise = noise(200, n).into_iter();
                noise
                    .map(|b| if matches!(b, 0 | b'/') { b'_' } else { b })
                    .collect()
            })
            .collect();
        for (class, paths) in [
            (FOR_PEER, &paths(3)),
            (FOR_PEER, &long),
            (super::super::wire::FOR_CLI, &paths(1000)),
        ] {
            assert!(sent(true, class, paths) == sent(false, class, paths));
        }
    }

    #[test]
    fn a_frame_that_is_not_what_it_says_is_refused() {
        let [good] = &sent(true, FOR_PEER, &paths(1000))[..] else {
            panic!("one frame");
        };
        let length = peer_payload(good).unwrap().len();
        let body = |frame: &[u8]| {
            let mut reader = Reader::new(&frame[2..]);
            reader.u64().unwrap();
            reader.take(reader.len()).unwrap().to_vec()
        };
        let frame = |length: u64, bytes: &[u8]| {
            let mut frame = vec![FOR_PEER, PACKED];
            put_u64(&mut frame, length);
            frame.extend_from_slice(bytes);
            frame
        };
        let bytes = body(good);
        assert!(peer_payload(&frame(length as u64, &bytes)).is_ok());
        let pack = |talk: &[u8]| TalkPacker::default().pack(talk).unwrap().to_vec();
        let grows = pack(&vec![0; TALK_MAX]);
        for bad in [
            frame(length as u64 - 1, &bytes),
            frame(length as u64 + 1, &bytes),
            frame(0, &bytes),
            frame(u64::MAX, &bytes),
            frame(TALK_MAX as u64 + 1, &bytes),
            frame(length as u64, &bytes[..bytes.len() - 1]),
            frame(length as u64, &bytes[1..]),
            frame(10, b""),
            frame(10, &grows),
            frame(TALK_MAX as u64 - 1, &grows),
            vec![FOR_PEER, PACKED],
            vec![super::super::wire::FOR_CLI, PACKED],
            Vec::new(),
        ] {
            assert!(peer_payload(&bad).is_err(), "{} bytes", bad.len());
            assert!(FrameCursor::new(bad).is_err());
        }
        // Unpacked once and no more.
        let inner = [&good[1..], &[0; 4000]].concat();
        let nested = frame(inner.len() as u64, &pack(&inner));
        let payload = peer_payload(&nested).unwrap().into_owned();
        assert!(Messages::new(&payload).next().unwrap().is_err());
    }
}
