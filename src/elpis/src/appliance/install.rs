//! Puts this version on a disk: parts, root, boot loaders for BIOS and UEFI, file systems for the state.

use super::{LOOK, STATE, answers, join, status};
use crate::find::Cluster;
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::disk::{
    Choice, Disk, LAYOUT, LSBLK, SECTOR, boot_core, boot_sector, choose, disks, grub_variables,
    medium_boot_part, part_device, sgdisk_arguments,
};
use elpis_appliance::install::{Progress, STEPS};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::sleep;

/// What the initrd left: the medium, mounted, its device, and whether a disk was started from.
const NOTES: &str = "/run/elpis-boot";
const PROGRESS: &str = "/run/elpis-install/progress.json";
/// Where the parts of the new disk are mounted while they are filled.
const WORK: &str = "/run/elpis-install";
const UNIT: &str = "elpis-install@";
const CHUNK: usize = 4 << 20;

/// The machine runs from a disk, not from a medium.
pub(super) fn is_installed() -> bool {
    Path::new(NOTES).join("installed").exists()
}

/// How far an installation is; `None` = there was none since the start.
pub(super) fn progress() -> Option<Progress> {
    serde_json::from_slice(&fs::read(PROGRESS).ok()?).ok()
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
    ensure!(!runs(), "an installation is on already");
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
fn runs() -> bool {
    let asked = Command::new("systemctl").args(["is-active", &format!("{UNIT}*")]).output();
    asked
        .is_ok_and(|said| String::from_utf8_lossy(&said.stdout).lines().any(|line| line.starts_with("activ")))
}

/// Prints how far it is until it is over.
pub(super) async fn follow() -> Result<()> {
    let mut shown = String::new();
    loop {
        sleep(LOOK).await;
        let Some(progress) = progress() else {
            ensure!(runs(), "the installation did not start: its reason is in the journal");
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
        ensure!(progress.runs() && runs(), "{}", progress.line());
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
            let mut progress = progress().unwrap_or_else(|| Progress::new(&choice.disk));
            if progress.runs() {
                progress.fail(&format!("{error:#}"));
                fs::create_dir_all(WORK)?;
                Told { progress }.keep()?;
            }
        }
    }
    loop {
        sleep(Duration::from_secs(3_600)).await;
    }
}

/// Installs, and writes down how far it is.
pub(super) fn write_disk(choice: &Choice) -> Result<()> {
    let mut told = Told { progress: Progress::new(&choice.disk) };
    let done = write(choice, &mut told);
    match &done {
        Ok(()) => told.progress.finish(),
        Err(error) => told.progress.fail(&format!("{error:#}")),
    }
    told.keep()?;
    done
}

fn write(choice: &Choice, told: &mut Told) -> Result<()> {
    ensure!(!is_installed(), "this machine runs from its disk already");
    let disks = list()?;
    let disk = choose(&disks, choice).map_err(anyhow::Error::msg)?.name.clone();
    let medium = Path::new(NOTES).join("medium");
    ensure!(medium.join("live/root.img").is_file(), "the medium is gone: start from it again");

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

    told.step("the root")?;
    let root = part_device(&disk, 3);
    copy(&medium.join("live/root.img"), &root, told)?;
    told.step("the root is read again and compared")?;
    let (hash, offset) = verity(&medium)?;
    run("veritysetup", &["verify", &root, &root, &hash, &format!("--hash-offset={offset}")])
        .context("the disk does not give back what was written: it is bad")?;

    told.step("boot loaders")?;
    bios(&medium, &device, &disk)?;
    boot_files(&medium, &disk)?;

    told.step("file systems for the state")?;
    state(&disk)?;
    Ok(())
}

/// The root's hash and where its tree begins, as the medium says.
fn verity(medium: &Path) -> Result<(String, String)> {
    let path = medium.join("boot/disk/options");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let option =
        |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    option("elpis.roothash=").zip(option("elpis.offset=")).context("the medium names no root")
}

fn copy(from: &Path, to: &str, told: &mut Told) -> Result<()> {
    let mut source = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let all = source.metadata()?.len();
    let mut target =
        fs::OpenOptions::new().write(true).open(to).with_context(|| format!("cannot write {to}"))?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let read = source
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}: is the medium bad?", from.display()))?;
        if read == 0 {
            break;
        }
        target.write_all(&buffer[..read]).with_context(|| format!("cannot write {to}"))?;
        done += read as u64;
        told.percent(done * 100 / all.max(1))?;
    }
    target.sync_all().with_context(|| format!("cannot write {to}"))
}

