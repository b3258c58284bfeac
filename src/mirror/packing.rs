//! Content is compressed where the line to the target is slower than the compressor.
//!
//! Whether it is, is measured. When the source is held up most of the time because too much is under
//! way already, then what comes back as credit says how fast the line is; how long compressing took
//! says how fast the compressor is. Content that does not get smaller is tried now and then only.
//!
//! What is said of files (names, attributes) gets several times smaller, and is compressed whatever the line.
//!
//! Whoever unpacks does so into a buffer of the length that was announced, which is bounded; what does not
//! fill it exactly is refused, however much it would grow to.

use std::time::{Duration, Instant};

use zstd::bulk::{Compressor, Decompressor};

use super::codec::Malformed;
use super::wire::{BATCH, DATA_MAX, DATA_WINDOW};

/// As hard as it tries.
const LEVEL: i32 = 3;
/// The same for what is no content: the line may be fast.
const TALK_LEVEL: i32 = 1;
/// Longest of that which is compressed, and longest that it may become again.
pub const TALK_MAX: usize = BATCH + 64;
/// Less than this is sent as it is.
const PACK_MIN: usize = 512;
/// Before the line is known, no more than this is under way.
pub const FIRST_WINDOW: u64 = 4 << 20;
/// The line is measured over this much at least, and this long.
const SAMPLE: u64 = 2 << 20;
const SAMPLE_TIME: Duration = Duration::from_millis(20);
/// When nothing was held up for this much, the line is measured anew, without compression.
const FREE: u64 = 1 << 30;
/// After content that was not worth it, this much is sent as it is; each time twice as much,
const PAUSE: u64 = 256 << 10;
/// ... up to this.
const PAUSE_MAX: u64 = 16 << 20;

/// How fast the line takes what is sent.
#[derive(Debug)]
struct Pace {
    /// Bytes a second, if the line is what holds everything up.
    line: Option<f64>,
    /// Whether it was measured.
    is_known: bool,
    /// Since when the rest is counted.
    since: Option<Instant>,
    waited: Duration,
    /// Since when nothing is sent because enough is under way.
    waits_since: Option<Instant>,
    credited: u64,
    /// Credited since something was held up.
    free: u64,
}

impl Pace {
    /// So much arrived at `now`; whether what was sent meanwhile was compressed.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn credit(&mut self, bytes: u64, is_packing: bool, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.wait_until(now);
        self.credited = self.credited.saturating_add(bytes);
        let elapsed = now.saturating_duration_since(since);
        if self.credited < SAMPLE || elapsed < SAMPLE_TIME {
            return;
        }
        self.is_known = true;
        if self.waited * 2 > elapsed {
            self.line = Some(self.credited as f64 / elapsed.as_secs_f64());
            self.free = 0;
        } else {
            self.free = self.free.saturating_add(self.credited);
            if !is_packing || self.free > FREE {
                self.line = None;
            }
        }
        self.rest(Some(now));
    }

    /// Counts what was waited up to `now`.
    fn wait_until(&mut self, now: Instant) {
        if let Some(since) = &mut self.waits_since {
            self.waited += now.saturating_duration_since(*since);
            *since = now;
        }
    }

    fn rest(&mut self, since: Option<Instant>) {
        self.since = since;
        self.waited = Duration::ZERO;
        self.credited = 0;
    }
}

/// Makes smaller what gets smaller.
struct Squeezer {
    /// How hard it tries.
    level: i32,
    compressor: Option<Compressor<'static>>,
    packed: Vec<u8>,
}

impl Squeezer {
    fn new(level: i32) -> Self {
        Self {
            level,
            compressor: None,
            packed: Vec::new(),
        }
    }

    /// How many bytes of `packed` are `bytes`, compressed; `None` if it would hardly be less.
    fn squeeze(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.compressor.is_none() {
            self.compressor = Compressor::new(self.level).ok();
        }
        // What does not fit does not get smaller.
        let room = bytes.len() - bytes.len() / 8;
        self.packed.resize(room.max(self.packed.len()), 0);
        let packed = &mut self.packed[..room];
        (self.compressor.as_mut()?)
            .compress_to_buffer(bytes, packed)
            .ok()
    }
}

/// Compresses what is said of files and is no content, whatever the line, with the little effort that costs less than
/// sending it.
pub struct TalkPacker(Squeezer);

impl Default for TalkPacker {
    fn default() -> Self {
        Self(Squeezer::new(TALK_LEVEL))
    }
}

impl TalkPacker {
    /// `talk` compressed, if that is worth it.
    pub fn pack(&mut self, talk: &[u8]) -> Option<&[u8]> {
        if !(PACK_MIN..=TALK_MAX).contains(&talk.len()) {
            return None;
        }
        let length = self.0.squeeze(talk)?;
        Some(&self.0.packed[..length])
    }
}

