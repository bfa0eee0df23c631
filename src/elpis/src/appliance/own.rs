//! Name and address of a node on a Debian machine that is somebody's own (`make deb`): its host name, network and clock are
//! left alone.

use super::join::hand_over;
use super::stick::NODE;
use super::{ANSWERS, IDENTITY, LOOK, addresses, write_environment};
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::answers::{Address, Answers, FILE_MOST, in_file};
use elpis_appliance::identity::{Identity, is_name};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use tokio::time::sleep;

/// Any address that is not this machine's: nothing is sent there (RFC 5737).
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// What the other units are started with. A mistake in the file stops the very first start; later ones go on without it.
pub(super) async fn setup(file: &Path) -> Result<()> {
    let name = file.display().to_string();
    let read = read(file).with_context(|| format!("cannot read {name}"))?;
    let known = Identity::read(Path::new(IDENTITY));
    let kept = match fs::read_to_string(ANSWERS) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        kept => Some(Answers::parse(&kept.with_context(|| format!("cannot read {ANSWERS}"))?).0),
    };
    let (mut answers, wrong) = told(&name, &read, kept, Path::new(NODE).exists());
    for text in &wrong {
        eprintln!("elpis: {text}");
    }
    ensure!(
        known.is_some() || wrong.is_empty(),
        "mend {name}, then: systemctl restart elpis-setup elpis.target"
    );
    let identity = match known {
        Some(known) => known,
        None => {
            let host = nix::unistd::gethostname()?;
            let own = || name_of(&host.to_string_lossy(), &name);
            let wanted = answers.name.clone().map_or_else(own, Ok)?;
            Identity::read_or_make(Path::new(IDENTITY), Some(&wanted))?
        }
    };
    if answers.name.is_some_and(|name| name != identity.name) {
        eprintln!("elpis: {name}: this node is called {} for good", identity.name);
    }
    answers.name = Some(identity.name.clone());
    let ip = loop {
        match choose(answers.address.map(|address| address.ip), routed(), &addresses()) {
            Some(ip) => break ip,
            None => sleep(LOOK).await,
        }
    };
    // Kept: another interface may be the first one after the next start. Its network is its owner's: the bits mean nothing.
    answers.address = Some(answers.address.unwrap_or(Address { ip, prefix: 24, gateway: None }));
    hand_over(Path::new(ANSWERS), answers.options().as_bytes())?;
    write_environment(&identity.name, ip, answers.plain.as_deref())?;
    println!("{} at {ip}", identity.name);
    Ok(())
}

/// Without a file there are no answers.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(file) => file.take(FILE_MOST as u64 + 1).read_to_end(&mut bytes).map(|_| bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(error),
    }
}

/// PURE: what the file of this name says, and what is wrong with it; `old`: this is a node already, whose address the others
/// know. `kept`: answers of an earlier start.
fn told(name: &str, bytes: &[u8], kept: Option<Answers>, old: bool) -> (Answers, Vec<String>) {
    let (mut answers, mut wrong) = match in_file(name, bytes) {
        Ok(said) => Answers::read(&said),
        Err(why) => (Answers::default(), vec![why]),
    };
    let gateway = answers.address.as_ref().is_some_and(|address| address.gateway.is_some());
    if answers.install.is_some() || !answers.ntp.is_empty() || answers.logs.is_some() || gateway {
        wrong.push(format!(
            "{name}: install, ntp, logs and gateway are for the appliance: this machine is yours"
        ));
    }
    // A node that was given back begins without the words that were used: they are good once.
    if kept.as_ref().is_some_and(|kept| kept.join.is_none()) {
        answers.join = None;
    }
    let kept = kept.unwrap_or_default();
    if old
        && answers.address.is_some()
        && kept.address.map(|kept| kept.ip) != answers.address.map(|told| told.ip)
    {
        wrong.push(format!("{name}: a node keeps the address it had when it began; `elpis appliance factory-reset` begins anew"));
        answers.address = None;
    }
    (
        Answers {
            address: answers.address.or(kept.address),
            install: None,
            ntp: Vec::new(),
            logs: None,
            ..answers
        },
        wrong,
    )
}

