//! What a medium says of itself: version and files, signed. PURE.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use std::collections::BTreeMap;

/// First line of the list: what it is, and its version.
const HEAD: &str = "elpis-medium 1";
/// Longest list that is read.
pub const LONGEST: u64 = 65_536;

/// Why a medium is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediumError {
    #[error("the image is not signed by who made this machine's: it is not taken")]
    Signature,
    #[error("the image's list of files cannot be read: {0}")]
    Unreadable(String),
}

/// A file as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// SHA-256, hex.
    pub hash: String,
    pub bytes: u64,
}

/// A list whose signature was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub version: String,
    /// Version of the protocol between nodes that its program speaks.
    pub speaks: u16,
    files: BTreeMap<String, Wanted>,
}

impl Manifest {
    /// Reads `live/manifest` and `live/manifest.sig`; `key`: the 32 bytes of an Ed25519 key.
    ///
    /// # Errors
    /// The signature is another one's, or the list is of another kind.
    pub fn read(text: &[u8], signature: &[u8], key: &[u8]) -> Result<Manifest, MediumError> {
        UnparsedPublicKey::new(&ED25519, key).verify(text, signature).map_err(|_| MediumError::Signature)?;
        let strange = |what: &str| MediumError::Unreadable(what.chars().take(80).collect());
        let text = std::str::from_utf8(text).map_err(|_| strange("it is no text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(strange("it is of another version: update in smaller steps"));
        }
        let version = lines.next().and_then(|line| line.strip_prefix("version ")).filter(|v| is_version(v));
        let version = version.ok_or_else(|| strange("it names no version"))?.to_owned();
        let speaks = lines.next().and_then(|line| line.strip_prefix("speaks "));
        let speaks = speaks.and_then(|number| number.parse().ok());
        let speaks = speaks.ok_or_else(|| strange("it does not say what it speaks to other nodes"))?;
        let mut files = BTreeMap::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let ["file", hash, bytes, name] = words[..] else { return Err(strange(line)) };
            let bytes = bytes.parse().map_err(|_| strange(line))?;
            files.insert(name.to_owned(), Wanted { hash: hash.to_owned(), bytes });
        }
        Ok(Manifest { version, speaks, files })
    }

    /// All files, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Wanted)> {
        self.files.iter().map(|(name, wanted)| (name.as_str(), wanted))
    }

    /// How a file has to be.
    ///
    /// # Errors
    /// The list does not name it.
    pub fn wanted(&self, name: &str) -> Result<&Wanted, MediumError> {
        self.files.get(name).ok_or_else(|| MediumError::Unreadable(format!("it does not name {name}")))
    }
}

/// Numbers and what follows them: also part of file names.
fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '~');
    !text.is_empty()
        && text.len() < 32
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    const LIST: &str = "elpis-medium 1\nversion 0.2.0\nspeaks 1\nfile ab12 100 live/root.img\n";

    fn signed(text: &str) -> Result<Manifest, MediumError> {
        let key = Ed25519KeyPair::generate().unwrap();
        Manifest::read(text.as_bytes(), key.sign(text.as_bytes()).as_ref(), key.public_key().as_ref())
    }

    #[test]
    fn what_is_signed_is_read() {
        let list = signed(LIST).unwrap();
        assert_eq!((list.version.as_str(), list.speaks, list.files().count()), ("0.2.0", 1, 1));
        assert_eq!(list.wanted("live/root.img").unwrap(), &Wanted { hash: "ab12".into(), bytes: 100 });
        assert!(list.wanted("live/other").is_err());
    }

    #[test]
    fn what_is_not_signed_or_strange_is_refused() {
        let (key, other) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let signature = key.sign(LIST.as_bytes());
        let public = key.public_key().as_ref();
        let changed = LIST.replace("100", "101");
        for (text, signature, key) in [
            (changed.as_bytes(), signature.as_ref(), public),
            (LIST.as_bytes(), other.sign(LIST.as_bytes()).as_ref(), public),
            (LIST.as_bytes(), signature.as_ref(), other.public_key().as_ref()),
            (LIST.as_bytes(), &[][..], public),
            (LIST.as_bytes(), signature.as_ref(), &[][..]),
        ] {
            assert_eq!(Manifest::read(text, signature, key), Err(MediumError::Signature));
        }
        for text in [
            "",
            "elpis-medium 2\nversion 0.2.0\n",
            "elpis-medium 1\nversion \n",
            "elpis-medium 1\nversion ../x\n",
            "elpis-medium 1\nversion 1\nfile ab 1 live/root.img\n",
            "elpis-medium 1\nversion 1\nspeaks 1\nfile ab 1\n",
            "elpis-medium 1\nversion 1\nspeaks 1\nfile ab x live/root.img\n",
        ] {
            assert!(matches!(signed(text), Err(MediumError::Unreadable(_))), "{text:?}");
        }
    }
}
