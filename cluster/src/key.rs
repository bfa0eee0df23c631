//! The cluster key: 32 random bytes that every member holds and the log does not.
//!
//! The first node makes it, a newcomer gets it at the end of its join. What the log must not show is sealed with it;
//! the passwords of nodes' database accounts are derived from it, so that they are stored nowhere.

use crate::types::{hex, unhex};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use elpis_watch::{NodeId, Role};
use std::fmt;

/// What a sealed text begins with; its number is the version of the form.
const SEALED: &str = "sealed1:";

/// The key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl ClusterKey {
    /// A new one; `None` when the system has no randomness.
    #[must_use]
    pub fn random() -> Option<ClusterKey> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(ClusterKey(bytes))
    }

    /// As kept on disk and handed to a newcomer.
    pub(crate) fn text(&self) -> String {
        hex(&self.0)
    }

    /// `None` when it is no key.
    pub(crate) fn read(text: &str) -> Option<ClusterKey> {
        unhex(text.trim())?.try_into().ok().map(ClusterKey)
    }

    /// A key for one purpose.
    fn purpose(&self, purpose: &str) -> [u8; 32] {
        mac(&self.0, purpose.as_bytes())
    }

    /// Seals a text for a place in the state. The same text at the same place gives the same, so that a repeated order
    /// is known as one: the nonce is made of both.
    #[must_use]
    pub fn seal(&self, place: &str, text: &str) -> Option<String> {
        let message = [&(place.len() as u64).to_be_bytes()[..], place.as_bytes(), text.as_bytes()].concat();
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&mac(&self.purpose("seal nonce"), &message)[..NONCE_LEN]);
        let mut sealed = text.as_bytes().to_vec();
        self.aead()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut sealed,
            )
            .ok()?;
        Some(format!("{SEALED}{}{}", hex(&nonce), hex(&sealed)))
    }

    /// The text that was sealed for this place; `None` when it was sealed with another key, or is damaged. A text that
    /// was never sealed is returned as it is: programs of before kept it so.
    #[must_use]
    pub fn open(&self, place: &str, sealed: &str) -> Option<String> {
        let Some(body) = sealed.strip_prefix(SEALED) else { return Some(sealed.to_owned()) };
        let mut body = unhex(body)?;
        let mut text = body.split_off(NONCE_LEN.min(body.len()));
        let nonce = Nonce::try_assume_unique_for_key(&body).ok()?;
        let text = self.aead()?.open_in_place(nonce, Aad::from(place.as_bytes()), &mut text).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &self.purpose("seal")).ok().map(LessSafeKey::new)
    }

    /// Password of a node's database account.
    #[must_use]
    pub fn account_password(&self, node: NodeId, role: Role, generation: u64) -> String {
        let whose = format!("{node}/{}/{generation}", role.as_str());
        hex(&mac(&self.purpose("database account"), whose.as_bytes()))
    }

    /// Password of the account under which a node's database server replicates.
    #[must_use]
    pub fn replication_password(&self, node: NodeId, generation: u64) -> String {
        let whose = format!("{node}/replication/{generation}");
        hex(&mac(&self.purpose("database account"), whose.as_bytes()))
    }
}

/// A password of random digits.
pub(crate) fn random_password() -> Option<String> {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_at_its_place_with_its_key_only() {
        let (key, other) = (ClusterKey([1; 32]), ClusterKey([2; 32]));
        for text in ["", "very secret", "pässwört \u{0}"] {
            let sealed = key.seal("database", text).unwrap();
            assert!(text.is_empty() || !sealed.contains(text), "{sealed}");
            assert_eq!(key.open("database", &sealed).as_deref(), Some(text));
            assert_eq!(key.seal("database", text).unwrap(), sealed);
            assert_eq!(key.open("elsewhere", &sealed), None);
            assert_eq!(other.open("database", &sealed), None);
            let mut bent = sealed.clone();
            let last = if bent.pop() == Some('0') { '1' } else { '0' };
            bent.push(last);
            assert_eq!(key.open("database", &bent), None);
        }
        assert_ne!(key.seal("database", "a"), key.seal("database", "b"));
        for damaged in ["sealed1:", "sealed1:00", "sealed1:zz", "sealed1:ä"] {
            assert_eq!(key.open("database", damaged), None, "{damaged}");
        }
        assert_eq!(key.open("database", "from before").as_deref(), Some("from before"));
    }

    #[test]
    fn every_account_has_a_password_of_its_own_for_ever() {
        let key = ClusterKey([7; 32]);
        let one = key.account_password(2, Role::DataServer, 1);
        // Stored accounts rely on it: this never changes.
        assert_eq!(one, "4e1ec5be19b702de071509c32e13cc6821234eebd711e9e29f536f30761df140");
        assert_ne!(one, key.account_password(3, Role::DataServer, 1));
        assert_ne!(one, key.account_password(2, Role::Console, 1));
        assert_ne!(one, key.account_password(2, Role::DataServer, 2));
        assert_ne!(one, ClusterKey([8; 32]).account_password(2, Role::DataServer, 1));
    }

    #[test]
    fn a_key_comes_back_and_is_never_shown() {
        let key = ClusterKey::random().unwrap();
        assert_eq!(ClusterKey::read(&format!("{}\n", key.text())), Some(key.clone()));
        assert_eq!(ClusterKey::read("abcd"), None);
        assert!(!format!("{key:?}").contains(&key.text()));
    }
}
