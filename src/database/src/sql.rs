//! Statements of administration, by the socket, as the account of the operating system.

use crate::Error;
use crate::folder::user_name;
use elpis_cluster::agent::database::Login;
use elpis_watch::NodeId;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row, SqlSafeStr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for an answer to a question.
pub(crate) const QUESTION: Duration = Duration::from_millis(800);
/// Longest wait for an order: `STOP SLAVE` waits for the transaction it applies.
pub(crate) const ORDER: Duration = Duration::from_secs(10);

/// One connection, made when it is needed; dropped after every failure, as an answer may still come.
#[derive(Debug)]
pub(crate) struct Sql {
    socket: PathBuf,
    conn: Option<MySqlConnection>,
}

impl Sql {
    pub(crate) fn new(socket: PathBuf) -> Sql {
        Sql { socket, conn: None }
    }

    /// Another server than before.
    pub(crate) fn forget(&mut self) {
        self.conn = None;
    }

    async fn conn(&mut self) -> Result<&mut MySqlConnection, Error> {
        if self.conn.is_none() {
            self.conn = Some(connect(self.socket.clone()).await?);
        }
        self.conn.as_mut().ok_or_else(|| Error::Other("no connection".to_owned()))
    }

    /// Rows of a question. `doing` is for the error.
    pub(crate) async fn ask(
        &mut self,
        doing: &'static str,
        text: &'static str,
    ) -> Result<Vec<MySqlRow>, Error> {
        self.rows(doing, text.into_sql_str()).await
    }

    async fn rows(&mut self, doing: &'static str, text: sqlx::SqlStr) -> Result<Vec<MySqlRow>, Error> {
        let work = async {
            let conn = self.conn().await?;
            sqlx::raw_sql(text).fetch_all(conn).await.map_err(|error| Error::Sql(doing, error))
        };
        let done = timeout(QUESTION, work).await.unwrap_or(Err(Error::Silent(QUESTION.as_millis(), doing)));
        if done.is_err() {
            self.conn = None;
        }
        done
    }

    /// The same with a text that was put together here, as [`run_made`](Sql::run_made) takes it.
    pub(crate) async fn ask_made(
        &mut self,
        doing: &'static str,
        text: String,
    ) -> Result<Vec<MySqlRow>, Error> {
        self.rows(doing, AssertSqlSafe(text).into_sql_str()).await
    }

    /// Carries an order out.
    pub(crate) async fn run(&mut self, doing: &'static str, text: &'static str) -> Result<(), Error> {
        self.order(doing, text.into_sql_str()).await
    }

    /// The same with the patience of a question.
    pub(crate) async fn run_soon(&mut self, doing: &'static str, text: &'static str) -> Result<(), Error> {
        self.ask(doing, text).await.map(|_| ())
    }

    /// The same with a text that was put together here, from numbers and from texts that went through [`quoted`].
    pub(crate) async fn run_made(&mut self, doing: &'static str, text: String) -> Result<(), Error> {
        self.order(doing, AssertSqlSafe(text).into_sql_str()).await
    }

    async fn order(&mut self, doing: &'static str, text: sqlx::SqlStr) -> Result<(), Error> {
        let work = async {
            let conn = self.conn().await?;
            conn.execute(sqlx::raw_sql(text)).await.map(|_| ()).map_err(|error| Error::Sql(doing, error))
        };
        let done = timeout(ORDER, work).await.unwrap_or(Err(Error::Silent(ORDER.as_millis(), doing)));
        if done.is_err() {
            self.conn = None;
        }
        done
    }
}

/// A connection by the socket.
pub(crate) async fn connect(socket: PathBuf) -> Result<MySqlConnection, Error> {
    let options =
        MySqlConnectOptions::new().socket(socket).username(&user_name()?).disable_statement_logging();
    options.connect().await.map_err(|error| Error::Sql("a connection", error))
}

/// A column as text; what is not there is empty.
pub(crate) fn text(row: &MySqlRow, column: &str) -> String {
    row.try_get_unchecked::<Option<String>, _>(column).ok().flatten().unwrap_or_default()
}

/// A text as a literal: the accounts' names and passwords hold letters, digits and dashes, and nothing else is taken.
pub(crate) fn quoted(text: &str) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || !text.chars().all(plain) {
        return Err(Error::Other(
            "a name or password holds other signs than letters, digits and dashes".to_owned(),
        ));
    }
    Ok(format!("'{text}'"))
}

/// Everything the supervisor looks at, but replication.
pub(crate) const SERVER: &str = "SELECT @@read_only AS read_only, @@rpl_semi_sync_master_enabled AS semi_master, \
    @@rpl_semi_sync_slave_enabled AS semi_slave, @@gtid_binlog_pos AS binlog_pos, @@gtid_slave_pos AS slave_pos";
/// How many commits wait for an acknowledgement: all of the server's counters are gathered for it.
pub(crate) const WAITING: &str = "SELECT VARIABLE_VALUE AS waiting FROM information_schema.GLOBAL_STATUS \
    WHERE VARIABLE_NAME='RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS'";
