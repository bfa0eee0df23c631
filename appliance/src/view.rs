//! What the screen says: the state of the machine in plain words. PURE.

use elpis_cluster::agent::{NodeLine, Status};
use std::path::Path;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It works, and a node may be lost.
    Good,
    /// It works, and no node may be lost.
    Notice,
    /// It is on its way.
    Starting,
    /// It does not work.
    Bad,
}

/// What the machine knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    /// `None` until it is made.
    pub name: Option<String>,
    /// `None` without a network.
    pub address: Option<String>,
    /// It was started from a medium: nothing is kept over a restart.
    pub live: bool,
    /// It was started from a disk, whose state cannot be mounted.
    pub state_missing: bool,
    /// A unit that failed before there was an address.
    pub failed: Option<String>,
    /// What the last audit found, when all of it was well.
    pub audit: Option<String>,
    /// An installation or an update: its name, and how far it is.
    pub work: Option<(&'static str, String)>,
    /// The first administrator's password, until somebody changes it.
    pub password: Option<String>,
    /// SHA-256 of the console's certificate, as `4A:7F:…`; `None` until it is made.
    pub certificate: Option<String>,
    /// What is wrong with the answers given before the start, and with the units.
    pub problems: Vec<String>,
}

/// Where agents' files come in: Tentacle's own port.
const TENTACLE: u16 = 41_121;
/// Steps of a start.
const STEPS: u32 = 6;

/// The state in one line.
#[must_use]
pub fn headline(facts: &Facts, status: Option<&Status>) -> (Level, String) {
    let step =
        |number: u32, what: &str| (Level::Starting, format!("Starting, step {number} of {STEPS}: {what}"));
    if facts.state_missing {
        return (Level::Bad, "The disk's state cannot be mounted: the disk fails, or is damaged".to_owned());
    }
    if let Some(unit) = facts.failed.as_ref().filter(|_| facts.address.is_none()) {
        return (Level::Bad, format!("This machine does not start: {unit} failed (l shows its log)"));
    }
    if facts.address.is_none() {
        return step(1, "an address (is the cable in?)");
    }
    let Some(status) = status else { return step(2, "the node agent") };
    match status.state.as_str() {
        "no-cluster" => return step(3, "a cluster of one"),
        "given-up" => return (Level::Bad, status.reason.clone()),
        "joining" => return (Level::Starting, "Joining a cluster: the others let this node in".to_owned()),
        _ => {}
    }
    if status.master.is_none() {
        return no_master(status);
    }
    let database = status.database.as_ref();
    if database.is_some_and(|database| database.waits.is_some()) {
        return (Level::Bad, "No primary: somebody with the newest rows must come back".to_owned());
    }
    if !database.is_some_and(|database| database.ready) {
        return step(4, "the database");
    }
    let mine = mine(status);
    if let Some(node) = mine.filter(|node| !node.unfit.is_empty()) {
        return (Level::Bad, format!("This node cannot work: {}", node.unfit));
    }
    if status.shards.owned < status.shards.total {
        let (owned, total) = (status.shards.owned, status.shards.total);
        return step(5, &format!("the work is given out, {owned} of {total} shards"));
    }
    let late = mine.and_then(|node| node.services.iter().find(|(_, state)| *state != "up"));
    if let Some((service, _)) = late {
        return step(6, &format!("the {service}"));
    }
    let more = match status.nodes.len() {
        1 => ": add two more",
        2 => ": add one more",
        _ => "",
    };
    let level = if status.can_lose > 0 { Level::Good } else { Level::Notice };
    let nodes = if status.can_lose == 1 { "node" } else { "nodes" };
    let reason = if more.is_empty() && status.can_lose == 0 && !status.reason.is_empty() {
        format!(": {}", status.reason)
    } else {
        more.to_owned()
    };
    (level, format!("Working, can lose {} {nodes}{reason}", status.can_lose))
}

/// The line of the node that answers.
#[must_use]
pub fn mine(status: &Status) -> Option<&NodeLine> {
    status.nodes.iter().find(|node| Some(node.id) == status.node)
}

