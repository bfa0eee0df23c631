//! What a hardened machine must look like from within: facts that were read, and a verdict a line. PURE.

use crate::owners::{PLACES, SECRETS};
use std::collections::{BTreeMap, BTreeSet};

/// A line of the audit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// What is looked at.
    pub what: &'static str,
    /// `None` = as it must be; else what is not.
    pub wrong: Option<String>,
}

/// What was read. A text that could not be read is empty: then its line fails.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `/proc/mounts`.
    pub mounts: String,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// `/proc/net/tcp` and `tcp6`, one after the other.
    pub tcp: String,
    /// `/etc/nftables.conf`.
    pub filter: String,
    /// What the kernel's packet filter holds, as `nft list ruleset` prints it.
    pub rules: String,
    /// `/etc/shadow`.
    pub shadow: String,
    /// `/usr/lib/sysctl.d/60-elpis.conf`.
    pub wanted: String,
    /// What the kernel says to each name in it.
    pub set: BTreeMap<String, String>,
    /// `/sys/kernel/security/lockdown`.
    pub lockdown: String,
    /// `/sys/module/module/parameters/sig_enforce`.
    pub signed_modules: String,
    /// Files of the root that run as another user than who starts them.
    pub set_id: Vec<String>,
    /// Files and folders of the root that everybody may write.
    pub writable: Vec<String>,
    /// Keys and passwords of this node that others than their owner may read.
    pub open_secrets: Vec<String>,
    /// Units of ours: name, text.
    pub units: Vec<(String, String)>,
    /// `/etc/passwd`.
    pub users: String,
    /// `/etc/group`.
    pub groups: String,
    /// Files and folders of [`crate::owners`] that are there: path, owner, group, rights.
    pub owned: Vec<(String, u32, u32, u32)>,
    /// Programs that let somebody in: a server for shells.
    pub ways_in: Vec<String>,
    /// It was started from a disk.
    pub installed: bool,
}

/// The audit.
#[must_use]
pub fn audit(seen: &Seen) -> Vec<Line> {
    let line = |what, wrong: Option<String>| Line { what, wrong };
    let none = |found: &[String]| (!found.is_empty()).then(|| first(found));
    vec![
        line("the root is checked block by block and read-only", root(seen)),
        line("what can be written runs nothing of another user, and has no devices", mounts(seen)),
        line("the kernel takes only signed modules", is("Y", &seen.signed_modules)),
        line(
            "the kernel is locked down",
            (!seen.lockdown.contains("[integrity]") && !seen.lockdown.contains("[confidentiality]"))
                .then(|| said(&seen.lockdown)),
        ),
        line("the kernel's settings are those of the image", settings(seen)),
        line("the packet filter drops what it does not name", filter(seen)),
        line("only ports that the packet filter names are listened on", ports(seen)),
        line("nobody has a password", passwords(seen)),
        line("nothing lets a shell in from the network", none(&seen.ways_in)),
        line("no file runs as another user than who starts it", none(&seen.set_id)),
        line("nobody but its owner writes a file of the root", none(&seen.writable)),
        line("keys and passwords are their owner's alone", none(&seen.open_secrets)),
        line("each service that faces the network has a user of its own", own_users(seen)),
        line("each service's files are its own", owned(seen)),
    ]
}

/// PURE: the audit in a few words.
#[must_use]
pub fn summary(lines: &[Line]) -> String {
    let wrong: Vec<String> =
        lines.iter().filter_map(|line| Some(format!("{}: {}", line.what, line.wrong.as_ref()?))).collect();
    if wrong.is_empty() {
        format!("{} checks passed", lines.len())
    } else {
        format!("{} of {} checks failed: {}", wrong.len(), lines.len(), wrong.join("; "))
    }
}

fn first(found: &[String]) -> String {
    let more = found.len() - 1;
    if more == 0 { found[0].clone() } else { format!("{} and {more} more", found[0]) }
}

fn said(text: &str) -> String {
    format!("it says {:?}", text.trim())
}

fn is(wanted: &str, text: &str) -> Option<String> {
    (text.trim() != wanted).then(|| said(text))
}

fn root(seen: &Seen) -> Option<String> {
    let mount = seen.mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).unwrap_or_default();
    let mut fields = mount.split(' ');
    let (device, kind) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
    let read_only = fields.next().is_some_and(|options| options.split(',').any(|option| option == "ro"));
    let verified = seen.command_line.contains("elpis.roothash=") && device == "/dev/mapper/root";
    (kind != "squashfs" || !read_only || !verified).then(|| format!("it is {device}, {kind}"))
}

