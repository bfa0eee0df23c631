//! The image boots in an emulated machine and works: its screen says so, agents' files come in, checks run.
//!
//! `make iso-test` builds the image that is booted. No KVM is used: a boot takes a minute on two processors.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

mod api;
mod debian;
#[path = "../support/dev.rs"]
mod dev;
mod enrol;
mod guest;
mod logs;
#[path = "../support/debian.rs"]
mod packages;
mod wire;

use api::{Api, CHOSEN};
use guest::{Disk, Firmware, Guest};
use logs::LogServer;
use serde_json::json;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wire::Wire;

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

    let guest = Guest::from_disk(Firmware::Bios, &disk);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, "BIOS, from the disk", took);
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

    let guest = Guest::from_disk(Firmware::Uefi, &disk);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, "UEFI, from the disk, after a power cut", took);
    assert!(!guest.screen().contains("admin, password "), "it was changed: {}", guest.screen());
    let api = Api::sign_in(&guest, CHOSEN);
    guest.until("checks go on", SOON * 2, || api.ran("loopback") > newest);
    guest.until("what was accepted before the power was cut", SOON * 2, || api.has("load", "0.5"));
    // Two minutes after power-on.
    guest.until_screen("Audit     14 checks passed", BOOT);
}

#[test]
#[ignore = "8 minutes of emulation: make test-iso"]
fn an_update_is_taken_and_a_broken_one_is_left_by_uefi() {
    is_updated(Firmware::Uefi);
}

#[test]
#[ignore = "8 minutes of emulation: make test-iso"]
fn an_update_is_taken_and_a_broken_one_is_left_by_bios() {
    is_updated(Firmware::Bios);
}

fn is_updated(firmware: Firmware) {
    let Some(_machine) = machine() else { return };
    let disk = Disk::new();
    let begin = Instant::now();
    Guest::told("elpis.name=north elpis.install=auto", &disk).until_off(BOOT);
    println!("installed without hands in {:.0} s from power-on", begin.elapsed().as_secs_f64());

    let guest = Guest::with_next(firmware, &disk);
    guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    Api::first(&guest, &guest);
    let old = guest.until_word("Elpis ", SOON);
    send(&guest, "0.25");
    guest.press("u", "u again does it");
    guest.press("u", "the medium is looked at");
    let begin = Instant::now();
    guest.until_screen("Update    on vda done", BOOT);
    println!("{firmware:?}: update written in {:.0} s", begin.elapsed().as_secs_f64());
    guest.press("p", "p again does it");
    guest.press("p", "powering off");
    guest.until_off(SOON);
    // The same disk with a new version that cannot run.
    let broken = disk.copy();
    broken.damage(1);

    let guest = Guest::from_disk(firmware, &disk);
    guest.until_screen(&format!("Elpis {old}.1"), BOOT);
    let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&guest, &format!("{firmware:?}, the new version"), took);
    let api = Api::sign_in(&guest, CHOSEN);
    assert!(api.has("load", "0.25"), "the old version's values");
    let kept = format!("elpis_{old}.1.efi");
    guest.until("it is kept", SOON, || disk.versions().contains(&kept));
    goes_back(guest, firmware, &disk, &old);

    let guest = Guest::from_disk(firmware, &broken);
    let took = guest.until_screen(&format!("version {old}.1 did not start; {old} runs again"), BOOT * 2);
    said(&guest, &format!("{firmware:?}, three starts of a broken version and the old one"), took);
    guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    let api = Api::sign_in(&guest, CHOSEN);
    assert!(api.has("load", "0.25"), "the old version's values");
    guest.until("it is not tried again", SOON, || !broken.versions().contains(&format!("{old}.1")));
    guest.press("v", "v again does it");
    guest.press("v", "there is no other version on this disk");
}

