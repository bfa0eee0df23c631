//! Every statement has a name and a place in one list, so that a test can prepare them all against a migrated database.

#[cfg(feature = "testdb")]
use crate::AccessRole;

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
    let everyone = AccessRole::ALL.into_iter().flat_map(of_role);
    let nobody = crate::server::STATEMENTS.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
    let mut all: Vec<_> = everyone.chain(nobody).collect();
    all.sort();
    all.dedup();
    all
}

/// What a role runs.
#[cfg(feature = "testdb")]
pub(crate) fn of_role(role: AccessRole) -> Vec<(String, String)> {
    use crate::{accounts, batch::write, changes, create, facts, fence, ledger, load, operate, purge, read};
    // No agent's file comes to the network server: nothing that only a file brings.
    let from_files = |name: &str| matches!(name, "RESCHEDULE" | "TELL" | "MODULES");
    let results: Vec<_> = write::STATEMENTS.iter().copied().filter(|(name, _)| !from_files(name)).collect();
    type Texts<'a> = Vec<&'a [(&'a str, &'a str)]>;
    let (fixed, built): (Texts<'_>, Vec<Vec<String>>) = match role {
        AccessRole::Data => (
            vec![
                write::STATEMENTS,
                changes::STATEMENTS,
                create::STATEMENTS,
                fence::STATEMENTS,
                purge::STATEMENTS,
                &[("GROUPS", read::GROUPS), ("MONTHS", purge::MONTHS)],
            ],
            vec![write::texts(), load::texts(), load::texts_of_files(), create::texts()],
        ),
        AccessRole::Network => (
            vec![&results, changes::STATEMENTS, fence::STATEMENTS],
            vec![write::texts_of_results(), load::texts()],
        ),
        AccessRole::Console => (
            vec![
                accounts::STATEMENTS,
                create::STATEMENTS,
                facts::STATEMENTS,
                fence::STATEMENTS,
                ledger::STATEMENTS,
                operate::STATEMENTS,
                read::STATEMENTS,
            ],
            vec![create::texts(), read::texts(), write::texts_of_operators()],
        ),
    };
    let fixed = fixed.into_iter().flatten().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
    fixed.chain(built.into_iter().flatten().map(|sql| (sql.chars().take(60).collect(), sql))).collect()
}
