//! The server's binary logs: what is there, and throwing away what no member of the group needs.

use crate::Error;
use crate::sql::{BINARY_LOGS, Sql, begin_of, purge_to, text};
use elpis_cluster::database::{BinaryLog, Notes, Patience};
use std::path::PathBuf;

/// Logs that are looked into at a time; the newest always is: whatever is not looked at stays.
const MOST: usize = 64;

/// Throws away what no member needs; the answer says what went, if anything.
pub(crate) async fn purge(socket: PathBuf, data: PathBuf, notes: Notes) -> Result<Option<String>, Error> {
    let mut sql = Sql::new(socket);
    let mut logs = Vec::new();
    let rows = sql.ask("a look at its binary logs", BINARY_LOGS).await?;
    if rows.len() < 2 {
        // The newest always stays.
        return Ok(None);
    }
    for row in rows.iter().take(MOST) {
        let name = text(row, "Log_name");
        let bytes = text(row, "File_size").parse().unwrap_or(0);
        logs.push(BinaryLog { after: after(&mut sql, &name).await?, name, bytes });
    }
    let disk = tokio::task::spawn_blocking(move || disk_bytes(&data)).await.unwrap_or(0);
    let Some(first) = notes.keep_from(&logs, disk, &Patience::default()) else { return Ok(None) };
    sql.run_made("purging binary logs", purge_to(first)?).await?;
    let gone: Vec<&BinaryLog> = logs.iter().take_while(|log| log.name != first).collect();
    let mib = gone.iter().map(|log| log.bytes).fold(0, u64::saturating_add) >> 20;
    Ok(Some(format!("{} binary logs with {mib} MiB went, all before {first}", gone.len())))
}

/// The last sequence number before a log, which stands in its list of GTIDs.
async fn after(sql: &mut Sql, log: &str) -> Result<u64, Error> {
    let rows = sql.ask_made("a look into a binary log", begin_of(log)?).await?;
    let list = rows.iter().find(|row| text(row, "Event_type") == "Gtid_list");
    let list = list.ok_or_else(|| Error::Other(format!("binary log {log} has no list of GTIDs")))?;
    Ok(newest(&text(list, "Info")))
}

/// The newest sequence number of domain 0 in a list of GTIDs: one for each server that ever wrote.
fn newest(list: &str) -> u64 {
    let gtids = list.trim_matches(['[', ']']).split(',');
    gtids.map(crate::sql::sequence).max().unwrap_or(0)
}

fn disk_bytes(folder: &PathBuf) -> u64 {
    nix::sys::statvfs::statvfs(folder).map_or(0, |disk| disk.blocks().saturating_mul(disk.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_list_counts() {
        assert_eq!(newest("[0-1-100,0-2147483653-151, 0-2-150,1-1-999]"), 151);
        assert_eq!((newest("[]"), newest(""), newest("[0-x]")), (0, 0, 0));
    }
}
