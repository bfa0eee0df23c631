//! Planted bugs: the simulator must catch each. In a build without the feature `planted-bugs` none exists.

/// Names of the planted bugs.
pub const NAMES: [&str; 6] = [
    "no-wait-for-lease",
    "session-not-raised",
    "release-taken-back",
    "grants-after-transfer",
    "predecessor-after-one-missed",
    "earlier-grant-kept",
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
