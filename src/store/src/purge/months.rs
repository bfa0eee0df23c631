//! Months of samples: partitions of `tagent_data`, made ahead, dropped whole.

use crate::StoreError;
use crate::error::LOCK_WAIT;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};
use std::time::Duration;

/// Months made beyond the current one, so that the last partition never fills.
const AHEAD: i64 = 2;

/// Statements hold the table for moments; what holds it for a second is a reader that stays.
const TRIES: u32 = 10;
/// A partition with this name is there already, or is not there: another one's statement came first.
const SAME_NAME: u16 = 1517;
const NO_SUCH: u16 = 1507;
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) const LIST: &str = "SELECT partition_name, COALESCE(CAST(NULLIF(partition_description, 'MAXVALUE') AS SIGNED), 0) \
    FROM information_schema.partitions WHERE table_schema=DATABASE() AND table_name='tagent_data' \
    AND partition_name IS NOT NULL ORDER BY partition_ordinal_position";

/// (name, first second that is not in it; 0 = the last one) in order.
pub(crate) async fn list(c: &mut MySqlConnection) -> Result<Vec<(String, i64)>, StoreError> {
    Ok(sqlx::query_as(LIST).fetch_all(&mut *c).await?)
}

/// Makes the months ahead. Used by a migration and by the purge.
pub(crate) async fn ahead(c: &mut MySqlConnection, now: i64) -> Result<(), StoreError> {
    let months = list(c).await?;
    keep(c, &months, now, None).await.map(|_| ())
}

/// Makes missing months up to two ahead, drops those that end at or before `oldest`. Returns how many were dropped.
///
/// Never waits in the queue of the table: all writers would stand behind it. A reader that stays makes it give up; then
/// nothing happens until the next call.
pub(crate) async fn keep(
    c: &mut MySqlConnection,
    months: &[(String, i64)],
    now: i64,
    oldest: Option<i64>,
) -> Result<u32, StoreError> {
    let (mut months, mut dropped, mut tries) = (months.to_vec(), 0, TRIES);
    while let Some(text) = next(&months, now, oldest) {
        match alter(c, text).await.map_err(|error| (crate::error::number(&error), error)) {
            Ok(()) => {}
            Err((Some(LOCK_WAIT | SAME_NAME | NO_SUCH), _)) if tries > 0 => {
                tries -= 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err((Some(LOCK_WAIT), _)) => {
                tracing::info!(
                    "the table of samples is in use; months are looked at again at the next purge"
                );
                break;
            }
            Err((_, error)) => return Err(error.into()),
        }
        let left = list(c).await?;
        dropped += months.iter().map(|month| u32::from(month.1 > 0 && !left.contains(month))).sum::<u32>();
        months = left;
    }
    Ok(dropped)
}

/// Runs one statement on the months. The table's metadata lock is had at once or not at all; what InnoDB locks inside is
/// waited for without a limit. `ALTER TABLE NOWAIT` would limit both: MariaDB 10.11 that gets no lock on its own tables
/// of statistics, which its background thread holds now and then, stops between the old files and the new ones, and the
/// whole table is gone ("doesn't exist in engine"). While it waits for those, all users of the table wait: moments, unless
/// somebody reads MariaDB's own statistics with locks.
async fn alter(c: &mut MySqlConnection, text: String) -> Result<(), sqlx::Error> {
    let (innodb,): (u32,) = sqlx::query_as("SELECT CAST(@@SESSION.innodb_lock_wait_timeout AS UNSIGNED)")
        .fetch_one(&mut *c)
        .await?;
    c.execute("SET SESSION lock_wait_timeout=0, SESSION innodb_lock_wait_timeout=100000000").await?;
    let done = c.execute(AssertSqlSafe(text)).await;
    let back = format!("SET SESSION lock_wait_timeout=DEFAULT, SESSION innodb_lock_wait_timeout={innodb}");
    match c.execute(AssertSqlSafe(back)).await {
        Ok(_) => done.map(|_| ()),
        // Nobody else may get a connection with these settings: this error ends it.
        Err(error) => {
            Err(sqlx::Error::Protocol(format!("settings of a session were not set back: {error} ({done:?})")))
        }
    }
}

/// PURE: the next statement, of numbers and names that were looked at.
fn next(months: &[(String, i64)], now: i64, oldest: Option<i64>) -> Option<String> {
    let (open, 0) = months.last()? else { return None };
    if !months.iter().all(|(name, _)| plain(name)) {
        return None;
    }
    let last = months.iter().map(|(_, end)| *end).max().unwrap_or(0);
    let new = missing(last, now);
    if !new.is_empty() {
        let parts: Vec<String> =
            new.iter().map(|(name, end)| format!("PARTITION {name} VALUES LESS THAN ({end})")).collect();
        return Some(format!(
            "ALTER TABLE tagent_data REORGANIZE PARTITION {open} INTO ({}, PARTITION {open} VALUES LESS THAN MAXVALUE)",
            parts.join(", ")
        ));
    }
    let old = months.iter().find(|(_, end)| *end > 0 && oldest.is_some_and(|oldest| *end <= oldest));
    old.map(|(name, _)| format!("ALTER TABLE tagent_data DROP PARTITION {name}"))
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Months to make after the one that ends at `last` (0 = none yet): names `pYYYYMM`, ends in Unix seconds (UTC).
fn missing(last: i64, now: i64) -> Vec<(String, i64)> {
    let (year, month) = year_month(now.clamp(0, 253_402_300_799));
    let current = year * 12 + month - 1;
    (current..=current + AHEAD)
        .map(|m| (format!("p{:04}{:02}", m / 12, m % 12 + 1), first_second(m + 1)))
        .filter(|(_, end)| *end > last)
        .collect()
}

/// Days from 1970-01-01 to the first of month `m` (year * 12 + month - 1), in seconds.
fn first_second(m: i64) -> i64 {
    let (year, month) = (m.div_euclid(12), m.rem_euclid(12) + 1);
    // Civil calendar by 400-year eras, March-based.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era - 719_468) * 86_400
}

/// Year and month of a time from 1970 on.
fn year_month(time: i64) -> (i64, i64) {
    // A month is found by looking: never more than two steps from the estimate.
    let mut m = 1970 * 12 + time.div_euclid(2_629_746);
    while first_second(m) > time {
        m -= 1;
    }
    while first_second(m + 1) <= time {
        m += 1;
    }
    (m.div_euclid(12), m.rem_euclid(12) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        assert_eq!(first_second(1970 * 12), 0);
        assert_eq!(first_second(2000 * 12 + 2), 951_868_800); // 1 March 2000
        assert_eq!(year_month(951_868_799), (2000, 2));
        assert_eq!(year_month(951_868_800), (2000, 3));
        let made = missing(0, 1_795_000_000); // November 2026
        let names: Vec<_> = made.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p202611", "p202612", "p202701"]);
        assert_eq!(missing(made[1].1, 1_795_000_000), made[2..]);
        assert_eq!(missing(made[2].1, 1_795_000_000), []);
        let months: Vec<_> = made.iter().cloned().chain([("pmax".to_owned(), 0)]).collect();
        let next = |oldest| next(&months, 1_795_000_000, oldest);
        assert_eq!((next(None), next(Some(made[0].1 - 1))), (None, None));
        assert!(next(Some(made[1].1)).is_some_and(|text| text.ends_with("DROP PARTITION p202611")));
    }
}
