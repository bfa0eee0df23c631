//! A newer version on the slot that does not run, and the verdict on the version that does.

use super::install::{NOTES, is_installed, runs};
use super::source::{self, Source};
use super::tools::{Mounted, Told, told};
use super::{LOOK, health, join};
use anyhow::{Context, Result, ensure};
use elpis_appliance::disk::{grub_variables, part_device};
use elpis_appliance::install::{Progress, Work};
use elpis_appliance::slots::{Act, Slot, entry_name, grub_of, on_trial, read_grub, works};
use elpis_cluster::update::is_newer;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

pub(super) const UNIT: &str = "elpis-update.service";
/// What this image calls itself.
const VERSION: &str = "/usr/share/elpis/version";
/// A version that did not work.
const FELL_BACK: &str = "/run/elpis-appliance/fell-back";
/// The version that runs, once it has shown that it works.
const KEPT: &str = "/run/elpis-appliance/kept";
/// Where the node agent keeps an image.
pub(super) const IMAGE: &str = "/var/lib/elpis/update/image.iso";
/// So long a new version has to work: joining and catching up included.
const TRIAL: Duration = Duration::from_secs(900);

/// A person's order: starts the unit that does it.
pub(super) fn order() -> Result<String> {
    ensure!(is_installed(), "this machine runs from its medium: restart it from the new one");
    ensure!(!runs(), "this is being done already");
    join::systemctl(&["start", "--no-block", UNIT])?;
    Ok("the medium is looked at".to_owned())
}

/// What the screen says of the last start.
pub(super) fn fell_back() -> Option<String> {
    let (failed, runs) = (failed_version()?, version().unwrap_or_default());
    Some(format!("version {failed} did not start; {runs} runs again"))
}

/// The version that did not work before this start.
pub(super) fn failed_version() -> Option<String> {
    fs::read_to_string(FELL_BACK).ok()
}

/// Whether this version has shown that it works.
pub(super) fn is_kept(version: &str) -> bool {
    fs::read_to_string(KEPT).is_ok_and(|kept| kept == version)
}

pub(super) fn version() -> Result<String> {
    Ok(fs::read_to_string(VERSION).with_context(|| format!("cannot read {VERSION}"))?.trim().to_owned())
}

/// Disk and slot that run.
pub(super) fn running() -> Result<(String, Slot)> {
    let path = Path::new(NOTES).join("installed");
    let device = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let device = device.trim();
    let slot = Slot::of_device(device).with_context(|| format!("{device} is no slot"))?;
    let disk = device.trim_start_matches("/dev/").trim_end_matches(['3', '4']);
    // nvme0n1p3: what is left of the name before the number's p.
    let disk =
        disk.strip_suffix('p').filter(|rest| rest.ends_with(|c: char| c.is_ascii_digit())).unwrap_or(disk);
    Ok((disk.to_owned(), slot))
}

/// Writes the version of the medium in the drive.
pub(super) fn write() -> Result<()> {
    let (disk, slot) = running()?;
    told(Progress::new(Work::Update, &disk), |told| {
        told.step("the medium")?;
        write_slot(&disk, slot.other(), &source::find()?, told)
    })
}

/// Writes the version of an image file, by order of the node agent.
pub(super) fn write_image(image: &Path, order: i64) -> Result<()> {
    let (disk, slot) = running()?;
    let mut progress = Progress::new(Work::Update, &disk);
    progress.order = Some(order);
    told(progress, |told| {
        told.step("the image")?;
        write_slot(&disk, slot.other(), &Source::open(image)?, told)
    })
}

