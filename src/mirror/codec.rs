//! Little binary encoding for mirror messages and plan spools.
//!
//! Numbers are LEB128, byte strings carry their length first. The reader bounds every length by
//! what is left of the message, so that a lying peer can never make us allocate more than it sent.

/// A message that does not decode: a broken or hostile peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed mirror message: {0}")]
pub struct Malformed(pub &'static str);

/// Appends `value` as LEB128.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a signed number, zigzag then LEB128.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends a byte string with its length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a message from its front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How much is left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// A path below the folder.
    pub fn path(&mut self) -> Result<Vec<u8>, Malformed> {
        let path = self.bytes(super::path::PATH_LIMIT)?;
        if super::path::is_valid_path(path) {
            Ok(path.to_vec())
        } else {
            Err(Malformed("impossible path"))
        }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed("ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// A LEB128 number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("number too large"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("number too long"))
    }

    /// A LEB128 number that fits 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed("number exceeds 32 bits"))
    }

    /// A zigzag number.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u64()?).map_err(|_| Malformed("length too large"))?;
        if length > max {
            return Err(Malformed("string longer than allowed"));
        }
        self.take(length)
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed("ends early"))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_round_trip() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            assert_eq!(Reader::new(&out).u64(), Ok(value));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, -62_135_596_800] {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            assert_eq!(Reader::new(&out).i64(), Ok(value));
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::MAX);
        assert!(Reader::new(&out).bytes(usize::MAX).is_err());
        assert!(Reader::new(&[5, 1, 2]).bytes(100).is_err());
        assert!(Reader::new(&[2, 1, 2]).bytes(1).is_err());
        assert!(Reader::new(&[0xff; 10]).u64().is_err());
    }
}
