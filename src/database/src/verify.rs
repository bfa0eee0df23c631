//! Whether a copy's rows are the primary's: both are read at one and the same position. Only then may a copy
//! acknowledge: replication alone would not notice a row that is missing.

use crate::Error;
use crate::sql::{Sql, connect, sequence, text};
use elpis_cluster::agent::database::Login;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Rows of a table that are compared: the newest by key, where there are more.
const ROWS: u32 = 20_000;
/// The whole comparison, and the wait for a position.
const LIMIT: Duration = Duration::from_secs(120);
const REACH: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Tables with their columns and keys, each as a list in order.
const TABLES: &str = "SELECT c.TABLE_NAME AS name, \
    GROUP_CONCAT(CONCAT('COALESCE(CAST(`', c.COLUMN_NAME, '` AS BINARY),''~'')') ORDER BY c.ORDINAL_POSITION) AS columns, \
    (SELECT GROUP_CONCAT(CONCAT('`', k.COLUMN_NAME, '` DESC') ORDER BY k.ORDINAL_POSITION) \
    FROM information_schema.KEY_COLUMN_USAGE k WHERE k.TABLE_SCHEMA='elpis' AND k.TABLE_NAME=c.TABLE_NAME \
    AND k.CONSTRAINT_NAME='PRIMARY') AS keys_desc, MAX(t.TABLE_ROWS) AS about \
    FROM information_schema.COLUMNS c JOIN information_schema.TABLES t \
    ON t.TABLE_SCHEMA=c.TABLE_SCHEMA AND t.TABLE_NAME=c.TABLE_NAME \
    WHERE c.TABLE_SCHEMA='elpis' AND t.TABLE_TYPE='BASE TABLE' GROUP BY c.TABLE_NAME ORDER BY c.TABLE_NAME";

/// Compares the copy behind `socket`, which follows, with the primary behind the gate; replication goes on afterwards.
/// The answer is the tables that differ.
pub(crate) async fn verify(socket: PathBuf, gate: PathBuf, admin: Login) -> Result<Vec<String>, Error> {
    let mut local = Sql::new(socket.clone());
    let compared = timeout(LIMIT, compare(&mut local, socket, gate, admin)).await;
    // Whatever came of it.
    local.run("replication", "START SLAVE").await?;
    compared.unwrap_or_else(|_| Err(Error::Silent(LIMIT.as_millis(), "comparing rows")))
}

async fn compare(
    local: &mut Sql,
    socket: PathBuf,
    gate: PathBuf,
    admin: Login,
) -> Result<Vec<String>, Error> {
    let failed = |error| Error::Sql("a look at the primary's rows", error);
    let begin = Instant::now();
    let options = MySqlConnectOptions::new().socket(gate).username(&admin.user).password(&admin.password.0);
    let mut primary =
        options.database("elpis").disable_statement_logging().connect().await.map_err(failed)?;
    // First this copy stands still: the primary's position is then not before it.
    local.run("standing still", "STOP SLAVE").await?;
    primary.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.map_err(failed)?;
    primary.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.map_err(failed)?;
    let position = snapshot(&mut primary).await?;
    let until = format!("START SLAVE UNTIL MASTER_GTID_POS='{position}'");
    local.run_made("going on to the primary's position", until).await?;
    stands_at(local, sequence(&position)).await?;
    let reached_ms = begin.elapsed().as_millis();
    let mut here = connect(socket).await?;
    here.execute("USE elpis").await.map_err(failed)?;
    let mut differ = Vec::new();
    let questions = questions(&mut primary).await?;
    let tables_ms = begin.elapsed().as_millis();
    for (name, question) in questions {
        let (theirs, ours) = tokio::try_join!(sum(&mut primary, &question), sum(&mut here, &question))?;
        if theirs != ours {
            differ.push(name);
        }
    }
    // Milliseconds since it began, to tell a slow step by.
    let rows_ms = begin.elapsed().as_millis();
    tracing::info!(%position, reached_ms, tables_ms, rows_ms, ?differ, "rows compared with the primary's");
    let _ = primary.close().await;
    let _ = here.close().await;
    Ok(differ)
}