fn write_slot(disk: &str, slot: Slot, source: &Source, told: &mut Told) -> Result<()> {
    let (new, old) = (source.manifest.version.clone(), version()?);
    ensure!(
        is_newer(&new, &old),
        "the image has version {new}, this machine runs {old}: only a newer one is taken"
    );
    let boot = Boot::open(disk)?;
    let (kept, entries) = (entry_name(&old, false), boot.entries()?);
    ensure!(
        entries.contains(&kept),
        "version {old} has not shown yet that it works, and is needed when {new} does not: try again when this node works"
    );
    // Until all of it is there nothing may start what is half written.
    boot.set_grub(&grub_of(slot.other(), None))?;
    for name in entries.iter().filter(|name| **name != kept) {
        boot.remove(name)?;
    }
    source.write_root(&part_device(disk, slot.number()), told)?;
    told.step(&format!("version {new} for the boot loaders"))?;
    source.write_bios(&boot.0.at, slot.letter())?;
    let draft = boot.0.at.join("EFI/Linux/new");
    source.copy_uefi(&draft)?;
    fs::rename(&draft, boot.0.at.join("EFI/Linux").join(entry_name(&new, true)))?;
    boot.set_grub(&grub_of(slot.other(), Some(slot)))?;
    boot.0.end()?;
    // Of an earlier try: what comes of this one is not known yet.
    let _ = fs::remove_file(FELL_BACK);
    told.progress.to = Some(new);
    Ok(())
}

/// After a start: a new version that works is kept; one that does not is left by starting again.
pub(super) async fn verdict() -> Result<()> {
    if !is_installed() {
        return Ok(());
    }
    let (disk, slot) = running()?;
    let version = version()?;
    let trial = {
        let boot = Boot::open(&disk)?;
        let trial = on_trial(&boot.entries()?, &boot.grub()?, &version, slot);
        boot.0.end()?;
        trial
    };
    let begin = Instant::now();
    while let Err(error) = health().await {
        if trial && begin.elapsed() > TRIAL {
            eprintln!("elpis: version {version} does not work: {error:#}; starting again");
            return join::systemctl(&["reboot"]);
        }
        sleep(LOOK * 4).await;
    }
    let boot = Boot::open(&disk)?;
    let verdict = works(&boot.entries()?, &boot.grub()?, &version, slot);
    boot.carry_out(&verdict.acts)?;
    if let Some(variables) = &verdict.grub {
        boot.set_grub(variables)?;
    }
    boot.0.end()?;
    if trial {
        println!("version {version} works: it is kept");
    }
    if let Some(failed) = verdict.fell_back {
        eprintln!("elpis: version {failed} did not start; {version} runs again");
        fs::write(FELL_BACK, failed).with_context(|| format!("cannot write {FELL_BACK}"))?;
    }
    fs::write(KEPT, version).with_context(|| format!("cannot write {KEPT}"))
}

/// The part that boot loaders read.
pub(super) struct Boot(pub(super) Mounted);

impl Boot {
    pub(super) fn open(disk: &str) -> Result<Boot> {
        Ok(Boot(Mounted::new(&part_device(disk, 2), "boot", &["-t", "vfat", "-o", "umask=0077"])?))
    }

    pub(super) fn entries(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.0.at.join("EFI/Linux")).context("the boot part has no EFI/Linux")? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let folder = self.0.at.join("EFI/Linux");
        fs::rename(folder.join(from), folder.join(to)).with_context(|| format!("cannot rename {from}"))?;
        Ok(File::open(folder)?.sync_all()?)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let folder = self.0.at.join("EFI/Linux");
        fs::remove_file(folder.join(name)).with_context(|| format!("cannot remove {name}"))?;
        Ok(File::open(folder)?.sync_all()?)
    }

    fn grub(&self) -> Result<BTreeMap<String, String>> {
        let text = fs::read(self.0.at.join("grub/grubenv")).context("cannot read GRUB's variables")?;
        Ok(read_grub(&String::from_utf8_lossy(&text)))
    }

    pub(super) fn carry_out(&self, acts: &[Act]) -> Result<()> {
        acts.iter().try_for_each(|act| match act {
            Act::Rename { from, to } => self.rename(from, to),
            Act::Remove(name) => self.remove(name),
        })
    }

    /// In place: GRUB itself writes this file where it lies.
    pub(super) fn set_grub(&self, pairs: &BTreeMap<String, String>) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(self.0.at.join("grub/grubenv"));
        let file = file.context("cannot write GRUB's variables")?;
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        file.write_all_at(&grub_variables(&pairs), 0)?;
        Ok(file.sync_all()?)
    }
}
