//! What the database is, for a support bundle: version of the server, of the schema, sizes of the tables.

use crate::pool::run;
use crate::statements::statements;
use crate::{Store, StoreError};

statements! {
    SERVER = "SELECT VERSION()";
    SCHEMA = "SELECT CAST(MAX(version) AS SIGNED) FROM _sqlx_migrations WHERE success";
    TABLES = "SELECT TABLE_NAME, CAST(COALESCE(TABLE_ROWS, 0) AS SIGNED), \
        CAST(COALESCE(DATA_LENGTH, 0) AS SIGNED), CAST(COALESCE(INDEX_LENGTH, 0) AS SIGNED) \
        FROM information_schema.TABLES WHERE TABLE_SCHEMA=DATABASE() ORDER BY TABLE_NAME";
}

/// Facts about the database; nothing of what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DatabaseFacts {
    /// Version of the server.
    pub server: String,
    /// Newest migration; `None` = this account may not read it.
    pub schema: Option<i64>,
    /// Tables that this account sees.
    pub tables: Vec<TableSize>,
}

/// A table as the server estimates it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableSize {
    /// Name.
    pub name: String,
    /// Rows, roughly.
    pub rows: i64,
    /// Bytes of rows.
    pub data_bytes: i64,
    /// Bytes of indexes.
    pub index_bytes: i64,
}

impl Store {
    /// Facts about the database.
    pub async fn facts(&self) -> Result<DatabaseFacts, StoreError> {
        let mut conn = self.acquire().await?;
        let server: String = run!(conn, "asking the server's version", |c| Ok(sqlx::query_scalar(SERVER)
            .fetch_one(&mut *c)
            .await?))?;
        let mut conn = self.acquire().await?;
        let rows: Vec<(String, i64, i64, i64)> =
            run!(conn, "reading table sizes", |c| Ok(sqlx::query_as(TABLES).fetch_all(&mut *c).await?))?;
        let mut conn = self.acquire().await?;
        let schema: Option<i64> =
            run!(conn, "reading the schema version", |c| Ok(sqlx::query_scalar(SCHEMA)
                .fetch_one(&mut *c)
                .await?))
            .unwrap_or_default();
        let table = |(name, rows, data_bytes, index_bytes)| TableSize { name, rows, data_bytes, index_bytes };
        Ok(DatabaseFacts { server, schema, tables: rows.into_iter().map(table).collect() })
    }
}
