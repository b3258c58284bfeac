//! Lines on their way into a file that may be full.

use std::io::{self, Write};

/// Collects lines and writes them in large pieces; keeps what the file refuses, within a bound.
pub(super) struct Appender<W> {
    out: W,
    buffer: Vec<u8>,
    max_pending: usize,
    lost: u64,
    failure: Option<io::Error>,
}

impl<W: Write> Appender<W> {
    /// An appender to `out` that keeps at most `max_pending` bytes the file has refused.
    pub(super) fn new(out: W, max_pending: usize) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            max_pending,
            lost: 0,
            failure: None,
        }
    }

    /// Takes in one whole line, newline included.
    pub(super) fn push(&mut self, line: &[u8]) {
        if self.failure.is_some() && self.buffer.len() + line.len() > self.max_pending {
            self.lost += 1;
        } else {
            self.buffer.extend_from_slice(line);
        }
    }

    /// Bytes not yet in the file.
    pub(super) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    /// Writes what is pending; what cannot be written stays, from the first byte not taken.
    pub(super) fn flush(&mut self) {
        let mut written = 0;
        let mut failure = None;
        while written < self.buffer.len() {
            match self.out.write(&self.buffer[written..]) {
                Ok(0) => failure = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => failure = Some(e),
            }
            if failure.is_some() {
                break;
            }
        }
        self.buffer.drain(..written);
        // With lines already lost the reason is kept for the end.
        if failure.is_some() || self.lost == 0 {
            self.failure = failure;
        }
    }

    /// Flushes, then makes it last with `sync`; on failure, how many lines are missing and why.
    pub(super) fn finish(
        mut self,
        sync: impl FnOnce(&mut W) -> io::Result<()>,
    ) -> Result<(), (u64, io::Error)> {
        self.flush();
        let unwritten = self.buffer.split_inclusive(|byte| *byte == b'\n').count();
        let lost = self.lost + unwritten as u64;
        match self.failure {
            Some(failure) => Err((lost, failure)),
            None => sync(&mut self.out).map_err(|e| (0, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes, taking at most 5 a write.
    struct Disk {
        room: usize,
        data: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(5).min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.data.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_gets_room_again_loses_nothing() {
        let mut disk = Disk {
            room: 7,
            data: Vec::new(),
        };
        let mut appender = Appender::new(&mut disk, 100);
        appender.push(b"one two three\n");
        appender.flush();
        assert!(appender.is_failing());
        appender.push(b"four\n");
        appender.out.room = 1000;
        appender.flush();
        assert!(!appender.is_failing());
        assert!(appender.finish(|_| Ok(())).is_ok());
        assert_eq!(disk.data, b"one two three\nfour\n");
    }

    #[test]
    fn a_full_disk_is_reported_at_the_end_with_the_number_of_lines() {
        let mut disk = Disk {
            room: 6,
            data: Vec::new(),
        };
        let mut appender = Appender::new(&mut disk, 12);
        appender.push(b"first\n");
        appender.flush();
        assert!(!appender.is_failing());
        for _ in 0..5 {
            appender.push(b"more\n");
            appender.flush();
        }
        let (lost, error) = appender.finish(|_| Ok(())).unwrap_err();
        assert_eq!((lost, error.kind()), (5, io::ErrorKind::StorageFull));
        assert_eq!(disk.data, b"first\n");
    }

    #[test]
    fn a_failed_sync_is_an_error() {
        let failed = Appender::new(Vec::new(), 10).finish(|_| Err(io::ErrorKind::Other.into()));
        assert_eq!(failed.unwrap_err().0, 0);
    }
}