/// The version of before is started by its screen's order and stays, with what was stored meanwhile; so does the newer one
/// afterwards. What is damaged is refused.
fn goes_back(newer: Guest, firmware: Firmware, disk: &Disk, old: &str) {
    let order = |guest: Guest| {
        guest.press("v", "v again does it");
        guest.press("v", "the other version is looked at");
        guest.until_screen("Previous  on vda done", BOOT);
        guest.press("p", "p again does it");
        guest.press("p", "powering off");
        guest.until_off(SOON);
    };
    let runs = |guest: &Guest, version: &str| {
        let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
        assert!(!guest.screen().contains("Problem"), "{}", guest.screen());
        assert_eq!(guest.until_word("Elpis ", SOON), version);
        said(guest, &format!("{firmware:?}, version {version}"), took);
    };
    send(&newer, "0.5");
    let api = Api::sign_in(&newer, CHOSEN);
    newer.until("a value of the newer version", SOON, || api.has("load", "0.5"));
    order(newer);
    let files = |first: &str, second: &str| {
        let there = disk.versions();
        there.contains(first) && there.contains(second)
    };
    let (kept, behind) = (format!("elpis_{old}.efi"), format!("elpis_{old}.1+0.efi"));
    let guest = Guest::from_disk(firmware, disk);
    runs(&guest, old);
    let api = Api::sign_in(&guest, CHOSEN);
    assert!(api.has("load", "0.5"), "the newer version's values");
    guest.until("it is kept", SOON, || files(&kept, &behind));
    drop(guest);

    // It stays so. The newer one is there still, and whole.
    let guest = Guest::from_disk(firmware, disk);
    runs(&guest, old);
    assert!(files(&kept, &behind), "{}", disk.versions());
    order(guest);
    let guest = Guest::from_disk(firmware, disk);
    runs(&guest, &format!("{old}.1"));
    guest.until("it is kept", SOON, || files(&kept, &format!("elpis_{old}.1.efi")));
    disk.damage(0);
    guest.press("v", "v again does it");
    guest.press("v", &format!("version {old} cannot be started: its"));
    assert!(files(&kept, &format!("elpis_{old}.1.efi")), "{}", disk.versions());
}

