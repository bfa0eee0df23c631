//! Disks and sticks of machines: files, whose parts are read and damaged from outside.

use crate::guest::image;
use std::path::Path;
use std::process::Command;

/// A disk of a machine: it stays when the machine goes.
pub(crate) struct Disk(pub(crate) tempfile::NamedTempFile);

impl Disk {
    pub(crate) fn new() -> Disk {
        let file = tempfile::Builder::new().prefix("elpis-disk").tempfile().unwrap();
        file.as_file().set_len(12 << 30).unwrap();
        Disk(file)
    }

    /// A stick with answers.
    pub(crate) fn stick(answers: &str) -> Disk {
        let file = tempfile::Builder::new().prefix("elpis-stick").tempfile().unwrap();
        let disk = Disk(file);
        let image = disk.0.path().display().to_string();
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&source, answers).unwrap();
        let told = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(["-i", &image]).args(arguments).output();
            assert!(done.as_ref().is_ok_and(|done| done.status.success()), "{program}: {done:?}");
        };
        told("mformat", &["-C", "-f", "1440", "-v", "ELPIS", "::"]);
        told("mcopy", &[&source.path().display().to_string(), "::elpis.txt"]);
        disk
    }

    /// A copy; holes stay holes.
    pub(crate) fn copy(&self) -> Disk {
        Disk::of(self.0.path())
    }

    /// A disk that holds what this file does.
    pub(crate) fn of(file: &Path) -> Disk {
        let copy = Disk::new();
        let done = Command::new("cp").arg("--sparse=always").args([file, copy.0.path()]).status();
        assert!(done.unwrap().success(), "no copy of a disk");
        copy
    }

    /// The image, one bit of every 64th block of its root turned round; the file system's own tables are as they were.
    pub(crate) fn changed_medium() -> Disk {
        let mut bytes = std::fs::read(image("elpis-test.iso")).unwrap();
        let root = (0..bytes.len()).step_by(2048).find(|at| bytes[*at..].starts_with(b"hsqs"));
        let begin = root.expect("a squashfs in the image") + (1 << 20);
        for at in (begin..begin + (40 << 20)).step_by(64 * 4096) {
            bytes[at] ^= 1;
        }
        let file = tempfile::Builder::new().prefix("elpis-changed").tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Disk(file)
    }

    /// Writes over the first megabyte of this slot, 0 or 1.
    pub(crate) fn damage(&self, slot: u64) {
        use std::os::unix::fs::FileExt;
        // Parts begin at whole MiB: 1 of GRUB, 512 of the boot loaders, then the slots.
        let begin = (1 + 1 + 512 + slot * 1_024) << 20;
        self.0.as_file().write_all_at(&[0xaa; 1 << 20], begin).unwrap();
    }

    /// Names of the kernel images for UEFI.
    pub(crate) fn versions(&self) -> String {
        self.boot_part("mdir", &["-b", "::/EFI/Linux"])
    }

    /// Takes a kernel image for UEFI away, so that an older one starts; the answer gives it back.
    pub(crate) fn without(&self, name: &str) -> impl FnOnce() {
        let kept = tempfile::NamedTempFile::new().unwrap();
        let (file, entry) = (kept.path().display().to_string(), format!("::/EFI/Linux/{name}"));
        self.boot_part("mcopy", &["-o", &entry, &file]);
        assert!(std::fs::metadata(&file).unwrap().len() > 1 << 20, "there is no {name}: {}", self.versions());
        self.boot_part("mdel", &[&entry]);
        move || drop(self.boot_part("mcopy", &["-o", &kept.path().display().to_string(), &entry]))
    }

    fn boot_part(&self, program: &str, arguments: &[&str]) -> String {
        let image = format!("{}@@2M", self.0.path().display());
        let done = Command::new(program).args(["-i", &image]).args(arguments).output();
        String::from_utf8_lossy(&done.expect("mtools are installed by make setup").stdout).into_owned()
    }
}