fn mounts(seen: &Seen) -> Option<String> {
    let mut points = vec![("/tmp", &["nosuid", "nodev"][..]), ("/var", &["nosuid", "nodev"])];
    if seen.installed {
        points.push(("/var/lib/elpis", &["nosuid", "nodev", "noexec"]));
        points.push(("/var/lib/elpis/database", &["nosuid", "nodev", "noexec"]));
    }
    let wrong: Vec<String> = points
        .into_iter()
        .filter_map(|(point, wanted)| {
            let mut options = seen.mounts.lines().filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                (fields.next() == Some(point)).then(|| fields.nth(1)).flatten()
            });
            let Some(options) = options.next_back() else { return Some(format!("{point} is no mount")) };
            let has: BTreeSet<&str> = options.split(',').collect();
            let lacks: Vec<&str> = wanted.iter().copied().filter(|option| !has.contains(option)).collect();
            (!lacks.is_empty()).then(|| format!("{point} lacks {}", lacks.join(", ")))
        })
        .collect();
    (!wrong.is_empty()).then(|| first(&wrong))
}

/// PURE: names and values of a sysctl file.
#[must_use]
pub fn sysctls(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

/// The kernel shows these only to who may change everything, which an audit may not.
const HIDDEN: [&str; 1] = ["net.core.bpf_jit_harden"];

fn settings(seen: &Seen) -> Option<String> {
    let mut wanted = sysctls(&seen.wanted);
    wanted.retain(|(name, _)| !HIDDEN.contains(&name.as_str()));
    if wanted.is_empty() {
        return Some("the image names none".to_owned());
    }
    let plain = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
    let wrong: Vec<String> = wanted
        .iter()
        .filter_map(|(name, value)| {
            let set = seen.set.get(name).map_or_else(String::new, |set| plain(set));
            (set != plain(value)).then(|| format!("{name} is {set:?}, not {value:?}"))
        })
        .collect();
    (!wrong.is_empty()).then(|| first(&wrong))
}

/// Ports that the image's filter opens.
fn open_ports(filter: &str) -> BTreeSet<u16> {
    let set = filter.lines().find_map(|line| line.trim().strip_prefix("tcp dport {"));
    let set = set.and_then(|line| line.split('}').next()).unwrap_or_default();
    set.split(',').filter_map(|port| port.trim().parse().ok()).collect()
}

fn filter(seen: &Seen) -> Option<String> {
    let drops = seen.rules.matches("policy drop").count();
    if drops < 2 {
        return Some("it is not loaded".to_owned());
    }
    let line = seen.rules.lines().find_map(|line| line.trim().strip_prefix("tcp dport {"));
    let loaded = line.map(|line| open_ports(&format!("tcp dport {{{line}"))).unwrap_or_default();
    let wanted = open_ports(&seen.filter);
    (wanted.is_empty() || loaded != wanted).then(|| format!("it opens {loaded:?}, not {wanted:?}"))
}

/// State of a socket that listens.
const LISTEN: &str = "0A";

fn ports(seen: &Seen) -> Option<String> {
    if seen.tcp.is_empty() {
        return Some("they cannot be read".to_owned());
    }
    let open = open_ports(&seen.filter);
    let mut more = BTreeSet::new();
    for line in seen.tcp.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(state)) = (fields.next(), fields.nth(1)) else { continue };
        let Some((address, port)) = local.split_once(':').filter(|_| state == LISTEN) else { continue };
        // 127.0.0.0/8 in the order of bytes that the kernel prints, and ::1.
        let inside = (address.len() == 8 && address.ends_with("7F"))
            || address == "00000000000000000000000001000000"
            || (address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F"));
        let port = u16::from_str_radix(port, 16).unwrap_or(0);
        if !inside && !open.contains(&port) {
            more.insert(port);
        }
    }
    (!more.is_empty()).then(|| format!("also {more:?}"))
}

/// PURE: who starts a unit, and the ports that it listens on.
fn starts(unit: &str) -> (&str, Vec<u16>) {
    let user = unit.lines().find_map(|line| line.strip_prefix("User=")).unwrap_or("root");
    let words: Vec<&str> = unit.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| pair[0].ends_with("listen"));
    (user, pairs.filter_map(|pair| pair[1].rsplit(':').next()?.parse().ok()).collect())
}

/// PURE: whether what a unit starts hears others than this machine.
#[must_use]
pub fn faces_network(unit: &str) -> bool {
    let families = unit.lines().filter_map(|line| line.strip_prefix("RestrictAddressFamilies="));
    let families: Vec<&str> = families.flat_map(str::split_whitespace).collect();
    let shut = unit.lines().any(|line| matches!(line, "PrivateNetwork=yes" | "IPAddressDeny=any"));
    families.contains(&"AF_PACKET")
        || (!shut && (families.is_empty() || families.iter().any(|family| family.starts_with("AF_INET"))))
}

