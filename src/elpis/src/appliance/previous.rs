//! Back to the version in the other slot: it has worked, and is whole.

use super::install::{is_installed, runs};
use super::join;
use super::tools::{Told, run, told};
use super::update::{Boot, running, version};
use anyhow::{Context, Result, ensure};
use elpis_appliance::disk::part_device;
use elpis_appliance::install::{Progress, Work};
use elpis_appliance::slots::{Slot, turn_to_other};
use std::fs;

pub(super) const UNIT: &str = "elpis-previous.service";

/// A person's order: starts the unit that does it.
pub(super) fn order() -> Result<String> {
    ensure!(is_installed(), "this machine runs from its medium: there is no other version");
    ensure!(!runs(), "something is done on the disk: wait for it");
    join::systemctl(&["start", "--no-block", UNIT])?;
    Ok("the other version is looked at".to_owned())
}

/// The next start runs the version in the other slot.
pub(super) fn turn() -> Result<()> {
    let (disk, slot) = running()?;
    told(Progress::new(Work::Previous, &disk), |told| turn_slot(&disk, slot, told))
}

fn turn_slot(disk: &str, slot: Slot, told: &mut Told) -> Result<()> {
    told.step("which version it is")?;
    let boot = Boot::open(disk)?;
    let turn = turn_to_other(&boot.entries()?, &version()?, slot).map_err(anyhow::Error::msg)?;
    told.step(&format!("version {} is compared with its hash", turn.version))?;
    is_whole(&boot, disk, slot.other(), &turn.file)
        .with_context(|| format!("version {} cannot be started", turn.version))?;
    told.step(&format!("version {} for the boot loaders", turn.version))?;
    boot.set_grub(&turn.grub)?;
    boot.carry_out(&turn.acts)?;
    boot.0.end()
}

/// Root, kernels and options of a slot are there and belong together.
fn is_whole(boot: &Boot, disk: &str, slot: Slot, file: &str) -> Result<()> {
    let folder = boot.0.at.join(slot.letter());
    let start = fs::read_to_string(folder.join("start.cfg")).context("its files for BIOS are not there")?;
    let option = |name: &str| start.split_whitespace().find_map(|word| word.strip_prefix(name));
    let named = option("elpis.roothash=").zip(option("elpis.offset="));
    let (hash, offset) = named.context("its files for BIOS name no root")?;
    for name in ["vmlinuz", "initrd.img"] {
        let size = fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
        ensure!(size > 0, "its {name} for BIOS is not there");
    }
    // The kernel image for UEFI holds its options as they are.
    let image = fs::read(boot.0.at.join("EFI/Linux").join(file)).context("its kernel image for UEFI")?;
    let root = format!("elpis.roothash={hash} ");
    ensure!(
        image.windows(root.len()).any(|bytes| bytes == root.as_bytes()),
        "its kernel image for UEFI is of another version than its files for BIOS"
    );
    let partition = part_device(disk, slot.number());
    let offset = format!("--hash-offset={offset}");
    run("veritysetup", &["verify", &partition, &partition, hash, &offset]).context("its root is damaged")?;
    Ok(())
}