/// PURE: the first part of a host's name, where a node may be called so.
fn name_of(host: &str, file: &str) -> Result<String> {
    let name = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    if !is_name(&name) || name == "localhost" {
        bail!(
            "this machine is called {host:?}, and a node's name has small letters, digits and dashes: write `name = …` into {file}"
        );
    }
    Ok(name)
}

/// PURE: the address that is wanted, once this machine has it; without one, that of the way out, or any.
fn choose(wanted: Option<Ipv4Addr>, routed: Option<Ipv4Addr>, has: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    match wanted {
        Some(wanted) => has.contains(&wanted).then_some(wanted),
        None => routed.filter(|routed| has.contains(routed)).or_else(|| has.first().copied()),
    }
}

/// The address that this machine would use to speak to others; nothing is sent.
fn routed() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/elpis/elpis.txt";

    #[test]
    fn a_file_says_what_concerns_the_node_alone() {
        let (answers, wrong) = told(
            FILE,
            b"name = north\naddress = 10.0.0.1/24\njoin = a:7946\nwords = a b c d e f",
            None,
            false,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(answers.options().lines().count(), 4);
        for line in [
            "ntp = a",
            "logs = a:1",
            "install = auto",
            "address = 10.0.0.1/24\ngateway = 10.0.0.2",
            "colour = blue",
        ] {
            let (answers, wrong) = told(FILE, line.as_bytes(), None, false);
            assert!(wrong.len() == 1 && wrong[0].contains(FILE), "{line}: {wrong:?}");
            assert!(answers.ntp.is_empty() && answers.install.is_none(), "{line}");
        }
    }

    #[test]
    fn a_node_keeps_its_address() {
        let kept = Answers::parse("elpis.address=10.0.0.1/24").0;
        let of = |text: &str, old| {
            let (answers, wrong) = told(FILE, text.as_bytes(), Some(kept.clone()), old);
            (answers.address.unwrap().ip.to_string(), wrong.len())
        };
        assert_eq!(of("", true), ("10.0.0.1".to_owned(), 0));
        assert_eq!(of("address = 10.0.0.1/8", true), ("10.0.0.1".to_owned(), 0));
        assert_eq!(of("address = 10.0.0.2/24", true), ("10.0.0.1".to_owned(), 1));
        assert_eq!(of("address = 10.0.0.2/24", false), ("10.0.0.2".to_owned(), 0));
    }

    #[test]
    fn words_are_good_once() {
        let file = b"join = 10.0.0.1:7946\nwords = a b c d e f";
        let joins = |kept: Option<&str>| {
            let kept = kept.map(|kept| Answers::parse(kept).0);
            told(FILE, file, kept, false).0.join.map(|join| join.words)
        };
        let words = Some("a b c d e f".to_owned());
        assert_eq!(joins(None), words, "the first start");
        assert_eq!(
            joins(Some("elpis.join=10.0.0.1:7946 elpis.words=mistyped")),
            words,
            "mended, and not joined yet"
        );
        assert_eq!(joins(Some("elpis.name=north")), None, "after it was given back");
    }

    #[test]
    fn names_and_addresses_are_the_machines() {
        assert_eq!(name_of("North.example.org", FILE).unwrap(), "north");
        assert!(name_of("my_host", FILE).unwrap_err().to_string().contains(FILE));
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        assert_eq!(choose(None, Some(ip(2)), &[ip(1), ip(2)]), Some(ip(2)));
        assert_eq!(choose(None, None, &[ip(1), ip(2)]), Some(ip(1)));
        assert_eq!(choose(Some(ip(3)), Some(ip(2)), &[ip(1), ip(2)]), None, "it is waited for");
        assert_eq!(choose(None, Some(ip(2)), &[]), None);
    }
}
