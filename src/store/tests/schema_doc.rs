//! `docs/schema.md` says what a migrated database holds. `UPDATE=1 cargo test --workspace --test schema_doc` writes it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up step is a failed test

use elpis_store::testdb::TestDb;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A sentence for each table, some words for each column, in the order in which the document shows the tables.
const WORDS: &str = include_str!("schema_words.txt");
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schema.md");

/// Columns that name a row of another table. There are no foreign keys: writers lock rows in one fixed order instead.
const NAMES: [(&str, &str); 6] = [
    ("id_agent", "tagent"),
    ("id_agent_module", "tagent_module"),
    ("id_group", "tgroup"),
    ("id_os", "tconfig_os"),
    ("id_type_module", "ttype_module"),
    ("id_user", "tuser"),
];

struct Table {
    name: &'static str,
    sentence: &'static str,
    columns: BTreeMap<&'static str, &'static str>,
}

fn words() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in WORDS.lines().filter(|line| !line.is_empty()) {
        if let Some((name, sentence)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            tables.push(Table { name, sentence, columns: BTreeMap::new() });
        } else {
            let (column, text) = line.split_once(": ").unwrap_or_else(|| panic!("no words: {line}"));
            assert!(tables.last_mut().unwrap().columns.insert(column, text).is_none(), "twice: {line}");
        }
    }
    tables
}

/// Rows of a query as lists of texts.
async fn rows(db: &TestDb, sql: &str) -> Vec<Vec<String>> {
    let rows = db.rows(sql).await.unwrap();
    rows.iter().map(|row| row.split('|').map(str::to_owned).collect()).collect()
}

async fn document(db: &TestDb) -> String {
    let of_schema = "table_schema=DATABASE() ORDER BY table_name";
    let kinds: BTreeMap<String, String> =
        rows(db, &format!("SELECT table_name, table_type FROM information_schema.tables WHERE {of_schema}"))
            .await
            .into_iter()
            .map(|row| (row[0].clone(), row[1].clone()))
            .collect();
    let columns = rows(
        db,
        &format!(
            "SELECT table_name, column_name, column_type, is_nullable FROM information_schema.columns \
             WHERE {of_schema}, ordinal_position"
        ),
    )
    .await;
    let keys = rows(
        db,
        "SELECT table_name, index_name, MIN(non_unique), GROUP_CONCAT(column_name ORDER BY seq_in_index SEPARATOR ', ') \
         FROM information_schema.statistics WHERE table_schema=DATABASE() GROUP BY table_name, index_name \
         ORDER BY table_name, index_name<>'PRIMARY', index_name",
    )
    .await;
    let tables = words();
    let told: BTreeSet<&str> = tables.iter().map(|table| table.name).collect();
    let there: BTreeSet<&str> = kinds.keys().map(String::as_str).collect();
    assert_eq!(told, there, "schema_words.txt (left) and the database (right) have different tables");
    let mut text = String::from(
        "# Schema\n\nGenerated from a migrated database by `src/store/tests/schema_doc.rs` (`UPDATE=1` writes it); the words \
         come from\n`schema_words.txt` beside it. Times are Unix seconds by the server's clock where nothing else is said. \
         Names compare\nbytes; texts are UTF-8. There are no foreign keys.\n\n",
    );
    text.push_str(&diagram(&tables, &columns, &kinds));
    for table in &tables {
        let view = kinds[table.name] == "VIEW";
        write!(text, "\n## {}{}\n{}\n\n", table.name, if view { " (view)" } else { "" }, table.sentence)
            .unwrap();
        text.push_str("| column | type | what |\n|---|---|---|\n");
        let mut rest: BTreeSet<&str> = table.columns.keys().copied().collect();
        for column in columns.iter().filter(|column| column[0] == table.name) {
            let words = table.columns.get(column[1].as_str());
            let words = words.unwrap_or_else(|| panic!("schema_words.txt: no {}.{}", column[0], column[1]));
            rest.remove(column[1].as_str());
            let null = if column[3] == "YES" && !view { ", may be NULL" } else { "" };
            writeln!(text, "| {} | {}{null} | {words} |", column[1], column[2]).unwrap();
        }
        assert!(rest.is_empty(), "schema_words.txt: {} has no {rest:?}", table.name);
        let keys: Vec<String> = keys
            .iter()
            .filter(|key| key[0] == table.name)
            .map(|key| match (key[1].as_str(), key[2].as_str()) {
                ("PRIMARY", _) => format!("primary ({})", key[3]),
                (name, "0") => format!("unique {name} ({})", key[3]),
                (name, _) => format!("{name} ({})", key[3]),
            })
            .collect();
        if !keys.is_empty() {
            write!(text, "\nKeys: {}.\n", keys.join("; ")).unwrap();
        }
    }
    text
}

/// Tables with their primary keys, and which names rows of which.
fn diagram(tables: &[Table], columns: &[Vec<String>], kinds: &BTreeMap<String, String>) -> String {
    let mut text = String::from("```mermaid\nerDiagram\n");
    for column in columns.iter().filter(|column| kinds[&column[0]] != "VIEW") {
        let target = NAMES.iter().find(|(name, _)| *name == column[1]);
        if let Some((name, target)) = target.filter(|(_, target)| *target != column[0]) {
            writeln!(text, "  {target} ||--o{{ {} : {name}", column[0]).unwrap();
        }
    }
    let linked = |name: &str| text.contains(&format!(" {name} "));
    let alone: Vec<String> = tables
        .iter()
        .filter(|table| kinds[table.name] != "VIEW" && !linked(table.name))
        .map(|table| format!("  {}\n", table.name))
        .collect();
    text.push_str(&alone.concat());
    text.push_str("```\n");
    text
}

#[tokio::test]
async fn the_document_shows_the_schema_as_it_is() {
    let db = TestDb::fresh().await.unwrap();
    let text = document(&db).await;
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PLACE, &text).unwrap();
    }
    let stands = std::fs::read_to_string(PLACE).unwrap_or_default();
    assert!(stands == text, "docs/schema.md is stale: UPDATE=1 cargo test --workspace --test schema_doc");
}