/// Files and owners of a version before this one: `target/iso/elpis-before.iso` is its image.
#[test]
#[ignore = "8 minutes of emulation, and an image of an earlier version"]
fn a_disk_of_an_earlier_version_is_taken_over_and_can_be_given_back() {
    let Some(_machine) = machine() else { return };
    let disk = Disk::new();
    let Some(guest) = Guest::told_before("elpis.name=north elpis.install=auto", &disk) else {
        println!("skipped: there is no target/iso/elpis-before.iso");
        return;
    };
    guest.until_off(BOOT);
    let guest = Guest::with_next(Firmware::Uefi, &disk);
    guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    let password = guest.until_word("admin, password ", SOON);
    let old = guest.until_word("Elpis ", SOON);
    let api = Api::sign_in(&guest, &password);
    send(&guest, "1");
    api.post("/api/v1/checks", &json!({ "check": "ping 127.0.0.1", "name": "loopback", "interval_s": 5 }));
    guest.until("the agent's value and the check's result", SOON, || {
        api.has("load", "1") && api.has("loopback", "1")
    });
    let certificate = guest.certificate();
    guest.press("u", "u again does it");
    guest.press("u", "the medium is looked at");
    guest.until_screen("Update    on vda done", BOOT);
    // Accepted in the last moment, each time: it lies in the spool with the owner of this version.
    send(&guest, "2");
    drop(guest);

    let works = |version: &str, load: u32, audit: bool| {
        let guest = Guest::from_disk(Firmware::Uefi, &disk);
        guest.until_screen(&format!("Elpis {version} "), BOOT);
        let took = guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
        said(&guest, &format!("version {version}"), took);
        let screen = guest.screen();
        assert!(!screen.contains("Problem"), "{screen}");
        let api = Api::sign_in(&guest, &password);
        guest.until("what the version before accepted", SOON * 2, || api.number("load") == load);
        let newest = api.ran("loopback");
        guest.until("checks go on", SOON * 2, || api.ran("loopback") > newest);
        send(&guest, &(load + 1).to_string());
        guest.until("a file of now", SOON, || api.number("load") == load + 1);
        assert_eq!(guest.certificate(), certificate, "the console's certificate");
        if audit {
            guest.until_screen("Audit     14 checks passed", BOOT);
            assert_eq!(guest.until_word("admin, password ", SOON), password);
        }
        guest.until("it is kept", SOON, || disk.versions().contains(&format!("elpis_{version}.efi")));
        send(&guest, &(load + 2).to_string());
    };
    let new = format!("{old}.1");
    works(&new, 2, true);
    let entry = format!("elpis_{new}.efi");
    let back = disk.without(&entry);
    works(&old, 4, false);
    back();
    works(&new, 6, true);
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

/// Three machines become a cluster: the second is told before its start, the third by what a person types on its screen.
/// One is lost, the others work on.
#[test]
#[ignore = "8 minutes of emulation: make test-iso"]
fn three_machines_are_joined_and_one_is_lost() {
    let Some(_machine) = machine() else { return };
    let wire = Wire::new();
    let first = Guest::on(&wire.place(1), "");
    let took = first.until_screen("Working, can lose 0 nodes: add two more", BOOT);
    said(&first, "the first", took);
    let chosen = profile(&first);
    println!("it chose profile {chosen}");
    let words = first.let_in("");
    let (address, secret) = words.split_once(' ').unwrap();
    let told = format!("elpis.join={address} elpis.words={}", secret.replace(' ', "-"));
    let second = Guest::on(&wire.place(2), &told);
    let took = second.until_screen("Working, can lose 0 nodes: add one more", BOOT * 2);
    said(&second, "the second, told before its start", took);
    let third = Guest::on(&wire.place(3), "");
    third.until_screen("Working, can lose 0 nodes: add two more", BOOT * 2);
    let words = first.let_in(&words);
    third.press("j", "> _");
    third.press(&format!("{words}\r"), "joins the one at 10.9.0.1");
    let begin = Instant::now();
    let joined = first.until_screen("Working, can lose 1 node", BOOT * 2);
    println!(
        "the third is in after {:.0} s; three nodes {:.0} s after the first was switched on",
        begin.elapsed().as_secs_f64(),
        joined.as_secs_f64()
    );
    // Whatever each measured for its own cluster: who joins takes that of the cluster.
    for guest in [&second, &third] {
        guest.until_screen(&format!(", profile {chosen}"), SOON);
    }
    let api = Api::first(&first, &second);
    for number in 0..6 {
        let check = json!({ "check": format!("ping 127.0.0.{}", number + 1), "name": format!("p{number}"), "interval_s": 5 });
        api.post("/api/v1/checks", &check);
    }
    send(&second, "0.25");
    let all = |api: &Api<'_>, after: i64| {
        let runs = runs(api);
        runs.len() >= 7 && runs.iter().filter(|at| **at > after).count() >= 6
    };
    second.until("every check runs, and the agent's file is stored", SOON * 3, || {
        all(&api, 0) && api.has("load", "0.25")
    });
    // More than an interval later than anything that may be on its way.
    let newest = runs(&api).into_iter().max().unwrap() + 6;
    // It leads the cluster and the database.
    drop(first);
    let begin = Instant::now();
    second.until_screen("guest-1        10.9.0.1:7946        down", BOOT);
    println!("the lost machine is seen after {:.0} s", begin.elapsed().as_secs_f64());
    second.until("every check goes on", SOON * 3, || all(&api, newest));
    println!("every check has a result of afterwards after {:.0} s", begin.elapsed().as_secs_f64());
    send(&second, "0.5");
    second.until("agents' files are stored", SOON, || api.has("load", "0.5"));
}

