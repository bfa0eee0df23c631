//! Three machines on one wire.

use crate::api::{Api, CHOSEN};
use crate::disk::Disk;
use crate::guest::{self, Firmware, Guest};
use crate::wire::Wire;
use crate::{BOOT, SOON, machine, profile, said, send};
use serde_json::json;
use std::time::Instant;

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

/// When each module ran last, Unix seconds.
fn runs(api: &Api<'_>) -> Vec<i64> {
    let modules = api.get("/api/v1/modules");
    let rows = modules.as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| row["timestamp"].as_i64()).collect()
}
