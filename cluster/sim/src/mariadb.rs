//! MariaDB servers as far as a failover can tell: binary log, engine, relay log, semi-synchronous acknowledgements.
//!
//! PURE. They behave as servers of 10.11 were measured to, not as one would wish; `tests/mariadb` runs the same scripts
//! on them and on real ones. A transaction is one row. Every server is set as `ha.md` 2.7 has it: binary log synced at
//! each commit, `AFTER_SYNC`, no time-out of an acknowledgement, one GTID domain.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A transaction in a binary log. Its GTID is `0-server-seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Sequence number of the GTID.
    pub seq: u64,
    /// `server_id` under which it was written first.
    pub server: u32,
    /// The row it inserts.
    pub row: u64,
}

/// `init_rpl_role`: how recovery treats what is in the binary log and not yet for good in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is committed.
    Master,
    /// It is cut off the binary log, acknowledged or not.
    Slave,
}

/// What a client knows of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The server said OK.
    Acknowledged,
    /// The COMMIT has no answer.
    Hangs,
    /// The server is gone, or said no: nothing is known.
    Unknown,
    /// It was refused: `read_only`, or no server.
    Refused,
}

/// Why a replication thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// 1236: the source does not have the position that the replica stands at.
    Diverged,
    /// 1950: a local write stands where the next transaction belongs.
    OutOfOrder,
}

/// A server. What is public of it is what SQL would show.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// `server_id`: of this start.
    pub id: u32,
    /// The process runs.
    pub up: bool,
    /// The process is stopped by a signal: it answers nothing and keeps everything.
    pub stopped: bool,
    /// `read_only`.
    pub read_only: bool,
    /// `rpl_semi_sync_master_enabled`.
    pub semi_master: bool,
    /// `rpl_semi_sync_slave_enabled`.
    pub semi_slave: bool,
    /// `gtid_strict_mode`.
    pub strict: bool,
    /// Source it replicates from.
    pub source: Option<usize>,
    /// IO thread runs, connected or not.
    pub io: bool,
    /// SQL thread runs.
    pub sql: bool,
    /// Why a thread stopped by itself.
    pub error: Option<Stopped>,
    binlog: Vec<Event>,
    /// Events that others see; those behind wait for an acknowledgement.
    committed: usize,
    /// Events whose commit survives a crash in the engine, too.
    flushed: usize,
    relay: VecDeque<Event>,
    io_pos: u64,
    slave_pos: u64,
    /// The IO thread announced itself as one that acknowledges.
    acks: bool,
    /// The source has looked at its position, as it does once for each connection.
    looked_at: bool,
}

impl Server {
    fn last_seq(&self) -> u64 {
        self.binlog.last().map_or(0, |event| event.seq)
    }

    /// Rows that a reader sees.
    #[must_use]
    pub fn rows(&self) -> BTreeSet<u64> {
        self.binlog.iter().take(self.committed).map(|event| event.row).collect()
    }

    /// `@@gtid_binlog_pos`: sequence and server.
    #[must_use]
    pub fn binlog_pos(&self) -> Option<Event> {
        self.binlog.last().copied()
    }

    /// `Gtid_IO_Pos`, the sequence number.
    #[must_use]
    pub fn io_pos(&self) -> u64 {
        self.io_pos
    }

    /// `@@gtid_slave_pos`, the sequence number.
    #[must_use]
    pub fn slave_pos(&self) -> u64 {
        self.slave_pos
    }

    /// Commits that wait for an acknowledgement (the server's own counter says one, however many wait).
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.binlog.len() - self.committed
    }

    /// The binary log holds this server's transactions up to where it stands, and no others.
    #[must_use]
    pub fn same_as(&self, other: &Server) -> bool {
        let other = other.binlog.iter().filter(|event| event.seq <= self.last_seq());
        self.binlog.iter().map(|event| event.row).eq(other.map(|event| event.row))
    }

    /// Whether it answers SQL.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.up && !self.stopped
    }

    fn commit(&mut self, upto: usize) {
        self.committed = self.committed.max(upto);
        // The flush of the next one's prepare carries the one before.
        self.flushed = self.flushed.max(self.committed.saturating_sub(1));
    }
}

