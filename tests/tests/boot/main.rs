//! The image boots in an emulated machine and works: its screen says so, agents' files come in, checks run.
//!
//! `make iso-test` builds the image that is booted. No KVM is used: a boot takes a minute on two processors.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

mod api;
mod debian;
#[path = "../support/dev.rs"]
mod dev;
mod disk;
mod enrol;
mod guest;
mod logs;
#[path = "../support/debian.rs"]
mod packages;
mod terminal;
mod three;
mod updates;
mod wire;

use api::{Api, CHOSEN};
use disk::Disk;
use guest::{Firmware, Guest};
use logs::LogServer;
use serde_json::json;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One machine at a time: two share the processors and are late.
static MACHINE: Mutex<()> = Mutex::new(());
/// From power-on to work. Five times the bar of 60 s.
const BOOT: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_machine_works_after_its_first_boot() {
    let Some(_machine) = machine() else { return };
    // Where the firmware starts what is signed alone, nobody can type options.
    let logs = LogServer::start();
    let answers = format!(
        "# the first of three\nname = north\ncolour = blue\nlogs = {}, {}\n",
        logs::ADDRESS,
        logs.sha256
    );
    let stick = Disk::stick(&answers);
    let guest = Guest::with_stick(Firmware::Secure { ours: true }, &stick, &logs);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, "UEFI with Secure Boot, from the medium", took);
    let screen = guest.screen();
    assert!(screen.contains("a restart loses it"), "it does not say that it keeps nothing: {screen}");
    assert_eq!(screen.matches("Problem").count(), 1, "{screen}");
    assert!(screen.contains("elpis.txt, line 3: elpis.colour: not known"), "{screen}");
    assert!(screen.contains("north"), "{screen}");
    // The page's own way in, over TLS with the machine's own certificate.
    let api = Api::first(&guest, &guest);
    let print = api.certificate();
    assert!(
        screen.contains(&format!("certificate {} .. {}", &print[..23], &print[72..])),
        "{print}: {screen}"
    );
    assert_eq!(api.get("/api/v1/certificate")["sha256"], print);
    let page = api.curl("/cluster", &[]);
    let why = page
        .split("profile ")
        .find(|text| text.contains(" chosen: "))
        .and_then(|text| text.split('<').next());
    println!("profile {}", why.unwrap_or("not chosen"));
    // An emulated processor is slow, however little it has to do.
    assert_eq!(profile(&guest), "metro", "{page}");
    send(&guest, "0.25");
    api.post("/api/v1/checks", &json!({ "check": "ping 127.0.0.1", "name": "loopback", "interval_s": 5 }));
    guest.until("the agent's value and the check's result", SOON, || {
        api.has("load", "0.25") && api.has("loopback", "1")
    });
    guest.until("the journal at the log server", SOON, || {
        let records = logs.records();
        [" kernel - - - ", " north elpis-node ", " north elpis-data-server "]
            .iter()
            .all(|text| records.contains(text))
    });
    guest.press("l", "");
    // A line of the journal, of whatever it is, or that there is none.
    guest.until("what went wrong lately", SOON, || {
        ["kernel: ", "systemd[", "elpis[", "Nothing went wrong"]
            .iter()
            .any(|text| guest.screen().contains(text))
    });
}

#[test]
fn a_firmware_that_does_not_know_our_key_does_not_start_the_image() {
    let Some(_machine) = machine() else { return };
    let guest = Guest::from_medium(Firmware::Secure { ours: false }, None);
    guest.until_screen("BdsDxe: failed to load Boot0001", SOON);
    guest.until_screen("No bootable option or device was found", SOON);
}

#[test]
fn a_root_that_somebody_changed_does_not_run() {
    let Some(_machine) = machine() else { return };
    let medium = Disk::changed_medium();
    let guest = Guest::from_changed_medium(&medium);
    guest.until_screen("is corrupted", BOOT);
    guest.until_screen("Kernel panic", SOON);
}

