//! One libssh2 session that never blocks: every call is repeated until it is done, while the socket
//! is waited for here, where the abort flag and the time limit are looked at.
//!
//! A `Session` has one owner at a time; nothing here is shared between threads.

use std::time::{Duration, Instant};

use rustix::net::sockopt;
use ssh2::{BlockDirections, ErrorCode, MethodType, Session};

use super::carrier::{Carrier, STEP};
use super::config::HostConfig;
use super::error::SshError;
use super::known_hosts::KnownKeys;
use crate::interrupt::{AbortFlag, Interrupted};
use crate::sys::poll::wait_for;

/// Key exchange: nothing with SHA-1, post-quantum first; the last two are not methods but switch
/// on the signature list (RFC 8308) and strict sequence numbers (against CVE-2023-48795).
const KEX: &str = "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,\
    ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,\
    diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,\
    diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256,\
    ext-info-c,kex-strict-c-v00@openssh.com";

/// Ciphers: AES-GCM first, the cheaper key before the longer one (measured in libssh2: 2.4 and 2.6 s of
/// CPU per GiB), chacha20 last (its packet path had the pre-authentication hole).
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,\
    aes256-ctr,aes192-ctr,aes128-ctr,chacha20-poly1305@openssh.com";

/// Message authentication for the ciphers that do not bring their own.
const MACS: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,\
    hmac-sha2-256,hmac-sha2-512";

/// Host keys, best first; RSA only with SHA-2 signatures.
const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// Signatures of our own RSA keys.
const SIGNATURES: &str = "rsa-sha2-512,rsa-sha2-256";

/// libssh2's "call again".
pub(super) const EAGAIN: ErrorCode = ErrorCode::Session(-37);

/// libssh2's error for a login that was refused.
pub(super) const AUTHENTICATION_FAILED: ErrorCode = ErrorCode::Session(-18);

/// Its error for a key the server does not know, or whose signature it did not like.
pub(super) const PUBLICKEY_UNVERIFIED: ErrorCode = ErrorCode::Session(-19);

/// Its error for a channel that the server will not open.
pub(super) const CHANNEL_REFUSED: ErrorCode = ErrorCode::Session(-21);

/// Why a call was given up.
#[derive(Debug)]
pub(super) enum WireError {
    Interrupted(Interrupted),
    TimedOut,
    Ssh(ssh2::Error),
    Io(std::io::Error),
}

impl WireError {
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Ssh(e) if e.code() == code)
    }
}

/// A session and what carries it.
pub(super) struct Wire {
    pub(super) session: Session,
    pub(super) carrier: Carrier,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Agrees on keys with the server; whose host key it is has still to be checked.
    pub(super) fn handshake(
        mut carrier: Carrier,
        config: &HostConfig,
        known: &KnownKeys,
        abort: &AbortFlag,
    ) -> Result<Self, SshError> {
        let failed = |detail: String| SshError::Handshake {
            host: config.alias.clone(),
            detail,
        };
        let mut session = Session::new().map_err(|e| failed(e.message().to_owned()))?;
        let host_keys = known.prefer(&HOST_KEYS).join(",");
        for (method, wanted) in [
            (MethodType::Kex, KEX),
            (MethodType::HostKey, &host_keys),
            (MethodType::CryptCs, CIPHERS),
            (MethodType::CryptSc, CIPHERS),
            (MethodType::MacCs, MACS),
            (MethodType::MacSc, MACS),
            (MethodType::SignAlgo, SIGNATURES),
        ] {
            session
                .method_pref(method, wanted)
                .map_err(|e| failed(e.message().to_owned()))?;
        }
        let socket = carrier.for_session().map_err(|source| SshError::Local {
            host: config.alias.clone(),
            source,
        })?;
        session.set_tcp_stream(socket);
        session.set_blocking(false);
        let wire = Wire { session, carrier };
        let limit = config.connect_timeout;
        let mut session = wire.session.clone();
        match wire.drive(limit, abort, || session.handshake()) {
            Ok(()) => Ok(wire),
            Err(WireError::Interrupted(e)) => Err(e.into()),
            Err(other) => {
                carrier = wire.carrier;
                if let Some(error) = carrier.proxy_error(&config.alias) {
                    return Err(error);
                }
                Err(match other {
                    WireError::TimedOut => SshError::TimedOut {
                        host: config.alias.clone(),
                        seconds: limit.as_secs(),
                        doing: "agreeing on keys",
                    },
                    WireError::Ssh(e) => failed(e.message().to_lowercase()),
                    WireError::Io(e) => failed(e.to_string()),
                    WireError::Interrupted(e) => e.into(),
                })
            }
        }
    }

    /// Repeats `call` until it is done, fails, takes longer than `limit` or `abort` is raised.
    pub(super) fn drive<T>(
        &self,
        limit: Duration,
        abort: &AbortFlag,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, WireError> {
        let until = Instant::now() + limit;
        loop {
            match call() {
                Ok(value) => return Ok(value),
                Err(e) if e.code() == EAGAIN => {}
                Err(e) => return Err(WireError::Ssh(e)),
            }
            abort.check().map_err(WireError::Interrupted)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WireError::TimedOut);
            }
            self.acknowledge_at_once();
            let (read, write) = self.directions();
            wait_for(self.carrier.fd(), read, write, left.min(STEP)).map_err(WireError::Io)?;
        }
    }

    /// What the last call waits for.
    pub(super) fn directions(&self) -> (bool, bool) {
        match self.session.block_directions() {
            BlockDirections::None | BlockDirections::Inbound => (true, false),
            BlockDirections::Outbound => (false, true),
            BlockDirections::Both => (true, true),
        }
    }

    /// Has the kernel acknowledge what arrives at once, for a while: it falls back to delayed
    /// acknowledgements by itself (tcp(7)), so this is repeated.
    pub(super) fn acknowledge_at_once(&self) {
        if self.carrier.is_tcp() {
            let _ = sockopt::set_tcp_quickack(self.carrier.fd(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_weak_is_offered_and_everything_offered_exists() {
        let session = Session::new().unwrap();
        for (method, wanted) in [
            (MethodType::Kex, KEX),
            (MethodType::CryptCs, CIPHERS),
            (MethodType::MacCs, MACS),
            (MethodType::HostKey, &HOST_KEYS.join(",")),
        ] {
            let supported = session.supported_algs(method).unwrap();
            for one in wanted.split(',') {
                assert!(!one.contains("sha1") && !one.contains("cbc") && one != "ssh-rsa");
                assert!(supported.contains(&one), "{one} is not in {supported:?}");
            }
        }
    }
}
