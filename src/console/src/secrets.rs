//! Files that are made once and only their owner reads: the first password, the token of `/metrics`, the TLS key.

use crate::sessions::hex;
use aws_lc_rs::rand;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest file read.
const LONGEST: u64 = 4096;

/// What a file holds, without blanks at its ends; made with `content` when it is missing. The flag: it was made now.
pub(crate) fn read_or_make(path: &Path, content: impl FnOnce() -> Result<String>) -> Result<(String, bool)> {
    match read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other.map(|text| (text, false)),
    }
    let text = content()?;
    // A link never replaces: of several processes one is first, and all read what it wrote, whole.
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let written = write(&draft, &text).and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    // Its content is used after this, and kept by others: without the name it would be lost with the power.
    let written = written.and_then(|()| elpis_watch::durable::sync_folder_of(path));
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((read(path)?, false)),
        other => other.map(|()| (text, true)),
    }
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, "the file is empty; remove it and it is made again"));
    }
    Ok(text.to_owned())
}

/// Writes a file for its owner alone, on disk when this returns.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Sixteen random bytes as text.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Error::other("this machine gives no random numbers"))?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (first, made) = read_or_make(&path, random).unwrap();
        assert!(made && first.len() == 32);
        assert_eq!(read_or_make(&path, random).unwrap(), (first, false));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "\n").unwrap();
        assert!(read_or_make(&path, random).is_err());
    }
}
