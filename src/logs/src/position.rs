//! PURE: how far the journal has surely been sent. Times are milliseconds of one clock.

use std::collections::VecDeque;

/// What was sent so long ago has arrived at the other machine: a connection whose bytes are not acknowledged breaks
/// before ([`super::forward`] sets 30 s).
pub(crate) const SURE_MS: u64 = 35_000;
/// Positions are no closer together.
const APART_MS: u64 = 1000;

/// Positions in the journal of one connection.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// Cursors, and when the last of them had been sent at the latest; oldest first, bounded by [`SURE_MS`].
    sent: VecDeque<(u64, String)>,
    safe: Option<String>,
}

impl Positions {
    /// As kept from before.
    pub(crate) fn from(safe: Option<String>) -> Positions {
        Positions { sent: VecDeque::new(), safe }
    }

    /// All up to this cursor has been handed to the connection.
    pub(crate) fn sent(&mut self, now_ms: u64, cursor: String) {
        match self.sent.back_mut() {
            Some((until, last)) if now_ms < *until => *last = cursor,
            _ => self.sent.push_back((now_ms + APART_MS, cursor)),
        }
    }

    /// Where to go on after a break, and what may be kept.
    pub(crate) fn safe(&mut self, now_ms: u64) -> Option<&str> {
        while self.sent.front().is_some_and(|(at, _)| at + SURE_MS <= now_ms) {
            self.safe = self.sent.pop_front().map(|(_, cursor)| cursor);
        }
        self.safe.as_deref()
    }

    /// The connection broke: what is not sure counts for nothing.
    pub(crate) fn broken(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_safe_when_its_connection_lived_on() {
        let mut positions = Positions::from(Some("old".into()));
        for (at, cursor) in [(0, "a"), (900, "b"), (1000, "c"), (2500, "d")] {
            positions.sent(at, cursor.into());
        }
        assert_eq!(positions.safe(SURE_MS + 900), Some("old"));
        assert_eq!(positions.safe(SURE_MS + 1000), Some("b"));
        assert_eq!(positions.safe(SURE_MS + 2000), Some("c"));
        positions.broken();
        assert_eq!(positions.safe(u64::MAX), Some("c"), "d may be lost: it is sent again");
    }

    #[test]
    fn much_load_takes_no_room_and_becomes_safe() {
        let mut positions = Positions::default();
        for at in 0..200_000 {
            positions.sent(at, at.to_string());
            positions.safe(at);
        }
        assert!(positions.sent.len() < 40);
        let safe: u64 = positions.safe(200_000).unwrap().parse().unwrap();
        assert!((163_000..=165_000).contains(&safe), "{safe}");
    }
}
