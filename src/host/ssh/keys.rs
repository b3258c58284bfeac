//! The person's private key files, as far as their outside can be read without the passphrase.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::encoding::{base64, field, key_type, unbase64};

/// Larger files are no keys.
const KEY_MAX: u64 = 256 << 10;

/// A private key file.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    /// The file's text. Overwritten when dropped.
    pub(super) text: String,
    /// The public key, if it can be told.
    pub(super) public: Option<Vec<u8>>,
    /// Whether a passphrase is needed.
    pub(super) is_encrypted: bool,
}

/// Why a key file is passed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// There is none, or it cannot be read.
    Absent,
    /// Others may read it.
    Open,
    /// It is not a private key.
    NotAKey,
}

impl KeyFile {
    pub(super) fn read(path: &Path) -> Result<Self, Unusable> {
        let file = std::fs::File::open(path).map_err(|_| Unusable::Absent)?;
        let metadata = file.metadata().map_err(|_| Unusable::Absent)?;
        if !metadata.is_file() {
            return Err(Unusable::NotAKey);
        }
        let own = rustix::process::getuid().as_raw();
        if metadata.uid() == own && metadata.mode() & 0o077 != 0 {
            return Err(Unusable::Open);
        }
        let mut text = String::new();
        file.take(KEY_MAX)
            .read_to_string(&mut text)
            .map_err(|_| Unusable::NotAKey)?;
        let (public, is_encrypted) = match openssh_outside(&text) {
            Some((public, is_encrypted)) => (Some(public), is_encrypted),
            None if text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") => {
                let is_encrypted = text.contains("ENCRYPTED");
                (public_beside(path), is_encrypted)
            }
            None => return Err(Unusable::NotAKey),
        };
        Ok(Self {
            path: path.to_owned(),
            text,
            public,
            is_encrypted,
        })
    }

    /// The public key as a line of `authorized_keys`, for libssh2.
    pub(super) fn public_line(&self) -> Option<String> {
        public_line(self.public.as_deref()?)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

fn public_line(blob: &[u8]) -> Option<String> {
    Some(format!("{} {}", key_type(blob)?, base64(blob, true)))
}

/// The public key a `.pub` file (or a key file's outside) names: for `IdentitiesOnly`.
pub(super) fn public_of(path: &Path) -> Option<Vec<u8>> {
    let own = std::fs::read_to_string(path).ok();
    if let Some((public, _)) = own.as_deref().and_then(openssh_outside) {
        return Some(public);
    }
    // `IdentityFile` may name the public key itself, the private one being in the agent only.
    own.as_deref()
        .and_then(public_in)
        .or_else(|| public_beside(path))
}

fn public_beside(path: &Path) -> Option<Vec<u8>> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    public_in(&std::fs::read_to_string(beside).ok()?)
}

fn public_in(text: &str) -> Option<Vec<u8>> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    let kind = words.next()?;
    let blob = unbase64(words.next()?)?;
    (key_type(&blob) == Some(kind)).then_some(blob)
}

/// Public key and whether the private one is encrypted, of OpenSSH's own key format (PROTOCOL.key).
fn openssh_outside(text: &str) -> Option<(Vec<u8>, bool)> {
    let (_, rest) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END OPENSSH PRIVATE KEY-----")?;
    let bytes = unbase64(body)?;
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let cipher = field(&mut rest)?.to_vec();
    let _kdf = field(&mut rest)?;
    let _options = field(&mut rest)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*count) != 1 {
        return None;
    }
    Some((field(&mut rest)?.to_vec(), cipher != b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::command::command;
    use std::os::unix::fs::PermissionsExt;

    fn keygen(path: &Path, kind: &str, format: &str, passphrase: &str) -> bool {
        let done = command("ssh-keygen")
            .args([
                "-q", "-t", kind, "-m", format, "-N", passphrase, "-C", "x", "-f",
            ])
            .arg(path)
            .output();
        let Ok(done) = done else {
            assert!(std::env::var_os("CI").is_none(), "CI needs ssh-keygen");
            crate::sys::testing::say_skipped("there is no ssh-keygen");
            return false;
        };
        assert!(done.status.success(), "{done:?}");
        true
    }

    #[test]
    fn the_outside_of_a_key_tells_its_public_part_and_encryption() {
        let directory = tempfile::tempdir().unwrap();
        for (name, kind, format, passphrase) in [
            ("plain", "ed25519", "RFC4716", ""),
            ("locked", "ed25519", "RFC4716", "secret"),
            ("pem", "ecdsa", "PEM", ""),
            ("pem-locked", "ecdsa", "PEM", "secret"),
        ] {
            let path = directory.path().join(name);
            if !keygen(&path, kind, format, passphrase) {
                return;
            }
            let key = KeyFile::read(&path).unwrap();
            assert_eq!(key.is_encrypted, !passphrase.is_empty(), "{name}");
            let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
            assert_eq!(key.public, public_in(&line), "{name}");
            assert_eq!(public_of(&path), key.public, "{name}");
            assert!(line.starts_with(&key.public_line().unwrap()));
        }
    }

    #[test]
    fn a_key_others_may_read_and_a_file_that_is_no_key_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "hello").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(KeyFile::read(&path).err(), Some(Unusable::Open));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(KeyFile::read(&path).err(), Some(Unusable::NotAKey));
        assert_eq!(
            KeyFile::read(&directory.path().join("none")).err(),
            Some(Unusable::Absent)
        );
    }
}