/// What a [`TalkPacker`] has packed, which must be `length` bytes long.
pub fn unpack_talk(packed: &[u8], length: u64) -> Result<Vec<u8>, Malformed> {
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= TALK_MAX)
        .ok_or(Malformed("more at once than allowed"))?;
    match zstd::bulk::decompress(packed, length) {
        Ok(talk) if talk.len() == length => Ok(talk),
        _ => Err(Malformed("a frame that is not what was packed")),
    }
}

/// The source's half.
pub struct Packer {
    squeezer: Squeezer,
    pace: Pace,
    /// Bytes a second that the compressor takes in.
    speed: f64,
    /// So much more is sent as it is.
    passing: u64,
    pause: u64,
    /// Whether the last content was compressed.
    is_packing: bool,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            squeezer: Squeezer::new(LEVEL),
            pace: Pace {
                line: None,
                is_known: false,
                since: None,
                waited: Duration::ZERO,
                waits_since: None,
                credited: 0,
                free: 0,
            },
            speed: f64::INFINITY,
            passing: 0,
            pause: PAUSE,
            is_packing: false,
        }
    }
}

impl Packer {
    /// How much may be under way.
    #[must_use]
    pub fn window(&self) -> u64 {
        if self.pace.is_known {
            DATA_WINDOW
        } else {
            FIRST_WINDOW
        }
    }

    /// Nothing is to be sent just now: that time says nothing about the line.
    pub fn rest(&mut self) {
        self.pace.rest(None);
    }

    /// Nothing is sent because enough is under way; or that is over.
    pub fn waits(&mut self, waits: bool) {
        let now = Instant::now();
        self.pace.wait_until(now);
        self.pace.waits_since = waits.then_some(now);
    }

    /// So much has arrived.
    pub fn credit(&mut self, bytes: u64) {
        self.pace.credit(bytes, self.is_packing, Instant::now());
    }

    /// `bytes` compressed, if that is worth it.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        self.is_packing = false;
        self.pace.since.get_or_insert_with(Instant::now);
        let line = self.pace.line?;
        if bytes.len() < PACK_MIN || bytes.len() > DATA_MAX {
            return None;
        }
        if self.passing > 0 {
            self.passing = self.passing.saturating_sub(bytes.len() as u64);
            return None;
        }
        let begun = Instant::now();
        let packed = self.squeezer.squeeze(bytes);
        let speed = bytes.len() as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        self.speed = if self.speed.is_finite() {
            self.speed * 0.9 + speed * 0.1
        } else {
            speed
        };
        match packed {
            Some(length) if self.speed > line => {
                self.pause = PAUSE;
                self.is_packing = true;
                Some(&self.squeezer.packed[..length])
            }
            _ => {
                self.passing = self.pause;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                None
            }
        }
    }
}

/// The target's half.
#[derive(Default)]
pub struct Unpacker {
    decompressor: Option<Decompressor<'static>>,
    content: Vec<u8>,
}

