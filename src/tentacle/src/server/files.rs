//! Files that are no agent's data: configurations, checksums, collections, in folders chosen by name.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Largest file handed out.
const READ_BYTES: u64 = 64 << 20;

/// A rule for files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The pattern.
    #[error("filter {0} is no pattern; write it as regex:folder")]
    Pattern(String, #[source] Box<regex::Error>),
    /// Its folder.
    #[error("cannot make the folder {0} for files; check the owner of the one above")]
    Folder(PathBuf, #[source] io::Error),
    /// It leads out of the folder for files.
    #[error("the filter's folder {0} must be a plain name")]
    Outside(String),
}

/// Which folder a file goes to: the first pattern that is found in its name.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<(regex::Regex, String)>);

impl Filters {
    /// From `regex:folder;…`; parts without a colon are dropped, as the original does.
    pub fn parse(text: &str) -> Result<Filters, FilterError> {
        let rules = text.split(';').filter_map(|part| part.split_once(':')).map(|(pattern, folder)| {
            let folder = folder.strip_suffix('/').unwrap_or(folder);
            if folder.is_empty() || folder.starts_with('.') || folder.contains('/') {
                return Err(FilterError::Outside(folder.to_owned()));
            }
            let regex =
                regex::Regex::new(pattern).map_err(|e| FilterError::Pattern(pattern.into(), Box::new(e)))?;
            Ok((regex, folder.to_owned()))
        });
        Ok(Filters(rules.collect::<Result<_, _>>()?))
    }

    pub(super) fn make_folders(&self, root: &Path) -> Result<(), FilterError> {
        let folders = self.0.iter().map(|rule| root.join(&rule.1)).chain([root.to_owned()]);
        for folder in folders {
            fs::create_dir_all(&folder).map_err(|e| FilterError::Folder(folder, e))?;
        }
        Ok(())
    }

    /// Where a file of that (valid) name lies.
    pub(super) fn path(&self, root: &Path, name: &str) -> PathBuf {
        match self.0.iter().find(|rule| rule.0.is_match(name)) {
            Some((_, folder)) => root.join(folder).join(name),
            None => root.join(name),
        }
    }
}

/// Whole or not at all.
pub(super) fn write(path: &Path, content: &[u8], overwrite: bool) -> io::Result<()> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let temp = folder.join(format!(".elpis-{}-{number}.tmp", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o640).open(&temp)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| match overwrite {
        true => fs::rename(&temp, path),
        // A link fails where a file stands: two senders cannot both win.
        false => fs::hard_link(&temp, path),
    });
    if written.is_err() || !overwrite {
        let _ = fs::remove_file(&temp);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// A regular file, links not followed.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > READ_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut content)?;
    Ok(content)
}