/// GRUB in the disk's first sector and its own part.
fn bios(medium: &Path, device: &str, disk: &str) -> Result<()> {
    let read = |name: &str| {
        let path = medium.join("boot/disk").join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let start =
        Path::new("/sys/class/block").join(part_device(disk, 1).trim_start_matches("/dev/")).join("start");
    let start = fs::read_to_string(&start).with_context(|| format!("cannot read {}", start.display()))?;
    let core_at: u64 = start.trim().parse().context("where the first part begins")?;
    let mut target = fs::OpenOptions::new().read(true).write(true).open(device)?;
    let mut first = vec![0; 512];
    target.read_exact(&mut first)?;
    let sector =
        boot_sector(&read("boot.img")?, &first, core_at).context("boot.img of the medium is damaged")?;
    let core = boot_core(&read("core.img")?, core_at).context("core.img of the medium is damaged")?;
    target.write_all_at(&core, core_at * SECTOR)?;
    target.seek(SeekFrom::Start(0))?;
    target.write_all(&sector)?;
    target.sync_all().with_context(|| format!("cannot write {device}"))
}

/// The part that firmware and boot loaders read.
fn boot_files(medium: &Path, disk: &str) -> Result<()> {
    let part = part_device(disk, 2);
    run("mkfs.vfat", &["-F", "32", "-n", "ELPIS_BOOT", &part])?;
    let boot = Mounted::new(&part, "boot", &["-t", "vfat", "-o", "umask=0077"])?;
    let source = medium.join("boot/disk");
    let options = fs::read_to_string(source.join("options"))?;
    for folder in ["EFI/BOOT", "EFI/Linux", "loader", "grub", "a", "b"] {
        fs::create_dir_all(boot.at.join(folder))?;
    }
    let put = |from: &Path, to: &str| {
        fs::copy(from, boot.at.join(to)).with_context(|| format!("cannot copy {} to {to}", from.display()))
    };
    put(&source.join("systemd-bootx64.efi"), "EFI/BOOT/BOOTX64.EFI")?;
    fs::write(boot.at.join("loader/loader.conf"), "timeout 0\neditor no\n")?;
    put(&source.join("disk.cfg"), "grub/grub.cfg")?;
    fs::write(boot.at.join("grub/grubenv"), grub_variables(&[("good", "a")]))?;
    put(&medium.join("live/vmlinuz"), "a/vmlinuz")?;
    put(&medium.join("live/initrd.img"), "a/initrd.img")?;
    fs::write(
        boot.at.join("a/start.cfg"),
        format!("linux /a/vmlinuz {} elpis.from=disk\ninitrd /a/initrd.img\nboot\n", options.trim()),
    )?;
    let uefi = uefi_part()?;
    put(
        &uefi.at.join("EFI/BOOT/BOOTX64.EFI"),
        &format!("EFI/Linux/elpis_{}.efi", env!("CARGO_PKG_VERSION")),
    )?;
    uefi.end()?;
    boot.end()
}

/// The medium's part that UEFI starts from.
fn uefi_part() -> Result<Mounted> {
    let device = fs::read_to_string(Path::new(NOTES).join("device")).context("which device the medium is")?;
    let device = device.trim();
    let mut first = vec![0; 512];
    File::open(device)
        .and_then(|mut file| file.read_exact(&mut first))
        .with_context(|| format!("cannot read {device}"))?;
    let (offset, length) =
        medium_boot_part(&first).with_context(|| format!("{device} has no part for UEFI"))?;
    let options = format!("ro,loop,offset={offset},sizelimit={length}");
    Mounted::new(device, "uefi", &["-t", "vfat", "-o", &options])
}

/// File systems for what is kept, with this machine's name and the answers of its start.
fn state(disk: &str) -> Result<()> {
    for number in [5, 6] {
        let label = LAYOUT.iter().find(|part| part.number == number).map_or("", |part| part.label);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", label, "-m", "1", &part_device(disk, number)])?;
    }
    let owner = Path::new(STATE);
    let (user, group) = fs::metadata(owner).map(|meta| {
        use std::os::unix::fs::MetadataExt;
        (meta.uid(), meta.gid())
    })?;
    let own = |path: &Path| {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
    };
    let kept = Mounted::new(&part_device(disk, 5), "state", &["-t", "ext4"])?;
    own(&kept.at)?;
    for folder in ["database", "spool"] {
        // Mount points: what is in them lies on the part for data.
        fs::create_dir(kept.at.join(folder))?;
        own(&kept.at.join(folder))?;
    }
    fs::copy(owner.join("identity.json"), kept.at.join("identity.json")).context("the machine's name")?;
    own(&kept.at.join("identity.json"))?;
    fs::set_permissions(kept.at.join("identity.json"), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let said = answers()?.0.options();
    if !said.is_empty() {
        fs::write(kept.at.join("answers"), said)?;
    }
    kept.end()?;
    let data = Mounted::new(&part_device(disk, 6), "data", &["-t", "ext4"])?;
    for folder in ["database", "spool"] {
        fs::create_dir(data.at.join(folder))?;
        own(&data.at.join(folder))?;
    }
    fs::create_dir(data.at.join("log"))?;
    data.end()
}

/// A file system that is mounted for a while.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(device: &str, name: &str, options: &[&str]) -> Result<Mounted> {
        let at = Path::new(WORK).join(name);
        fs::create_dir_all(&at)?;
        let target = at.display().to_string();
        run("mount", &[options, &[device, &target]].concat())?;
        Ok(Mounted { at })
    }

    /// Everything is on the disk after it.
    fn end(self) -> Result<()> {
        run("umount", &[&self.at.display().to_string()]).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After an error; after `end` there is nothing to do.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

/// Progress, and the file that the screen reads.
struct Told {
    progress: Progress,
}

impl Told {
    fn step(&mut self, what: &str) -> Result<()> {
        self.progress.step(what);
        println!("step {} of {STEPS}: {what}", self.progress.step);
        self.keep()
    }

    fn percent(&mut self, percent: u64) -> Result<()> {
        if self.progress.at(percent) { self.keep() } else { Ok(()) }
    }

    fn keep(&self) -> Result<()> {
        let draft = format!("{PROGRESS}.new");
        fs::write(&draft, serde_json::to_vec(&self.progress)?)
            .and_then(|()| fs::rename(&draft, PROGRESS))
            .with_context(|| format!("cannot write {PROGRESS}"))
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {} failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
