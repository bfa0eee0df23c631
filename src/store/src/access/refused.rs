//! Why accounts are not made, with the statement that mends it.

use super::number;

/// Why accounts were not made. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The address cannot be used.
    #[error("{0}")]
    Endpoint(String),
    /// The server refuses the administration account.
    #[error(
        "the database refuses the administration account {0}: its password is another one, or it does not exist; set it right there, or give the right one with `elpis cluster database`"
    )]
    Denied(String),
    /// It may not do what is needed.
    #[error(
        "the administration account {account} lacks {what}; run as the database's own administrator: {mend};"
    )]
    Lacks {
        /// `user@host`.
        account: String,
        /// What it lacks.
        what: &'static str,
        /// SQL that gives it.
        mend: String,
    },
    /// Database or tables are missing.
    #[error("the database {0} has no schema of this version yet; run `elpis database migrate`")]
    NoSchema(String),
    /// No answer.
    #[error("the database did not answer within {0} s; it is tried again")]
    Silent(u64),
    /// Something else.
    #[error("the database refused: {0}; it is tried again")]
    Failed(String),
}

/// What was being done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Account,
    Grant,
}

impl Step {
    /// `me` = `user@host`.
    pub(super) fn refused(self, error: &sqlx::Error, me: &str, database: &str) -> AccessError {
        let quoted = match me.rsplit_once('@') {
            Some((user, host)) => format!("'{user}'@'{host}'"),
            None => format!("'{me}'"),
        };
        let lacks = |what, mend| AccessError::Lacks { account: me.to_owned(), what, mend };
        match (self, number(error)) {
            (Step::Account, Some(1044 | 1142 | 1227 | 1410)) => {
                lacks("CREATE USER", format!("GRANT CREATE USER ON *.* TO {quoted}"))
            }
            (Step::Grant, Some(1044 | 1142 | 1143 | 1227 | 1410)) => lacks(
                "the right to give privileges on its tables",
                format!("GRANT ALL PRIVILEGES ON `{database}`.* TO {quoted} WITH GRANT OPTION"),
            ),
            (_, Some(1049 | 1146)) => AccessError::NoSchema(database.to_owned()),
            _ => AccessError::Failed(error.to_string()),
        }
    }
}

/// A connection that was not made.
pub(super) fn connecting(error: &sqlx::Error, user: &str, database: &str) -> AccessError {
    match number(error) {
        Some(1045 | 1698) => AccessError::Denied(user.to_owned()),
        Some(1049) => AccessError::NoSchema(database.to_owned()),
        Some(1044) => AccessError::Lacks {
            account: user.to_owned(),
            what: "every right on the database",
            mend: format!("GRANT ALL PRIVILEGES ON `{database}`.* TO '{user}' WITH GRANT OPTION"),
        },
        _ => AccessError::Failed(error.to_string()),
    }
}
