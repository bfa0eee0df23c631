//! A restarted voter keeps still: it has forgotten which leader it promised not to depose.
//!
//! PURE: times are milliseconds of one clock of this machine. openraft keeps the promise (its leader lease) in memory
//! only, so for the longest election time-out after a start a voter answers no vote, no pre-vote and does not stand.
//! A sole voter promised nothing to anybody.

use crate::planted;

/// Since when a voter runs, and so until when it keeps still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    until_ms: i64,
}

impl Quiet {
    /// Of a voter that starts now.
    #[must_use]
    pub fn new(now_ms: i64, election_max_ms: u64) -> Quiet {
        Quiet { until_ms: now_ms.saturating_add(i64::try_from(election_max_ms).unwrap_or(i64::MAX / 2)) }
    }

    /// Whether it must answer no vote and no pre-vote.
    #[must_use]
    pub fn silent(&self, now_ms: i64, sole: bool) -> bool {
        now_ms < self.until_ms && !sole && !planted::on("vote-after-restart")
    }

    /// Milliseconds until it may stand.
    #[must_use]
    pub fn stands_in_ms(&self, now_ms: i64, sole: bool) -> u64 {
        if sole || planted::on("restarted-voter-stands") {
            return 0;
        }
        u64::try_from(self.until_ms - now_ms).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_still_for_one_election_time() {
        let quiet = Quiet::new(1000, 600);
        assert!(quiet.silent(1599, false) && !quiet.silent(1600, false) && !quiet.silent(1000, true));
        assert_eq!((quiet.stands_in_ms(1100, false), quiet.stands_in_ms(1100, true)), (500, 0));
        assert_eq!(quiet.stands_in_ms(1700, false), 0);
    }
}