/// Who is there, and who has to come.
fn no_master(status: &Status) -> (Level, String) {
    // Until somebody was asked, an election may be on.
    let Some(majority) = &status.majority else {
        return (Level::Starting, format!("Starting, step 3 of {STEPS}: the cluster"));
    };
    let voters = status.nodes.iter().filter(|node| node.voter).map(|node| node.name.as_str());
    let (missing, there): (Vec<&str>, Vec<&str>) =
        voters.partition(|name| majority.missing.iter().any(|missing| missing == name));
    let needed = ((there.len() + missing.len()) / 2 + 1).saturating_sub(there.len());
    let nodes = if needed == 1 { "node" } else { "nodes" };
    let (of, or) = match needed {
        1 => (String::new(), " or "),
        all if all == missing.len() => (String::new(), " and "),
        some => (format!("{some} of "), ", "),
    };
    // One that only follows, so far, is not counted.
    let has = if there.is_empty() { String::new() } else { format!("has {}, ", there.join(", ")) };
    (Level::Bad, format!("Waiting for {needed} more {nodes}: {has}needs {of}{}", missing.join(or)))
}

/// The lines below it: a name and a value each.
#[must_use]
pub fn lines(facts: &Facts, status: Option<&Status>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(address) = &facts.address {
        lines.push(("Console", format!("https://{address}/")));
        if let Some(password) = &facts.password {
            lines.push(("", format!("user admin, password {password} (made at the first start)")));
        }
        if let Some(print) = &facts.certificate {
            lines.push(("", format!("certificate {}", ends(print))));
        }
        lines.push(("Agents", format!("{address}, port {TENTACLE} (Tentacle)")));
    }
    if let Some(status) = status.filter(|status| status.state == "member") {
        let master = status.master.as_deref().unwrap_or("none");
        let count = status.nodes.len();
        let nodes = if count == 1 { "node" } else { "nodes" };
        let cluster = status.cluster.as_deref().unwrap_or_default();
        lines.push(("Cluster", format!("{cluster}, {count} {nodes}, master {master}{}", profile(status))));
        if let Some(database) = &status.database {
            let primary = database.primary.as_deref().unwrap_or("none");
            lines.push(("Database", format!("primary {primary}, {}", database.mode)));
        }
        for (address, node) in &status.addresses {
            let node = if node.is_empty() { "nobody yet" } else { node };
            lines.push(("Address", format!("{address}, virtual, given to {node}")));
        }
        lines.extend(status.update.as_ref().map(|update| ("Rollout", update.text())));
        for node in &status.nodes {
            let role = node.database.as_ref().map_or("", |copy| copy.main.as_str());
            let services = node.services.values();
            let (up, all) = (services.clone().filter(|state| *state == "up").count(), services.count());
            let line = format!(
                "{:<14} {:<20} {:<9} {role:<8} {up}/{all} servers",
                node.name, node.address, node.state
            );
            lines.push(("Node", line));
        }
        if let Some(event) = status.events.first() {
            lines.push(("Latest", format!("{}: {}", event.role, event.text)));
        }
    }
    if facts.live {
        lines.push(("State", "in memory: a restart loses it; i installs on a disk".to_owned()));
    }
    lines.extend(facts.work.clone());
    lines.extend(facts.audit.clone().map(|found| ("Audit", found)));
    lines.extend(status.and_then(mine).and_then(clock).map(|text| ("Problem", text)));
    for problem in &facts.problems {
        lines.push(("Problem", problem.clone()));
    }
    lines
}

/// Slots do not suffer, what people read does.
fn clock(node: &NodeLine) -> Option<String> {
    const OFF_MS: i64 = 1000;
    let off = node.skew_ms;
    let direction = if off > 0 { "ahead of" } else { "behind" };
    (off.abs() > OFF_MS).then(|| {
        format!(
            "this clock is {} s {direction} the cluster's: does it reach a time server (UDP port 123)?",
            off.abs() / 1000
        )
    })
}

/// How quickly a silent node is given up.
fn profile(status: &Status) -> String {
    let Some(profile) = &status.profile else { return String::new() };
    let change = if profile.settled { "" } else { ", a change is on" };
    format!(", profile {}{change}", profile.wanted)
}

/// PURE: the first and the last eight bytes of a fingerprint: nobody makes another certificate with the same ones.
fn ends(print: &str) -> String {
    const EIGHT: usize = 8 * 3 - 1;
    let last = print.len().saturating_sub(EIGHT);
    match (print.get(..EIGHT), print.get(last..)) {
        (Some(first), Some(end)) if last > EIGHT => format!("{first} .. {end}"),
        _ => print.to_owned(),
    }
}

