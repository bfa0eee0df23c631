//! What the machine was told: options of the kernel's command line that begin with `elpis.`, the same in a file on a stick,
//! and in one on its state disk, which an installation and the status screen write.

use crate::disk::{Choice, choice_of};
use crate::identity::is_name;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Answers to the questions of the first start. All may be missing: the machine asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// `elpis.name=`: the node's name.
    pub name: Option<String>,
    /// `elpis.address=10.0.0.1/24` and, where it has to leave its network, `elpis.gateway=10.0.0.254`: of the first
    /// wired network card, in place of DHCP; `dhcp` takes them back.
    pub address: Option<Address>,
    /// `elpis.plain=10.0.0.0/8,…`: networks whose agents may come without TLS; `none` takes them back.
    pub plain: Option<String>,
    /// `elpis.ntp=10.0.0.1,nts:time.example.org`: servers of the time, in place of Debian's; `nts:` asks for proof,
    /// `none` is Debian's.
    pub ntp: Vec<TimeServer>,
    /// `elpis.logs=HOST:PORT` or `elpis.logs=HOST:PORT,SHA256`: where the machine's journal goes; `none` takes it back.
    pub logs: Option<LogServer>,
    /// `elpis.join=HOST:PORT` and `elpis.words=a-b-c-d-e-f`: the cluster to join; without, one of its own is formed.
    pub join: Option<Join>,
    /// `elpis.install=vda`, `elpis.install=vda,erase`, `elpis.install=auto`: a disk to install on; the machine powers
    /// off afterwards.
    pub install: Option<Choice>,
}

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ip: Ipv4Addr,
    /// Bits of the network, 1 to 30.
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
}

impl Address {
    /// PURE: settings of systemd-networkd for the card with this name.
    #[must_use]
    pub fn network_file(&self, card: &str) -> String {
        let gateway = self.gateway.map(|gateway| format!("Gateway={gateway}\n")).unwrap_or_default();
        format!(
            "[Match]\nName={card}\n\n[Network]\nAddress={}/{}\n{gateway}LinkLocalAddressing=ipv6\n",
            self.ip, self.prefix
        )
    }
}

/// A server that is asked for the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeServer {
    /// Name or address.
    pub host: String,
    /// By Network Time Security (RFC 8915): its answers prove whose they are.
    pub nts: bool,
}

impl TimeServer {
    /// More are not asked.
    const MOST: usize = 8;

    fn list(text: &str) -> Option<Vec<TimeServer>> {
        let one = |part: &str| {
            let (host, nts) = part.strip_prefix("nts:").map_or((part, false), |host| (host, true));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
            let usable = (1..=253).contains(&host.len()) && host.chars().all(plain) && !host.starts_with('-');
            usable.then(|| TimeServer { host: host.to_owned(), nts })
        };
        let servers: Vec<TimeServer> = text.split(',').map(one).collect::<Option<_>>()?;
        (servers.len() <= TimeServer::MOST).then_some(servers)
    }

    fn option(&self) -> String {
        format!("{}{}", if self.nts { "nts:" } else { "" }, self.host)
    }
}

/// PURE: sources of chrony.
#[must_use]
pub fn time_sources(servers: &[TimeServer]) -> String {
    if servers.is_empty() {
        return "pool 2.debian.pool.ntp.org iburst\n".to_owned();
    }
    let line =
        |one: &TimeServer| format!("server {} iburst{}\n", one.host, if one.nts { " nts" } else { "" });
    servers.iter().map(line).collect()
}

/// A server that takes the journal: syslog over TLS. As text `HOST:PORT` or `HOST:PORT,SHA256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogServer {
    /// Name or IPv4 address.
    pub host: String,
    pub port: u16,
    /// SHA-256 of its certificate, 64 small hex digits; `None` = an authority that Debian knows vouches for it.
    pub sha256: Option<String>,
}

impl FromStr for LogServer {
    type Err = String;

