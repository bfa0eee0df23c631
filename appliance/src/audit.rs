//! What a hardened machine must look like from within: facts that were read, and a verdict a line. PURE.

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

fn ports(seen: &Seen) -> Option<String> {
    const LISTEN: &str = "0A";
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
            tcp: "  sl  local_address rem_address   st\n   0: 00000000:01BB 00000000:0000 0A 0\n   \
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
            installed: true,
            ..Seen::default()
        }
    }

    #[test]
    fn a_hardened_machine_passes() {
        let lines = audit(&good());
        let wrong: Vec<&Line> = lines.iter().filter(|line| line.wrong.is_some()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(summary(&lines), "12 checks passed");
    }

    #[test]
    fn each_weakness_is_found() {
        type Change = fn(&mut Seen);
        let changes: [(&str, Change); 17] = [
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
        ];
        for (says, change) in changes {
            let mut seen = good();
            change(&mut seen);
            let text = summary(&audit(&seen));
            assert!(text.starts_with("1 of 12 checks failed") && text.contains(says), "{says}: {text}");
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
