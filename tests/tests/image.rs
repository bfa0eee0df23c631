//! What the image's files say, without booting it: ports, units, commands.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/dev.rs"]
mod dev;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn units() -> Vec<(String, String)> {
    let folder = std::fs::read_dir(root().join("systemd")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.map(|name| (name.clone(), read(&format!("systemd/{name}")))).collect()
}

/// The packet filter, the documentation and what the units listen on name the same ports.
#[test]
fn three_lists_of_ports_are_one() {
    let filter = read("iso/root/etc/nftables.conf");
    let set = filter.lines().find_map(|line| line.trim().strip_prefix("tcp dport {")).unwrap();
    let open: BTreeSet<u16> =
        set.split('}').next().unwrap().split(',').map(|port| port.trim().parse().unwrap()).collect();
    let written: BTreeSet<u16> = read("docs/ports.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split("/tcp").next()?.parse().ok())
        .collect();
    assert_eq!(written, open, "docs/ports.md and the packet filter");
    let mut listened = BTreeSet::new();
    for (_, text) in units() {
        let words: Vec<&str> = text.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| pair[0].ends_with("listen")) {
            listened.insert(pair[1].rsplit(':').next().unwrap().parse::<u16>().unwrap());
        }
    }
    assert_eq!(listened, open, "what the units listen on and the packet filter");
}

/// What a release is held to: whole, sorted, with a hash for each package's file.
#[test]
fn the_manifest_names_every_package() {
    let manifest = read("iso/manifest");
    let mut names = Vec::new();
    for line in manifest.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words.len(), 4, "{line}");
        let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        assert!(words[3].len() == 64 && words[3].chars().all(digit), "no SHA-256: {line}");
        names.push(words[0]);
    }
    let sorted: BTreeSet<&str> = names.iter().copied().collect();
    assert!(sorted.iter().eq(&names), "sorted, each package once");
    let asked = read("iso/packages");
    for name in asked.lines().filter_map(|line| line.split('#').next()).flat_map(str::split_whitespace) {
        assert!(sorted.contains(name), "iso/manifest lacks {name}: make iso-manifest");
    }
}

/// A unit that starts a command which this program does not have would fail only in the booted image.
#[test]
fn units_start_commands_that_there_are() {
    let mut seen = 0;
    for (name, text) in units() {
        let Some(start) = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/elpis ")) else {
            continue;
        };
        let commands = start
            .split_whitespace()
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        let commands: Vec<&str> = commands.take_while(|word| !word.starts_with('-')).collect();
        let done = Command::new(dev::program()).args(&commands).arg("--help").output().unwrap();
        assert!(done.status.success(), "{name}: elpis {}", commands.join(" "));
        let help = String::from_utf8_lossy(&done.stdout).into_owned();
        for option in text.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{name}: elpis {} has no {option}", commands.join(" "));
        }
        seen += 1;
    }
    assert!(seen >= 9, "only {seen} units start this program");
}

/// Everything that runs for long is shut in.
#[test]
fn every_unit_is_sandboxed() {
    for (name, text) in units().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        for line in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectKernelModules=yes",
            "RestrictNamespaces=yes",
            "MemoryDenyWriteExecute=yes",
            "SystemCallArchitectures=native",
        ] {
            assert!(text.contains(line), "{name} lacks {line}");
        }
        assert!(text.contains("CapabilityBoundingSet="), "{name} keeps all capabilities");
    }
}

/// The user that a unit names; `None` = root.
fn user(unit: &str) -> Option<&str> {
    unit.lines().find_map(|line| line.strip_prefix("User="))
}

/// Words behind a setting of a unit, wherever it is repeated.
fn words<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(setting));
    lines.flat_map(str::split_whitespace).collect()
}

