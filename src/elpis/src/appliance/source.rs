//! A medium that a disk is written from: everything taken from it is compared with its signed list.

use super::tools::{Mounted, Told, run};
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use elpis_appliance::disk::medium_boot_part;
use elpis_appliance::medium::{LONGEST, Manifest};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The key that signs the images that this one may be replaced by.
const KEY: &str = "/usr/share/elpis/update.key";
const CHUNK: usize = 4 << 20;

/// A mounted medium.
pub(super) struct Source {
    at: PathBuf,
    /// The device below it.
    device: String,
    pub(super) manifest: Manifest,
}

impl Source {
    /// Its list must be signed.
    pub(super) fn open(at: &Path, device: &str) -> Result<Source> {
        let read = |name: &str| {
            let path = at.join(name);
            let mut bytes = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(LONGEST).read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok::<_, anyhow::Error>(bytes)
        };
        let key = fs::read(KEY).with_context(|| format!("cannot read {KEY}"))?;
        let manifest = Manifest::read(&read("live/manifest")?, &read("live/manifest.sig")?, &key)?;
        Ok(Source { at: at.to_owned(), device: device.to_owned(), manifest })
    }

    /// A small file.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy_from(&self.at.join(name), name, &mut bytes, |_| Ok(()))?;
        Ok(bytes)
    }

    /// To a file or a partition; on the disk when this returns. What did not become whole must not be started.
    pub(super) fn copy(&self, name: &str, to: &Path, told: Option<&mut Told>) -> Result<()> {
        self.write(&self.at.join(name), name, to, told)
    }

    /// The kernel image for UEFI, out of the part that firmware starts from.
    pub(super) fn copy_uefi(&self, to: &Path) -> Result<()> {
        let device = &self.device;
        let mut first = vec![0; 512];
        File::open(device)
            .and_then(|mut file| file.read_exact(&mut first))
            .with_context(|| format!("cannot read {device}"))?;
        let (offset, length) =
            medium_boot_part(&first).with_context(|| format!("{device} has no part for UEFI"))?;
        let options = format!("ro,loop,offset={offset},sizelimit={length}");
        let uefi = Mounted::new(device, "uefi", &["-t", "vfat", "-o", &options])?;
        let name = "EFI/BOOT/BOOTX64.EFI";
        self.write(&uefi.at.join(name), &format!("uefi/{name}"), to, None)?;
        uefi.end()
    }

    /// The root on a partition, read again and compared.
    pub(super) fn write_root(&self, partition: &str, told: &mut Told) -> Result<()> {
        told.step("the root")?;
        self.copy("live/root.img", Path::new(partition), Some(told))?;
        told.step("the root is read again and compared")?;
        let (hash, offset) = self.verity()?;
        run("veritysetup", &["verify", partition, partition, &hash, &format!("--hash-offset={offset}")])
            .context("the disk does not give back what was written: it is bad")?;
        Ok(())
    }

    /// The root's hash, and where its tree begins.
    pub(super) fn verity(&self) -> Result<(String, String)> {
        let text = self.options()?;
        let option =
            |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        option("elpis.roothash=").zip(option("elpis.offset=")).context("the medium names no root")
    }

    /// Options of its kernel.
    pub(super) fn options(&self) -> Result<String> {
        let text = String::from_utf8(self.bytes("boot/disk/options")?).context("the kernel's options")?;
        Ok(text.trim().to_owned())
    }

    /// Kernel, initrd and their options for GRUB, in the folder of a slot; the file that starts them last.
    pub(super) fn write_bios(&self, boot: &Path, letter: &str) -> Result<()> {
        let folder = boot.join(letter);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        self.copy("live/vmlinuz", &folder.join("vmlinuz"), None)?;
        self.copy("live/initrd.img", &folder.join("initrd.img"), None)?;
        let options = self.options()?;
        let text =
            format!("linux /{letter}/vmlinuz {options} elpis.from=disk\ninitrd /{letter}/initrd.img\nboot\n");
        fs::write(folder.join("start.cfg"), text).context("cannot write start.cfg")
    }

    fn write(&self, from: &Path, name: &str, to: &Path, mut told: Option<&mut Told>) -> Result<()> {
        let failed = || format!("cannot write {}", to.display());
        let mut target =
            fs::OpenOptions::new().write(true).create(true).truncate(true).open(to).with_context(failed)?;
        self.copy_from(from, name, &mut target, |percent| match told.as_mut() {
            Some(told) => told.percent(percent),
            None => Ok(()),
        })?;
        target.sync_all().with_context(failed)
    }

    fn copy_from(
        &self,
        from: &Path,
        name: &str,
        to: &mut impl Write,
        mut at: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let wanted = self.manifest.wanted(name)?;
        let mut source = File::open(from)
            .with_context(|| format!("cannot read {}", from.display()))?
            .take(wanted.bytes + 1);
        let (mut buffer, mut digest, mut done) = (vec![0; CHUNK], Digest::new(&SHA256), 0);
        loop {
            let read = source
                .read(&mut buffer)
                .with_context(|| format!("cannot read {}: is the medium bad?", from.display()))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            to.write_all(&buffer[..read]).with_context(|| format!("cannot write what {name} holds"))?;
            done += read as u64;
            at(done * 100 / wanted.bytes.max(1))?;
        }
        let hash: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(
            done == wanted.bytes && hash == wanted.hash,
            "{name} is not what was signed: the medium is bad"
        );
        Ok(())
    }
}

/// The medium that this machine can be updated from: in the drive, on a stick.
pub(super) fn find() -> Result<(Mounted, Source)> {
    let listed = run("lsblk", &["--noheadings", "--raw", "--paths", "--output", "NAME,LABEL,FSTYPE"])?;
    let media = listed.lines().filter_map(|line| line.strip_suffix(" ELPIS iso9660"));
    let mut why = None;
    for device in media {
        let opened = Mounted::new(device, "medium", &["-t", "iso9660", "-o", "ro"])
            .and_then(|mounted| Source::open(&mounted.at, device).map(|source| (mounted, source)));
        match opened {
            Ok(found) => return Ok(found),
            Err(error) => why = Some(error.context(format!("the medium in {device}"))),
        }
    }
    match why {
        Some(why) => Err(why),
        None => {
            bail!("there is no medium with Elpis: put the new image in the drive, or a stick that holds it")
        }
    }
}