    fn from_str(text: &str) -> Result<LogServer, String> {
        let (address, sha256) =
            text.split_once(',').map_or((text, None), |(address, sum)| (address, Some(sum)));
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().unwrap_or(0);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let usable = (1..=253).contains(&host.len()) && host.chars().all(plain) && !host.starts_with('-');
        let sha256 = sha256.map(|sum| sum.trim().replace(':', "").to_ascii_lowercase());
        let sum = |sum: &String| sum.len() == 64 && sum.bytes().all(|digit| digit.is_ascii_hexdigit());
        match usable && port > 0 && sha256.iter().all(sum) {
            true => Ok(LogServer { host: host.to_owned(), port, sha256 }),
            false => Err("HOST:PORT of a log server is needed, and behind a comma the SHA-256 of its certificate where no \
                          known authority has signed that"
                .to_owned()),
        }
    }
}

impl Display for LogServer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        self.sha256.iter().try_for_each(|sum| write!(f, ",{sum}"))
    }
}

/// A cluster to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Host and port of a member.
    pub address: String,
    /// Six words, separated by spaces.
    pub words: String,
}

const KNOWN: [&str; 9] = [
    "elpis.name",
    "elpis.address",
    "elpis.gateway",
    "elpis.plain",
    "elpis.ntp",
    "elpis.logs",
    "elpis.join",
    "elpis.words",
    "elpis.install",
];
/// Longest file of a person, in bytes.
pub const FILE_MOST: usize = 16 << 10;
/// Options that others read: the initrd and the kernel's own.
const OTHERS: [&str; 4] = ["elpis.roothash", "elpis.offset", "elpis.from", "elpis.test"];

/// An option, and where it was read: what a mistake in it is said with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    place: String,
    key: String,
    value: String,
}

/// PURE: options of a command line, or of a file that was written as one.
#[must_use]
pub fn on_line(text: &str) -> Vec<Said> {
    let options = text.split_whitespace().filter(|option| option.starts_with("elpis."));
    let said = |option: &str| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        Said { place: String::new(), key: key.to_owned(), value: value.to_owned() }
    };
    options.map(said).collect()
}

