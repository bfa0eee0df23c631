//! Reads what the audit looks at.

use super::STATE;
use super::install::is_installed;
use super::tools::WORK;
use anyhow::{Context, Result, ensure};
use elpis_appliance::audit::{Seen, audit, summary, sysctls};
use elpis_appliance::owners::{PLACES, SECRETS};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const SETTINGS: &str = "/usr/lib/sysctl.d/60-elpis.conf";
const UNITS: &str = "/usr/lib/systemd/system";
/// What the last audit found, for the screen: first line `passed` or `failed`, then its summary.
const FOUND: &str = "audit";
/// Programs that would let a shell in.
const WAYS_IN: [&str; 4] =
    ["/usr/sbin/sshd", "/usr/sbin/telnetd", "/usr/sbin/in.telnetd", "/usr/sbin/dropbear"];

/// Prints a line a check; an error when one fails.
pub(super) fn run(json: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the audit reads what only root may read");
    let lines = audit(&look()?);
    if json {
        println!("{}", serde_json::to_string(&serde_json::json!({ "version": 1, "checks": lines }))?);
    } else {
        for line in &lines {
            match &line.wrong {
                None => println!("pass  {}", line.what),
                Some(wrong) => println!("FAIL  {}: {wrong}", line.what),
            }
        }
    }
    let text = summary(&lines);
    let passed = lines.iter().all(|line| line.wrong.is_none());
    let word = if passed { "passed" } else { "failed" };
    fs::write(Path::new(WORK).join(FOUND), format!("{word}\n{text}\n"))
        .context("cannot keep what was found")?;
    ensure!(passed, "{text}");
    Ok(())
}

/// Whether the last audit passed, and its summary.
pub(super) fn last() -> Option<(bool, String)> {
    let text = fs::read_to_string(Path::new(WORK).join(FOUND)).ok()?;
    let (word, found) = text.split_once('\n')?;
    Some((word == "passed", found.trim().to_owned()))
}

fn look() -> Result<Seen> {
    // What cannot be read fails its line.
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let wanted = read(SETTINGS);
    let set = sysctls(&wanted).into_iter().map(|(name, _)| {
        let value = read(&format!("/proc/sys/{}", name.replace('.', "/")));
        (name, value)
    });
    let rules = Command::new("nft").args(["list", "ruleset"]).output().context("nft cannot be started")?;
    let mut seen = Seen {
        set: set.collect(),
        wanted,
        mounts: read("/proc/self/mounts"),
        command_line: read("/proc/cmdline"),
        tcp: format!("{}{}", read("/proc/net/tcp"), read("/proc/net/tcp6")),
        filter: read("/etc/nftables.conf"),
        rules: String::from_utf8_lossy(&rules.stdout).into_owned(),
        shadow: read("/etc/shadow"),
        users: read("/etc/passwd"),
        groups: read("/etc/group"),
        lockdown: read("/sys/kernel/security/lockdown"),
        signed_modules: read("/sys/module/module/parameters/sig_enforce"),
        ways_in: WAYS_IN
            .iter()
            .filter(|path| Path::new(path).exists())
            .map(|path| (*path).to_owned())
            .collect(),
        installed: is_installed(),
        ..Seen::default()
    };
    walk(&mut seen)?;
    secrets(&mut seen)?;
    units(&mut seen)?;
    for path in PLACES.iter().map(|place| place.path).chain(SECRETS.map(|(file, _)| file)) {
        if let Ok(meta) = fs::symlink_metadata(Path::new(STATE).join(path)) {
            seen.owned.push((path.to_owned(), meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777));
        }
    }
    Ok(seen)
}

/// Every file of the root's file system.
fn walk(seen: &mut Seen) -> Result<()> {
    const SET_ID: u32 = 0o6000;
    const STICKY: u32 = 0o1000;
    let device = fs::metadata("/")?.dev();
    let mut folders = vec![PathBuf::from("/")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let meta =
                fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if meta.dev() != device || meta.is_symlink() {
                continue;
            }
            let mode = meta.permissions().mode();
            if meta.is_file() && mode & SET_ID != 0 {
                seen.set_id.push(path.display().to_string());
            }
            if mode & 0o002 != 0 && mode & STICKY == 0 {
                seen.writable.push(path.display().to_string());
            }
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(())
}

/// What systemd starts of ours.
fn units(seen: &mut Seen) -> Result<()> {
    for entry in fs::read_dir(UNITS).with_context(|| format!("cannot read {UNITS}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("elpis-") {
            let text = fs::read_to_string(Path::new(UNITS).join(&name));
            seen.units.push((name, text.context("a unit cannot be read")?));
        }
    }
    Ok(())
}

/// Keys and passwords of this node, wherever one of its services keeps them.
fn secrets(seen: &mut Seen) -> Result<()> {
    let folders = ["", "console", "tentacle"].map(|folder| Path::new(STATE).join(folder));
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let secret = [".key", ".password", ".token"].iter().any(|end| name.ends_with(end));
        if secret && entry.metadata()?.permissions().mode() & 0o077 != 0 {
            seen.open_secrets.push(name);
        }
    }
    Ok(())
}