/// PURE: whether a folder keeps its content over a restart, by `/proc/mounts`: the longest mount point that holds it.
#[must_use]
pub fn is_kept(mounts: &str, folder: &Path) -> bool {
    let mount = |line: &str| -> Option<(usize, bool)> {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        let kept = !matches!(kind, "tmpfs" | "ramfs" | "overlay" | "squashfs" | "rootfs");
        folder.starts_with(point).then_some((point.len(), kept))
    };
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).is_some_and(|(_, kept)| kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use elpis_cluster::agent::{DatabaseLine, MajorityLine, ProfileLine, Shards};

    fn facts() -> Facts {
        Facts { address: Some("10.0.2.15".into()), name: Some("kite-4412".into()), ..Facts::default() }
    }

    fn works(names: &[&str], can_lose: usize) -> Status {
        let nodes = names.iter().zip(1..);
        Status {
            state: "member".into(),
            node: Some(1),
            master: Some(names[0].into()),
            can_lose,
            nodes: nodes
                .map(|(name, id)| NodeLine {
                    id,
                    name: (*name).into(),
                    voter: true,
                    state: "up".into(),
                    services: [("console".into(), "up".into())].into(),
                    ..NodeLine::default()
                })
                .collect(),
            shards: Shards { total: 4096, owned: 4096 },
            database: Some(DatabaseLine { ready: true, mode: "single".into(), ..DatabaseLine::default() }),
            ..Status::default()
        }
    }

    #[test]
    fn a_start_is_told_step_by_step() {
        let one = works(&["kite-4412"], 0);
        let starting = |change: &dyn Fn(&mut Status)| {
            let mut status = one.clone();
            change(&mut status);
            headline(&facts(), Some(&status)).1
        };
        assert_eq!(
            headline(&Facts::default(), Some(&one)).1,
            "Starting, step 1 of 6: an address (is the cable in?)"
        );
        assert_eq!(headline(&facts(), None).1, "Starting, step 2 of 6: the node agent");
        assert_eq!(starting(&|s| s.state = "no-cluster".into()), "Starting, step 3 of 6: a cluster of one");
        assert_eq!(starting(&|s| s.master = None), "Starting, step 3 of 6: the cluster");
        assert_eq!(starting(&|s| s.database = None), "Starting, step 4 of 6: the database");
        assert_eq!(
            starting(&|s| s.shards.owned = 7),
            "Starting, step 5 of 6: the work is given out, 7 of 4096 shards"
        );
        assert_eq!(
            starting(&|s| s.nodes[0].services = [("console".into(), "starting".into())].into()),
            "Starting, step 6 of 6: the console"
        );
        assert_eq!(
            headline(&facts(), Some(&one)),
            (Level::Notice, "Working, can lose 0 nodes: add two more".to_owned())
        );
    }

    #[test]
    fn says_what_may_be_lost_and_who_is_missing() {
        let three = works(&["kite-4412", "heron-9021", "wren-1177"], 1);
        assert_eq!(headline(&facts(), Some(&three)), (Level::Good, "Working, can lose 1 node".to_owned()));
        let missing = |names: &[&str]| {
            let missing = names.iter().map(|name| (*name).to_owned()).collect();
            Some(MajorityLine { missing, ..MajorityLine::default() })
        };
        let alone = Status { master: None, majority: missing(&["heron-9021", "wren-1177"]), ..three.clone() };
        assert_eq!(
            headline(&facts(), Some(&alone)),
            (Level::Bad, "Waiting for 1 more node: has kite-4412, needs heron-9021 or wren-1177".to_owned())
        );
        let mut five = works(&["a", "b", "c", "d", "e"], 0);
        (five.master, five.majority) = (None, missing(&["b", "c", "d", "e"]));
        assert_eq!(
            headline(&facts(), Some(&five)).1,
            "Waiting for 2 more nodes: has a, needs 2 of b, c, d, e"
        );
        let mut newcomer = works(&["kite-4412", "heron-9021"], 0);
        newcomer.nodes[0].voter = false;
        (newcomer.master, newcomer.majority) = (None, missing(&["heron-9021"]));
        assert_eq!(headline(&facts(), Some(&newcomer)).1, "Waiting for 1 more node: needs heron-9021");
        let early = Status { master: None, ..three.clone() };
        assert_eq!(headline(&facts(), Some(&early)).0, Level::Starting, "an election may be on");
        let given_up = Status { state: "given-up".into(), reason: "reset it".into(), ..Status::default() };
        assert_eq!(headline(&facts(), Some(&given_up)), (Level::Bad, "reset it".to_owned()));
        let mut weak = three;
        (weak.can_lose, weak.reason) = (0, "wren-1177 is down".into());
        assert_eq!(headline(&facts(), Some(&weak)).1, "Working, can lose 0 nodes: wren-1177 is down");
        let mut unfit = works(&["kite-4412"], 0);
        (unfit.nodes[0].unfit, unfit.shards.owned) = ("data server: no table".into(), 0);
        assert_eq!(
            headline(&facts(), Some(&unfit)),
            (Level::Bad, "This node cannot work: data server: no table".to_owned())
        );
        let two = works(&["kite-4412", "heron-9021"], 0);
        assert_eq!(headline(&facts(), Some(&two)).1, "Working, can lose 0 nodes: add one more");
    }

    #[test]
    fn the_profile_stands_with_the_cluster() {
        let mut one = works(&["kite-4412"], 0);
        one.cluster = Some("kite".into());
        let shown =
            |status: &Status| lines(&facts(), Some(status)).into_iter().find(|line| line.0 == "Cluster");
        assert_eq!(shown(&one).unwrap().1, "kite, 1 node, master kite-4412");
        one.profile = Some(ProfileLine { wanted: "metro".into(), settled: true, ..ProfileLine::default() });
        assert_eq!(shown(&one).unwrap().1, "kite, 1 node, master kite-4412, profile metro");
        one.profile.as_mut().unwrap().settled = false;
        assert!(shown(&one).unwrap().1.ends_with("profile metro, a change is on"));
    }

    #[test]
    fn a_clock_that_is_off_is_a_problem() {
        let mut two = works(&["kite-4412", "heron-9021"], 0);
        let problem = |status: &Status| {
            lines(&facts(), Some(status)).into_iter().find(|line| line.0 == "Problem").map(|line| line.1)
        };
        (two.nodes[0].skew_ms, two.nodes[1].skew_ms) = (-1000, 90_000);
        assert_eq!(problem(&two), None, "the other's is the other's");
        two.nodes[0].skew_ms = -3_600_000;
        assert!(problem(&two).unwrap().starts_with("this clock is 3600 s behind the cluster's"));
    }

    #[test]
    fn a_lost_state_disk_comes_before_everything() {
        let facts =
            Facts { state_missing: true, work: Some(("Install", "on vda done".into())), ..Facts::default() };
        let (level, text) = headline(&facts, None);
        assert!(level == Level::Bad && text.contains("disk"), "{text}");
        assert!(lines(&facts, None).contains(&("Install", "on vda done".to_owned())));
    }

    #[test]
    fn a_start_that_failed_does_not_ask_for_a_cable() {
        let failed = Facts { failed: Some("elpis-owners.service".into()), ..Facts::default() };
        let (level, text) = headline(&failed, None);
        assert!(level == Level::Bad && text.contains("elpis-owners.service failed"), "{text}");
        let later = Facts { address: Some("10.0.0.1".into()), ..failed };
        assert_eq!(headline(&later, None).0, Level::Starting, "it went on");
    }

    #[test]
    fn a_certificate_is_compared_by_its_ends() {
        let bytes: Vec<String> = (0..32).map(|n| format!("{n:02X}")).collect();
        let facts = Facts { certificate: Some(bytes.join(":")), ..facts() };
        let shown = "certificate 00:01:02:03:04:05:06:07 .. 18:19:1A:1B:1C:1D:1E:1F";
        assert!(lines(&facts, None).contains(&("", shown.to_owned())));
        assert_eq!(ends("4A:7F"), "4A:7F");
    }

    #[test]
    fn what_is_kept_is_seen_by_the_mounts() {
        let mounts =
            "overlay / overlay rw 0 0\ntmpfs /var tmpfs rw 0 0\n/dev/vda5 /var/lib/elpis ext4 rw 0 0\n";
        assert!(is_kept(mounts, Path::new("/var/lib/elpis/raft")));
        assert!(!is_kept(mounts, Path::new("/var/lib/other")));
        assert!(!is_kept(mounts, Path::new("/etc")));
        assert!(!is_kept("", Path::new("/etc")));
    }
}