impl Unpacker {
    /// What was packed, which must be `length` bytes long.
    pub fn unpack(&mut self, packed: &[u8], length: usize) -> Result<&[u8], Malformed> {
        if length > DATA_MAX {
            return Err(Malformed("more content at once than allowed"));
        }
        if self.decompressor.is_none() {
            let new = Decompressor::new();
            self.decompressor = Some(new.map_err(|_| Malformed("cannot be unpacked"))?);
            self.content = vec![0; DATA_MAX];
        }
        let decompressor = self.decompressor.as_mut().expect("made above");
        match decompressor.decompress_to_buffer(packed, &mut self.content[..length]) {
            Ok(got) if got == length => Ok(&self.content[..length]),
            _ => Err(Malformed("content that is not what was packed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::delta::testing::noise;

    /// A packer that knows a line of so many bytes a second, by whose fault.
    fn on_a_line(per_second: u64, share_waited: u32) -> Packer {
        let mut packer = Packer::default();
        let now = Instant::now();
        packer.pace.since = Some(now);
        packer.pace.waited = Duration::from_millis(10) * share_waited;
        packer
            .pace
            .credit(per_second, false, now + Duration::from_secs(1));
        packer
    }

    fn text() -> Vec<u8> {
        (0..20_000)
            .flat_map(|n: u32| format!("line {n}\n").into_bytes())
            .take(200_000)
            .collect()
    }

    #[test]
    fn content_is_packed_on_a_slow_line_only() {
        let text = text();
        assert!(Packer::default().pack(&text).is_none());
        // A line of five megabytes a second that is waited for; and one that waits for us.
        let mut slow = on_a_line(5_000_000, 90);
        let packed = slow.pack(&text).expect("worth it").to_vec();
        assert!(packed.len() < text.len() / 2);
        assert!(Unpacker::default().unpack(&packed, text.len()) == Ok(&text[..]));
        assert!(on_a_line(5_000_000, 10).pack(&text).is_none());
        // Faster than any compressor.
        assert!(on_a_line(u64::MAX / 2, 90).pack(&text).is_none());
    }

    #[test]
    fn what_does_not_get_smaller_is_hardly_ever_tried() {
        let mut packer = on_a_line(5_000_000, 90);
        let noise = noise(DATA_MAX, 1);
        let mut tried = 0;
        for _ in 0..4 * 256 {
            let before = packer.passing;
            assert!(packer.pack(&noise).is_none());
            tried += u32::from(before == 0);
        }
        assert!((5..25).contains(&tried), "{tried} of 256 MiB");
        // And what does is found soon enough.
        let text = text();
        let found = (0..200).position(|_| packer.pack(&text).is_some());
        assert!(found.is_some());
        assert!(packer.pack(&text).is_some());
    }

    #[test]
    fn a_line_that_holds_nothing_up_is_believed_to_be_fast() {
        let mut packer = on_a_line(5_000_000, 90);
        let now = Instant::now() + Duration::from_secs(2);
        // Because of compression: that says nothing.
        packer.pace.credit(100 << 20, true, now);
        assert!(packer.pace.line.is_some());
        packer.pace.credit(FREE, true, now + Duration::from_secs(1));
        packer
            .pace
            .credit(100 << 20, true, now + Duration::from_secs(2));
        assert_eq!(packer.pace.line, None);
        let mut packer = on_a_line(5_000_000, 90);
        packer.pace.credit(100 << 20, false, now);
        assert_eq!(packer.pace.line, None);
    }

    #[test]
    fn what_is_being_waited_counts_when_credit_comes() {
        let mut packer = Packer::default();
        assert!(packer.window() < DATA_WINDOW);
        let now = Instant::now();
        packer.pace.since = Some(now);
        packer.pace.waits_since = Some(now + Duration::from_millis(100));
        let later = now + Duration::from_secs(1);
        packer.pace.credit(5_000_000, false, later);
        assert_eq!(packer.pace.line, Some(5_000_000.0));
        assert_eq!(packer.window(), DATA_WINDOW);
        // It goes on waiting, and what was counted is not counted again.
        packer
            .pace
            .credit(6_000_000, false, later + Duration::from_secs(1));
        assert_eq!(packer.pace.line, Some(6_000_000.0));
        assert_eq!(
            packer.pace.waits_since,
            Some(later + Duration::from_secs(1))
        );
    }

    #[test]
    fn talk_is_packed_whatever_the_line_and_grows_to_its_own_length_only() {
        let text = text();
        let mut talking = TalkPacker::default();
        assert!(talking.pack(&text[..PACK_MIN - 1]).is_none());
        assert!(talking.pack(&noise(100_000, 1)).is_none());
        assert!(talking.pack(&vec![0; TALK_MAX + 1]).is_none());
        let packed = talking.pack(&text).expect("worth it").to_vec();
        assert!(packed.len() < text.len() / 2);
        let length = text.len() as u64;
        assert!(unpack_talk(&packed, length).as_deref() == Ok(&text[..]));
        let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 19).unwrap();
        for (bytes, length) in [
            (&packed[..], length - 1),
            (&packed, length + 1),
            (&packed, 0),
            (&packed[1..], length),
            (&bomb, TALK_MAX as u64),
            (&bomb, 100 << 20),
            (&bomb, u64::MAX),
        ] {
            assert!(unpack_talk(bytes, length).is_err(), "{length}");
        }
    }

    #[test]
    fn what_was_not_packed_by_us_is_refused() {
        let mut packer = on_a_line(5_000_000, 90);
        let text = text();
        let whole = packer.pack(&text).expect("worth it").to_vec();
        let mut unpacker = Unpacker::default();
        // Shorter and longer than it says, cut off, damaged, and nothing of the kind.
        let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 19).unwrap();
        assert!(bomb.len() < 20_000);
        for (bytes, length) in [
            (&whole[..], text.len() - 1),
            (&whole, text.len() + 1),
            (&whole, 0),
            (&whole, DATA_MAX + 1),
            (&whole[..whole.len() - 1], text.len()),
            (&whole[1..], text.len()),
            (b"", 10),
            (b"nothing of the kind", 10),
            (&bomb, DATA_MAX),
        ] {
            assert!(unpacker.unpack(bytes, length).is_err(), "{length}");
        }
        assert!(unpacker.unpack(&whole, text.len()) == Ok(&text[..]));
    }
}