/// PURE: what a person wrote into the file of this name, one a line, as `name = north`: `elpis.` before it is not needed,
/// `#` begins a comment.
///
/// # Errors
/// What is wrong with all of it.
pub fn in_file(name: &str, bytes: &[u8]) -> Result<Vec<Said>, String> {
    if bytes.len() > FILE_MOST {
        return Err(format!("{name} is longer than {FILE_MOST} bytes: nothing of it was taken"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| format!("{name} is no UTF-8 text: save it as that; nothing of it was taken"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = (1..).zip(text.lines().map(str::trim));
    let said = |(number, line): (usize, &str)| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let key = key.trim();
        let key = key.strip_prefix("elpis.").unwrap_or(key);
        let words: Vec<&str> = value.split_whitespace().collect();
        let value = match key {
            "words" => words.join("-"),
            "plain" | "ntp" | "logs" => words.join(" ").replace(", ", ",").replace(" ,", ","),
            _ => words.join(" "),
        };
        Said { place: format!("{name}, line {number}: "), key: format!("elpis.{key}"), value }
    };
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(said).collect())
}

impl Answers {
    /// PURE: reads a command line. What is wrong is said and left out.
    #[must_use]
    pub fn parse(line: &str) -> (Answers, Vec<String>) {
        Answers::read(&on_line(line))
    }

    /// PURE: reads options; of two the later one holds. What is wrong is said and left out.
    #[must_use]
    pub fn read(said: &[Said]) -> (Answers, Vec<String>) {
        let (mut answers, mut wrong) = (Answers::default(), Vec::new());
        let (mut address, mut words, mut gateway) = (None, None, None);
        for Said { place, key, value } in said {
            let value = value.as_str();
            let before = wrong.len();
            match key.as_str() {
                "elpis.name" if is_name(value) => answers.name = Some(value.to_owned()),
                "elpis.name" => wrong.push(format!(
                    "elpis.name={value}: a name has small letters, digits and dashes; a name was made"
                )),
                "elpis.join"
                    if value.rsplit_once(':').is_some_and(|(host, port)| {
                        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
                    }) =>
                {
                    address = Some(value.to_owned());
                }
                "elpis.join" => wrong.push(format!("elpis.join={value}: HOST:PORT of a member is needed")),
                "elpis.address" if value == "dhcp" => (answers.address, gateway) = (None, None),
                "elpis.address" => match of_machine(value) {
                    Some(address) => answers.address = Some(address),
                    None => wrong.push(format!(
                        "elpis.address={value}: an address and the bits of its network are needed, as 10.0.0.1/24; \
                         DHCP is asked"
                    )),
                },
                "elpis.gateway" => match value.parse() {
                    Ok(ip) => gateway = Some(ip),
                    Err(_) => wrong.push(format!("elpis.gateway={value}: an IPv4 address is needed")),
                },
                "elpis.plain" if value == "none" => answers.plain = None,
                "elpis.plain" if value.split(',').all(|part| network(part).is_some()) => answers.plain = Some(value.to_owned()),
                "elpis.plain" => {
                    wrong.push(format!("elpis.plain={value}: networks are needed, as 10.0.0.0/8,192.168.1.0/24"));
                }
                "elpis.ntp" if value == "none" => answers.ntp = Vec::new(),
                "elpis.ntp" => match TimeServer::list(value) {
                    Some(servers) => answers.ntp = servers,
                    None => wrong.push(format!(
                        "elpis.ntp={value}: names or addresses of up to {} servers are needed, as 10.0.0.1,nts:time.example.org; \
                         Debian's are asked",
                        TimeServer::MOST
                    )),
                },
                "elpis.logs" if value == "none" => answers.logs = None,
                "elpis.logs" => match value.parse() {
                    Ok(server) => answers.logs = Some(server),
                    Err(why) => wrong.push(format!("elpis.logs={value}: {why}")),
                },
                "elpis.install" => match choice_of(&value.replace(',', " ")) {
                    Ok(choice) => answers.install = Some(choice),
                    Err(_) => wrong.push(format!("elpis.install={value}: a disk is needed, as vda or vda,erase, or auto")),
                },
                "elpis.words" => words = Some(value.replace(['-', '_', ','], " ")),
                other if OTHERS.contains(&other) => {}
                other => wrong.push(format!("{other}: not known; known are {}", KNOWN.join(", "))),
            }
            wrong[before..].iter_mut().for_each(|text| text.insert_str(0, place));
        }
        match (&mut answers.address, gateway) {
            (Some(address), gateway) => address.gateway = gateway,
            (None, Some(_)) => {
                wrong.push("elpis.gateway without elpis.address: DHCP names its own".to_owned());
            }
            (None, None) => {}
        }
        match (address, words) {
            (Some(address), Some(words)) => answers.join = Some(Join { address, words }),
            (Some(_), None) => {
                wrong.push("elpis.join without elpis.words: both are needed to join".to_owned());
            }
            (None, Some(_)) => {
                wrong.push("elpis.words without elpis.join: both are needed to join".to_owned());
            }
            (None, None) => {}
        }
        (answers, wrong)
    }

    /// As options again, one a line, for the machine's file of answers: everything but the disk to install on.
    #[must_use]
    pub fn options(&self) -> String {
        let mut lines = Vec::new();
        if let Some(name) = &self.name {
            lines.push(format!("elpis.name={name}"));
        }
        if let Some(address) = &self.address {
            lines.push(format!("elpis.address={}/{}", address.ip, address.prefix));
            lines.extend(address.gateway.map(|gateway| format!("elpis.gateway={gateway}")));
        }
        if let Some(plain) = &self.plain {
            lines.push(format!("elpis.plain={plain}"));
        }
        if !self.ntp.is_empty() {
            let servers: Vec<String> = self.ntp.iter().map(TimeServer::option).collect();
            lines.push(format!("elpis.ntp={}", servers.join(",")));
        }
        lines.extend(self.logs.as_ref().map(|server| format!("elpis.logs={server}")));
        if let Some(join) = &self.join {
            lines.push(format!("elpis.join={}", join.address));
            lines.push(format!("elpis.words={}", join.words.replace(' ', "-")));
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

/// PURE: a network, as `10.0.0.0/8`.
#[must_use]
pub fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((address, bits))
}

fn of_machine(text: &str) -> Option<Address> {
    let (ip, prefix) = text.split_once('/')?;
    let (ip, prefix): (Ipv4Addr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
    let usable = !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && !ip.is_broadcast();
    ((1..=30).contains(&prefix) && usable).then_some(Address { ip, prefix, gateway: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_meant_for_it() {
        let line = "console=ttyS0 elpis.roothash=ab12 elpis.name=north elpis.join=10.0.0.1:7946 \
                    elpis.words=a-b-c-d-e-f quiet";
        let (answers, wrong) = Answers::parse(line);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(answers.name.as_deref(), Some("north"));
        let join = answers.join.unwrap_or_else(|| panic!("no cluster to join"));
        assert_eq!((join.address.as_str(), join.words.as_str()), ("10.0.0.1:7946", "a b c d e f"));
        assert_eq!(Answers::parse("quiet"), (Answers::default(), Vec::new()));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let line = "elpis.name=north elpis.address=10.9.0.1/24 elpis.gateway=10.9.0.254 elpis.plain=10.0.0.0/8 \
                    elpis.ntp=10.0.0.1,nts:time.example.org elpis.logs=log.example.org:6514 elpis.join=10.0.0.1:7946 elpis.words=a-b-c-d-e-f elpis.from=disk";
        let (answers, wrong) = Answers::parse(line);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(Answers::parse(&answers.options()), (answers.clone(), Vec::new()));
        let (again, _) = Answers::parse(&format!("{line} elpis.install=vda,erase"));
        assert_eq!(again.install, Some(Choice { disk: "vda".into(), erase: true }));
        assert_eq!(again.options(), answers.options(), "a disk is installed on once");
        let (later, _) = Answers::parse(&format!("{line}\nelpis.name=south\n"));
        assert_eq!(later.name.as_deref(), Some("south"), "the last one holds");
    }

    #[test]
    fn a_person_writes_a_file() {
        let file = b"\xef\xbb\xbf# north\r\nname = north\r\n\r\nelpis.address=10.9.0.1/24\r\ncolour = blue\r\n\
                     words = a b c d e f\r\njoin=10.0.0.1:7946\nplain = 10.0.0.0/8, 192.168.0.0/16\nntp=here there\nname";
        let said = in_file("elpis.txt", file).unwrap();
        let (answers, wrong) = Answers::read(&said);
        let known = KNOWN.join(", ");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert_eq!(wrong[0], format!("elpis.txt, line 5: elpis.colour: not known; known are {known}"));
        assert!(wrong[1].starts_with("elpis.txt, line 9: elpis.ntp=here there: "), "{wrong:?}");
        assert!(wrong[2].starts_with("elpis.txt, line 10: elpis.name=: a name"), "{wrong:?}");
        assert_eq!(answers.name.as_deref(), Some("north"));
        assert_eq!(answers.join.map(|join| join.words).as_deref(), Some("a b c d e f"));
        assert_eq!(answers.plain.as_deref(), Some("10.0.0.0/8,192.168.0.0/16"));
        assert!(answers.address.is_some() && answers.ntp.is_empty());
        let back = on_line(
            "elpis.gateway=10.9.0.254 elpis.address=dhcp elpis.plain=none elpis.ntp=a elpis.ntp=none",
        );
        let (taken_back, wrong) = Answers::read(&[said.clone(), back].concat());
        assert_eq!(
            (wrong.len(), taken_back.address, taken_back.plain, taken_back.ntp),
            (3, None, None, vec![])
        );
        let all = [said, on_line("elpis.name=south quiet")].concat();
        assert_eq!(Answers::read(&all).0.name.as_deref(), Some("south"), "the last one holds");
        assert!(in_file("elpis.txt", &[0xff, 0xfe, b'n', 0]).unwrap_err().contains("UTF-8"));
        assert!(in_file("elpis.txt", &[b'#'; FILE_MOST + 1]).unwrap_err().contains("longer"));
        assert_eq!(in_file("elpis.txt", b""), Ok(Vec::new()));
    }

    #[test]
    fn an_address_becomes_settings_of_the_network() {
        let (answers, wrong) = Answers::parse("elpis.address=10.9.0.1/24 elpis.gateway=10.9.0.254");
        assert!(wrong.is_empty(), "{wrong:?}");
        let file = answers.address.map(|address| address.network_file("enp0s2")).unwrap_or_default();
        assert!(file.contains("Name=enp0s2\n") && file.contains("Address=10.9.0.1/24\n"), "{file}");
        assert!(file.contains("Gateway=10.9.0.254\n") && !file.contains("DHCP"), "{file}");
    }

    #[test]
    fn time_servers_become_sources() {
        let (answers, wrong) = Answers::parse("elpis.ntp=10.0.0.1,nts:time.example.org,fd00::1");
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(
            time_sources(&answers.ntp),
            "server 10.0.0.1 iburst\nserver time.example.org iburst nts\nserver fd00::1 iburst\n"
        );
        assert!(time_sources(&[]).starts_with("pool "));
    }

    #[test]
    fn mistakes_are_said() {
        for (line, why) in [
            ("elpis.name=No", "small letters"),
            ("elpis.join=10.0.0.1", "HOST:PORT"),
            ("elpis.join=10.0.0.1:0 elpis.words=a", "HOST:PORT"),
            ("elpis.join=10.0.0.1:1", "without elpis.words"),
            ("elpis.words=a", "without elpis.join"),
            ("elpis.address=10.0.0.1", "bits of its network"),
            ("elpis.address=127.0.0.1/8", "bits of its network"),
            ("elpis.address=10.0.0.1/33", "bits of its network"),
            ("elpis.gateway=here", "IPv4 address"),
            ("elpis.plain=10.0.0.0", "networks are needed"),
            ("elpis.plain=10.0.0.0/33", "networks are needed"),
            ("elpis.plain=10.0.0.0/8,", "networks are needed"),
            ("elpis.ntp=", "up to 8 servers"),
            ("elpis.ntp=a,,b", "up to 8 servers"),
            ("elpis.ntp=a\\nallow", "up to 8 servers"),
            ("elpis.ntp=a,b,c,d,e,f,g,h,i", "up to 8 servers"),
            ("elpis.gateway=10.0.0.1", "without elpis.address"),
            ("elpis.install=", "a disk is needed"),
            ("elpis.install=vda,now", "a disk is needed"),
            ("elpis.other=a", "not known"),
        ] {
            let (answers, wrong) = Answers::parse(line);
            assert!(wrong.iter().any(|text| text.contains(why)), "{line}: {wrong:?}");
            assert_eq!(answers, Answers::default(), "{line}");
        }
    }

    #[test]
    fn a_log_server_is_named_with_or_without_its_certificate() {
        let sum =
            "63:C7:8A:81:10:D3:A5:BE:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:F3:36:AF:31:6D:F0:F4:3B";
        let small = sum.replace(':', "").to_lowercase();
        let (answers, wrong) =
            Answers::read(&in_file("elpis.txt", format!("logs = 10.0.0.9:6514, {sum}").as_bytes()).unwrap());
        assert!(wrong.is_empty(), "{wrong:?}");
        let server = answers.logs.clone().unwrap();
        assert_eq!(server.to_string(), format!("10.0.0.9:6514,{small}"));
        assert_eq!(Answers::parse(&answers.options()), (answers.clone(), Vec::new()));
        let known = Answers::parse("elpis.logs=log.example.org:6514").0.logs.unwrap();
        assert_eq!((known.host.as_str(), known.port, known.sha256), ("log.example.org", 6514, None));
        let (none, wrong) = Answers::parse(&format!("{}elpis.logs=none", answers.options()));
        assert!(none.logs.is_none() && wrong.is_empty());
        for bad in ["log", "log:0", ":6514", "-to:1", "a b:1", "log:6514,", "log:6514,ab12", "log:6514;x"] {
            let said = [Said { place: String::new(), key: "elpis.logs".into(), value: bad.into() }];
            let (answers, wrong) = Answers::read(&said);
            assert!(answers.logs.is_none() && wrong.len() == 1, "{bad}: {wrong:?}");
        }
    }
}
