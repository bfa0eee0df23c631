//! A machine gets another version, and leaves it again.

use crate::api::{Api, CHOSEN};
use crate::disk::Disk;
use crate::guest::{Firmware, Guest};
use crate::{BOOT, SOON, machine, said, send};
use serde_json::json;
use std::time::Instant;

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