/// Each server has a user of its own name, which the image knows by a number that stays; of the node's files it finds its
/// own and the sockets, no key but the one that is handed to it, and only the node agent the others.
#[test]
fn each_server_has_a_user_and_files_of_its_own() {
    let accounts = read("iso/root/usr/lib/sysusers.d/elpis.conf");
    let mut numbers = BTreeSet::new();
    let mut known = BTreeSet::new();
    for line in accounts.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let (_, name, number) = (fields.next(), fields.next().unwrap(), fields.next().unwrap());
        let number: u32 = number.parse().unwrap_or_else(|_| panic!("{name} has no fixed number"));
        assert!(numbers.insert(number) && known.insert(name), "{line}");
    }
    let mut users = BTreeSet::new();
    for (name, text) in units().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/elpis ")).unwrap();
        let command = start.split(' ').next().unwrap();
        let group = words(&text, "Group=");
        let others =
            words(&text, "SupplementaryGroups=").into_iter().filter(|group| *group != "systemd-journal");
        for group in group.iter().copied().chain(others) {
            assert!(known.contains(group), "{name}: the image has no group {group}");
        }
        // Those work on the machine itself, as root for a moment; the last one speaks to the node agent as itself.
        if command == "appliance" {
            assert_eq!(user(&text), start.starts_with("appliance form").then_some("elpis"), "{name}");
            assert!(!faces_network(&text), "{name}");
            continue;
        }
        if command == "node" {
            assert_eq!(user(&text), Some("elpis"));
            assert!(text.contains(" --own-users "), "it hears servers for their own roles only");
            assert!(users.insert("elpis".to_owned()));
            continue;
        }
        // It reads the journal, and nothing of the node.
        if command == "log-forwarder" {
            assert_eq!(user(&text), Some("elpis-log-forwarder"));
            assert_eq!(words(&text, "BindPaths="), ["/var/lib/elpis/log-forwarder"]);
            assert_eq!(words(&text, "SupplementaryGroups="), ["systemd-journal"]);
            assert!(!text.contains("BindReadOnlyPaths=") && !text.contains("ReadWritePaths="));
            assert!(text.contains("\nTemporaryFileSystem=/var/lib/elpis:ro\n"));
            continue;
        }
        let own = format!("elpis-{command}");
        assert_eq!((name.as_str(), user(&text)), (format!("{own}.service").as_str(), Some(own.as_str())));
        assert!(known.contains(own.as_str()), "the image has no user {own}");
        assert_eq!(group, [own.as_str()], "{name}");
        assert!(text.contains("\nTemporaryFileSystem=/var/lib/elpis:ro\n"), "{name} sees all files");
        assert_eq!(words(&text, "BindReadOnlyPaths="), ["/var/lib/elpis/run"], "{name}");
        let writes: &[&str] = match command {
            "tentacle-server" => &["spool", "tentacle"],
            "data-server" => &["spool"],
            "db-gate" => &["run/gate", "database/gate"],
            "console" => &["console"],
            _ => &[],
        };
        let writes: Vec<String> = writes.iter().map(|path| format!("/var/lib/elpis/{path}")).collect();
        assert_eq!(words(&text, "BindPaths="), writes, "{name}");
        assert!(!text.contains("ReadWritePaths="), "{name}");
        let key = ["tentacle-server", "db-gate"].contains(&command);
        assert_eq!(text.contains("node.key"), key, "{name} and the node's key");
        // Who is in the group of what is not its own.
        let mut groups = vec!["elpis-servers"];
        if !["tentacle-server", "address-keeper"].contains(&command) {
            groups.push("elpis-database");
        }
        if ["tentacle-server", "data-server"].contains(&command) {
            groups.push("elpis");
        }
        assert_eq!(words(&text, "SupplementaryGroups="), groups, "{name}");
        assert!(users.insert(own));
    }
    assert_eq!(users.len(), 7, "{users:?}");
}

/// It has a way to others: the audit on a machine asks the same.
fn faces_network(unit: &str) -> bool {
    let families = words(unit, "RestrictAddressFamilies=");
    let shut = ["PrivateNetwork=yes", "IPAddressDeny=any"].iter().any(|line| unit.contains(line));
    families.contains(&"AF_PACKET") || (families.contains(&"AF_INET") && !shut)
}

/// What a unit could do if it were taken over, as systemd itself rates it: 0 nothing, 10 everything.
#[test]
fn no_unit_is_exposed() {
    /// In tenths: servers, which talk to others, and what works on disks and screens as root for a moment.
    const SERVER: u32 = 14;
    const ROOT: u32 = 25;
    /// The node agent sees the processes of other users, and kills those that hang.
    const NODE: u32 = 17;
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in units().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        let path = folder.path().join(name.replace('@', "@x"));
        std::fs::write(&path, &text).unwrap();
        let Ok(done) = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&path)
            .output()
        else {
            println!("skipped: there is no systemd-analyze here");
            return;
        };
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let rated = said.rsplit("exposure level for ").next().and_then(|tail| tail.split(": ").nth(1));
        let rated = rated.and_then(|tail| tail.split_whitespace().next());
        let (whole, tenth) =
            rated.and_then(|number| number.split_once('.')).unwrap_or_else(|| panic!("{name}: {said}"));
        let rated = whole.parse::<u32>().unwrap() * 10 + tenth.parse::<u32>().unwrap();
        let most = match text.contains("\nUser=elpis") {
            true if name == "elpis-node.service" => NODE,
            true => SERVER,
            false => ROOT,
        };
        assert!(rated <= most, "{name}: {rated} tenths, {most} at most");
    }
}
