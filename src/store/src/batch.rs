//! One fenced transaction for many reports or many checks.

use crate::error::{DEADLOCK, DUPLICATE, LOCK_WAIT, READ_ONLY, number};
use crate::pool::{Conn, run};
use crate::{CommitError, Seen, ServerKind, Store, StoreError, Writer, fence};
use elpis_monitor::{AgentId, Counts, Event, ModuleId, ModuleState, Value};
use sqlx::Executor;

pub(crate) mod write;

/// Times a transaction is repeated after the server broke a tie.
pub(crate) const TIES: u32 = 3;

/// Everything that follows from some reports, some checks or one look at the clock.
///
/// `reports` or `flush` make the batch count once: a batch with neither may hold only what is the same when written
/// twice (no counts, no events). Unknown detection therefore gives a [`Flush`] without executions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Who writes.
    pub writer: Writer,
    /// Keys of the reports (SHA-256 of file name, 0, content).
    pub reports: Vec<[u8; 32]>,
    /// Ledger row.
    pub flush: Option<Flush>,
    /// Samples; text goes to `tagent_data_string`, numbers to `tagent_data`.
    pub rows: Vec<Row>,
    /// New bases of rates and differences: raw value, time.
    pub increments: Vec<(ModuleId, f64, i64)>,
    /// Changed states.
    pub states: Vec<(ModuleId, AgentId, ModuleState)>,
    /// Contact rows, one an agent and kind.
    pub contacts: Vec<Contact>,
    /// Differences of the roll-up counters.
    pub counts: Vec<(AgentId, Counts)>,
    /// What the agents' own rows learn.
    pub agents: Vec<AgentSeen>,
    /// What the modules' own rows learn.
    pub modules: Vec<ModuleSeen>,
    /// Events, in order.
    pub events: Vec<Event>,
    /// Modules whose forced run is recorded by this batch.
    pub clear_forced: Vec<ModuleId>,
}

impl Batch {
    /// An empty one.
    pub fn new(writer: Writer) -> Batch {
        Batch {
            writer,
            reports: Vec::new(),
            flush: None,
            rows: Vec::new(),
            increments: Vec::new(),
            states: Vec::new(),
            contacts: Vec::new(),
            counts: Vec::new(),
            agents: Vec::new(),
            modules: Vec::new(),
            events: Vec::new(),
            clear_forced: Vec::new(),
        }
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
            && self.flush.is_none()
            && self.rows.is_empty()
            && self.increments.is_empty()
            && self.states.is_empty()
            && self.contacts.is_empty()
            && self.counts.is_empty()
            && self.agents.is_empty()
            && self.modules.is_empty()
            && self.events.is_empty()
            && self.clear_forced.is_empty()
    }

    /// Server clock of the batch: the latest it names.
    pub(crate) fn now(&self) -> i64 {
        let contacts = self.contacts.iter().map(|c| c.utimestamp);
        let agents = self.agents.iter().map(|a| a.last_contact);
        contacts.chain(agents).chain(self.flush.iter().map(|f| f.now)).max().unwrap_or(0)
    }
}

/// A sample to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Module.
    pub module: ModuleId,
    /// Its time, Unix seconds.
    pub utimestamp: i64,
    /// Ordinal among samples of this module and second.
    pub n: u16,
    /// The value.
    pub value: Value,
}

/// A contact row (`tagent_contact`): written whole, by the agent's owner alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Contact {
    /// Agent.
    pub agent: AgentId,
    /// Kind of server.
    pub kind: ServerKind,
    /// Server clock.
    pub utimestamp: i64,
    /// All positions of that kind.
    pub seen: Seen,
}

