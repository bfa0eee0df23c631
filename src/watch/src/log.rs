//! How much a process logs, for a while: an operator's order on its way from the node agent to the log itself.
//!
//! The order comes with every line of the watch stream while it stands; the process returns to what it was started
//! with when its time is over, also without a node agent. As the log of a process is one, so is what is wanted of it:
//! [`wanted`] is the same for all parts of the process.

use serde::{Deserialize, Serialize};
use std::sync::LazyLock;
use tokio::sync::watch;

use crate::boottime_ms;

/// Longest directives.
pub const LONGEST: usize = 500;
/// Longest time of an order.
pub const LONGEST_S: u64 = 24 * 3600;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What a process should log until a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOrder {
    /// Directives that passed [`check`].
    pub directives: String,
    /// `CLOCK_BOOTTIME` in milliseconds at which the process returns to what it was started with.
    pub until_boot_ms: i64,
}

impl LogOrder {
    /// Milliseconds that it still stands; 0 = it is over.
    pub fn ms_left(&self) -> u64 {
        u64::try_from(self.until_boot_ms.saturating_sub(boottime_ms())).unwrap_or(0)
    }
}

static WANTED: LazyLock<watch::Sender<Option<LogOrder>>> = LazyLock::new(watch::Sender::default);

/// What is wanted of this process's log; `None` = what it was started with.
pub fn wanted() -> watch::Receiver<Option<LogOrder>> {
    WANTED.subscribe()
}

/// Says what is wanted of this process's log.
pub fn want(order: Option<LogOrder>) {
    WANTED.send_if_modified(|held| {
        let changed = *held != order;
        *held = order;
        changed
    });
}

/// PURE: whether these are directives: `LEVEL` or `TARGET=LEVEL`, several with commas. A word that is no level is
/// refused: the library that reads directives would take a mistyped level for a target, and log all of it.
///
/// # Errors
/// What is wrong, and what it should be.
pub fn check(directives: &str) -> Result<(), String> {
    if directives.len() > LONGEST {
        return Err(format!("log directives have at most {LONGEST} bytes, not {}", directives.len()));
    }
    let levels = LEVELS.join(", ");
    for part in directives.split(',').map(str::trim) {
        let (target, level) =
            part.rsplit_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        let said: String = part.chars().take(64).flat_map(char::escape_default).collect();
        if !LEVELS.contains(&level) {
            return Err(format!(
                "{said:?} is no log directive: write a level ({levels}) or TARGET=LEVEL, e.g. debug or \
                 elpis_probe=trace,openraft=info"
            ));
        }
        let is_path = |target: &str| {
            !target.is_empty() && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
        };
        if target.is_some_and(|target| !is_path(target)) {
            return Err(format!(
                "{said:?} names no target: it is a path of the code, e.g. elpis_servers::network"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_no_target() {
        for good in ["debug", "off", "info,elpis_probe=trace", "elpis_servers::network=debug, openraft=warn"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in
            ["", "noisy", "DEBUG", "elpis_probe", "elpis[x{a=1}]=debug", "=debug", "info,,debug", "a b=info"]
        {
            let why = check(bad).unwrap_err();
            assert!(why.contains("no log directive") || why.contains("names no target"), "{bad}: {why}");
        }
        assert!(check(&"a=info,".repeat(100)).unwrap_err().contains("at most"));
        assert!(!check("\u{1b}[2J=info").unwrap_err().contains('\u{1b}'));
    }

    #[test]
    fn an_order_is_over_by_time_alone() {
        let order = |ms| LogOrder { directives: "debug".into(), until_boot_ms: boottime_ms() + ms };
        assert!((1..=60_000).contains(&order(60_000).ms_left()));
        assert_eq!((order(-1).ms_left(), LogOrder::default().ms_left()), (0, 0));
    }
}
