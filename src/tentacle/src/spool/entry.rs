//! One accepted file as it lies on disk and travels between nodes.

use super::{SpoolError, VERSION};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest header line; a name is at most 240 bytes, JSON may write six characters for one of them.
const HEADER_BYTES_MAX: usize = 4096;

/// What is known of a file since its acceptance; both copies carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// File name as sent.
    pub name: String,
    /// Cluster time of acceptance, Unix milliseconds: the report's "mtime" in the rules.
    pub receive_ms: i64,
    /// Node that accepted it.
    pub receiver: u64,
    /// That node's own count.
    pub sequence: u64,
    /// Report key: SHA-256(name, a zero byte, content) in hex.
    pub key: String,
    /// Shard it is filed under.
    pub shard: u16,
    /// True when a data server has moved it to another shard once.
    #[serde(default)]
    pub forwarded: bool,
}

impl Header {
    /// Its place in the acceptance order.
    pub fn id(&self) -> EntryId {
        EntryId { receive_ms: self.receive_ms, receiver: self.receiver, sequence: self.sequence }
    }
}

/// Acceptance order: receive time, then receiver, then its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// Cluster time of acceptance, Unix milliseconds.
    pub receive_ms: i64,
    /// Node that accepted it.
    pub receiver: u64,
    /// That node's own count.
    pub sequence: u64,
}

impl EntryId {
    /// Name of its file.
    pub fn file_name(self) -> String {
        format!("{self}.entry")
    }

    /// The id in a file's name, if it is an entry's.
    pub fn from_file_name(name: &str) -> Option<EntryId> {
        let mut parts = name.strip_suffix(".entry")?.split('-');
        let mut next = || {
            let part = parts.next().filter(|part| part.len() == 16)?;
            u64::from_str_radix(part, 16).ok()
        };
        let id = EntryId { receive_ms: i64::try_from(next()?).ok()?, receiver: next()?, sequence: next()? };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}-{:016x}", self.receive_ms.max(0), self.receiver, self.sequence)
    }
}

/// An entry by its place; the content is read with [`super::Spool::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the acceptance order.
    pub id: EntryId,
    /// Shard it is filed under.
    pub shard: u16,
    pub(super) path: PathBuf,
}

impl Entry {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An entry read.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// What is known of it.
    pub header: Header,
    /// The file as sent.
    pub content: Vec<u8>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("header", &self.header).field("bytes", &self.content.len()).finish()
    }
}

/// SHA-256(name, a zero byte, content) in hex.
pub(crate) fn report_key(name: &str, content: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(name.as_bytes());
    context.update(&[0]);
    context.update(content);
    let mut hex = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        for half in [byte >> 4, byte & 15] {
            hex.push(char::from(b"0123456789abcdef"[usize::from(half)]));
        }
    }
    hex
}

pub(super) fn encode(header: &Header, content: &[u8]) -> Result<Vec<u8>, SpoolError> {
    let line = serde_json::to_string(header).map_err(|e| SpoolError::Damaged {
        path: PathBuf::from(header.id().file_name()),
        why: e.to_string(),
    })?;
    let mut bytes = Vec::with_capacity(line.len() + 1 + content.len());
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(content);
    Ok(bytes)
}

pub(super) fn read(path: &Path) -> Result<Stored, SpoolError> {
    let mut bytes = read_file(path).map_err(|e| SpoolError::io("read", path, e))?;
    let damaged = |why: String| SpoolError::Damaged { path: path.to_owned(), why };
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|&byte| byte == b'\n');
    let end = end.ok_or_else(|| damaged("no header line".into()))?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|e| damaged(e.to_string()))?;
    if header.version != VERSION {
        return Err(damaged(format!("header version {} where {VERSION} is known", header.version)));
    }
    let content = bytes.split_off(end + 1);
    if report_key(&header.name, &content) != header.key {
        return Err(damaged("content does not match its key".into()));
    }
    Ok(Stored { header, content })
}

/// The whole file. Its time of access is left alone: a file is read once, and noting that would be another write.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = |flags| std::fs::File::options().read(true).custom_flags(flags).open(path);
    // Only the file's owner may ask for that.
    let noatime = nix::fcntl::OFlag::O_NOATIME.bits();
    let mut file = match open(noatime) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => open(0)?,
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The header alone, for the index at start.
pub(super) fn read_header(path: &Path) -> Result<(Header, u64), SpoolError> {
    use std::io::{BufRead as _, BufReader, Read as _};
    let io = |e| SpoolError::io("read", path, e);
    let file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut line = Vec::new();
    BufReader::new(file.take(HEADER_BYTES_MAX as u64)).read_until(b'\n', &mut line).map_err(io)?;
    let header = serde_json::from_slice(&line)
        .map_err(|e| SpoolError::Damaged { path: path.to_owned(), why: e.to_string() })?;
    Ok((header, size - line.len() as u64))
}
