//! What of a machine's state belongs to whom: each service has its own user and may reach its own files. PURE.
//!
//! Who sees what at all stands in the units: all but the node agent find a `/var/lib/elpis` with their own places in it
//! and nothing else. The owners here hold where a unit would not.

/// A folder below the state's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Below the state's folder; empty = that itself.
    pub path: &'static str,
    pub user: &'static str,
    pub group: &'static str,
    /// Its rights; with set-group-id what is made in it gets its group.
    pub mode: u32,
    /// Rights of the files in it and below, which then all belong to the same; `None` = what is in it stays.
    pub files: Option<u32>,
}

/// Older ones first.
pub const PLACES: [Place; 10] = [
    own("", "elpis", "elpis-node"),
    // node.sock: all servers.
    Place { path: "run", user: "elpis", group: "elpis-servers", mode: 0o2750, files: None },
    // db.sock: whose server has an account at the database.
    Place { path: "run/gate", user: "elpis-db-gate", group: "elpis-database", mode: 0o2750, files: None },
    own("database", "elpis", "elpis-node"),
    // Sockets of both sides; neither removes the other's, but the node agent, whose folder it is.
    Place { path: "database/gate", user: "elpis", group: "elpis-db-gate", mode: 0o3770, files: None },
    // Images for updates.
    own("update", "elpis", "elpis-node"),
    own("console", "elpis-console", "elpis-console"),
    own("log-forwarder", "elpis-log-forwarder", "elpis-log-forwarder"),
    own("tentacle", "elpis-tentacle-server", "elpis-tentacle-server"),
    // The group is the one that all files had before: a machine that falls back to such a version goes on.
    Place { path: "spool", user: "elpis-tentacle-server", group: "elpis", mode: 0o2770, files: Some(0o660) },
];

const fn own(path: &'static str, user: &'static str, group: &'static str) -> Place {
    Place { path, user, group, mode: 0o700, files: None }
}

/// Keys, passwords and tokens: file, and whose alone it is.
pub const SECRETS: [(&str, &str); 7] = [
    ("node.key", "elpis"),
    ("cluster.key", "elpis"),
    ("raft.redb", "elpis"),
    ("tentacle/tentacle.key", "elpis-tentacle-server"),
    ("console/console.key", "elpis-console"),
    ("console/metrics.token", "elpis-console"),
    ("console/admin.password", "elpis-console"),
];

/// What earlier versions had in the state's folder, the folder that it belongs to now, and whether it stays for a version
/// that is fallen back to. Keys come before their certificates: one without the other is made anew.
pub const MOVED: [(&str, &str, bool); 6] = [
    ("tentacle.key", "tentacle", true),
    ("tentacle.crt", "tentacle", true),
    ("console.key", "console", true),
    ("console.crt", "console", true),
    ("metrics.token", "console", true),
    ("admin.password", "console", false),
];

/// Whose folder that is.
#[must_use]
pub fn place(path: &str) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_in_and_parents_come_first() {
        for (number, place) in PLACES.iter().enumerate() {
            assert_eq!(place.mode & 0o007, 0, "{}", place.path);
            assert_eq!(place.files.unwrap_or(0) & 0o007, 0, "{}", place.path);
            if let Some((parent, _)) = place.path.rsplit_once('/') {
                assert!(PLACES[..number].iter().any(|other| other.path == parent), "{}", place.path);
            }
        }
        for (_, folder, _) in MOVED {
            assert_eq!(place(folder).map(|place| place.mode), Some(0o700), "{folder}");
        }
        for (file, user) in SECRETS {
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            assert_eq!(place(folder).map(|place| place.user), Some(user), "{file}");
        }
    }
}
