//! Gives each service what is its own, before any of them starts: on a new machine, after a reset, and once on a disk
//! where everything still belongs to one user. What is right already stays as it is.
//!
//! Services may have written what is looked at here: no link is followed, and a file with a second name is left alone.

use super::STATE;
use anyhow::{Context, Result, ensure};
use elpis_appliance::owners::{MOVED, PLACES, Place, SECRETS, place};
use elpis_cluster::identity::Identity;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Group, Uid, UnlinkatFlags, User, fchown, unlinkat};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Deepest folder below a place.
const DEPTH: u32 = 8;
/// Largest key, certificate or note.
const LARGEST: u64 = 64 * 1024;
/// What is copied, until it is whole.
const DRAFT: &str = "taken-over";

pub(super) fn run() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "owners are set by root");
    let state = Path::new(STATE);
    set(state, &owner_of)?;
    // Made here, so that it can be handed to the servers that speak to other nodes with it, from their first start on.
    if !state.join("node.key").exists() {
        Identity::open(state)?;
    }
    let root = open(state)?;
    for (file, user) in SECRETS.iter().filter(|(file, _)| !file.contains('/')) {
        let group = place("").map_or(*user, |place| place.group);
        give(&root, file, owner_of(user, group)?, 0o600)?;
    }
    Ok(())
}

type Owner = (Uid, Gid);

fn owner_of(user: &str, group: &str) -> Result<Owner> {
    let uid = User::from_name(user)?.with_context(|| format!("there is no user {user}"))?.uid;
    let gid = Group::from_name(group)?.with_context(|| format!("there is no group {group}"))?.gid;
    Ok((uid, gid))
}

/// All places, and what earlier versions had elsewhere.
fn set(state: &Path, owner_of: &dyn Fn(&str, &str) -> Result<Owner>) -> Result<()> {
    let root = open(state)?;
    for place in &PLACES {
        let owner = owner_of(place.user, place.group)?;
        let folder = folder(&root, place.path).with_context(|| format!("cannot make {}", place.path))?;
        if let Some(files) = place.files {
            below(&folder, owner, place.mode, files, DEPTH).with_context(|| place.path.to_owned())?;
        }
        let text = || format!("cannot give {} to {}", place.path, place.user);
        own(&folder, &fstat(&folder)?, owner, place.mode).with_context(text)?;
    }
    for (name, to, stays) in MOVED {
        let Some(Place { user, group, .. }) = place(to) else { continue };
        let folder = folder(&root, to)?;
        take_over(&root, name, &folder, owner_of(user, group)?, stays)
            .with_context(|| format!("cannot take {name} over"))?;
    }
    Ok(())
}

fn open(state: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(state, flags, Mode::empty()).with_context(|| format!("cannot open {}", state.display()))
}

/// The folder of that path, made where it is missing; whatever else has a name on the way is removed.
fn folder(root: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let mut at = root.try_clone()?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = match open_folder(&at, name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => made(&at, name)?,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                unlinkat(&at, name, UnlinkatFlags::NoRemoveDir)?;
                made(&at, name)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at)
}

fn made(at: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    mkdirat(at, name, Mode::S_IRWXU)?;
    open_folder(at, name)
}

