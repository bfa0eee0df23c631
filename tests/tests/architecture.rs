//! The direction of dependencies: the test reads every manifest and fails when an arrow turns.

use std::collections::BTreeMap;
use std::path::Path;

/// Crate, and which crates of ours it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("elpis-watch", &[]),
    ("elpis-monitor", &[]),
    ("elpis-tentacle", &["elpis-watch"]),
    ("elpis-cluster", &["elpis-watch"]),
    ("elpis-appliance", &["elpis-watch", "elpis-cluster"]),
    ("elpis-sim", &["elpis-cluster", "elpis-watch"]),
    ("elpis-database", &["elpis-cluster", "elpis-watch"]),
    ("elpis-addresses", &["elpis-watch"]),
    ("elpis-logs", &["elpis-watch"]),
    ("elpis-agentxml", &["elpis-monitor"]),
    ("elpis-store", &["elpis-monitor"]),
    ("elpis-probe", &["elpis-monitor"]),
    (
        "elpis-servers",
        &["elpis-watch", "elpis-monitor", "elpis-agentxml", "elpis-tentacle", "elpis-store", "elpis-probe"],
    ),
    ("elpis-console", &["elpis-watch", "elpis-monitor", "elpis-store"]),
    (
        "elpis",
        &[
            "elpis-watch",
            "elpis-monitor",
            "elpis-addresses",
            "elpis-logs",
            "elpis-agentxml",
            "elpis-tentacle",
            "elpis-store",
            "elpis-probe",
            "elpis-servers",
            "elpis-console",
            "elpis-cluster",
            "elpis-database",
            "elpis-appliance",
        ],
    ),
    ("elpis-system-tests", &["elpis-watch", "elpis-monitor"]),
];

/// Libraries, and the crates that alone may name them in their dependencies.
const HOMES: &[(&str, &[&str])] = &[
    ("openraft", &["elpis-cluster", "elpis-sim"]),
    ("rtnetlink", &["elpis-addresses"]),
    ("redb", &["elpis-cluster", "elpis-sim"]),
    ("sqlx", &["elpis-store", "elpis-database"]),
    ("async-snmp", &["elpis-probe"]),
    ("quick-xml", &["elpis-agentxml"]),
    ("axum", &["elpis-console"]),
    ("maud", &["elpis-console"]),
    ("ratatui", &["elpis-appliance", "elpis"]),
];

#[test]
fn no_arrow_turns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut manifests = Vec::from(
        ["appliance", "cluster", "cluster/sim", "tests"].map(|part| root.join(part).join("Cargo.toml")),
    );
    manifests
        .extend(std::fs::read_dir(root.join("src")).unwrap().map(|e| e.unwrap().path().join("Cargo.toml")));
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for path in manifests {
        let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let may = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        let uses = manifest.get("dependencies").and_then(|d| d.as_table()).cloned().unwrap_or_default();
        for dependency in uses.keys() {
            if dependency.starts_with("elpis") {
                assert!(may.contains(&dependency.as_str()), "{name} may not use {dependency}");
            }
            if let Some((_, homes)) = HOMES.iter().find(|(library, _)| library == dependency) {
                assert!(homes.contains(&name.as_str()), "only {homes:?} may name {dependency}");
            }
        }
    }
}
