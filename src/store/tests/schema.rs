//! Migrations, and every statement prepared against the migrated database.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_store::testdb::{TestDb, statements};
use elpis_store::{Migrated, StoreError, migrate};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

#[tokio::test]
async fn every_statement_prepares() {
    let db = TestDb::fresh().await.unwrap();
    let mut conn = db.connection().await.unwrap();
    let all = statements();
    assert!(all.len() > 20);
    for (name, sql) in all {
        let prepared = conn.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await;
        assert!(prepared.is_ok(), "{name}: {}\n{sql}", prepared.err().unwrap());
    }
}

#[tokio::test]
async fn migrating_makes_the_database_once_and_refuses_a_newer_one() {
    let db = TestDb::empty().await.unwrap();
    let endpoint = db.endpoint();
    let (one, two) = tokio::join!(migrate(&endpoint), migrate(&endpoint));
    let mut both = [one.unwrap(), two.unwrap()];
    both.sort_by_key(|m| m.from);
    assert_eq!(both[0].from, None);
    assert_eq!(both[1], Migrated { from: Some(both[0].to), to: both[0].to });
    db.execute("INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, 0 FROM _sqlx_migrations LIMIT 1")
        .await
        .unwrap();
    let error = migrate(&db.endpoint()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Migrate(text) if text.contains("9999")), "{error}");
}

#[tokio::test]
async fn every_table_has_a_primary_key() {
    let db = TestDb::fresh().await.unwrap();
    let without = db
        .rows(
            "SELECT t.table_name FROM information_schema.tables t WHERE t.table_schema=DATABASE() AND \
             t.table_type='BASE TABLE' AND NOT EXISTS (SELECT 1 FROM information_schema.statistics s WHERE \
             s.table_schema=t.table_schema AND s.table_name=t.table_name AND s.index_name='PRIMARY')",
        )
        .await
        .unwrap();
    assert_eq!(without, Vec::<String>::new());
}
