//! PURE: how far the journal has surely been sent. Times are milliseconds of one clock.

use std::collections::VecDeque;

/// Positions are no closer together.
const APART_MS: u64 = 1000;

/// Positions in the journal of one connection.
#[derive(Debug)]
pub(crate) struct Positions {
    /// Cursors, and when the last of them had been sent at the latest; oldest first, those of `sure_ms` at most.
    sent: VecDeque<(u64, String)>,
    safe: Option<String>,
    /// What was handed over so long ago has arrived, or the connection would have broken.
    sure_ms: u64,
}

impl Positions {
    /// As kept from before.
    pub(crate) fn from(safe: Option<String>, sure_ms: u64) -> Positions {
        Positions { sent: VecDeque::new(), safe, sure_ms }
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
        while self.sent.front().is_some_and(|(at, _)| at + self.sure_ms <= now_ms) {
            self.safe = self.sent.pop_front().map(|(_, cursor)| cursor);
        }
        self.safe.as_deref()
    }

    /// The other side took all of it and said so: it closed in order, some time after the last of it.
    pub(crate) fn taken(&mut self) {
        if let Some((_, cursor)) = self.sent.pop_back() {
            self.safe = Some(cursor);
        }
        self.sent.clear();
    }

    /// The connection broke: what is not sure counts for nothing.
    pub(crate) fn broken(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE_MS: u64 = 35_000;

    #[test]
    fn a_position_is_safe_when_its_connection_lived_on() {
        let mut positions = Positions::from(Some("old".into()), SURE_MS);
        for (at, cursor) in [(0, "a"), (900, "b"), (1000, "c"), (2500, "d")] {
            positions.sent(at, cursor.into());
        }
        assert_eq!(positions.safe(SURE_MS + 900), Some("old"));
        assert_eq!(positions.safe(SURE_MS + 1000), Some("b"));
        assert_eq!(positions.safe(SURE_MS + 2000), Some("c"));
        positions.broken();
        assert_eq!(positions.safe(u64::MAX), Some("c"), "d may be lost: it is sent again");
        positions.sent(0, "d".into());
        positions.taken();
        assert_eq!(positions.safe(0), Some("d"));
        positions.taken();
        assert_eq!(positions.safe(0), Some("d"));
    }

    #[test]
    fn much_load_takes_no_room_and_becomes_safe() {
        let mut positions = Positions::from(None, SURE_MS);
        for at in 0..200_000 {
            positions.sent(at, at.to_string());
            positions.safe(at);
        }
        assert!(positions.sent.len() < 40);
        let safe: u64 = positions.safe(200_000).unwrap().parse().unwrap();
        assert!((163_000..=165_000).contains(&safe), "{safe}");
    }
}