/// Position of the transaction that has just begun.
async fn snapshot(primary: &mut MySqlConnection) -> Result<String, Error> {
    let failed = |error| Error::Sql("a look at the primary's position", error);
    let rows = sqlx::raw_sql("SHOW STATUS LIKE 'binlog_snapshot_%'")
        .fetch_all(&mut *primary)
        .await
        .map_err(failed)?;
    let of = |name: &str| {
        let row = rows.iter().find(|row| text(row, "Variable_name").eq_ignore_ascii_case(name));
        row.map(|row| text(row, "Value")).unwrap_or_default()
    };
    let (file, at) = (of("binlog_snapshot_file"), of("binlog_snapshot_position"));
    let plain = file.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let at: u64 = at.parse().map_err(|_| Error::Other("the primary names no position".to_owned()))?;
    if !plain {
        return Err(Error::Other(format!("the primary's log has an odd name: {file:?}")));
    }
    let question = format!("SELECT BINLOG_GTID_POS('{file}', {at}) AS position");
    let row = sqlx::raw_sql(AssertSqlSafe(question)).fetch_one(primary).await.map_err(failed)?;
    let position = text(&row, "position");
    match position.chars().all(|c| c.is_ascii_digit() || c == '-' || c == ',') && !position.is_empty() {
        true => Ok(position),
        false => Err(Error::Other("the primary's position is in no log any more".to_owned())),
    }
}

/// Waits until the copy has applied exactly so much, and applies no more.
async fn stands_at(local: &mut Sql, seq: u64) -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        let rows = local.ask("a look at replication", crate::sql::REPLICA).await?;
        let row = rows.first().ok_or_else(|| Error::Other("this copy follows nobody".to_owned()))?;
        if text(row, "Slave_SQL_Running") == "No" {
            let position = local.ask("a look at its position", "SELECT @@gtid_slave_pos AS position").await?;
            let at = position.first().map(|row| sequence(&text(row, "position"))).unwrap_or(0);
            return match at == seq {
                true => Ok(()),
                false => Err(Error::Other(format!("it stands at {at}, the primary at {seq}"))),
            };
        }
        if begin.elapsed() > REACH {
            return Err(Error::Silent(REACH.as_millis(), "going on to the primary's position"));
        }
        sleep(LOOK).await;
    }
}

async fn questions(primary: &mut MySqlConnection) -> Result<Vec<(String, String)>, Error> {
    let failed = |error| Error::Sql("a look at its tables", error);
    primary.execute("SET SESSION group_concat_max_len=1000000").await.map_err(failed)?;
    let rows = sqlx::raw_sql(TABLES).fetch_all(primary).await.map_err(failed)?;
    let of = |row: &sqlx::mysql::MySqlRow| {
        let (name, columns, keys) = (text(row, "name"), text(row, "columns"), text(row, "keys_desc"));
        let order = if keys.is_empty() { String::new() } else { format!(" ORDER BY {keys}") };
        // A small one whole: the newest of a table are put into one of their own, for a while.
        let small = text(row, "about").parse().is_ok_and(|about: u32| about < ROWS / 2);
        let rows = match small {
            true => format!("`{name}`"),
            false => format!("(SELECT * FROM `{name}`{order} LIMIT {ROWS}) AS newest"),
        };
        let question = format!(
            "SELECT CONCAT(COUNT(*), ' ', COALESCE(BIT_XOR(CRC32(CONCAT_WS('#', {columns}))), 0)) AS sum FROM {rows}"
        );
        (name, question)
    };
    Ok(rows.iter().map(of).collect())
}

async fn sum(conn: &mut MySqlConnection, question: &str) -> Result<String, Error> {
    let asked = sqlx::raw_sql(AssertSqlSafe(question.to_owned())).fetch_one(conn).await;
    asked.map(|row| text(&row, "sum")).map_err(|error| Error::Sql("a look at a table's rows", error))
}
