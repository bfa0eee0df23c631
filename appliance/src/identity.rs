//! A node's name, made once and kept on the state disk.

use elpis_watch::durable::write_whole;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Version of the file.
const VERSION: u32 = 1;
/// Short, and none like another over a telephone.
const BIRDS: [&str; 32] = [
    "auk", "bittern", "condor", "crane", "curlew", "dunlin", "egret", "falcon", "finch", "gannet", "godwit",
    "grebe", "harrier", "heron", "ibis", "kestrel", "kite", "lapwing", "linnet", "martin", "merlin",
    "osprey", "petrel", "pipit", "plover", "raven", "shrike", "siskin", "teal", "tern", "wigeon", "wren",
];

/// Why there is no name.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{0}: {1}; is the state disk mounted and writable?")]
    File(String, #[source] io::Error),
    #[error("{0} is not this program's: {1}; remove it to get a new name")]
    Unreadable(String, String),
}

/// What makes this machine itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    version: u32,
    /// A bird and four digits: also the host's name.
    pub name: String,
}

impl Identity {
    /// The one in the file; `None` where there is none that can be read.
    #[must_use]
    pub fn read(file: &Path) -> Option<Identity> {
        let held: Identity = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (held.version == VERSION && is_name(&held.name)).then_some(held)
    }

    /// The one in the file; where there is none, `wanted` or a name from these random bytes is kept there.
    ///
    /// # Errors
    /// The file cannot be read or written, or is of another kind.
    pub fn read_or_make(file: &Path, wanted: Option<&str>) -> Result<Identity, IdentityError> {
        let failed = |e| IdentityError::File(file.display().to_string(), e);
        match fs::read(file) {
            Ok(bytes) => {
                let strange = |why: String| IdentityError::Unreadable(file.display().to_string(), why);
                let held: Identity = serde_json::from_slice(&bytes).map_err(|e| strange(e.to_string()))?;
                if held.version != VERSION || !is_name(&held.name) {
                    return Err(strange(format!("version {}, name {:?}", held.version, held.name)));
                }
                return Ok(held);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let name = match wanted {
            Some(name) => name.to_owned(),
            None => {
                let mut random = [0; 4];
                fs::File::open("/dev/urandom")
                    .and_then(|mut from| from.read_exact(&mut random))
                    .map_err(failed)?;
                name(u32::from_le_bytes(random))
            }
        };
        let made = Identity { version: VERSION, name };
        let bytes = serde_json::to_vec(&made).map_err(|e| failed(e.into()))?;
        write_whole(file, &bytes, 0o644).map_err(failed)?;
        Ok(made)
    }
}

/// PURE: a name from a random number.
fn name(random: u32) -> String {
    let bird = BIRDS[random as usize % BIRDS.len()];
    format!("{bird}-{:04}", random / 32 % 10_000)
}

/// A host's name: letters, digits and dashes, not at the ends, at most 63.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.json");
        let made = Identity::read_or_make(&file, None).unwrap();
        assert!(is_name(&made.name), "{}", made.name);
        assert_eq!(Identity::read_or_make(&file, Some("other")).unwrap(), made);
    }

    #[test]
    fn a_wanted_name_is_taken_and_a_strange_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity.json");
        assert_eq!(Identity::read_or_make(&file, Some("north")).unwrap().name, "north");
        for strange in ["", "{}", r#"{"version":2,"name":"north"}"#, r#"{"version":1,"name":"No rth"}"#] {
            fs::write(&file, strange).unwrap();
            let why = Identity::read_or_make(&file, None).unwrap_err().to_string();
            assert!(why.contains("remove it"), "{why}");
        }
    }

    #[test]
    fn every_number_gives_a_name() {
        for random in (0..u32::MAX).step_by(9_999_991) {
            assert!(is_name(&name(random)));
        }
        assert_eq!(name(32 * 4412 + 16), "kite-4412");
    }
}