/// Id of a name in `/etc/passwd` or `/etc/group`.
fn id(table: &str, name: &str) -> Option<u32> {
    let mut rows = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&name))?.get(2)?.parse().ok()
}

fn own_users(seen: &Seen) -> Option<String> {
    let facing = seen.units.iter().filter(|(name, text)| name.ends_with(".service") && faces_network(text));
    let mut held: BTreeMap<&str, &str> = BTreeMap::new();
    let mut expected = BTreeMap::new();
    for (name, text) in facing {
        let (user, ports) = starts(text);
        if user == "root" {
            return Some(format!("{name} runs as root"));
        }
        if let Some(other) = held.insert(user, name) {
            return Some(format!("{name} and {other} are both {user}"));
        }
        let Some(uid) = id(&seen.users, user) else { return Some(format!("there is no user {user}")) };
        expected.extend(ports.into_iter().map(|port| (port, uid)));
    }
    if held.is_empty() {
        return Some("no unit could be read".to_owned());
    }
    // Not what files say but who listens.
    seen.tcp.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, uid) = (fields.get(1)?, fields.get(3)?, fields.get(7)?.parse::<u32>().ok()?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        let wanted = *expected.get(&port).filter(|_| *state == LISTEN)?;
        (uid != wanted).then(|| format!("on port {port} listens user {uid}, not {wanted}"))
    })
}

fn owned(seen: &Seen) -> Option<String> {
    let found = |path: &str| seen.owned.iter().find(|(at, ..)| at == path);
    for place in &PLACES {
        let Some((_, uid, gid, mode)) = found(place.path) else {
            return Some(format!("/{} is not there", place.path));
        };
        let wanted = (id(&seen.users, place.user), id(&seen.groups, place.group), place.mode);
        if (Some(*uid), Some(*gid), *mode) != wanted {
            return Some(format!("/{} is of {uid}:{gid}, {mode:o}", place.path));
        }
    }
    SECRETS.iter().find_map(|(path, user)| {
        let (_, uid, _, mode) = found(path)?;
        let right = Some(*uid) == id(&seen.users, user) && mode & 0o077 == 0;
        (!right).then(|| format!("/{path} is of {uid}, {mode:o}, not of {user} alone"))
    })
}

