//! Planted bugs, by which the simulator is judged: it must catch each (`make mutants`).
//! In a build without the feature `planted-bugs` none exists.

/// Names of the planted bugs.
pub const NAMES: [&str; 12] = [
    "session-not-raised",
    "no-lease-wait",
    "grant-in-transfer-term",
    "release-taken-back",
    "predecessor-one-renewal",
    "earlier-grant-kept",
    "vote-not-synced",
    "vote-after-restart",
    "restarted-voter-stands",
    "few-clocks-jump",
    "claim-before-all",
    "impatient-at-once",
];

/// Those of the database group.
pub const DATABASE: [&str; 6] = [
    "stop-slave-before-promotion",
    "promotion-without-a-member",
    "restarted-acker-counts",
    "gate-before-fence",
    "heirs-before-proof",
    "back-from-a-freeze",
];

/// Whether the bug of this name is switched on (by `ELPIS_PLANTED_BUG`).
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn on(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("ELPIS_PLANTED_BUG").unwrap_or_default()) == name
}

/// Never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn on(_name: &str) -> bool {
    false
}