pub(crate) const REPLICA: &str = "SHOW ALL SLAVES STATUS";
pub(crate) const BINARY_LOGS: &str = "SHOW BINARY LOGS";
pub(crate) const DUMPS: &str = "SELECT ID AS id, USER AS user FROM information_schema.PROCESSLIST \
    WHERE COMMAND LIKE 'Binlog Dump%'";

/// Tables of the group itself. `heartbeat`: rows that only have to change.
pub(crate) const TABLES: &str = "CREATE DATABASE IF NOT EXISTS elpis_group; \
    CREATE TABLE IF NOT EXISTS elpis_group.heartbeat (slot SMALLINT UNSIGNED NOT NULL PRIMARY KEY, \
    n BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB";
pub(crate) const HAS_TABLES: &str = "SELECT COUNT(*) AS n FROM information_schema.TABLES \
    WHERE TABLE_SCHEMA='elpis_group' AND TABLE_NAME='heartbeat'";
pub(crate) const HAS_FENCE: &str = "SELECT COUNT(*) AS n FROM information_schema.TABLES \
    WHERE TABLE_SCHEMA='elpis' AND TABLE_NAME='cluster_fence'";
pub(crate) const ACCOUNTS: &str =
    "SELECT USER AS user FROM mysql.global_priv WHERE HOST='localhost' AND USER LIKE 'elpis-%'";

/// A binary log's first events; its list of GTIDs is the second.
pub(crate) fn begin_of(log: &str) -> Result<String, Error> {
    Ok(format!("SHOW BINLOG EVENTS IN {} LIMIT 4", quoted(log)?))
}

/// Removes the binary logs before this one.
pub(crate) fn purge_to(log: &str) -> Result<String, Error> {
    Ok(format!("PURGE BINARY LOGS TO {}", quoted(log)?))
}

/// An account under which a node replicates.
pub(crate) fn replication_account(login: &Login) -> Result<String, Error> {
    let (user, password) = (quoted(&login.user)?, quoted(&login.password.0)?);
    Ok(format!(
        "CREATE OR REPLACE USER {user}@'localhost' IDENTIFIED BY {password}; \
         GRANT REPLICATION SLAVE ON *.* TO {user}@'localhost'"
    ))
}

/// The account with which the nodes make their servers' accounts.
pub(crate) fn admin_account(login: &Login) -> Result<String, Error> {
    let (user, password) = (quoted(&login.user)?, quoted(&login.password.0)?);
    Ok(format!(
        "CREATE OR REPLACE USER {user}@'localhost' IDENTIFIED BY {password}; \
         GRANT CREATE USER ON *.* TO {user}@'localhost'; \
         GRANT ALL ON `elpis`.* TO {user}@'localhost' WITH GRANT OPTION"
    ))
}

/// Follow the source behind the gate's port on the loopback.
pub(crate) fn change_master(port: u16, login: &Login) -> Result<String, Error> {
    Ok(format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER={}, MASTER_PASSWORD={}, \
         MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=0.5, MASTER_USE_GTID=slave_pos",
        quoted(&login.user)?,
        quoted(&login.password.0)?
    ))
}

/// Fence rows as Raft has them; every one changes, so that the transaction is acknowledged by somebody.
pub(crate) fn fence(rows: &[(String, u64)]) -> Result<String, Error> {
    let mut text = "INSERT INTO elpis.cluster_fence (writer, session, incarnation) VALUES ".to_owned();
    for (index, (writer, session)) in rows.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        text.push_str(&format!("{comma}({},{session},0)", quoted(writer)?));
    }
    text.push_str(" ON DUPLICATE KEY UPDATE session=GREATEST(session, VALUES(session)), bump=bump+1");
    Ok(text)
}

/// `server_id` under which a node's server writes nothing: an epoch's own transactions carry the epoch's number, so
/// that no replica ever takes them for its own and skips them.
pub(crate) fn replica_id(node: NodeId) -> u32 {
    (1 << 31) | u32::try_from(node % (1 << 31)).unwrap_or(0)
}

/// `server_id` of an epoch's primary.
pub(crate) fn primary_id(epoch: u64) -> u32 {
    u32::try_from(epoch % (1 << 31)).unwrap_or(1).max(1)
}

/// Sequence number of domain 0 in a GTID position.
pub(crate) fn sequence(position: &str) -> u64 {
    let of_domain = |gtid: &str| gtid.trim().strip_prefix("0-")?.split('-').nth(1)?.parse().ok();
    position.split(',').find_map(of_domain).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_texts_are_taken_apart_with_care() {
        assert_eq!(sequence("0-7-123"), 123);
        assert_eq!(sequence("1-2-9,0-4-5"), 5);
        assert_eq!((sequence(""), sequence("1-2-9"), sequence("0-x")), (0, 0, 0));
        assert!(quoted("a'b").is_err() && quoted("").is_err() && quoted("a\\").is_err());
        assert_eq!(quoted("n1/data-server").unwrap(), "'n1/data-server'");
        assert_ne!(replica_id(5), primary_id(5));
    }
}
