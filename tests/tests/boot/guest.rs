//! An emulated machine that boots the image: watched through its serial screen, reached through forwarded ports of the
//! loopback. It ends with the value.

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
    /// Its place on the wire; 0 = none.
    pub(crate) number: u8,
}

/// The image under test.
fn image() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/iso/elpis-test.iso");
    let image = std::env::var_os("ELPIS_ISO").map_or(default, PathBuf::from);
    assert!(image.is_file(), "{} is not there: make iso-test builds it", image.display());
    image
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A disk of a machine: it stays when the machine goes.
pub(crate) struct Disk(tempfile::NamedTempFile);

impl Disk {
    pub(crate) fn new() -> Disk {
        let file = tempfile::Builder::new().prefix("elpis-disk").tempfile().unwrap();
        file.as_file().set_len(12 << 30).unwrap();
        Disk(file)
    }
}

/// A machine that is not started yet.
#[derive(Clone, Copy)]
struct Machine<'a> {
    firmware: Firmware,
    medium: bool,
    disk: Option<&'a Disk>,
    place: Option<&'a Place>,
    memory_mib: u32,
    processors: u32,
}

impl Guest {
    pub(crate) fn boot(firmware: Firmware) -> Guest {
        Guest::with(firmware, true, None)
    }

    pub(crate) fn with(firmware: Firmware, medium: bool, disk: Option<&Disk>) -> Guest {
        Guest::start(Machine { firmware, medium, disk, place: None, memory_mib: 2048, processors: 2 })
    }

    /// One of several on a wire, with an address of its own there.
    pub(crate) fn on(place: &Place) -> Guest {
        Guest::start(Machine {
            firmware: Firmware::Bios,
            medium: true,
            disk: None,
            place: Some(place),
            memory_mib: 1536,
            processors: 1,
        })
    }

    fn start(machine: Machine<'_>) -> Guest {
        let folder = tempfile::Builder::new().prefix("elpis-boot").tempdir().unwrap();
        let (console, tentacle) = (free_port(), free_port());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", CPU])
            .args(["-smp", &machine.processors.to_string(), "-m", &machine.memory_mib.to_string()])
            .args(["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "chardev:s", "-chardev"])
            .arg(format!("socket,id=s,path={},server=on,wait=off,logfile={}", path("keys"), path("serial")));
        if machine.medium {
            let medium = format!("file={},media=cdrom,readonly=on,if=ide", image().display());
            command.arg("-drive").arg(medium);
        }
        if let Some(Disk(file)) = machine.disk {
            // What the guest flushes is on the file when it is told so.
            let disk = format!("file={},format=raw,if=virtio,cache=writeback", file.path().display());
            command.arg("-drive").arg(disk);
        }
        if let Some(place) = machine.place {
            let loader = extract(folder.path());
            let options = format!("elpis.name=guest-{0} elpis.address=10.9.0.{0}/24", place.number);
            command
                .arg("-netdev")
                .arg(format!(
                    "dgram,id=w,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    place.own.display(),
                    place.switch.display()
                ))
                .arg("-device")
                .arg(format!("virtio-net-pci,netdev=w,romfile=,mac=52:54:00:09:00:{:02x}", place.number))
                .args(["-kernel", &path("live/vmlinuz"), "-initrd", &path("live/initrd.img"), "-append"])
                .arg(format!("{loader} {options}"));
        }
        command
            // Nothing of the guest leaves this machine.
            .arg("-netdev")
            .arg(format!(
                "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{console}-:443,hostfwd=tcp:127.0.0.1:{tentacle}-:41121"
            ))
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        if machine.firmware == Firmware::Uefi {
            let variables = path("variables");
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)
                .expect("ovmf is installed by make setup");
            command
                .args([
                    "-drive",
                    "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                ])
                .arg("-drive")
                .arg(format!("if=pflash,format=raw,unit=1,file={variables}"));
        }
        let errors = std::fs::File::create(path("errors")).unwrap();
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let qemu = qemu.expect("qemu-system-x86 is installed by make setup");
        let number = machine.place.map_or(0, |place| place.number);
        Guest { qemu, folder, started: Instant::now(), console, tentacle, number }
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
        self.until("new words", KEYS, || line().split_whitespace().count() == 7 && line() != before);
        line()
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

    pub(crate) fn until(&self, what: &str, limit: Duration, good: impl Fn() -> bool) {
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
fn extract(to: &Path) -> String {
    std::fs::create_dir(to.join("live")).unwrap();
    let mut command = Command::new("xorriso");
    command.args(["-osirrox", "on", "-indev"]).arg(image());
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

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// PURE: what a terminal of 80 by 24 shows after these bytes: text, line ends, and the sequences that move and clear.
fn shown(text: &str) -> String {
    const ROWS: usize = 24;
    const COLUMNS: usize = 80;
    let mut rows = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() != Some('[') {
                    continue;
                }
                let mut numbers = String::new();
                let Some(last) = rest.by_ref().find(|c| {
                    numbers.push(*c);
                    c.is_ascii_alphabetic()
                }) else {
                    break;
                };
                let number = |at: usize| {
                    let part = numbers.trim_end_matches(char::is_alphabetic).split(';').nth(at);
                    part.and_then(|part| part.parse::<usize>().ok()).unwrap_or(1)
                };
                match last {
                    'H' => (row, column) = (number(0).clamp(1, ROWS) - 1, number(1).clamp(1, COLUMNS) - 1),
                    'J' => rows.iter_mut().for_each(|row| row.fill(' ')),
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' if row + 1 < ROWS => row += 1,
            '\n' => {
                rows.remove(0);
                rows.push(vec![' '; COLUMNS]);
            }
            c if !c.is_control() => {
                rows[row][column] = c;
                column = (column + 1).min(COLUMNS - 1);
            }
            _ => {}
        }
    }
    let lines: Vec<String> =
        rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn a_terminal_shows_what_was_drawn_last() {
    let text = "loading\r\n\u{1b}[2J\u{1b}[1;2HElpis\u{1b}[3;3H\u{1b}[1;32mStarting\u{1b}[0m\u{1b}[3;3HWorking \u{1b}[3;11Hwell";
    assert_eq!(shown(text), " Elpis\n\n  Working well");
}
