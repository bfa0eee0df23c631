//! Every statement has a name and a place in one list, so that a test can prepare them all against a migrated database.

/// Constants with SQL, and `STATEMENTS`: all of them of this file.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: &str = $sql;)*
        #[cfg(feature = "testdb")]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql)),*];
    };
}
pub(crate) use statements;

/// Every statement of the crate: name, text.
#[cfg(feature = "testdb")]
pub(crate) fn all() -> Vec<(String, String)> {
    let fixed = [
        crate::accounts::STATEMENTS,
        crate::batch::write::STATEMENTS,
        crate::changes::STATEMENTS,
        crate::create::STATEMENTS,
        crate::facts::STATEMENTS,
        crate::fence::STATEMENTS,
        crate::ledger::STATEMENTS,
        crate::operate::STATEMENTS,
        crate::purge::STATEMENTS,
        crate::read::STATEMENTS,
        crate::server::STATEMENTS,
    ];
    let built =
        [crate::batch::write::texts(), crate::load::texts(), crate::create::texts(), crate::read::texts()];
    let fixed = fixed.into_iter().flatten().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
    fixed.chain(built.into_iter().flatten().map(|sql| (sql.chars().take(60).collect(), sql))).collect()
}
