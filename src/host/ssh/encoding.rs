//! Base64, hex and the length-prefixed fields of ssh keys.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64, with padding if `padded`.
pub(super) fn base64(bytes: &[u8], padded: bool) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        for index in 0..4 {
            if index <= group.len() {
                let six = (word >> (18 - 6 * index)) & 63;
                out.push(char::from(ALPHABET[six as usize]));
            } else if padded {
                out.push('=');
            }
        }
    }
    out
}

/// The bytes of standard base64; white space is skipped. `None` if it is anything else.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    let mut ended = false;
    for c in text.bytes().filter(|c| !c.is_ascii_whitespace()) {
        if c == b'=' {
            ended = true;
            continue;
        }
        let six = ALPHABET.iter().position(|known| *known == c)?;
        if ended {
            return None;
        }
        word = word << 6 | u32::try_from(six).expect("an index below 64");
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits & 0xff) as u8);
        }
    }
    Some(out)
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit"));
        }
    }
    out
}

/// Cuts one length-prefixed field off the front of `bytes`.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let field = rest.get(..length)?;
    *bytes = &rest[length..];
    Some(field)
}

/// The key type a public key blob begins with.
pub(super) fn key_type(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(field(&mut &*blob)?).ok()
}

/// `SHA256:…` as OpenSSH prints it.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    use sha2::Digest as _;
    format!("SHA256:{}", base64(&sha2::Sha256::digest(blob), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes, true), text);
            assert_eq!(unbase64(text).unwrap(), bytes);
            assert_eq!(unbase64(text.trim_end_matches('=')).unwrap(), bytes);
        }
        assert_eq!(unbase64("Zg*="), None);
        assert_eq!(unbase64("Zg==Zg"), None);
    }

    #[test]
    fn fields_never_reach_beyond_the_blob() {
        let mut blob = &b"\0\0\0\x03abc\0\0\0\x09x"[..];
        assert_eq!(field(&mut blob), Some(&b"abc"[..]));
        assert_eq!(field(&mut blob), None);
    }
}
