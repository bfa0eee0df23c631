//! Keys made of join words, and proofs of knowing them.

use super::JoinError;
use crate::types::{hex, unhex};
use crate::words;
use aws_lc_rs::hmac;
use std::fmt;

/// Memory (KiB) and passes of Argon2id: a fraction of a second on a small machine, and 60 random bits behind it.
const MEMORY_KIB: u32 = 32 * 1024;
const PASSES: u32 = 3;
/// Label of the TLS exporter.
const LABEL: &[u8] = b"EXPORTER-elpis-join-1";

/// What both sides know: Argon2id of the words, salted with the cluster's uuid.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Which side proves. It is part of the proof, so that no side can be shown its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Joiner,
    Member,
}

/// What ties a proof to one connection and one key.
pub(super) struct Tie<'a> {
    pub(super) role: Role,
    /// Exporter of this TLS connection: differs when somebody sits between.
    pub(super) exporter: &'a [u8; 32],
    /// Pin of the key that the proving side showed in TLS.
    pub(super) spki: &'a str,
}

/// Random bits of a new code.
pub(super) fn new_bits() -> Result<u64, JoinError> {
    let mut bytes = [0u8; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| JoinError::Here("the system gives no randomness".to_owned()))?;
    Ok(u64::from_be_bytes(bytes) >> 4)
}

/// Derives the key, off the runtime's threads.
pub(super) async fn derive(bits: u64, cluster: &str) -> Result<Key, JoinError> {
    let cluster = cluster.to_owned();
    let derived = tokio::task::spawn_blocking(move || {
        let parameters = argon2::Params::new(MEMORY_KIB, PASSES, 1, Some(32))?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
        let mut key = [0u8; 32];
        argon.hash_password_into(words::encode(bits).as_bytes(), cluster.as_bytes(), &mut key)?;
        Ok::<_, argon2::Error>(Key(key))
    });
    let failed = |why: String| JoinError::Here(format!("cannot derive the key of the words: {why}"));
    derived.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
}

impl Key {
    /// As kept in the replicated state.
    pub(super) fn verifier(&self) -> String {
        hex(&self.0)
    }

    /// From the replicated state; `None` when it is damaged.
    pub(super) fn read(verifier: &str) -> Option<Key> {
        unhex(verifier).and_then(|bytes| bytes.try_into().ok()).map(Key)
    }

    pub(super) fn prove(&self, tie: &Tie<'_>) -> String {
        hex(hmac::sign(&self.hmac(), &tie.message()).as_ref())
    }

    /// Compares in constant time.
    pub(super) fn proven(&self, tie: &Tie<'_>, proof: &str) -> bool {
        unhex(proof).is_some_and(|proof| hmac::verify(&self.hmac(), &tie.message(), &proof).is_ok())
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl Tie<'_> {
    fn message(&self) -> Vec<u8> {
        let role: &[u8] = match self.role {
            Role::Joiner => b"elpis-join/1 joiner\0",
            Role::Member => b"elpis-join/1 member\0",
        };
        [role, self.exporter, self.spki.as_bytes()].concat()
    }
}

/// The exporter of a connection whose handshake is over.
pub(super) fn exporter<D>(connection: &rustls::ConnectionCommon<D>) -> Result<[u8; 32], JoinError> {
    connection.export_keying_material([0u8; 32], LABEL, None).map_err(|e| JoinError::Talk(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_role_connection_and_key_only() {
        let key = Key([7; 32]);
        let tie = |role, exporter, spki| Tie { role, exporter, spki };
        let proof = key.prove(&tie(Role::Joiner, &[1; 32], "a"));
        assert!(key.proven(&tie(Role::Joiner, &[1; 32], "a"), &proof));
        assert!(!key.proven(&tie(Role::Member, &[1; 32], "a"), &proof));
        assert!(!key.proven(&tie(Role::Joiner, &[2; 32], "a"), &proof));
        assert!(!key.proven(&tie(Role::Joiner, &[1; 32], "b"), &proof));
        assert!(!Key([8; 32]).proven(&tie(Role::Joiner, &[1; 32], "a"), &proof));
        for bad in ["", "zz", "é", &"é".repeat(32), &"+1".repeat(32), &proof[1..]] {
            assert!(!key.proven(&tie(Role::Joiner, &[1; 32], "a"), bad));
        }
        assert_eq!(Key::read(&key.verifier()), Some(key));
        assert_eq!(Key::read("no"), None);
    }

    #[test]
    fn a_new_code_has_sixty_bits() {
        assert!((0..64).all(|_| new_bits().unwrap() < 1 << 60));
    }
}
