//! The schema and how it gets there.

use crate::error::{NO_DATABASE, number};
use crate::{Endpoint, StoreError};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, SqlSafeStr};

/// (number, what it brings, SQL). A number that was released is never changed again.
const MAIN: &[(i64, &str, &str)] = &[
    (1, "monitoring", include_str!("../../../migrations/main/0001_monitoring.sql")),
    (2, "console", include_str!("../../../migrations/main/0002_console.sql")),
];

/// Seconds that a second migration waits for the first one.
const LOCK_WAIT_S: u32 = 60;

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Schema before; `None` = there was none.
    pub from: Option<i64>,
    /// Schema now.
    pub to: i64,
}

/// Brings the schema up to date: makes the database if it is missing, one at a time (an advisory lock), and refuses a
/// database that a newer program has migrated.
pub async fn migrate(e: &Endpoint) -> Result<Migrated, StoreError> {
    let (server, name) = e.server_options()?;
    let mut conn = match e.options()?.connect().await {
        Err(error) if number(&error) == Some(NO_DATABASE) => {
            let mut conn = server.connect().await?;
            // The name holds letters, digits, _ and - only.
            let text = format!(
                "CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci"
            );
            conn.execute(AssertSqlSafe(text)).await?;
            let _ = conn.close().await;
            e.options()?.connect().await?
        }
        other => other?,
    };
    let lock = format!("elpis-schema:{name}").chars().take(64).collect::<String>();
    let got: Option<i64> = sqlx::query_scalar("SELECT CAST(GET_LOCK(?, ?) AS SIGNED)")
        .bind(&lock)
        .bind(LOCK_WAIT_S)
        .fetch_one(&mut conn)
        .await?;
    if got != Some(1) {
        return Err(StoreError::Migrate(format!(
            "another migration has held its lock for {LOCK_WAIT_S} s; look what it is doing, then try again"
        )));
    }
    let result = run(&mut conn).await;
    // The lock goes with the connection.
    let _ = conn.close().await;
    result
}

async fn run(conn: &mut MySqlConnection) -> Result<Migrated, StoreError> {
    let exists: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema=DATABASE() AND table_name='_sqlx_migrations'",
    )
    .fetch_one(&mut *conn)
    .await?;
    let from: Option<i64> = match exists {
        0 => None,
        _ => sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(&mut *conn).await?,
    };
    let to = MAIN.last().map_or(0, |m| m.0);
    if let Some(newer) = from.filter(|from| *from > to) {
        return Err(StoreError::Migrate(format!(
            "it has schema {newer}, this program knows up to {to}; start a program that is as new as the database"
        )));
    }
    let list = MAIN
        .iter()
        .map(|(version, what, sql)| {
            Migration::new(*version, (*what).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
        })
        .collect();
    let mut migrator = Migrator::with_migrations(list);
    migrator.set_locking(false);
    migrator.run_direct(None, conn, false).await.map_err(|error| StoreError::Migrate(error.to_string()))?;
    // Months only divide the table: by the database's clock they are good enough here, and the purge looks after them.
    let now: i64 =
        sqlx::query_scalar("SELECT CAST(UNIX_TIMESTAMP() AS SIGNED)").fetch_one(&mut *conn).await?;
    crate::purge::months_ahead(conn, now).await?;
    Ok(Migrated { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::{SHA256, digest};

    /// First bytes of the SHA-256 of each released file. A line is added with a new file; none is ever changed: a
    /// database that has run a file refuses another one under its number.
    const RELEASED: &[(i64, &str)] = &[(1, "0f7d95e052c7db29c083d973"), (2, "fa07f5dc3c151dbdbd92a0db")];

    #[test]
    fn released_migrations_stay_as_they_are() {
        let hex = |bytes: &[u8]| bytes[..12].iter().map(|b| format!("{b:02x}")).collect::<String>();
        let now: Vec<(i64, String)> =
            MAIN.iter().map(|(n, _, sql)| (*n, hex(digest(&SHA256, sql.as_bytes()).as_ref()))).collect();
        let released: Vec<(i64, String)> = RELEASED.iter().map(|(n, sum)| (*n, (*sum).to_owned())).collect();
        assert_eq!(now, released, "change the schema by a new file in migrations/main");
    }
}