fn open_folder(at: &OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn open_file(at: &OwnedFd, name: &std::ffi::CStr) -> nix::Result<OwnedFd> {
    // A pipe that somebody put there would be waited for.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

/// Everything in a folder, to the last file.
fn below(folder: &OwnedFd, owner: Owner, mode: u32, files: u32, depth: u32) -> Result<()> {
    let mut names = Dir::from_fd(openat(folder, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)?;
    for entry in names.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            found => found?,
        };
        match kind(&found) {
            SFlag::S_IFDIR if depth > 0 => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let inner = openat(folder, name, flags, Mode::empty())?;
                below(&inner, owner, mode, files, depth - 1)?;
                own(&inner, &fstat(&inner)?, owner, mode)?;
            }
            SFlag::S_IFREG if !is_right(&found, owner, files) => {
                let file = open_file(folder, name)?;
                let held = fstat(&file)?;
                if kind(&held) == SFlag::S_IFREG && held.st_nlink == 1 {
                    own(&file, &held, owner, files)?;
                } else {
                    eprintln!("elpis: {} has another name or is no file; left alone", name.to_string_lossy());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file of this folder, if there is one.
fn give(folder: &OwnedFd, name: &str, owner: Owner, mode: u32) -> Result<()> {
    let Some((file, found)) = plain(folder, name)? else { return Ok(()) };
    own(file.as_fd(), &found, owner, mode).with_context(|| format!("cannot give {name} away"))
}

/// A file with one name; `None` = there is nothing, or something else.
fn plain(folder: &OwnedFd, name: &str) -> Result<Option<(File, FileStat)>> {
    let name = std::ffi::CString::new(name)?;
    let file = match open_file(folder, &name) {
        Ok(file) => file,
        Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = fstat(&file)?;
    let plain = kind(&found) == SFlag::S_IFREG && found.st_nlink == 1;
    Ok(plain.then(|| (File::from(file), found)))
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn is_right(found: &FileStat, (uid, gid): Owner, mode: u32) -> bool {
    (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (uid.as_raw(), gid.as_raw(), mode)
}

fn own(at: impl AsFd, found: &FileStat, owner: Owner, mode: u32) -> Result<()> {
    if !is_right(found, owner, mode) {
        // In this order: a change of owner takes set-group-id away.
        fchown(at.as_fd(), Some(owner.0), Some(owner.1))?;
        fchmod(at.as_fd(), Mode::from_bits_truncate(mode))?;
    }
    Ok(())
}

/// Puts what lay in the state's folder where it belongs now, unless something is there already.
fn take_over(root: &OwnedFd, name: &str, folder: &OwnedFd, owner: Owner, stays: bool) -> Result<()> {
    if plain(folder, name)?.is_some() {
        return Ok(());
    }
    let Some((file, found)) = plain(root, name)? else { return Ok(()) };
    if !stays {
        own(file.as_fd(), &found, owner, 0o600)?;
        return Ok(renameat(root, name, folder, name)?);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    match unlinkat(folder, DRAFT, UnlinkatFlags::NoRemoveDir) {
        Err(error) if error != Errno::ENOENT => return Err(error.into()),
        _ => {}
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut draft = File::from(openat(folder, DRAFT, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    draft.write_all(&bytes)?;
    own(draft.as_fd(), &fstat(&draft)?, owner, 0o600)?;
    draft.sync_all()?;
    renameat(folder, DRAFT, folder, name)?;
    Ok(nix::unistd::fsync(folder.as_fd())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Numbers that no account has, where the test may give files away.
    fn numbers(user: &str, group: &str) -> Result<Owner> {
        let me = (nix::unistd::geteuid(), nix::unistd::getegid());
        if !me.0.is_root() {
            return Ok(me);
        }
        let number = |name: &str| 90_000 + name.bytes().map(u32::from).sum::<u32>();
        Ok((Uid::from_raw(number(user)), Gid::from_raw(number(group))))
    }

    fn seen(path: &Path) -> (u32, u32, u32) {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777)
    }

    fn wanted(user: &str, group: &str, mode: u32) -> (u32, u32, u32) {
        let (uid, gid) = numbers(user, group).unwrap();
        (uid.as_raw(), gid.as_raw(), mode)
    }

    #[test]
    fn a_disk_of_one_user_is_taken_over_once_and_nothing_outside_of_it() {
        let (outside, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| state.path().join(name);
        let secret = outside.path().join("secret");
        fs::write(&secret, "s").unwrap();
        let before = seen(&secret);
        fs::create_dir_all(at("spool/work/0ab")).unwrap();
        fs::create_dir_all(at("database/data")).unwrap();
        fs::write(at("database/data/ibdata1"), "rows").unwrap();
        fs::write(at("spool/work/0ab/1.entry"), "x").unwrap();
        fs::write(at("spool/twice"), "x").unwrap();
        fs::hard_link(at("spool/twice"), at("spool/second")).unwrap();
        symlink(&secret, at("spool/work/link")).unwrap();
        symlink(outside.path(), at("spool/out")).unwrap();
        // A folder that somebody led away.
        symlink(outside.path(), at("console")).unwrap();
        for (name, _, _) in MOVED {
            fs::write(at(name), name).unwrap();
        }
        let (rows, twice) = (seen(&at("database/data/ibdata1")), seen(&at("spool/twice")));
        for _ in 0..2 {
            set(state.path(), &numbers).unwrap();
            for place in &PLACES {
                assert_eq!(
                    seen(&at(place.path)),
                    wanted(place.user, place.group, place.mode),
                    "{}",
                    place.path
                );
            }
            assert_eq!(seen(&at("spool/work/0ab")), wanted("elpis-tentacle-server", "elpis", 0o2770));
            assert_eq!(seen(&at("spool/work/0ab/1.entry")), wanted("elpis-tentacle-server", "elpis", 0o660));
            assert_eq!(seen(&at("console/console.key")), wanted("elpis-console", "elpis-console", 0o600));
            assert_eq!(fs::read_to_string(at("tentacle/tentacle.crt")).unwrap(), "tentacle.crt");
            assert_eq!(fs::read_to_string(at("console/admin.password")).unwrap(), "admin.password");
            assert!(at("console.key").exists() && !at("admin.password").exists());
            assert_eq!((seen(&at("database/data/ibdata1")), seen(&at("spool/twice"))), (rows, twice));
            assert_eq!(seen(&secret), before);
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        }
        // What an earlier version, fallen back to, made meanwhile; and what the service has made anew is its own.
        fs::write(at("spool/work/0ab/2.entry"), "x").unwrap();
        fs::write(at("console/console.key"), "newer").unwrap();
        set(state.path(), &numbers).unwrap();
        assert_eq!(seen(&at("spool/work/0ab/2.entry")), wanted("elpis-tentacle-server", "elpis", 0o660));
        assert_eq!(fs::read_to_string(at("console/console.key")).unwrap(), "newer");
    }
}
