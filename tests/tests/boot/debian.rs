//! A Debian machine of somebody's own, with the package: booted, taken an agent's file, run a check.

use crate::api::Api;
use crate::disk::Disk;
use crate::guest::Guest;
use crate::packages::{base, well};
use crate::{BOOT, SOON, machine, said, send};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// What `debian` leaves as the first password.
const FIRST: &str = "owner-battery-staple";

#[test]
#[ignore = "3 minutes of emulation: make test-iso"]
fn a_debian_machine_works_with_the_package() {
    let Some(_machine) = machine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = folder.path().join("elpis.deb");
    // The optimised one: an emulated machine runs the other too slowly.
    let optimised = here.join("../target/release/elpis");
    assert!(optimised.is_file(), "make iso-test builds {}", optimised.display());
    well(Command::new(here.join("../deb/build")).arg(&optimised).arg(&package));
    let mut made = Command::new(here.join("tests/boot/debian"));
    well(made.arg(base().expect("make iso-test makes it")).arg(&package).arg(folder.path()).arg(FIRST));

    let disk = Disk::of(&folder.path().join("disk"));
    let guest = Guest::direct(folder.path(), &disk);
    let begin = std::time::Instant::now();
    guest.until("its console answers", BOOT, || guest_is_well(&guest));
    said(&guest, "Debian with the package", begin.elapsed());
    let api = Api::sign_in(&guest, FIRST);
    api.choose(FIRST);
    let page = api.curl("/cluster", &[]);
    assert!(page.contains("owner-1"), "{page}");
    send(&guest, "0.25");
    api.post("/api/v1/checks", &json!({ "check": "ping 127.0.0.1", "name": "loopback", "interval_s": 5 }));
    guest.until("the agent's value and the check's result", SOON, || {
        api.has("load", "0.25") && api.has("loopback", "1")
    });
}

/// Its console is there, and has a database.
fn guest_is_well(guest: &Guest) -> bool {
    let url = format!("https://127.0.0.1:{}/healthz", guest.console);
    let asked = Command::new("curl").args(["--silent", "--insecure", "--max-time", "20", &url]).output();
    asked.is_ok_and(|answer| answer.stdout == b"ok\n")
}
