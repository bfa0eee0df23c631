//! The operator's changes, followed by number.

use crate::pool::run;
use crate::statements::statements;
use crate::{Store, StoreError};
use elpis_monitor::AgentId;

/// What changed since a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be asked from the next time.
    pub last_seq: u64,
    /// Agents to load again (they or their modules changed; gone = deleted), with their shards, each once.
    pub agents: Vec<(u16, AgentId)>,
}

statements! {
    SINCE = "SELECT seq, shard, id, utimestamp > UNIX_TIMESTAMP() - 10 FROM tchange WHERE seq > ? ORDER BY seq LIMIT 10000";
    NEWEST = "SELECT CAST(COALESCE(MAX(seq), 0) AS UNSIGNED) FROM tchange";
}

impl Store {
    /// Number to follow changes from; taken **before** agents are loaded. A little older than the newest one, so that
    /// a change that is being committed now is not missed.
    pub async fn last_change(&self) -> Result<u64, StoreError> {
        let mut conn = self.acquire().await?;
        let newest: u64 =
            run!(conn, "reading changes", |c| Ok(sqlx::query_scalar(NEWEST).fetch_one(&mut *c).await?))?;
        Ok(self.changes_since(newest.saturating_sub(1000)).await?.last_seq)
    }

    /// Changes after `seq`. Numbers are given before their transaction commits: behind a gap that is younger than 10 s
    /// the answer's `last_seq` does not move on, so what follows the gap may be told more than once.
    pub async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError> {
        let mut conn = self.acquire().await?;
        let rows: Vec<(u64, u16, u32, bool)> = run!(conn, "reading changes", |c| Ok(sqlx::query_as(SINCE)
            .bind(seq)
            .fetch_all(&mut *c)
            .await?))?;
        Ok(follow(seq, &rows))
    }
}

/// Rows: (number, shard, agent, younger than 10 s), ascending.
fn follow(seq: u64, rows: &[(u64, u16, u32, bool)]) -> Changes {
    let mut changes = Changes { last_seq: seq, agents: Vec::new() };
    let mut held = false;
    let mut last = seq;
    for (number, shard, id, young) in rows {
        // The first row after an asked-for 0 is no gap: older ones may be purged.
        held |= *young && *number != last + 1 && last != 0;
        last = *number;
        if !held {
            changes.last_seq = *number;
        }
        changes.agents.push((*shard, AgentId(*id)));
    }
    changes.agents.sort_unstable();
    changes.agents.dedup();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_gap_is_read_again_and_an_old_one_is_not() {
        let old = follow(4, &[(5, 1, 10, false), (7, 1, 11, false), (8, 1, 10, true)]);
        assert_eq!((old.last_seq, old.agents.len()), (8, 2));
        let young = follow(4, &[(5, 1, 10, false), (7, 2, 11, true), (8, 3, 12, true)]);
        assert_eq!((young.last_seq, young.agents.len()), (5, 3));
        assert_eq!(follow(8, &[]).last_seq, 8);
    }
}