/// Servers and the links between them.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    all: Vec<Server>,
    /// Links that are cut, lower number first.
    cut: BTreeSet<(usize, usize)>,
    /// Servers and the replicas that they refuse.
    refused: BTreeSet<(usize, usize)>,
    outcomes: BTreeMap<u64, Outcome>,
    /// Transactions that clients wait for: row to server.
    clients: BTreeMap<u64, usize>,
}

impl Servers {
    /// So many, all down and empty.
    #[must_use]
    pub fn new(count: usize) -> Servers {
        Servers { all: vec![Server::default(); count], ..Servers::default() }
    }

    /// One of them.
    #[must_use]
    pub fn at(&self, server: usize) -> &Server {
        &self.all[server]
    }

    /// Starts the process with the settings of the product: a replica, semi-synchronous, strict, read-only.
    pub fn start(&mut self, server: usize, role: Role, id: u32) {
        let one = &mut self.all[server];
        if one.up {
            return;
        }
        one.id = id;
        match role {
            Role::Master => one.committed = one.binlog.len(),
            Role::Slave => {
                one.binlog.truncate(one.flushed);
                one.committed = one.binlog.len();
            }
        }
        one.flushed = one.committed;
        one.slave_pos = one.slave_pos.min(one.last_seq());
        (one.up, one.stopped, one.read_only) = (true, false, true);
        (one.semi_master, one.semi_slave, one.strict) = (false, true, true);
        one.error = None;
    }

    fn gone(&mut self, server: usize) {
        let one = &mut self.all[server];
        (one.up, one.stopped, one.io, one.sql, one.acks) = (false, false, false, false, false);
        one.relay.clear();
        for replica in self.all.iter_mut().filter(|replica| replica.source == Some(server)) {
            replica.looked_at = false;
        }
        self.clients.retain(|row, at| {
            if *at == server {
                self.outcomes.insert(*row, Outcome::Unknown);
            }
            *at != server
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self, server: usize) {
        self.gone(server);
    }

    /// SIGTERM: an orderly end, which commits what waits for an acknowledgement.
    pub fn terminate(&mut self, server: usize) {
        let one = &mut self.all[server];
        if !one.answers() {
            return;
        }
        one.committed = one.binlog.len();
        one.flushed = one.committed;
        self.gone(server);
    }

    /// SIGSTOP and SIGCONT.
    pub fn pause(&mut self, server: usize, stopped: bool) {
        self.all[server].stopped = stopped && self.all[server].up;
    }

    /// A second without commits: the engine's log is flushed.
    pub fn idle(&mut self) {
        self.all.iter_mut().filter(|one| one.answers()).for_each(|one| one.flushed = one.committed);
    }

    /// Cuts or heals the replication link between two.
    pub fn cut(&mut self, a: usize, b: usize, cut: bool) {
        let link = (a.min(b), a.max(b));
        if cut {
            self.cut.insert(link)
        } else {
            self.cut.remove(&link)
        };
    }

    /// The server's node lets these replicas in no more, and what they have open is ended.
    pub fn refuse(&mut self, server: usize, replicas: &[usize]) {
        self.refused.retain(|(at, _)| *at != server);
        self.refused.extend(replicas.iter().map(|replica| (server, *replica)));
    }

    /// Its copy is thrown away and made anew of the source's, which a replica may be read from while it works.
    pub fn rebuild(&mut self, server: usize, source: usize) {
        self.gone(server);
        let from = &self.all[source];
        let binlog: Vec<Event> = from.binlog.iter().take(from.committed).copied().collect();
        let count = binlog.len();
        let slave_pos = binlog.last().map_or(0, |event| event.seq);
        self.all[server] =
            Server { binlog, committed: count, flushed: count, slave_pos, ..Server::default() };
    }

    /// A client inserts a row and waits for the answer.
    pub fn insert(&mut self, server: usize, row: u64) -> Outcome {
        if self.all[server].read_only {
            self.outcomes.insert(row, Outcome::Refused);
            return Outcome::Refused;
        }
        self.insert_as_admin(server, row)
    }

    /// The same by an account with `READ_ONLY ADMIN`.
    pub fn insert_as_admin(&mut self, server: usize, row: u64) -> Outcome {
        let one = &mut self.all[server];
        let outcome = if !one.up {
            Outcome::Refused
        } else if one.stopped {
            Outcome::Unknown
        } else {
            let seq = one.last_seq().max(one.slave_pos) + 1;
            one.binlog.push(Event { seq, server: one.id, row });
            if one.semi_master {
                self.clients.insert(row, server);
                Outcome::Hangs
            } else {
                one.commit(one.binlog.len());
                Outcome::Acknowledged
            }
        };
        self.outcomes.insert(row, outcome);
        outcome
    }

    /// What the client of a row knows by now.
    #[must_use]
    pub fn outcome(&self, row: u64) -> Outcome {
        self.outcomes.get(&row).copied().unwrap_or(Outcome::Unknown)
    }

    /// Rows that were acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = u64> + '_ {
        self.outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Acknowledged).map(|(row, _)| *row)
    }

