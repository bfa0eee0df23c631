//! Files that survive a loss of power.

use std::fs::{File, OpenOptions, rename};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a file so that after a loss of power there is the old or the new one, never half of one. `mode`: its
/// permissions, whatever the umask.
///
/// # Errors
/// The disk's.
pub fn write_whole(path: &Path, body: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(body)?;
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.sync_all()?;
    rename(&new, path)?;
    sync_folder_of(path)
}

/// Removes a file so that it does not come back after a loss of power. One that is not there is removed already.
///
/// # Errors
/// The disk's.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        done => done?,
    }
    sync_folder_of(path)
}

/// What was made, renamed or removed beside this path stays so.
///
/// # Errors
/// The disk's.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