fn passwords(seen: &Seen) -> Option<String> {
    if seen.shadow.is_empty() {
        return Some("they cannot be read".to_owned());
    }
    let fields = seen.shadow.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let open = fields.filter(|fields| !fields.get(1).is_some_and(|field| field.starts_with(['!', '*'])));
    let open: Vec<String> = open.map(|fields| fields[0].to_owned()).collect();
    (!open.is_empty()).then(|| first(&open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Seen {
        Seen {
            mounts: "/dev/mapper/root / squashfs ro,nodev,relatime 0 0\ntmpfs /var tmpfs rw,nosuid,nodev 0 0\n\
                     tmpfs /tmp tmpfs rw,nosuid,nodev 0 0\n/dev/vda5 /var/lib/elpis ext4 rw,nosuid,nodev,noexec 0 0\n\
                     /dev/vda6 /var/lib/elpis/database ext4 rw,nosuid,nodev,noexec 0 0\n"
                .into(),
            command_line: "elpis.roothash=ab quiet".into(),
            tcp: "  sl  local_address rem_address   st\n   0: 00000000:01BB 00000000:0000 0A 0:0 0:0 0 705\n   \
                  1: 3500007F:0035 00000000:0000 0A 0\n   2: 0F02000A:C001 0F02000A:01BB 01 0\n   \
                  3: 00000000000000000000000001000000:0035 00000000:0000 0A 0\n"
                .into(),
            filter: "    tcp dport { 443, 7946 } accept\n".into(),
            rules: "chain input { policy drop;\n tcp dport { 443, 7946 } accept\n}\nchain forward { policy drop; }".into(),
            shadow: "root:!*:20000:0\nelpis:!:20000\n_chrony:*:1\n".into(),
            wanted: "# why\nnet.core.bpf_jit_harden = 2\nkernel.sysrq = 0\nnet.ipv4.ping_group_range = 0 2147483647\n".into(),
            set: [("kernel.sysrq", "0\n"), ("net.ipv4.ping_group_range", "0\t2147483647\n")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            lockdown: "none [integrity] confidentiality\n".into(),
            signed_modules: "Y\n".into(),
            units: [("elpis-console", "--listen 0.0.0.0:443"), ("elpis-network-server", "")]
                .map(|(name, listen)| {
                    let text = format!(
                        "ExecStart=/usr/bin/elpis x {listen}\nUser={name}\nRestrictAddressFamilies=AF_UNIX AF_INET\n"
                    );
                    (format!("{name}.service"), text)
                })
                .into(),
            users: "elpis:x:700:700\nelpis-network-server:x:703:703\nelpis-console:x:705:705\nelpis-log-forwarder:x:707:707\n\
                    elpis-db-gate:x:704:704\nelpis-tentacle-server:x:701:701\n"
                .into(),
            groups: "elpis:x:700:\nelpis-console:x:705:\nelpis-log-forwarder:x:707:\nelpis-db-gate:x:704:\nelpis-tentacle-server:x:701:\n\
                     elpis-node:x:710:\nelpis-servers:x:711:\nelpis-database:x:712:\n"
                .into(),
            owned: [
                ("", 700, 710, 0o700),
                ("run", 700, 711, 0o2750),
                ("run/gate", 704, 712, 0o2750),
                ("database", 700, 710, 0o700),
                ("database/gate", 700, 704, 0o3770),
                ("update", 700, 710, 0o700),
                ("console", 705, 705, 0o700),
                ("tentacle", 701, 701, 0o700),
                ("spool", 701, 700, 0o2770),
                ("node.key", 700, 710, 0o600),
                ("console/console.key", 705, 705, 0o600),
                ("log-forwarder", 707, 707, 0o700),
            ]
            .map(|(path, uid, gid, mode)| (path.to_owned(), uid, gid, mode))
            .into(),
            installed: true,
            ..Seen::default()
        }
    }

    #[test]
    fn a_hardened_machine_passes() {
        let lines = audit(&good());
        let wrong: Vec<&Line> = lines.iter().filter(|line| line.wrong.is_some()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(summary(&lines), "14 checks passed");
    }

    #[test]
    fn each_weakness_is_found() {
        type Change = fn(&mut Seen);
        let changes: [(&str, Change); 24] = [
            ("it is /dev/vda3", |s| s.mounts = s.mounts.replace("/dev/mapper/root", "/dev/vda3")),
            ("it is /dev/mapper/root", |s| s.command_line.clear()),
            ("/tmp lacks nodev", |s| {
                s.mounts = s.mounts.replace("/tmp tmpfs rw,nosuid,nodev", "/tmp tmpfs rw,nosuid");
            }),
            ("/var/lib/elpis is no mount", |s| s.mounts = s.mounts.replace(" /var/lib/elpis ", " /mnt ")),
            ("it says \"N\"", |s| s.signed_modules = "N\n".into()),
            ("it says \"\"", |s| s.lockdown.clear()),
            ("kernel.sysrq is \"1\"", |s| drop(s.set.insert("kernel.sysrq".into(), "1".into()))),
            ("names none", |s| s.wanted.clear()),
            ("not loaded", |s| s.rules.clear()),
            ("it opens {22, 443, 7946}", |s| s.rules = s.rules.replace("{ 443", "{ 22, 443")),
            ("also {22}", |s| s.tcp.push_str("  4: 00000000:0016 00000000:0000 0A 0\n")),
            ("cannot be read", |s| s.tcp.clear()),
            ("root", |s| s.shadow = "root::1\n".into()),
            ("sshd", |s| s.ways_in = vec!["/usr/sbin/sshd".into()]),
            ("/bin/su and 1 more", |s| s.set_id = vec!["/bin/su".into(), "/bin/mount".into()]),
            ("/etc/x", |s| s.writable = vec!["/etc/x".into()]),
            ("node.key", |s| s.open_secrets = vec!["node.key".into()]),
            ("are both elpis-console", |s| {
                s.units[1].1 = s.units[1].1.replace("User=elpis-network-server", "User=elpis-console");
            }),
            ("runs as root", |s| s.units[1].1 = s.units[1].1.replace("User=elpis-network-server", "")),
            ("there is no user elpis-network-server", |s| {
                s.users = s.users.replace("elpis-network-server", "other");
            }),
            ("port 443 listens user 700", |s| s.tcp = s.tcp.replace(" 705\n", " 700\n")),
            ("no unit could be read", |s| s.units.clear()),
            ("/spool is of 700:700, 700", |s| s.owned[8] = ("spool".into(), 700, 700, 0o700)),
            ("/node.key is of 705, 600", |s| s.owned[9].1 = 705),
        ];
        for (says, change) in changes {
            let mut seen = good();
            change(&mut seen);
            let text = summary(&audit(&seen));
            assert!(text.starts_with("1 of 14 checks failed") && text.contains(says), "{says}: {text}");
        }
    }

    #[test]
    fn what_could_not_be_read_does_not_pass() {
        let lines = audit(&Seen::default());
        let passed: Vec<&str> =
            lines.iter().filter(|line| line.wrong.is_none()).map(|line| line.what).collect();
        assert!(
            passed
                .iter()
                .all(|what| ["nothing", "no file", "nobody but", "keys"].iter().any(|w| what.starts_with(w))),
            "{passed:?}"
        );
    }
}
