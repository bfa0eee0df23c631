//! Puts this version on a disk: parts, root, boot loaders for BIOS and UEFI, file systems for the state.

use super::source::Source;
use super::tools::{Mounted, Told, progress, run, told};
use super::{LOOK, STATE, answers, join, status};
use crate::find::Cluster;
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::disk::{
    Choice, Disk, LAYOUT, LSBLK, SECTOR, boot_core, boot_sector, choose, disks, grub_variables, part_device,
    sgdisk_arguments,
};
use elpis_appliance::install::{Progress, Work};
use elpis_appliance::slots::{Slot, entry_name};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::sleep;

/// What the initrd left: the medium, mounted, its device, and whether a disk was started from.
pub(super) const NOTES: &str = "/run/elpis-boot";
const UNIT: &str = "elpis-install@";

/// The machine runs from a disk, not from a medium.
pub(super) fn is_installed() -> bool {
    Path::new(NOTES).join("installed").exists()
}

/// The disks of this machine, without the medium.
pub(super) fn list() -> Result<Vec<Disk>> {
    let listed = run("lsblk", &LSBLK)?;
    let device = fs::read_to_string(Path::new(NOTES).join("device")).unwrap_or_default();
    disks(&listed, device.trim().strip_prefix("/dev/"))
        .context("lsblk lists in another way than is known here")
}

/// A person's order: starts the unit that does it.
pub(super) async fn order(node: &Cluster, choice: &Choice) -> Result<String> {
    ensure!(!is_installed(), "this machine runs from its disk already");
    ensure!(!runs(), "this is being done already");
    if let Some(seen) = status(node).await
        && seen.nodes.len() > 1
    {
        bail!(
            "this node belongs to a cluster of {}, and its state is not taken along: remove it there first, install, \
             then join",
            seen.nodes.len()
        );
    }
    let disks = list()?;
    let disk = choose(&disks, choice).map_err(anyhow::Error::msg)?;
    let erase = if choice.erase { ":erase" } else { "" };
    join::systemctl(&["start", "--no-block", &format!("{UNIT}{}{erase}.service", disk.name)])?;
    Ok(format!("installing on {}", disk.name))
}

/// A unit of ours works on a disk.
pub(super) fn runs() -> bool {
    let units = [&format!("{UNIT}*"), super::update::UNIT, super::previous::UNIT];
    let asked = Command::new("systemctl").arg("is-active").args(units).output();
    asked.is_ok_and(|said| {
        String::from_utf8_lossy(&said.stdout).lines().any(|line| line == "active" || line == "activating")
    })
}

/// Prints how far it is until it is over.
pub(super) async fn follow() -> Result<()> {
    let mut shown = String::new();
    loop {
        sleep(LOOK).await;
        // Looked at first: a unit that ends now has written before how it ended.
        let runs = runs();
        let Some(progress) = progress() else {
            ensure!(runs, "the installation did not start: its reason is in the journal");
            continue;
        };
        let line = progress.line();
        if line != shown {
            println!("{line}");
            shown = line;
        }
        if progress.is_done() {
            return Ok(());
        }
        ensure!(progress.runs() && runs, "{}", progress.line());
    }
}

/// The installation that the machine was told before its start. It powers off afterwards; when that is not possible, it
/// does nothing else: the screen says why.
pub(super) async fn answered(choice: &Choice) -> Result<()> {
    run("udevadm", &["settle", "--timeout=30"])?;
    let done = async {
        println!("{}", order(&Cluster::of_machine(), choice).await?);
        follow().await
    };
    match done.await {
        Ok(()) => join::systemctl(&["poweroff"])?,
        Err(error) => {
            // What the unit itself says is better.
            if progress().is_none_or(|progress| progress.runs()) {
                let failed = told(Progress::new(Work::Install, &choice.disk), |_| Err(error));
                failed.unwrap_or_else(|error| eprintln!("elpis: {error:#}"));
            }
        }
    }
    loop {
        sleep(Duration::from_secs(3_600)).await;
    }
}

/// Installs, and writes down how far it is.
pub(super) fn write_disk(choice: &Choice) -> Result<()> {
    told(Progress::new(Work::Install, &choice.disk), |told| write(choice, told))
}