/// What a report or a check teaches about an agent's own row. `None` = as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentSeen {
    /// Agent.
    pub agent: AgentId,
    /// Server clock; never goes back.
    pub last_contact: i64,
    /// The agent's own clock; never goes back.
    pub last_remote_contact: i64,
    /// Version of the software agent.
    pub agent_version: Option<String>,
    /// Operating system (`tconfig_os.id_os`).
    pub os: Option<u16>,
    /// Its version.
    pub os_version: Option<String>,
    /// Interval in seconds. When it differs, network checks that follow the agent's interval get new slots.
    pub interval_s: Option<u32>,
    /// Main address.
    pub address: Option<String>,
    /// Parent, 0 = none.
    pub parent: Option<AgentId>,
    /// Offset of its clock in hours.
    pub timezone_offset_h: Option<i8>,
    /// Enabled or disabled by what it sent.
    pub disabled: Option<bool>,
}

/// What a report teaches about a module that stands. `None` = as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModuleSeen {
    /// Module.
    pub module: ModuleId,
    /// Free text.
    pub description: Option<String>,
    /// Tags that nothing else takes.
    pub extended_info: Option<String>,
    /// Interval in seconds.
    pub interval_s: Option<u32>,
}

/// A flush of a server: the row of the run ledger, keyed (writer, incarnation, number).
#[derive(Clone, Debug, PartialEq)]
pub struct Flush {
    /// Grows with each batch of this incarnation; the same when a batch is sent again.
    pub number: u64,
    /// Recorded executions: module and slot. Empty for what is no check.
    pub executions: Vec<(ModuleId, i64)>,
    /// Server clock, Unix seconds.
    pub now: i64,
}

/// A batch that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// By this call.
    Done,
    /// Before: its flush or all its reports were known. Nothing was written.
    AlreadyDone,
}

/// How a transaction ended short of a COMMIT with a known answer.
pub(crate) enum Stop {
    Fenced,
    NoLease,
    Known,
    Error(StoreError),
    Unknown(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Error(error)
    }
}
impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Stop {
        Stop::Error(StoreError::Sql(error))
    }
}
impl From<Stop> for CommitError {
    fn from(stop: Stop) -> CommitError {
        match stop {
            Stop::Fenced => CommitError::Fenced,
            Stop::NoLease => CommitError::NoLease,
            Stop::Known => CommitError::NotDone(StoreError::PartlyKnown),
            Stop::Error(error) => CommitError::NotDone(error),
            Stop::Unknown(error) => CommitError::Unknown(error),
        }
    }
}

impl Store {
    /// Writes a batch in one transaction, or nothing of it.
    pub async fn commit(&self, b: &Batch) -> Result<Committed, CommitError> {
        let keyed = !b.reports.is_empty() || b.flush.is_some();
        let repeatable = b.counts.is_empty() && b.events.is_empty();
        if !keyed && !repeatable {
            return Err(CommitError::NotDone(StoreError::Invalid(
                "a batch with counts or events needs reports or a flush, so that it counts once".to_owned(),
            )));
        }
        let prepared = write::Prepared::new(b, self.0.ledger.load(std::sync::atomic::Ordering::Relaxed));
        let result = fenced!(self, &b.writer, "writing a batch", |c| prepared.write(c).await);
        match result {
            Ok(()) => Ok(Committed::Done),
            Err(Stop::Known) => self.known(b).await,
            Err(stop) => Err(stop.into()),
        }
    }

    /// A key was there: was all of it?
    async fn known(&self, b: &Batch) -> Result<Committed, CommitError> {
        if b.flush.is_some() {
            return Ok(Committed::AlreadyDone);
        }
        match self.known_reports(&b.reports).await {
            Ok(known) if b.reports.iter().all(|key| known.contains(key)) => Ok(Committed::AlreadyDone),
            Ok(_) => Err(CommitError::NotDone(StoreError::PartlyKnown)),
            Err(error) => Err(CommitError::NotDone(error)),
        }
    }

