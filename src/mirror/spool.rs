//! A list of records too long for memory: compressed, in an anonymous file, read from the start
//! any number of times.
//!
//! The anonymous file (`memfd_create(2)`) has no name, so nothing is left behind however we end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::MemfdFlags;

/// Longest record.
const RECORD_MAX: usize = 4 << 20;
/// Most bytes a spool may take, compressed: a bound against a peer that never ends.
const SPOOL_MAX: u64 = 4 << 30;

/// Takes records in.
pub struct SpoolWriter {
    encoder: zstd::Encoder<'static, Bounded>,
    records: u64,
}

struct Bounded {
    file: File,
    written: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if self.written > SPOOL_MAX {
            return Err(io::Error::other("the plan is too long"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A finished list.
#[derive(Debug, Clone)]
pub struct Spool {
    file: Arc<File>,
    records: u64,
}

impl SpoolWriter {
    /// An empty list.
    pub fn new() -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("pc-switcher-spool", MemfdFlags::CLOEXEC)?;
        let file = Bounded {
            file: File::from(fd),
            written: 0,
        };
        Ok(Self {
            encoder: zstd::Encoder::new(file, 1)?,
            records: 0,
        })
    }

    /// Appends a record.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len())
            .ok()
            .filter(|l| *l as usize <= RECORD_MAX);
        let length = length.ok_or_else(|| io::Error::other("record too long"))?;
        self.encoder.write_all(&length.to_le_bytes())?;
        self.encoder.write_all(record)?;
        self.records += 1;
        Ok(())
    }

    /// Ends the list.
    pub fn finish(self) -> io::Result<Spool> {
        let bounded = self.encoder.finish()?;
        Ok(Spool {
            file: Arc::new(bounded.file),
            records: self.records,
        })
    }
}

impl Spool {
    /// How many records it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Reads from the start.
    pub fn reader(&self) -> io::Result<SpoolReader> {
        let at = At {
            file: Arc::clone(&self.file),
            offset: 0,
        };
        Ok(SpoolReader {
            decoder: zstd::Decoder::new(at)?,
            left: self.records,
            record: Vec::new(),
        })
    }
}

struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Gives records out, in the order they were put in.
pub struct SpoolReader {
    decoder: zstd::Decoder<'static, io::BufReader<At>>,
    left: u64,
    record: Vec<u8>,
}

impl SpoolReader {
    /// The next record.
    pub fn next_record(&mut self) -> io::Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut length = [0; 4];
        self.decoder.read_exact(&mut length)?;
        self.record.resize(u32::from_le_bytes(length) as usize, 0);
        self.decoder.read_exact(&mut self.record)?;
        Ok(Some(&self.record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_any_number_of_times() {
        let mut writer = SpoolWriter::new().unwrap();
        for n in 0..10_000u32 {
            writer.push(format!("record {n}").as_bytes()).unwrap();
        }
        let spool = writer.finish().unwrap();
        for _ in 0..2 {
            let mut reader = spool.reader().unwrap();
            for n in 0..10_000u32 {
                let record = reader.next_record().unwrap().unwrap();
                assert_eq!(record, format!("record {n}").as_bytes());
            }
            assert!(reader.next_record().unwrap().is_none());
        }
        assert_eq!(spool.len(), 10_000);
    }
}
