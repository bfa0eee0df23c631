//! An image that a disk is written from, on a medium or as a file: everything taken from it is compared with its signed
//! list, and nothing is mounted before.

use super::tools::{Mounted, Told, WORK, run};
use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use elpis_appliance::disk::medium_boot_part;
use elpis_appliance::iso9660::{Extent, find as find_file};
use elpis_appliance::medium::{LONGEST, Manifest};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The key that signs the images that this one may be replaced by.
const KEY: &str = "/usr/share/elpis/update.key";
const CHUNK: usize = 4 << 20;
/// The part for UEFI, by its name in the list.
const UEFI: &str = "uefi.img";
/// The kernel image in it.
const UEFI_FILE: &str = "EFI/BOOT/BOOTX64.EFI";

/// An image whose list is signed.
pub(super) struct Source {
    /// A device or a file.
    at: PathBuf,
    pub(super) manifest: Manifest,
}

impl Source {
    /// Its list must be signed.
    pub(super) fn open(at: &Path) -> Result<Source> {
        let mut image = File::open(at).with_context(|| format!("cannot read {}", at.display()))?;
        let mut read = |name: &str| {
            let extent = find_file(&mut image, name)?;
            let mut bytes = Vec::new();
            image.seek(SeekFrom::Start(extent.at))?;
            (&mut image).take(extent.bytes.min(LONGEST)).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        };
        let key = fs::read(KEY).with_context(|| format!("cannot read {KEY}"))?;
        let list = read("live/manifest").context("it is no image of Elpis")?;
        let signature = read("live/manifest.sig").context("it is no image of Elpis")?;
        Ok(Source { at: at.to_owned(), manifest: Manifest::read(&list, &signature, &key)? })
    }

    /// Compares every file that is named with the list, as it would be taken.
    pub(super) fn check(&self) -> Result<()> {
        let inside = |name: &str| !name.starts_with("uefi/");
        for (name, _) in self.manifest.files().filter(|(name, _)| inside(name)) {
            self.copy_from(name, &mut std::io::sink(), |_| Ok(()))?;
        }
        Ok(())
    }

    /// A small file.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.copy_from(name, &mut bytes, |_| Ok(()))?;
        Ok(bytes)
    }

    /// To a file or a partition; on the disk when this returns. What did not become whole must not be started.
    pub(super) fn copy(&self, name: &str, to: &Path, mut told: Option<&mut Told>) -> Result<()> {
        let mut target = target(to)?;
        self.copy_from(name, &mut target, |percent| match told.as_mut() {
            Some(told) => told.percent(percent),
            None => Ok(()),
        })?;
        target.sync_all().with_context(|| format!("cannot write {}", to.display()))
    }

    /// The kernel image for UEFI, out of the part that firmware starts from.
    pub(super) fn copy_uefi(&self, to: &Path) -> Result<()> {
        let part = Path::new(WORK).join(UEFI);
        let copied = self.copy(UEFI, &part, None).and_then(|()| {
            let uefi = Mounted::new(&part.display().to_string(), "uefi", &["-t", "vfat", "-o", "ro,loop"])?;
            let from =
                File::open(uefi.at.join(UEFI_FILE)).with_context(|| format!("{UEFI} has no {UEFI_FILE}"))?;
            let mut written = target(to)?;
            self.compare(&format!("uefi/{UEFI_FILE}"), from, &mut written, |_| Ok(()))?;
            written.sync_all().with_context(|| format!("cannot write {}", to.display()))?;
            uefi.end()
        });
        let _ = fs::remove_file(&part);
        copied
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
        option("elpis.roothash=").zip(option("elpis.offset=")).context("the image names no root")
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

    fn copy_from(&self, name: &str, to: &mut impl Write, at: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut image = File::open(&self.at).with_context(|| format!("cannot read {}", self.at.display()))?;
        let extent = if name == UEFI {
            let mut first = vec![0; 512];
            image.read_exact(&mut first).with_context(|| format!("cannot read {}", self.at.display()))?;
            let (at, bytes) = medium_boot_part(&first).context("the image has no part for UEFI")?;
            // Longer by what fills its last blocks.
            Extent { at, bytes: bytes.min(self.manifest.wanted(UEFI)?.bytes) }
        } else {
            find_file(&mut image, name).with_context(|| format!("the image's {name}"))?
        };
        image.seek(SeekFrom::Start(extent.at))?;
        self.compare(name, image.take(extent.bytes), to, at)
    }

    /// Copies what the list names; it must be what was signed.
    fn compare(
        &self,
        name: &str,
        from: impl Read,
        to: &mut impl Write,
        mut at: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let wanted = self.manifest.wanted(name)?;
        let mut source = from.take(wanted.bytes + 1);
        let (mut buffer, mut digest, mut done) = (vec![0; CHUNK], Digest::new(&SHA256), 0);
        loop {
            let read = source
                .read(&mut buffer)
                .with_context(|| format!("cannot read {name}: is the medium bad?"))?;
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
            "{name} is not what was signed: the image is damaged"
        );
        Ok(())
    }
}

fn target(to: &Path) -> Result<File> {
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).open(to);
    opened.with_context(|| format!("cannot write {}", to.display()))
}

/// The medium that this machine can be updated from: in the drive, on a stick.
pub(super) fn find() -> Result<Source> {
    let listed = run("lsblk", &["--noheadings", "--raw", "--paths", "--output", "NAME,LABEL,FSTYPE"])?;
    let media = listed.lines().filter_map(|line| line.strip_suffix(" ELPIS iso9660"));
    let mut why = None;
    for device in media {
        match Source::open(Path::new(device)) {
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