/// By keys of its screen; then the power is cut while a file has just been accepted.
#[test]
fn a_machine_is_installed_on_a_disk_and_keeps_all_when_the_power_is_cut() {
    let Some(_machine) = machine() else { return };
    let disk = Disk::new();
    let guest = Guest::from_medium(Firmware::Bios, Some(&disk));
    guest.until_screen("i installs on a disk", BOOT);
    guest.press("i", "vda           12 GB");
    guest.press("vda\r", "installing on vda");
    let begin = Instant::now();
    guest.until_screen("Install   on vda done", BOOT);
    println!("installed in {:.0} s", begin.elapsed().as_secs_f64());
    guest.press("p", "p again does it");
    guest.press("p", "powering off");
    guest.until_off(SOON);

    let logs = LogServer::start();
    let stick = Disk::stick(&format!("logs = {}, {}\n", logs::ADDRESS, logs.sha256));
    let guest = Guest::with_logs(Firmware::Bios, &disk, Some(&stick), &logs);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, "BIOS, from the disk", took);
    let starts = || logs.records().matches("Linux version ").count();
    guest.until("its journal at the log server", SOON, || starts() > 0);
    let screen = guest.screen();
    assert!(!screen.contains("in memory") && !screen.contains("Problem"), "{screen}");
    let api = Api::first(&guest, &guest);
    send(&guest, "0.25");
    api.post("/api/v1/checks", &json!({ "check": "ping 127.0.0.1", "name": "loopback", "interval_s": 5 }));
    guest.until("the agent's value and the check's result", SOON, || {
        api.has("load", "0.25") && api.has("loopback", "1")
    });
    let newest = api.ran("loopback");
    // Accepted in the last moment.
    send(&guest, "0.5");
    drop(guest);

    // What the stick said is kept.
    let before = starts();
    let guest = Guest::with_logs(Firmware::Uefi, &disk, None, &logs);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, "UEFI, from the disk, after a power cut", took);
    guest.until("the journal of this start, too", SOON, || starts() > before);
    assert!(!guest.screen().contains("Problem"), "{}", guest.screen());
    assert!(!guest.screen().contains("admin, password "), "it was changed: {}", guest.screen());
    let api = Api::sign_in(&guest, CHOSEN);
    guest.until("checks go on", SOON * 2, || api.ran("loopback") > newest);
    guest.until("what was accepted before the power was cut", SOON * 2, || api.has("load", "0.5"));
    // Two minutes after power-on.
    guest.until_screen("Audit     14 checks passed", BOOT);
}

/// At any moment, also while it starts; files are sent all the time.
#[test]
#[ignore = "2 minutes of emulation a cut: make test-iso"]
fn the_power_is_cut_again_and_again() {
    let Some(_machine) = machine() else { return };
    let cuts: u32 = std::env::var("ELPIS_POWER_CUTS").map_or(5, |text| text.parse().unwrap());
    let disk = Disk::new();
    Guest::told("elpis.install=auto", &disk).until_off(BOOT);
    let guest = Guest::from_disk(Firmware::Bios, &disk);
    guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    Api::first(&guest, &guest);
    drop(guest);
    let mut accepted = 0;
    for cut in 0..cuts {
        let firmware = if cut % 2 == 0 { Firmware::Uefi } else { Firmware::Bios };
        // Where it falls is told by the run: 1, 4, 7 … while it starts.
        if cut % 3 == 1 {
            let guest = Guest::from_disk(firmware, &disk);
            std::thread::sleep(Duration::from_secs(u64::from(15 + cut * 7 % 30)));
            println!(
                "cut {cut}, while it starts: {}",
                guest.screen().lines().nth(2).unwrap_or_default().trim()
            );
            continue;
        }
        let guest = Guest::from_disk(firmware, &disk);
        let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
        let api = Api::sign_in(&guest, CHOSEN);
        guest.until("what was accepted before the cut", SOON, || api.number("load") >= accepted);
        let begin = Instant::now();
        let until = Duration::from_secs(u64::from(3 + cut * 5 % 17));
        while begin.elapsed() < until {
            send(&guest, &format!("{}", accepted + 1));
            accepted += 1;
        }
        println!("cut {cut}: {} files accepted; {:.0} s from power-on to work", accepted, took.as_secs_f64());
    }
    let guest = Guest::from_disk(Firmware::Bios, &disk);
    guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    let api = Api::sign_in(&guest, CHOSEN);
    guest.until("what was accepted before the last cut", SOON, || api.number("load") >= accepted);
    assert!(accepted > 0, "nothing was accepted: this shows nothing");
}

/// The right to start a machine; `None` where none can be.
fn machine() -> Option<MutexGuard<'static, ()>> {
    if let Ok(why) = std::env::var("ELPIS_NO_BOOT") {
        println!("skipped: {why}");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn said(guest: &Guest, what: &str, took: Duration) {
    println!(
        "{what}: {:.0} s from power-on to work, {:.0} s of processor",
        took.as_secs_f64(),
        guest.cpu_s()
    );
}

/// Sends an agent's file with this load, until it is accepted.
fn send(guest: &Guest, load: &str) {
    let file = guest.folder().join("probe.0001.data");
    std::fs::write(&file, AGENT.replace("LOAD", load)).unwrap();
    let server = format!("127.0.0.1:{}", guest.tentacle);
    guest.until("a file that is accepted", SOON, || {
        let sent = Command::new(dev::program())
            .args(["tentacle-client", "send", "--tls", "--server", &server, &file.display().to_string()])
            .output()
            .unwrap();
        sent.status.success()
    });
}

/// The timing profile that the screen shows.
fn profile(guest: &Guest) -> String {
    let profile = guest.until_word(", profile ", SOON);
    assert!(["lan", "safe", "metro"].contains(&profile.as_str()), "{profile}");
    profile
}

const AGENT: &str = "<?xml version='1.0' encoding='UTF-8'?>\n<agent_data os_name='Linux' interval='60' version='1' \
    agent_name='probe'>\n<module>\n<name><![CDATA[load]]></name>\n<type><![CDATA[generic_data]]></type>\n\
    <data><![CDATA[LOAD]]></data>\n</module>\n</agent_data>\n";