/// Three installed machines are brought to the next version by one image and one order, while checks run.
#[test]
#[ignore = "12 minutes of emulation: make test-iso"]
fn three_machines_are_updated_one_after_the_other() {
    let Some(_machine) = machine() else { return };
    let wire = Wire::new();
    let (mut guests, mut disks, mut words) = (Vec::<Guest>::new(), Vec::new(), String::new());
    let begin = Instant::now();
    for (number, firmware) in (1..).zip([Firmware::Bios, Firmware::Uefi, Firmware::Bios]) {
        let place = wire.place(number);
        let mut options =
            format!("elpis.name=guest-{number} elpis.address=10.9.0.{number}/24 elpis.install=auto");
        if let Some(first) = guests.first() {
            // One after the other: who copies a database beside a machine that starts is late.
            words = first.let_in(&words);
            let (address, secret) = words.split_once(' ').unwrap();
            options = format!("{options} elpis.join={address} elpis.words={}", secret.replace(' ', "-"));
        }
        let disk = Disk::new();
        Guest::told(&options, &disk).until_off(BOOT);
        let guest = Guest::installed_on(&place, firmware, &disk);
        match guests.first() {
            None => {
                guest.until_screen("Working, can lose 0 nodes: add two more", BOOT);
            }
            Some(first) => {
                let copies = format!("10.9.0.{number}:7946        up        replica");
                first.until_screen(&copies, BOOT * 2);
            }
        }
        println!("machine {number} works after {:.0} s", begin.elapsed().as_secs_f64());
        guests.push(guest);
        disks.push(disk);
    }
    guests[0].until_screen("Working, can lose 1 node", BOOT);
    let old = guests[0].until_word("Elpis ", SOON);
    let api = Api::first(&guests[0], &guests[1]);
    for number in 0..6 {
        let check = json!({ "check": format!("ping 127.0.0.{}", number + 1), "name": format!("p{number}"), "interval_s": 10 });
        api.post("/api/v1/checks", &check);
    }
    guests[1].until("every check runs", SOON * 3, || runs(&api).len() >= 6);

    let begin = Instant::now();
    let taken = api.put("/api/v1/update/image", &guest::image("elpis-next.iso"));
    assert_eq!(taken["version"], format!("{old}.1"), "{taken}");
    println!("the image is in after {:.0} s", begin.elapsed().as_secs_f64());
    let plan = api.get("/api/v1/update");
    assert_eq!(plan["against"], json!([]), "{plan}");
    let begin = Instant::now();
    api.post("/api/v1/update/start", &json!({}));
    let done = format!("to {old}.1 done, 3 nodes");
    let stopped = || guests.iter().any(|guest| guest.screen().contains(" stopped, "));
    guests[1].until("all are updated", BOOT * 8, || {
        assert!(!stopped(), "{}", guests[1].screen());
        guests.iter().all(|guest| guest.screen().contains(&done))
    });
    println!("three machines updated {:.0} s after the order", begin.elapsed().as_secs_f64());
    for guest in &guests {
        guest.until_screen(&format!("Elpis {old}.1"), SOON);
        guest.until_screen("Working, can lose 1 node", BOOT);
    }
    let ledger = Api::sign_in(&guests[1], CHOSEN).get("/api/v1/ledger");
    println!("meanwhile: {ledger}");
    assert_eq!(ledger["recorded_twice"], 0, "{ledger}");
}

/// The timing profile that the screen shows.
fn profile(guest: &Guest) -> String {
    let profile = guest.until_word(", profile ", SOON);
    assert!(["lan", "safe", "metro"].contains(&profile.as_str()), "{profile}");
    profile
}

/// When each module ran last, Unix seconds.
fn runs(api: &Api<'_>) -> Vec<i64> {
    let modules = api.get("/api/v1/modules");
    let rows = modules.as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| row["timestamp"].as_i64()).collect()
}

const AGENT: &str = "<?xml version='1.0' encoding='UTF-8'?>\n<agent_data os_name='Linux' interval='60' version='1' \
    agent_name='probe'>\n<module>\n<name><![CDATA[load]]></name>\n<type><![CDATA[generic_data]]></type>\n\
    <data><![CDATA[LOAD]]></data>\n</module>\n</agent_data>\n";
