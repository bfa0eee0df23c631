//! An emulated machine that boots the image: watched through its serial screen, reached through forwarded ports of the
//! loopback. It ends with the value.

use super::disk::Disk;
use super::logs::LogServer;
use super::terminal::{shown, tail};
use crate::enrol;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(250);
/// Time for a key: the screen looks at its node once a second, and emulation is slow.
const KEYS: Duration = Duration::from_secs(60);
/// Features that the guest's kernel uses, none that cost emulation dearly.
const CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+aes,+pclmulqdq";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firmware {
    Bios,
    Uefi,
    /// Secure Boot is on. It trusts the key that our image was built with, or only one that is not ours.
    Secure {
        ours: bool,
    },
}

/// A place on the wire that guests share.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Socket of the switch, and of this guest.
    pub(crate) switch: PathBuf,
    pub(crate) own: PathBuf,
    /// Last byte of its hardware address; its address is 10.9.0.N.
    pub(crate) number: u8,
}

pub(crate) struct Guest {
    qemu: Child,
    folder: tempfile::TempDir,
    started: Instant,
    /// Ports of the loopback that lead to the guest's.
    pub(crate) console: u16,
    pub(crate) tentacle: u16,
}

/// The part of a path of `target/iso`.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/iso").join(name)
}

/// An image under test.
pub(crate) fn image(name: &str) -> PathBuf {
    let image = built(name);
    assert!(image.is_file(), "{} is not there: make iso-test and make test-iso build it", image.display());
    image
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A machine that is not started yet.
#[derive(Clone, Copy)]
struct Machine<'a> {
    firmware: Firmware,
    medium: Option<&'a Path>,
    disk: Option<&'a Disk>,
    stick: Option<&'a Disk>,
    /// What the firmware tries first.
    first: First,
    place: Option<&'a Place>,
    logs: Option<&'a LogServer>,
    /// More options of the kernel: it is started without a boot loader.
    options: Option<&'a str>,
    /// Folder with a kernel and an initrd of another system, which find their root by themselves.
    direct: Option<&'a Path>,
    memory_mib: u32,
    processors: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Medium,
    Disk,
}

const MACHINE: Machine<'static> = Machine {
    firmware: Firmware::Bios,
    medium: None,
    disk: None,
    stick: None,
    first: First::Medium,
    place: None,
    logs: None,
    options: None,
    direct: None,
    memory_mib: 2048,
    processors: 2,
};

impl Guest {
    pub(crate) fn from_medium(firmware: Firmware, disk: Option<&Disk>) -> Guest {
        Guest::start(Machine { firmware, medium: Some(&image("elpis-test.iso")), disk, ..MACHINE })
    }

    pub(crate) fn with_stick(firmware: Firmware, stick: &Disk, logs: &LogServer) -> Guest {
        let medium = image("elpis-test.iso");
        let (stick, logs) = (Some(stick), Some(logs));
        Guest::start(Machine { firmware, medium: Some(&medium), stick, logs, ..MACHINE })
    }

    pub(crate) fn from_changed_medium(medium: &Disk) -> Guest {
        Guest::start(Machine { medium: Some(medium.0.path()), ..MACHINE })
    }

    /// From the medium, with options of the kernel.
    pub(crate) fn told(options: &str, disk: &Disk) -> Guest {
        let medium = image("elpis-test.iso");
        Guest::start(Machine { medium: Some(&medium), disk: Some(disk), options: Some(options), ..MACHINE })
    }

    pub(crate) fn from_disk(firmware: Firmware, disk: &Disk) -> Guest {
        Guest::start(Machine { firmware, disk: Some(disk), first: First::Disk, ..MACHINE })
    }

    /// From the disk, with a log server, and perhaps a stick in.
    pub(crate) fn with_logs(
        firmware: Firmware,
        disk: &Disk,
        stick: Option<&Disk>,
        logs: &LogServer,
    ) -> Guest {
        let (disk, logs) = (Some(disk), Some(logs));
        Guest::start(Machine { firmware, disk, stick, logs, first: First::Disk, ..MACHINE })
    }

    /// An installation from the image of an earlier version.
    pub(crate) fn told_before(options: &str, disk: &Disk) -> Option<Guest> {
        let medium = built("elpis-before.iso");
        let machine = Machine { medium: Some(&medium), disk: Some(disk), options: Some(options), ..MACHINE };
        medium.is_file().then(|| Guest::start(machine))
    }

    /// From the disk; the next version is in the drive.
    pub(crate) fn with_next(firmware: Firmware, disk: &Disk) -> Guest {
        let medium = image("elpis-next.iso");
        Guest::start(Machine {
            firmware,
            medium: Some(&medium),
            disk: Some(disk),
            first: First::Disk,
            ..MACHINE
        })
    }

