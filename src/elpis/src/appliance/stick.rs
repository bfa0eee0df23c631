//! Answers on a stick: the file `elpis.txt` on a FAT file system called `ELPIS`. Whoever is at the machine can put any stick
//! in, so its file system is read by this program, in a unit without rights, and never mounted.

use super::tools::run;
use super::{ANSWERS, join};
use anyhow::{Context, Result};
use elpis_appliance::answers::{Answers, FILE_MOST, Said, in_file, on_line};
use elpis_appliance::disk::Choice;
use fatfs::{FileSystem, FsOptions};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The file's name, in the first folder of the stick.
const NAME: &str = "elpis.txt";
/// What was read, and why nothing could be: this start's.
const READ: &str = "/run/elpis-stick/elpis.txt";
const FAILED: &str = "/run/elpis-stick/failed";
/// What was wrong in it, one a line; there once it was taken.
const TAKEN: &str = "/run/elpis-setup/stick";
/// There once the node agent has run here.
pub(super) const NODE: &str = "/var/lib/elpis/node.json";
/// Drivers of sticks: the kernel waits for a second before it asks one for its disks.
const DRIVERS: [&str; 2] = ["/sys/bus/usb/drivers/usb-storage", "/sys/bus/usb/drivers/uas"];
const SLOW: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Looks for a stick and leaves what it says for the unit that gives this machine name and address.
pub(super) fn read() -> Result<()> {
    // Whatever it still waits for, what is there is looked at.
    let settle = || {
        if let Err(error) = run("udevadm", &["settle", "--timeout=10"]) {
            eprintln!("elpis: {error:#}");
        }
    };
    settle();
    let begin = Instant::now();
    while begin.elapsed() < SLOW && sticks().iter().any(|stick| !has_disk(stick, 3)) {
        sleep(LOOK);
    }
    settle();
    let listed = run("lsblk", &["--noheadings", "--raw", "--paths", "--output", "NAME,LABEL,FSTYPE"])?;
    for device in listed.lines().filter_map(|line| line.strip_suffix(" ELPIS vfat")) {
        let disk = File::open(device).with_context(|| format!("cannot open {device}"));
        // A stick may hold anything, and the library ends this process at what it does not expect.
        let failed = |why: &str| {
            let text = format!("the stick in {device}: {why}");
            fs::write(FAILED, text).with_context(|| format!("cannot write {FAILED}"))
        };
        failed("its file system is damaged: make it anew")?;
        let read = disk.and_then(file_of);
        fs::remove_file(FAILED).with_context(|| format!("cannot remove {FAILED}"))?;
        match read {
            Ok(Some(bytes)) => {
                println!("{NAME} is taken from {device}");
                return fs::write(READ, bytes).with_context(|| format!("cannot write {READ}"));
            }
            Ok(None) => println!("{device} has no {NAME}"),
            Err(error) => {
                eprintln!("elpis: {device}: {error:#}");
                failed(&format!("{error:#}"))?;
            }
        }
    }
    Ok(())
}

/// Sticks that the kernel has found, whether their disks are there yet or not.
fn sticks() -> Vec<PathBuf> {
    let drivers = DRIVERS.iter().filter_map(|driver| fs::read_dir(driver).ok());
    let links = drivers.flatten().flatten().map(|entry| entry.path());
    // An interface of a device, as 1-2:1.0.
    links.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(':'))).collect()
}

/// Whether a disk is in the folder, as `host6/target6:0:0/6:0:0:0/block` of a stick.
fn has_disk(folder: &Path, depth: u8) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.any(|entry| entry.file_name() == "block" || (depth > 0 && has_disk(&entry.path(), depth - 1)))
}

/// The file on a FAT file system, one byte longer than allowed at most; `None` = it has none.
fn file_of(mut disk: File) -> Result<Option<Vec<u8>>> {
    disk.rewind()?;
    let system = FileSystem::new(disk, FsOptions::new()).context("its file system cannot be read")?;
    let file = match system.root_dir().open_file(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {NAME}")),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MOST as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {NAME}"))?;
    Ok(Some(bytes))
}

/// What the stick says, and what is wrong with all of it.
pub(super) fn said() -> (Vec<Said>, Vec<String>) {
    let failed = fs::read_to_string(FAILED).ok().into_iter();
    match fs::read(READ) {
        Ok(bytes) => match in_file(NAME, &bytes) {
            Ok(said) => (said, failed.collect()),
            Err(why) => (Vec::new(), failed.chain([why]).collect()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), failed.collect()),
        Err(error) => (Vec::new(), failed.chain([format!("cannot read {READ}: {error}")]).collect()),
    }
}

/// Makes what the stick says this machine's own answers, once a start: what a person types at the screen later holds. What
/// goes wrong is for the screen, and stops nothing.
pub(super) fn take() {
    if Path::new(TAKEN).exists() {
        return;
    }
    let wrong = keep().unwrap_or_else(|error| vec![format!("the stick's answers are not taken: {error:#}")]);
    for text in &wrong {
        eprintln!("elpis: {text}");
    }
    if let Err(error) = fs::write(TAKEN, wrong.join("\n")) {
        eprintln!("elpis: cannot write {TAKEN}: {error}");
    }
}