fn write(choice: &Choice, told: &mut Told) -> Result<()> {
    ensure!(!is_installed(), "this machine runs from its disk already");
    let disks = list()?;
    let disk = choose(&disks, choice).map_err(anyhow::Error::msg)?.name.clone();
    let device = fs::read_to_string(Path::new(NOTES).join("device")).context("which device the medium is")?;
    let source = Source::open(Path::new(device.trim())).context("the medium: start from it again")?;

    told.step(&format!("parts on {disk}"))?;
    let device = format!("/dev/{disk}");
    run("wipefs", &["--all", "--force", &device])?;
    // What an older table says may be damaged: that must not stop us.
    let _ = run("sgdisk", &["--zap-all", &device]);
    let arguments = sgdisk_arguments();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.push(&device);
    run("sgdisk", &arguments)?;
    run("udevadm", &["settle", "--timeout=30"])?;
    for part in LAYOUT {
        ensure!(
            Path::new(&part_device(&disk, part.number)).exists(),
            "the disk does not show part {}",
            part.label
        );
    }
    source.write_root(&part_device(&disk, Slot::A.number()), told)?;
    told.step("boot loaders")?;
    bios(&source, &device, &disk)?;
    // Whoever closes a written disk has udev read its parts anew: for a moment they are not there.
    run("udevadm", &["settle", "--timeout=30"])?;
    boot_files(&source, &disk)?;
    told.step("file systems for the state")?;
    state(&disk)
}

/// GRUB in the disk's first sector and its own part.
fn bios(source: &Source, device: &str, disk: &str) -> Result<()> {
    let start =
        Path::new("/sys/class/block").join(part_device(disk, 1).trim_start_matches("/dev/")).join("start");
    let start = fs::read_to_string(&start).with_context(|| format!("cannot read {}", start.display()))?;
    let core_at: u64 = start.trim().parse().context("where the first part begins")?;
    let target = fs::OpenOptions::new().read(true).write(true).open(device)?;
    let mut first = vec![0; 512];
    target.read_exact_at(&mut first, 0)?;
    let sector = boot_sector(&source.bytes("boot/disk/boot.img")?, &first, core_at)
        .context("boot.img is too short")?;
    let core =
        boot_core(&source.bytes("boot/disk/core.img")?, core_at).context("core.img does not fit its part")?;
    target.write_all_at(&core, core_at * SECTOR)?;
    target.write_all_at(&sector, 0)?;
    target.sync_all().with_context(|| format!("cannot write {device}"))
}

/// The part that firmware and boot loaders read.
fn boot_files(source: &Source, disk: &str) -> Result<()> {
    let part = part_device(disk, 2);
    run("mkfs.vfat", &["-F", "32", "-n", "ELPIS_BOOT", &part])?;
    let boot = Mounted::new(&part, "boot", &["-t", "vfat", "-o", "umask=0077"])?;
    for folder in ["EFI/BOOT", "EFI/Linux", "loader", "grub"] {
        fs::create_dir_all(boot.at.join(folder))?;
    }
    source.copy("boot/disk/systemd-bootx64.efi", &boot.at.join("EFI/BOOT/BOOTX64.EFI"), None)?;
    fs::write(boot.at.join("loader/loader.conf"), "timeout 0\neditor no\n")?;
    source.copy_uefi(&boot.at.join("EFI/Linux").join(entry_name(&source.manifest.version, false)))?;
    source.copy("boot/disk/disk.cfg", &boot.at.join("grub/grub.cfg"), None)?;
    fs::write(boot.at.join("grub/grubenv"), grub_variables(&[("good", Slot::A.letter())]))?;
    source.write_bios(&boot.at, Slot::A.letter())?;
    boot.end()
}

/// File systems for what is kept, with this machine's name and the answers of its start.
fn state(disk: &str) -> Result<()> {
    for number in [5, 6] {
        let label = LAYOUT.iter().find(|part| part.number == number).map_or("", |part| part.label);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", label, "-m", "1", &part_device(disk, number)])?;
    }
    let owner = Path::new(STATE);
    let (user, group) = fs::metadata(owner).map(|meta| (meta.uid(), meta.gid()))?;
    let own = |path: &Path| {
        chown(path, Some(user), Some(group))?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o700))
    };
    let kept = Mounted::new(&part_device(disk, 5), "state", &["-t", "ext4"])?;
    own(&kept.at)?;
    for folder in ["database", "spool", "update"] {
        // Mount points: what is in them lies on the part for data.
        fs::create_dir(kept.at.join(folder))?;
        own(&kept.at.join(folder))?;
    }
    fs::copy(owner.join("identity.json"), kept.at.join("identity.json")).context("the machine's name")?;
    own(&kept.at.join("identity.json"))?;
    fs::set_permissions(kept.at.join("identity.json"), PermissionsExt::from_mode(0o644))?;
    let said = answers()?.0.options();
    if !said.is_empty() {
        fs::write(kept.at.join("answers"), said)?;
    }
    kept.end()?;
    let data = Mounted::new(&part_device(disk, 6), "data", &["-t", "ext4"])?;
    for folder in ["database", "spool", "update"] {
        fs::create_dir(data.at.join(folder))?;
        own(&data.at.join(folder))?;
    }
    fs::create_dir(data.at.join("log"))?;
    data.end()
}