    /// Another system than ours, on this disk.
    pub(crate) fn direct(folder: &Path, disk: &Disk) -> Guest {
        Guest::start(Machine { direct: Some(folder), disk: Some(disk), first: First::Disk, ..MACHINE })
    }

    /// One of several on a wire, with an address of its own there. `more`: further options of the kernel.
    pub(crate) fn on(place: &Place, more: &str) -> Guest {
        let options = format!("elpis.name=guest-{0} elpis.address=10.9.0.{0}/24 {more}", place.number);
        Guest::start(Machine {
            medium: Some(&image("elpis-test.iso")),
            place: Some(place),
            options: Some(&options),
            memory_mib: 1536,
            processors: 1,
            ..MACHINE
        })
    }

    /// One of several on a wire, from the disk that it was installed on.
    pub(crate) fn installed_on(place: &Place, firmware: Firmware, disk: &Disk) -> Guest {
        Guest::start(Machine {
            firmware,
            disk: Some(disk),
            first: First::Disk,
            place: Some(place),
            memory_mib: 1536,
            processors: 1,
            ..MACHINE
        })
    }

    fn start(machine: Machine<'_>) -> Guest {
        let folder = tempfile::Builder::new().prefix("elpis-boot").tempdir().unwrap();
        let (console, tentacle) = (free_port(), free_port());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let secure = matches!(machine.firmware, Firmware::Secure { .. });
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-M",
                if secure { "q35,smm=on" } else { "q35" },
                "-accel",
                "tcg,thread=multi,tb-size=1024",
                "-cpu",
                CPU,
            ])
            .args(["-smp", &machine.processors.to_string(), "-m", &machine.memory_mib.to_string()])
            .args(["-display", "none", "-monitor", "none", "-serial", "chardev:s", "-chardev"])
            .arg(format!("socket,id=s,path={},server=on,wait=off,logfile={}", path("keys"), path("serial")));
        let (medium_at, disk_at) = if machine.first == First::Medium { (1, 2) } else { (2, 1) };
        if let Some(medium) = machine.medium {
            let medium = format!("file={},id=medium,media=cdrom,readonly=on,if=none", medium.display());
            command.args([
                "-drive",
                &medium,
                "-device",
                &format!("ide-cd,drive=medium,bootindex={medium_at}"),
            ]);
        }
        if let Some(Disk(file)) = machine.disk {
            // What the guest flushes is on the file when it is told so.
            let disk = format!("file={},id=disk,format=raw,if=none,cache=writeback", file.path().display());
            command.args([
                "-drive",
                &disk,
                "-device",
                &format!("virtio-blk-pci,drive=disk,bootindex={disk_at}"),
            ]);
        }
        if let Some(Disk(file)) = machine.stick {
            let stick = format!("file={},id=stick,format=raw,if=none,readonly=on", file.path().display());
            command.args(["-drive", &stick, "-device", "qemu-xhci", "-device", "usb-storage,drive=stick"]);
        }
        if let (Some(options), Some(medium)) = (machine.options, machine.medium) {
            let loader = extract(medium, folder.path());
            command
                .args(["-kernel", &path("live/vmlinuz"), "-initrd", &path("live/initrd.img"), "-append"])
                .arg(format!("{loader} {options}"));
        }
        if let Some(folder) = machine.direct {
            command.arg("-kernel").arg(folder.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd.img"));
            command.args(["-append", "console=ttyS0 panic=10"]);
        }
        if let Some(place) = machine.place {
            command
                .arg("-netdev")
                .arg(format!(
                    "dgram,id=w,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    place.own.display(),
                    place.switch.display()
                ))
                .arg("-device")
                .arg(format!("virtio-net-pci,netdev=w,romfile=,mac=52:54:00:09:00:{:02x}", place.number));
        }
        command
            // Nothing of the guest leaves this machine.
            .arg("-netdev")
            .arg(format!(
                "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{console}-:443,hostfwd=tcp:127.0.0.1:{tentacle}-:41121{}",
                machine.logs.map(LogServer::way).unwrap_or_default()
            ))
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        if machine.firmware != Firmware::Bios {
            let ovmf = Path::new("/usr/share/OVMF");
            let (blank, variables) = (ovmf.join("OVMF_VARS_4M.fd"), path("variables"));
            let made = match machine.firmware {
                Firmware::Secure { ours: true } => {
                    let certificate =
                        std::fs::read(built("secure-boot.cer")).expect("make iso-test makes it");
                    enrol::variables(&blank, &certificate, Path::new(&variables));
                    Ok(0)
                }
                // Some key that everybody knows.
                Firmware::Secure { ours: false } => {
                    std::fs::copy(ovmf.join("OVMF_VARS_4M.snakeoil.fd"), &variables)
                }
                _ => std::fs::copy(blank, &variables),
            };
            made.expect("ovmf is installed by make setup");
            let code = if secure { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" };
            let code = format!("if=pflash,format=raw,unit=0,readonly=on,file={}", ovmf.join(code).display());
            command.args(["-drive", &code, "-drive"]);
            command.arg(format!("if=pflash,format=raw,unit=1,file={variables}"));
            if secure {
                // Variables are written by the firmware alone.
                command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
                command.args(["-global", "ICH9-LPC.disable_s3=1"]);
            }
        }
        let errors = std::fs::File::create(path("errors")).unwrap();
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let qemu = qemu.expect("qemu-system-x86 is installed by make setup");
        Guest { qemu, folder, started: Instant::now(), console, tentacle }
    }

    /// Waits until the machine has powered itself off.
    pub(crate) fn until_off(mut self, limit: Duration) {
        let begin = Instant::now();
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < limit, "still on; the screen's end:\n{}", tail(&self.screen(), 60));
            std::thread::sleep(LOOK);
        }
    }

    /// Types on the serial port, and waits until the screen shows what comes of it.
    pub(crate) fn press(&self, keys: &str, shows: &str) {
        let mut port = UnixStream::connect(self.folder().join("keys")).unwrap();
        // Whoever is connected must read, or the guest's output stands still; who goes at once takes the keys along.
        let mut output = port.try_clone().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        port.write_all(keys.as_bytes()).unwrap();
        self.until(&format!("{shows:?} after {keys:?}"), KEYS, || self.screen().contains(shows));
        port.shutdown(std::net::Shutdown::Both).unwrap();
        let _ = reader.join();
    }

    /// Address and words for a newcomer, other ones than `before`.
    pub(crate) fn let_in(&self, before: &str) -> String {
        let line = || {
            let screen = self.screen();
            let after = screen.split("press j and type:\n").nth(1).unwrap_or_default();
            after.lines().next().unwrap_or_default().trim().to_owned()
        };
        self.press("a", "press j and type:");
        // What is seen once counts: the screen may be drawn anew in the next moment.
        let mut seen = String::new();
        self.until("new words", KEYS, || {
            seen = line();
            seen.split_whitespace().count() == 7 && seen != before
        });
        seen
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a terminal on the serial port shows now.
    pub(crate) fn screen(&self) -> String {
        let bytes = std::fs::read(self.folder().join("serial")).unwrap_or_default();
        shown(&String::from_utf8_lossy(&bytes))
    }

    /// Waits for a text on the screen; returns the time since power-on.
    pub(crate) fn until_screen(&self, text: &str, limit: Duration) -> Duration {
        self.until(&format!("{text:?} on the screen"), limit, || self.screen().contains(text));
        self.started.elapsed()
    }

    /// The word that follows a text on the screen.
    pub(crate) fn until_word(&self, before: &str, limit: Duration) -> String {
        self.until(&format!("{before:?} on the screen"), limit, || self.screen().contains(before));
        let screen = self.screen();
        let after = screen.split(before).nth(1).unwrap_or_default();
        after.split_whitespace().next().unwrap_or_default().to_owned()
    }

    pub(crate) fn until(&self, what: &str, limit: Duration, mut good: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !good() {
            assert!(
                begin.elapsed() < limit,
                "not within {} s: {what}; {}; the screen's end:\n{}",
                limit.as_secs(),
                std::fs::read_to_string(self.folder().join("errors")).unwrap_or_default(),
                tail(&self.screen(), 60)
            );
            std::thread::sleep(LOOK);
        }
    }

    /// What the console shows of itself, PEM.
    pub(crate) fn certificate(&self) -> String {
        let address = format!("127.0.0.1:{}", self.console);
        let shown =
            Command::new("openssl").args(["s_client", "-connect", &address]).stdin(Stdio::null()).output();
        let text = String::from_utf8_lossy(&shown.expect("openssl").stdout).into_owned();
        let begin = text.find("-----BEGIN CERTIFICATE").unwrap_or_else(|| panic!("no certificate: {text}"));
        text[begin..].split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
    }

    /// Processor time of the emulation so far.
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.qemu.id())).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or(Vec::new(), |x| x.1.split_whitespace().collect());
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Kernel and initrd of the image, as a boot loader would take them; returns the options that it would give.
fn extract(medium: &Path, to: &Path) -> String {
    std::fs::create_dir(to.join("live")).unwrap();
    let mut command = Command::new("xorriso");
    command.args(["-osirrox", "on", "-indev"]).arg(medium);
    for name in ["live/vmlinuz", "live/initrd.img", "boot/grub/grub.cfg"] {
        let local = to.join("live").join(Path::new(name).file_name().unwrap());
        command.args(["-extract", name]).arg(local);
    }
    let done = command.output().expect("xorriso is installed by make setup");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let settings = std::fs::read_to_string(to.join("live/grub.cfg")).unwrap();
    let line = settings.lines().find_map(|line| line.strip_prefix("linux /live/vmlinuz "));
    line.expect("the boot loader's options").to_owned()
}