    /// Opens a transaction under the writer's fence.
    pub(crate) async fn begin(&self, w: &Writer) -> Result<Conn, Stop> {
        let mut conn = self.acquire().await?;
        let stands = run!(conn, "asking the fence", |c| {
            c.execute("START TRANSACTION").await?;
            let row = sqlx::query(fence::FENCE).bind(&w.name).bind(w.session).bind(w.incarnation);
            Ok(row.fetch_optional(&mut *c).await?.is_some())
        });
        match stands {
            Ok(true) => Ok(conn),
            Ok(false) => {
                roll_back(&mut conn).await;
                Err(Stop::Fenced)
            }
            Err(error) => {
                roll_back(&mut conn).await;
                Err(error.into())
            }
        }
    }

    /// Ends it: COMMIT when the work was done and the lease still holds, else ROLLBACK.
    ///
    /// The outer error is the connection's (time limit, epoch), the inner one the transaction's.
    pub(crate) async fn end<T>(
        &self,
        mut conn: Conn,
        w: &Writer,
        result: Result<Result<T, Stop>, StoreError>,
    ) -> Result<T, Stop> {
        let may = match result? {
            Ok(done) => self.may_commit(w).map(|()| done),
            Err(stop) => Err(stop),
        };
        let done = match may {
            Ok(done) => done,
            Err(stop) => {
                roll_back(&mut conn).await;
                return Err(stop);
            }
        };
        let sent = run!(conn, "committing", |c| {
            c.execute("COMMIT").await?;
            Ok(())
        });
        match sent {
            Ok(()) => Ok(done),
            Err(error) => {
                conn.discard();
                // These answers say that it did not happen; any other silence or error leaves it open.
                let no = matches!(error.number(), Some(READ_ONLY | DEADLOCK | LOCK_WAIT));
                Err(if no { Stop::Error(error) } else { Stop::Unknown(error) })
            }
        }
    }

    /// The last look at the lease. A job's session is its own; the node's lease still has to hold.
    fn may_commit(&self, w: &Writer) -> Result<(), Stop> {
        match (self.0.gate)() {
            None => Err(Stop::NoLease),
            Some(session) if session != w.session && !w.is_job() => Err(Stop::Fenced),
            Some(_) => Ok(()),
        }
    }
}

async fn roll_back(conn: &mut Conn) {
    let back = run!(conn, "rolling back", |c| {
        c.execute("ROLLBACK").await?;
        Ok(())
    });
    if back.is_err() {
        conn.discard();
    }
}

/// `fenced!(store, writer, "doing what", |c| work)`: one transaction under the writer's fence, repeated when the server
/// breaks a tie. The work is a block with `?` and ends in `Result<_, Stop>`.
macro_rules! fenced {
    ($store:expr, $w:expr, $doing:expr, |$c:ident| $body:expr) => {{
        let mut ties = 0;
        loop {
            let result = match $store.begin($w).await {
                Ok(mut conn) => {
                    let result = crate::pool::run!(conn, $doing, |c| {
                        let work = async {
                            let $c: &mut sqlx::mysql::MySqlConnection = c;
                            $body
                        };
                        crate::batch::sort_out(work.await)
                    });
                    $store.end(conn, $w, result).await
                }
                Err(stop) => Err(stop),
            };
            match result {
                Err(crate::batch::Stop::Error(error)) if error.is_tie() && ties < crate::batch::TIES => {
                    ties += 1;
                    tracing::debug!(writer = %$w.name, ties, %error, "the transaction is repeated");
                }
                other => break other,
            }
        }
    }};
}
pub(crate) use fenced;

/// Errors of the connection out of those of the transaction.
pub(crate) fn sort_out<T>(result: Result<T, Stop>) -> Result<Result<T, Stop>, StoreError> {
    match result {
        Err(Stop::Error(error)) if error.is_connection() => Err(error),
        other => Ok(other),
    }
}

/// A key that must be new.
pub(crate) fn known_key(error: sqlx::Error) -> Stop {
    if number(&error) == Some(DUPLICATE) { Stop::Known } else { Stop::Error(StoreError::Sql(error)) }
}