    fn release(&mut self, server: usize, upto: usize) {
        self.all[server].commit(upto);
        let one = &self.all[server];
        for event in one.binlog.iter().take(one.committed) {
            if self.clients.remove(&event.row).is_some() {
                self.outcomes.insert(event.row, Outcome::Acknowledged);
            }
        }
    }

    /// `SET GLOBAL read_only`; `false` = it hangs, because a COMMIT waits.
    pub fn set_read_only(&mut self, server: usize, on: bool) -> bool {
        let one = &mut self.all[server];
        if !one.answers() || (on && one.waiting() > 0) {
            return false;
        }
        one.read_only = on;
        true
    }

    /// `SET GLOBAL rpl_semi_sync_master_enabled`; off says OK to all that wait.
    pub fn set_semi_master(&mut self, server: usize, on: bool) {
        if !self.all[server].answers() {
            return;
        }
        self.all[server].semi_master = on;
        if !on {
            self.release(server, self.all[server].binlog.len());
        }
    }

    /// `SET GLOBAL rpl_semi_sync_slave_enabled`; counts from the next start of the IO thread.
    pub fn set_semi_slave(&mut self, server: usize, on: bool) {
        if self.all[server].answers() {
            self.all[server].semi_slave = on;
        }
    }

    /// `SET GLOBAL server_id`.
    pub fn set_id(&mut self, server: usize, id: u32) {
        if self.all[server].answers() {
            self.all[server].id = id;
        }
    }

    /// `SET GLOBAL gtid_strict_mode`.
    pub fn set_strict(&mut self, server: usize, on: bool) {
        if self.all[server].answers() {
            self.all[server].strict = on;
        }
    }

    /// `STOP SLAVE`, for a former primary `SET GLOBAL gtid_slave_pos=@@gtid_binlog_pos`, `CHANGE MASTER TO …,
    /// MASTER_USE_GTID=slave_pos`, `START SLAVE`.
    pub fn follow(&mut self, server: usize, source: usize, demote: bool) {
        self.stop_slave(server);
        let one = &mut self.all[server];
        if !one.answers() {
            return;
        }
        one.source = Some(source);
        if demote {
            one.slave_pos = one.slave_pos.max(one.last_seq());
        }
        self.start_slave(server);
    }

    /// `START SLAVE`. When neither thread runs, what was received and not applied is thrown away.
    pub fn start_slave(&mut self, server: usize) {
        self.start_sql(server);
        self.start_io(server);
    }

    fn both_stand(&mut self, server: usize) {
        let one = &mut self.all[server];
        if !one.io && !one.sql {
            one.relay.clear();
            one.io_pos = one.slave_pos;
        }
    }

    /// `START SLAVE SQL_THREAD`.
    pub fn start_sql(&mut self, server: usize) {
        if self.all[server].answers() && self.all[server].source.is_some() {
            self.both_stand(server);
            (self.all[server].sql, self.all[server].error) = (true, None);
        }
    }

