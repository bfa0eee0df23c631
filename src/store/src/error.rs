//! What can go wrong, in words for an operator.

use sqlx::mysql::MySqlDatabaseError;

/// A failed read, or a write of which nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configured address or account cannot be used.
    #[error("the database address cannot be used: {0}")]
    Endpoint(String),
    /// The database did not answer in time; the connection was dropped.
    #[error("the database did not answer within {seconds} s while {doing}; it is tried again")]
    Timeout {
        /// How long was waited.
        seconds: u64,
        /// What was going on.
        doing: &'static str,
    },
    /// Another address was announced while this was running; it is to be repeated there.
    #[error("the database moved to another address; the work is repeated there")]
    Moved,
    /// The server or the driver said no.
    #[error("the database refused: {0}")]
    Sql(#[source] sqlx::Error),
    /// The schema cannot be brought up to date.
    #[error("the database schema cannot be brought up to date: {0}")]
    Migrate(String),
    /// Something in the request cannot be stored.
    #[error("{0}")]
    Invalid(String),
    /// There is no such agent, module or event.
    #[error("there is no {0}")]
    NotFound(String),
    /// A newer session or incarnation of this writer is registered.
    #[error("writer {0} is superseded: a newer session or process of it is registered; this one must stop")]
    Superseded(String),
    /// Some, not all, reports of a batch are recorded already: states it was computed from are stale.
    #[error(
        "some reports of the batch are recorded already; ask for the known ones, load the agents, build it anew"
    )]
    PartlyKnown,
}

/// Why a fenced write did not happen for sure.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The fence has no row with this session and incarnation: their time is over. Nothing was written.
    #[error("the write was refused by the fence: this session or process of the writer is over")]
    Fenced,
    /// The lease was not valid right before the COMMIT. Nothing was written.
    #[error("the write was held back: this node's lease is not valid now")]
    NoLease,
    /// COMMIT was sent and its answer never came. The same batch must be committed again: it counts once.
    #[error("it is not known whether the write happened ({0}); the same batch is sent again")]
    Unknown(#[source] StoreError),
    /// Nothing was written.
    #[error("nothing was written: {0}")]
    NotDone(#[source] StoreError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        StoreError::Sql(error)
    }
}

impl StoreError {
    /// Number of a server's error.
    pub fn number(&self) -> Option<u16> {
        match self {
            StoreError::Sql(error) => number(error),
            _ => None,
        }
    }

    /// The server refuses what was to be stored: the same content will be refused again.
    pub fn is_for_good(&self) -> bool {
        match self {
            StoreError::Invalid(_) | StoreError::Sql(sqlx::Error::Encode(_)) => true,
            StoreError::Sql(sqlx::Error::Database(error)) => {
                // Data exceptions and broken constraints; MySQL files some under general errors.
                let class = error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"));
                class || matches!(self.number(), Some(TOO_LARGE | BAD_TEXT | CUT_OFF))
            }
            _ => false,
        }
    }

    /// A tie between transactions that the server broke, or a lock not given in time: repeating may succeed at once.
    pub(crate) fn is_tie(&self) -> bool {
        matches!(self.number(), Some(DEADLOCK | LOCK_WAIT))
    }

    /// The connection ended or the database moved while this was asked: another try may be answered at once.
    pub fn is_passing(&self) -> bool {
        use sqlx::Error::{Io, PoolClosed, WorkerCrashed};
        match self {
            StoreError::Moved | StoreError::Sql(Io(_) | PoolClosed | WorkerCrashed) => true,
            _ => matches!(self.number(), Some(READ_ONLY | KILLED)),
        }
    }

    /// This connection is of no use any more.
    pub(crate) fn is_connection(&self) -> bool {
        match self {
            StoreError::Sql(sqlx::Error::Database(_)) => matches!(self.number(), Some(READ_ONLY | KILLED)),
            StoreError::Sql(sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. }) => false,
            StoreError::Sql(_) | StoreError::Timeout { .. } | StoreError::Moved => true,
            _ => false,
        }
    }
}

pub(crate) const DEADLOCK: u16 = 1213;
pub(crate) const LOCK_WAIT: u16 = 1205;
pub(crate) const READ_ONLY: u16 = 1290;
pub(crate) const KILLED: u16 = 1927;
pub(crate) const DUPLICATE: u16 = 1062;
pub(crate) const NO_DATABASE: u16 = 1049;
pub(crate) const NO_VARIABLE: u16 = 1193;
const TOO_LARGE: u16 = 1153;
const BAD_TEXT: u16 = 1366;
const CUT_OFF: u16 = 1265;

pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    match error {
        sqlx::Error::Database(error) => error.try_downcast_ref::<MySqlDatabaseError>().map(|e| e.number()),
        _ => None,
    }
}
