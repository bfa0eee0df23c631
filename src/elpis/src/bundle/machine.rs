//! Facts about this machine, read from the kernel.

use super::archive::Archive;
use anyhow::Result;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest kernel file read.
const LONGEST: u64 = 256 << 10;

/// Name in the bundle, and where the kernel or the system tells it.
const FILES: [(&str, &str); 16] = [
    ("kernel.txt", "/proc/version"),
    ("system.txt", "/etc/os-release"),
    ("cpu.txt", "/proc/cpuinfo"),
    ("memory.txt", "/proc/meminfo"),
    ("load.txt", "/proc/loadavg"),
    ("uptime.txt", "/proc/uptime"),
    ("disks.txt", "/proc/diskstats"),
    ("clock-source.txt", "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    ("clock-sources.txt", "/sys/devices/system/clocksource/clocksource0/available_clocksource"),
    ("pressure-cpu.txt", "/proc/pressure/cpu"),
    ("pressure-io.txt", "/proc/pressure/io"),
    ("pressure-memory.txt", "/proc/pressure/memory"),
    ("limit-cpu.txt", "/sys/fs/cgroup/cpu.max"),
    ("limit-memory.txt", "/sys/fs/cgroup/memory.max"),
    ("tcp.txt", "/proc/net/snmp"),
    ("sockets.txt", "/proc/net/sockstat"),
];

/// Adds them; `folders` are those whose disks matter.
pub(super) fn add(archive: &mut Archive, folders: &[PathBuf]) -> Result<()> {
    for (name, path) in FILES {
        // Not every kernel and container has every file: what is not there is no news.
        if let Some(text) = read(Path::new(path)) {
            archive.text(&format!("machine/{name}"), &text)?;
        }
    }
    let root = [PathBuf::from("/"), PathBuf::from("/var/lib")];
    let disks: Vec<Value> = root.iter().chain(folders).filter_map(|folder| disk(folder)).collect();
    archive.json("machine/disk-free.json", &Value::Array(disks))
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn disk(folder: &Path) -> Option<Value> {
    let found = statvfs(folder).ok()?;
    let size = found.fragment_size();
    Some(json!({
        "folder": folder,
        "bytes": found.blocks().saturating_mul(size),
        "bytes_free": found.blocks_available().saturating_mul(size),
        "files": found.files(),
        "files_free": found.files_available(),
    }))
}