    /// `START SLAVE IO_THREAD`.
    pub fn start_io(&mut self, server: usize) {
        if self.all[server].answers() && self.all[server].source.is_some() {
            self.both_stand(server);
            let one = &mut self.all[server];
            (one.io, one.acks, one.looked_at, one.error) = (true, one.semi_slave, false, None);
        }
    }

    /// `STOP SLAVE IO_THREAD`.
    pub fn stop_io(&mut self, server: usize) {
        if self.all[server].answers() {
            (self.all[server].io, self.all[server].acks) = (false, false);
        }
    }

    /// `STOP SLAVE SQL_THREAD`.
    pub fn stop_sql(&mut self, server: usize) {
        if self.all[server].answers() {
            self.all[server].sql = false;
        }
    }

    /// `STOP SLAVE`.
    pub fn stop_slave(&mut self, server: usize) {
        self.stop_io(server);
        self.stop_sql(server);
    }

    /// `RESET SLAVE ALL`, after `STOP SLAVE`.
    pub fn reset_slave(&mut self, server: usize) {
        let one = &mut self.all[server];
        if one.answers() && !one.io && !one.sql {
            (one.source, one.io_pos) = (None, 0);
            one.relay.clear();
        }
    }

    /// Whether the source sends to it.
    #[must_use]
    pub fn connected(&self, server: usize) -> bool {
        let Some(source) = self.all[server].source else { return false };
        let link = (server.min(source), server.max(source));
        let runs = self.all[server].answers() && self.all[server].io && self.all[source].answers();
        runs && !self.cut.contains(&link) && !self.refused.contains(&(source, server))
    }

    /// The IO thread takes the next transaction; `false` = there is none that it can take.
    pub fn receive(&mut self, server: usize) -> bool {
        let Some(source) = self.all[server].source.filter(|_| self.connected(server)) else {
            self.all[server].looked_at = false;
            return false;
        };
        let at = self.all[server].io_pos;
        let from = &self.all[source];
        let known = at == 0 || from.binlog.iter().any(|event| event.seq == at);
        let mine = self.all[server].binlog.iter().rev().find(|event| event.seq == at).copied();
        let same = mine.is_none_or(|mine| from.binlog.contains(&mine));
        let looked_at = std::mem::replace(&mut self.all[server].looked_at, true);
        let wrong = !known || !same;
        if wrong && !looked_at {
            let one = &mut self.all[server];
            (one.io, one.acks, one.error) = (false, false, Some(Stopped::Diverged));
            return true;
        }
        let from = &self.all[source];
        let Some(event) = from.binlog.iter().find(|event| event.seq > at).copied() else { return false };
        let upto = from.binlog.iter().position(|one| *one == event).map_or(0, |at| at + 1);
        let one = &mut self.all[server];
        one.io_pos = event.seq;
        // Its own transactions are skipped, unless it is semi-synchronous and strict.
        if event.server != one.id || (one.semi_slave && one.strict) {
            one.relay.push_back(event);
        }
        if one.acks && self.all[source].semi_master {
            self.release(source, upto);
        }
        true
    }

    /// The SQL thread applies the next transaction; `false` = there is none.
    pub fn apply(&mut self, server: usize) -> bool {
        let one = &mut self.all[server];
        if !one.answers() || !one.sql {
            return false;
        }
        let Some(event) = one.relay.front().copied() else { return false };
        if one.strict && event.seq <= one.last_seq() {
            (one.sql, one.error) = (false, Some(Stopped::OutOfOrder));
            return true;
        }
        one.relay.pop_front();
        one.binlog.push(event);
        one.commit(one.binlog.len());
        one.slave_pos = event.seq;
        true
    }

    /// Replication goes on until nothing moves, and a while longer.
    pub fn settle(&mut self) {
        let count = self.all.len();
        while (0..count).any(|server| self.receive(server) | self.apply(server)) {}
        self.idle();
    }
}
