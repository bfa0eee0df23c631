//! Steps on the disk that a spool is made of.

use super::SpoolError;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

pub(super) fn make_folder(path: &Path) -> Result<(), SpoolError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| SpoolError::io("make", path, e))?;
    sync_folder(path.parent().unwrap_or(path))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|e| SpoolError::io("create", path, e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| SpoolError::io("write", path, e))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), SpoolError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| SpoolError::io("sync", path, e))
}

pub(super) fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Changes the times of a folder, by the clock that a change in it would use. Both to now: who may write in it may do that,
/// everything else only its owner.
pub(super) fn touch(path: &Path) -> Result<(), SpoolError> {
    let touched = File::open(path)
        .and_then(|folder| Ok(futimens(&folder, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?));
    touched.map_err(|e| SpoolError::io("touch", path, e))
}
