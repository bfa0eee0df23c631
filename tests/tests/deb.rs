//! The Debian package, on a real Debian root: installed, its units checked, a node's start prepared, removed.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

#[path = "support/debian.rs"]
mod debian;
#[path = "support/dev.rs"]
mod dev;

use debian::{base, run, well};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Debian of its own, on a network of its own.
struct Debian(tempfile::TempDir);

impl Debian {
    /// Inside, after this script outside. Mounts, network and host name are its own and end with it.
    fn after(&self, script: &str, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("mount -t proc proc \"$0/proc\" && {script} exec chroot \"$0\" \"$@\"");
        command.args(["--mount", "--net", "--uts", "sh", "-c", &script]);
        command.arg(self.0.path()).args(words).env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        self.after("", words)
    }

    /// With one network card, 10.77.0.1.
    fn prepare(&self) -> (bool, String) {
        let card = "ip link add card type veth peer name wire && ip address add 10.77.0.1/24 dev card && \
                    ip link set card up && ip link set wire up && hostname North.example.org &&";
        let setup =
            ["timeout", "30", "/usr/bin/elpis", "appliance", "setup", "--answers", "/etc/elpis/elpis.txt"];
        run(&mut self.after(card, &setup))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

#[test]
fn a_debian_machine_becomes_a_node() {
    let why = match base() {
        Some(_) if nix::unistd::geteuid().is_root() => "",
        Some(_) => "a Debian root is unpacked by root alone",
        None => "no packages in target/iso; make iso-test fetches them",
    };
    let Some(base) = base().filter(|_| why.is_empty()) else {
        // Not println: what a test that passes prints is not shown.
        return writeln!(std::io::stderr(), "skipped: {why}").unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let (package, again) = (folder.path().join("elpis.deb"), folder.path().join("again.deb"));
    for file in [&package, &again] {
        well(
            Command::new(root().join("deb/build"))
                .arg(dev::program())
                .arg(file)
                .env("ELPIS_VERSION", "0.1.0"),
        );
    }
    assert!(std::fs::read(&package).unwrap() == std::fs::read(&again).unwrap(), "the same, bit for bit");

    let debian = Debian(tempfile::tempdir().unwrap());
    well(Command::new("tar").arg("-C").arg(debian.0.path()).arg("-xf").arg(&base));
    std::fs::copy(&package, debian.path("elpis.deb")).unwrap();
    let said = well(&mut debian.command(&["dpkg", "--install", "/elpis.deb"]));
    println!("{}", said.trim());
    let users = debian.read("etc/passwd");
    for user in ["elpis", "elpis-console", "elpis-tentacle-server", "elpis-db-gate"] {
        assert!(users.lines().any(|line| line.starts_with(&format!("{user}:x:"))), "{users}");
    }
    let wanted = std::fs::read_dir(debian.path("etc/systemd/system/elpis.target.wants")).unwrap().count();
    assert_eq!(wanted, 10, "units that start with the machine");
    assert!(debian.path("etc/systemd/system/multi-user.target.wants/elpis.target").is_symlink());
    let answers = debian.path("etc/elpis/elpis.txt");
    assert_eq!(answers.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let checked = run(&mut debian.command(&["systemd-analyze", "verify", "--man=no", "elpis.target"])).1;
    let ours: Vec<&str> = checked.lines().filter(|line| line.contains("elpis")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    let node = debian.read("usr/lib/systemd/system/elpis-node.service");
    assert!(node.contains("--own-users \\\n  --listen") && !node.contains("orders"), "{node}");

    well(&mut debian.command(&["/usr/bin/elpis", "appliance", "owners"]));
    std::fs::write(&answers, "# north\nntp = 10.0.0.1\ncolour = blue\n").unwrap();
    let (good, said) = debian.prepare();
    assert!(!good, "{said}");
    for why in
        ["elpis.txt, line 3: elpis.colour: not known", "are for the appliance", "mend /etc/elpis/elpis.txt"]
    {
        assert!(said.contains(why), "{why} in {said}");
    }
    std::fs::write(&answers, "plain = 10.0.0.0/8\n").unwrap();
    for _ in 0..2 {
        let (good, said) = debian.prepare();
        assert!(good && said.contains("north at 10.77.0.1"), "{said}");
    }
    let environment = debian.read("run/elpis-setup/environment");
    assert_eq!(
        environment,
        "ELPIS_NAME=north\nELPIS_ADDRESS=10.77.0.1\nELPIS_PLAIN=--plain-from 10.0.0.0/8\n"
    );

    let removed = well(&mut debian.command(&["dpkg", "--purge", "elpis"]));
    assert!(removed.contains("stays in /var/lib/elpis"), "{removed}");
    assert!(!debian.path("usr/bin/elpis").exists() && !answers.exists());
    assert!(debian.path("var/lib/elpis/node.key").exists());
}
