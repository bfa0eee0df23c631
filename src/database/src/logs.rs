//! The server's binary logs: what is there, and throwing away what no member of the group needs.

use crate::Error;
use crate::sql::{BINARY_LOGS, Sql, begin_of, purge_to, text};
use elpis_cluster::database::{BinaryLog, Logs, Notes, Patience};
use std::path::{Path, PathBuf};

/// Logs that are looked into at a time; the newest always is: whatever is not looked at stays.
const MOST: usize = 64;

/// What was there, and what went, in words.
#[derive(Debug)]
pub(crate) struct Purged {
    pub(crate) before: Logs,
    pub(crate) said: Option<String>,
}

/// Throws away what no member needs. `short`: hardly
/// anything of the disk is free.
pub(crate) async fn purge(
    socket: PathBuf,
    data: PathBuf,
    notes: Notes,
    short: bool,
) -> Result<Purged, Error> {
    let mut sql = Sql::new(socket);
    let mut logs = Vec::new();
    let rows = sql.ask("a look at its binary logs", BINARY_LOGS).await?;
    for (index, row) in rows.iter().enumerate() {
        let name = text(row, "Log_name");
        let bytes = text(row, "File_size").parse().unwrap_or(0);
        // What is not looked into stays; the newest always does.
        let after = if index < MOST { after(&mut sql, &name).await? } else { u64::MAX };
        logs.push(BinaryLog { after, name, bytes });
    }
    let before = notes.held(&logs);
    logs.truncate(MOST);
    let disk = tokio::task::spawn_blocking(move || disk_bytes(&data)).await.unwrap_or(0);
    let Some(first) = notes.keep_from(&logs, disk, short, &Patience::default()) else {
        return Ok(Purged { before, said: None });
    };
    sql.run_made("purging binary logs", purge_to(first)?).await?;
    let gone: Vec<&BinaryLog> = logs.iter().take_while(|log| log.name != first).collect();
    let mib = gone.iter().map(|log| log.bytes).fold(0, u64::saturating_add) >> 20;
    let said = format!("{} binary logs with {mib} MiB went, all before {first}", gone.len());
    Ok(Purged { before, said: Some(said) })
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

fn disk_bytes(folder: &Path) -> u64 {
    crate::disk::measure(folder).map_or(0, |disk| disk.1)
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