/// The answer is what was wrong with them.
fn keep() -> Result<Vec<String>> {
    let (said, mut wrong) = said();
    if !said.is_empty() {
        let kept = match fs::read_to_string(ANSWERS) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read {ANSWERS}"))?,
        };
        let (answers, mistakes) = merged(&kept, said, Path::new(NODE).exists());
        wrong.extend(mistakes);
        join::hand_over(Path::new(ANSWERS), answers.options().as_bytes())?;
    }
    Ok(wrong)
}

/// PURE: the answers that are kept, with what a stick says. A node that has been in a cluster, `old`, has name and address
/// there: others know them, and a stick that was made for another machine must not change them.
fn merged(kept: &str, said: Vec<Said>, old: bool) -> (Answers, Vec<String>) {
    let mut answers = Answers::parse(kept).0;
    let (told, _) = Answers::read(&said);
    if told.address.is_some() {
        // Its gateway goes with it.
        answers.address = None;
    }
    let (mut new, mut wrong) = Answers::read(&[on_line(&answers.options()), said].concat());
    if old {
        let (kept, _) = Answers::parse(kept);
        // The stick that it was installed with may have stayed in.
        let moves = told.address.is_some() && told.address != kept.address;
        if moves || (told.join.is_some() && told.join != kept.join) {
            wrong.push(format!(
                "{NAME}: this machine is a node already: of the rest, ntp, logs and plain alone are taken"
            ));
        }
        new = Answers { ntp: new.ntp, logs: new.logs, plain: new.plain, ..kept };
    } else if told.install.is_some_and(|choice| choice.erase) {
        wrong.push(format!("{NAME}: a disk that holds something is erased by a person at the screen alone"));
    }
    (new, wrong)
}

/// The disk that the stick names to install on. It stays in over restarts, so nothing is ever erased for it.
pub(super) fn install() -> Option<Choice> {
    let choice = Answers::read(&said().0).0.install?;
    Some(Choice { erase: false, ..choice })
}

/// What was wrong with it, for the screen.
pub(super) fn mistakes() -> Vec<String> {
    fs::read_to_string(TAKEN).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn stick(name: &str, bytes: &[u8]) -> File {
        let mut disk = tempfile::tempfile().unwrap();
        disk.set_len(2 << 20).unwrap();
        fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
        disk.rewind().unwrap();
        let system = FileSystem::new(disk.try_clone().unwrap(), FsOptions::new()).unwrap();
        system.root_dir().create_file(name).unwrap().write_all(bytes).unwrap();
        drop(system);
        disk
    }

    #[test]
    fn a_file_is_found_and_bounded() {
        assert_eq!(file_of(stick("ELPIS.TXT", b"name = north")).unwrap().unwrap(), b"name = north");
        let long = file_of(stick(NAME, &[b'#'; FILE_MOST + 100])).unwrap().unwrap();
        assert_eq!(long.len(), FILE_MOST + 1);
        assert!(file_of(stick("other.txt", b"")).unwrap().is_none());
    }

    #[test]
    fn a_stick_changes_what_nobody_else_knows() {
        let said = |text: &str| in_file(NAME, text.as_bytes()).unwrap();
        let kept = "elpis.address=10.0.0.1/24 elpis.gateway=10.0.0.254 elpis.ntp=a";
        let file = "name = south\naddress = 10.0.1.9/24\nntp = b\ninstall = vda erase";
        let (new, wrong) = merged(kept, said(file), false);
        assert_eq!(new.options(), "elpis.name=south\nelpis.address=10.0.1.9/24\nelpis.ntp=b\n");
        assert!(wrong.len() == 1 && wrong[0].contains("erased by a person"), "{wrong:?}");
        let (new, wrong) = merged(kept, said(file), true);
        assert_eq!(new.options(), "elpis.address=10.0.0.1/24\nelpis.gateway=10.0.0.254\nelpis.ntp=b\n");
        assert!(wrong.len() == 1 && wrong[0].contains("a node already"), "{wrong:?}");
        let (_, wrong) = merged(kept, said("address = 10.0.0.1/24\ngateway = 10.0.0.254"), true);
        assert!(wrong.is_empty(), "its own stick stayed in: {wrong:?}");
        let (new, wrong) = merged(kept, said("gateway = 10.0.0.253\njoin = a b:1"), false);
        assert_eq!(new.address.and_then(|address| address.gateway).unwrap().to_string(), "10.0.0.253");
        assert!(wrong.len() == 1 && wrong[0].contains("line 2"), "{wrong:?}");
    }

    #[test]
    fn a_stick_without_its_disk_is_waited_for() {
        let stick = tempfile::tempdir().unwrap();
        fs::create_dir_all(stick.path().join("host6/target6:0:0/6:0:0:0")).unwrap();
        assert!(!has_disk(stick.path(), 3));
        fs::create_dir_all(stick.path().join("host6/target6:0:0/6:0:0:0/block/sdb")).unwrap();
        assert!(has_disk(stick.path(), 3));
    }

    #[test]
    fn what_is_no_file_system_is_an_error() {
        let disk = tempfile::tempfile().unwrap();
        assert!(file_of(disk.try_clone().unwrap()).is_err(), "empty");
        let mut noise = disk.try_clone().unwrap();
        let bytes: Vec<u8> = (0..65_536u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        noise.write_all(&bytes).unwrap();
        assert!(file_of(disk).is_err(), "noise");
    }
}
