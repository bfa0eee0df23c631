//! What the server shows.

use crate::Error;
use crate::sql::{REPLICA, SERVER, Sql, WAITING, sequence, text};
use elpis_cluster::database::Local;
use elpis_watch::NodeId;

/// 1236: the source does not have our position, or an earlier one than ours is its last.
const DIVERGED: &str = "1236";

/// What the applying thread stops with on a full disk: the system's own number, `ER_DISK_FULL`, `ER_ERROR_ON_WRITE`,
/// `ER_GET_ERRNO`, `ER_RECORD_FILE_FULL`.
const NO_ROOM: [&str; 5] = ["28", "1021", "1026", "1030", "1114"];

/// What is worth a question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// How it follows: it may have a source.
    pub(crate) replica: bool,
    /// Whether a commit waits for its acknowledgement: a row did not come back in time.
    pub(crate) waits: bool,
}

/// What only the supervisor needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aside {
    /// A commit waits for its acknowledgement.
    pub(crate) waits: bool,
    /// It has a source, whoever gave it that.
    pub(crate) follows: bool,
    /// It stopped to apply because it could not write.
    pub(crate) no_room: bool,
    /// The port at which the replica looks for its source.
    pub(crate) port: u16,
}

/// Looks at a server that runs. `source`: whom it follows, when it follows somebody. `writes` and `same` are for the
/// caller.
pub(crate) async fn look(
    sql: &mut Sql,
    instance: u64,
    source: Option<NodeId>,
    wanted: Wanted,
) -> Result<(Local, Aside), Error> {
    let server = sql.ask("a look at its settings", SERVER).await?;
    let server = server.first().ok_or_else(|| Error::Other("MariaDB shows no settings".to_owned()))?;
    let replica = if wanted.replica { sql.ask("a look at replication", REPLICA).await? } else { Vec::new() };
    let waiting =
        if wanted.waits { sql.ask("a look at waiting commits", WAITING).await? } else { Vec::new() };
    let on = |column: &str| text(server, column) == "1";
    let applied_seq = sequence(&text(server, "slave_pos"));
    // With log_slave_updates whatever was applied is in the binary log, unless the copy came without one.
    let binlog_seq = sequence(&text(server, "binlog_pos")).max(applied_seq);
    let mut local = Local {
        up: true,
        answers: true,
        instance,
        read_only: on("read_only"),
        semi_master: on("semi_master"),
        acks: on("semi_slave"),
        applied_seq,
        binlog_seq,
        ..Local::default()
    };
    let mut aside = Aside {
        waits: waiting
            .first()
            .is_some_and(|row| text(row, "waiting").parse().is_ok_and(|count: u64| count > 0)),
        ..Aside::default()
    };
    if let Some(replica) = replica.first() {
        aside.follows = true;
        let shown = |column: &str| text(replica, column);
        let (io, io_errno) = (shown("Slave_IO_Running"), shown("Last_IO_Errno"));
        aside.port = shown("Master_Port").parse().unwrap_or(0);
        local.source = source;
        local.io = io != "No";
        local.connected = io == "Yes";
        local.sql = shown("Slave_SQL_Running") == "Yes";
        let sql_errno = shown("Last_SQL_Errno");
        aside.no_room = !local.sql && NO_ROOM.contains(&sql_errno.as_str());
        local.broken = io_errno == DIVERGED || (!local.sql && sql_errno != "0" && !aside.no_room);
        local.io_seq = sequence(&shown("Gtid_IO_Pos"));
    }
    Ok((local, aside))
}
