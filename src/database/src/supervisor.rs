//! The supervisor of a node's server: looks, asks what to do next, does it, reports.

mod act;
mod kept;
mod purging;
mod settling;
mod verifying;

use crate::copy::{self, Copying};
use crate::disk;
use crate::folder::Folder;
use crate::look::{Wanted, look};
use crate::rows::{Purpose, Rows, Written};
use crate::server::Server;
use crate::sql::Sql;
use crate::{Config, Error};
use elpis_cluster::agent::database::{Context, Events, GateOrders, Login, Task, Told, Wires};
use elpis_cluster::database::{Action, Local, Memory, Order, Report, Room, supervise};
use elpis_watch::{NodeId, Traffic, durable};
use purging::Purging;
use settling::Settling;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use verifying::{Ended, Verifying};

/// How often it looks when nothing happens, and while something is to be brought about.
const CALM: Duration = Duration::from_millis(200);
const BUSY: Duration = Duration::from_millis(20);
/// Rows that ended and are not looked at yet; fewer than this are under way.
const QUEUE: usize = 32;
/// Pause before what was received is applied again, after an error of a full disk.
const APPLY_AGAIN: Duration = Duration::from_secs(5);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(150);
/// The write probe's pace, and how long it may take while nothing waits for an acknowledgement.
const PROBE: Duration = Duration::from_millis(500);
const PROBE_LIMIT: Duration = Duration::from_millis(400);
/// Pauses before a server is started again that did not live long.
const STARTS: [Duration; 5] =
    [Duration::ZERO, Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];
/// A copy with which the server did not start so often is no good: what nobody acknowledged cannot always be cut off.
const IN_VAIN: u32 = 4;
const LIVED: Duration = Duration::from_secs(30);

/// Runs a node's copy of the database until the token is cancelled. The server itself goes on.
pub async fn run(config: Config, mut wires: Wires) {
    // Nothing happens here before the cluster runs its database itself.
    let first = tokio::select! {
        () = wires.stop.cancelled() => return,
        first = wires.tasks.wait_for(Option::is_some) => first.is_ok(),
    };
    if !first {
        return;
    }
    let (done, rows) = mpsc::channel(QUEUE);
    let folder = Folder::new(&config);
    let socket = folder.socket();
    if let Err(error) = folder.make() {
        wires.events.say("database", &format!("{error}; this node has no copy of the database"));
        return;
    }
    let (given, copies_given) = watch::channel(copy::Given::default());
    let copies = tokio::spawn(copy::serve(config.clone(), folder.clone(), given, wires.stop.clone()));
    let purging = Purging::new(&folder, copies_given);
    let settling = Settling::new(folder.data());
    let disk = disk::Watch::new(&folder, &config.data, config.reserve_bytes, wires.events.clone());
    let mut supervisor = Supervisor {
        server: Server::find(folder.clone()),
        sql: Sql::new(socket.clone()),
        rows: Rows::new(socket, done),
        source: kept::Source::read(&folder),
        follows: false,
        kept: kept::Kept::new(&folder),
        memory: kept::Kept::read(&folder),
        events: wires.events.clone(),
        gate: wires.gate.clone(),
        config,
        folder,
        local: Local::default(),
        known: None,
        numbered: None,
        turn: 0,
        probe: Probe::default(),
        starts: Starts::default(),
        copying: None,
        verifying: Verifying::default(),
        purging,
        settling,
        disk,
        applied_again: None,
        accounts: None,
        seen: false,
        cut: false,
        complained: String::new(),
        copy_failed: String::new(),
    };
    supervisor.work(&mut wires, rows).await;
    copies.abort();
}

struct Supervisor {
    config: Config,
    folder: Folder,
    server: Server,
    sql: Sql,
    rows: Rows,
    source: kept::Source,
    /// The server showed a source when it was asked last.
    follows: bool,
    kept: kept::Kept,
    events: Events,
    gate: GateOrders,
    local: Local,
    /// The instance that has been looked at: `local` is its.
    known: Option<u64>,
    memory: Memory,
    /// Instance and epoch whose `server_id` the rows' connections have.
    numbered: Option<(u64, u64)>,
    /// Grows when rows that are under way prove nothing any more.
    turn: u64,
    probe: Probe,
    starts: Starts,
    copying: Option<Copying>,
    /// Whether the copy's rows are the primary's, since it last began to follow.
    verifying: Verifying,
    purging: Purging,
    settling: Settling,
    disk: disk::Watch,
    applied_again: Option<Instant>,
    /// Accounts that are being made, or are there.
    accounts: Option<Accounts>,
    /// The last look succeeded.
    seen: bool,
    /// The way to the source is cut on purpose.
    cut: bool,
    /// What was complained about last.
    complained: String,
    /// Why the last copy, or its comparison, failed.
    copy_failed: String,
}

/// Accounts on an instance, for what the cluster was then.
struct Accounts {
    instance: u64,
    context: Arc<Context>,
    task: JoinHandle<bool>,
    made: bool,
}

#[derive(Default)]
struct Probe {
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// The last one was refused.
    failed: bool,
}

#[derive(Default)]
struct Starts {
    count: usize,
    last: Option<Instant>,
    /// Starts as a replica, one after the other, of which none came to answer.
    in_vain: u32,
}

impl Starts {
    /// Whether the server may be started now. `full`: where it does not start the disk is to blame, not the copy.
    fn may(&mut self, as_replica: bool, full: bool) -> bool {
        let passed = self.last.map_or(Duration::MAX, |last| last.elapsed());
        if passed > LIVED {
            self.count = 0;
        }
        if passed < STARTS[self.count.min(STARTS.len() - 1)] {
            return false;
        }
        (self.count, self.last) = (self.count + 1, Some(Instant::now()));
        self.in_vain += u32::from(as_replica && !full);
        true
    }
}

impl Supervisor {
    async fn work(&mut self, wires: &mut Wires, mut rows: mpsc::Receiver<(u16, Written)>) {
        loop {
            let task = wires.tasks.borrow_and_update().clone().unwrap_or_default();
            self.disk.step(self.works_as_primary(&task.order), self.well()).await;
            self.look().await;
            let mut pause = CALM;
            let action = self.decide(&task).await;
            self.direct_traffic(&task);
            self.tell(wires, &task);
            if let Some(action) = action {
                pause = BUSY;
                match self.act(&action, &task).await {
                    Ok(()) => self.complained.clear(),
                    Err(error) => {
                        self.complain(&action, &error);
                        pause = AGAIN;
                    }
                }
            }
            if self.restless(&task.order) {
                pause = pause.min(BUSY);
            }
            self.probe();
            self.provide_accounts(&task.context).await;
            let short = self.disk.room() >= Room::Critical;
            self.purging.step(task.applied.as_ref(), self.seen && self.known.is_some(), short).await;
            self.settling.step(Instant::now()).await;
            tokio::select! {
                () = wires.stop.cancelled() => return,
                () = sleep(pause) => {}
                changed = wires.tasks.changed() => if changed.is_err() { return },
                () = self.server.ended() => {}
                Some((slot, written)) = rows.recv() => self.take(slot, written),
                () = copy::ended(&mut self.copying) => self.copied(),
            }
            while let Ok((slot, written)) = rows.try_recv() {
                self.take(slot, written);
            }
        }
    }

    /// Brings `local` up to date as far as the server answers.
    async fn look(&mut self) {
        let Some(instance) = self.server.instance() else {
            let instance = self.local.instance;
            let broken = !self.folder.has_copy() || self.starts.in_vain >= IN_VAIN || self.copying.is_some();
            self.local = Local { instance, broken, room: self.disk.room(), ..Local::default() };
            self.known = None;
            self.sql.forget();
            return;
        };
        if self.known.is_some_and(|known| known != instance) || self.local.instance != instance {
            let room = self.disk.room();
            (self.known, self.local) = (None, Local { up: true, instance, room, ..Local::default() });
            self.sql.forget();
            self.rows.clear();
            self.probe = Probe::default();
        }
        (self.seen, self.local.room) = (true, self.disk.room());
        let new = self.known != Some(instance);
        if new && let Err(error) = self.take_position().await {
            tracing::debug!(%error, "a new copy has not taken its position yet");
            self.seen = false;
            return;
        }
        // Only this supervisor gives the server a source, and writes that down first; what it wrote may be lost.
        let replica = new || self.follows || self.source.node().is_some();
        let wanted = Wanted { replica, waits: !self.probe.good(false) };
        self.verifying.on((instance, self.memory.follows));
        let compares = self.verifying.runs();
        match look(&mut self.sql, instance, self.source.node(), wanted).await {
            Ok((mut local, aside)) => {
                self.follows = aside.follows;
                local.writes = self.probe.good(aside.waits);
                // The gate was restarted and listens elsewhere: its source is none that can be reached.
                let elsewhere = self.gate.port().is_some_and(|port| port != aside.port);
                if local.source.is_some() && (self.source.port() != aside.port || elsewhere) {
                    local.source = None;
                }
                self.compared().await;
                local.same = self.verifying.outcome == Some(true);
                local.broken |= self.verifying.outcome == Some(false);
                // One that could not write has no other rows than the primary.
                local.broken |= aside.no_room && !self.disk.full_lately();
                local.room = self.disk.room();
                // Its threads stood still on purpose.
                if compares && !local.broken {
                    (local.io, local.sql, local.connected) = (true, true, true);
                }
                (self.local, self.known) = (local, Some(instance));
                self.starts.in_vain = 0;
            }
            Err(error) => {
                tracing::debug!(%error, "MariaDB does not answer");
                // It stands as it was last seen; whether it acknowledges is not known.
                (self.local.up, self.local.writes, self.local.connected) = (true, false, false);
                (self.local.acks, self.local.answers, self.seen) = (true, false, false);
            }
        }
    }

    /// A new copy begins where it was taken.
    async fn take_position(&mut self) -> Result<(), Error> {
        let file = self.folder.data().join(copy::POSITION);
        let Ok(position) = std::fs::read_to_string(&file) else { return Ok(()) };
        let text = format!(
            "RESET MASTER; SET GLOBAL gtid_binlog_state='{position}'; SET GLOBAL gtid_slave_pos='{position}'"
        );
        self.sql.run_made("a copy's position", text).await?;
        // For good: taken once more after a power cut, it would forget what has been applied since.
        durable::remove(&file).map_err(|e| Error::File(format!("cannot remove {}", file.display()), e))
    }

    /// What to do next. A server that has not answered yet is only killed.
    async fn decide(&mut self, task: &Task) -> Option<Action> {
        if let Some(copying) = &self.copying {
            if matches!(task.order, Order::Rebuild { primary } if primary != copying.primary) {
                // Another one's files are wanted by now.
                self.copying = None;
            }
            return None;
        }
        let follows = matches!(task.order, Order::Follow { verify: true, .. });
        if follows && self.local.connected && self.local.sql && !self.local.broken {
            self.verify(&task.context.admin);
        } else if self.seen || !follows {
            // One look that is not answered says nothing: a comparison has a limit of its own.
            self.verifying.stop();
        }
        if self.server.instance().is_some() && self.known.is_none() && task.order != Order::Kill {
            return None;
        }
        // A server that does not answer now is not looked at with old eyes; only one that led is killed.
        let led =
            matches!(task.order, Order::Follow { .. }) && (self.local.semi_master || !self.local.read_only);
        if self.server.instance().is_some() && !self.seen && task.order != Order::Kill && !led {
            return None;
        }
        let before = self.memory.instance;
        let action = supervise(&task.order, &self.local, &mut self.memory);
        match action {
            Some(Action::Start { master }) => {
                self.disk.look(false);
                if !self.starts.may(!master, self.disk.full_lately()) {
                    return None;
                }
            }
            Some(Action::StartSql) if self.disk.full_lately() => {
                if self.applied_again.is_some_and(|again| again.elapsed() < APPLY_AGAIN) {
                    return None;
                }
                self.applied_again = Some(Instant::now());
            }
            _ => {}
        }
        self.kept.keep(&self.memory);
        if self.memory.instance != before {
            self.turn += 1;
        }
        action
    }

    /// The gate lets statements in only while this server leads; replication is `act`'s.
    fn direct_traffic(&mut self, task: &Task) {
        let order = &task.order;
        let serve = match order {
            Order::Lead { epoch, .. } if self.local.up && self.memory.leading == Some(*epoch) => Some(*epoch),
            _ => None,
        };
        // A node agent that has just started does not know yet whether it leads: the gate goes on as it was told.
        let unheard = task.newest == (0, 0);
        let undecided = (unheard || matches!(order, Order::Lead { .. })) && self.server.instance().is_some();
        if undecided && serve.is_none() && self.gate.now().is_none() {
            return;
        }
        let frozen = matches!(order, Order::Freeze { .. } | Order::Detach { .. });
        let source = self.source.node().filter(|_| self.local.up && !self.cut && !frozen);
        let (refuse, slow_ms) = match order {
            Order::Lead { slow_ms, .. } => (self.memory.blocked.clone().unwrap_or_default(), *slow_ms),
            _ => (Nodes::new(), 0),
        };
        self.gate.set(&Traffic { number: 0, serve, source, refuse, slow_ms });
    }

    /// The server runs as the primary.
    fn works_as_primary(&self, order: &Order) -> bool {
        matches!(order, Order::Lead { .. }) && self.local.up
    }

    /// Nothing that a full disk brings about is seen.
    fn well(&self) -> bool {
        let local = &self.local;
        local.up
            && self.seen
            && (local.writes || self.memory.leading.is_none())
            && (local.sql || local.source.is_none())
    }

    fn tell(&self, wires: &Wires, task: &Task) {
        let same = self.memory.instance == self.local.instance;
        let memory = if same { self.memory.clone() } else { Memory::default() };
        let report = Report { echo: task.newest.1, local: self.local.clone(), memory };
        let (term, order) = (task.newest.0, task.order.clone());
        let disks = self.disk.known(&self.purging.logs);
        wires.reports.send_replace(Some(Told { term, order, report, disks }));
    }

    /// Something is under way that is worth a look soon.
    fn restless(&self, order: &Order) -> bool {
        let starting = self.server.instance().is_some() && self.known.is_none();
        let unfinished = match order {
            Order::Yield => self.memory.leading.is_some(),
            Order::Freeze { epoch } => self.memory.frozen != Some(*epoch),
            Order::Detach { epoch, .. } => self.memory.detached != Some(*epoch),
            Order::Lead { epoch, sync, .. } => {
                self.memory.leading != Some(*epoch) || (*sync && !self.memory.synced)
            }
            Order::Follow { acks, .. } => *acks && !(self.memory.whole && self.local.connected),
            _ => false,
        };
        self.local.up && (starting || unfinished)
    }

    /// A row was acknowledged, or failed.
    fn take(&mut self, slot: u16, written: Written) {
        let Some(Written { purpose, turn, done }) = self.rows.ended(slot, written) else { return };
        if purpose == Purpose::Probe {
            (self.probe.answered, self.probe.failed) = (Some(Instant::now()), done.is_err());
        }
        if let Err(error) = done {
            tracing::debug!(%error, ?purpose, "a row of the supervisor");
            return;
        }
        match purpose {
            Purpose::Fence { epoch } if turn == self.turn => self.memory.fenced = Some(epoch),
            Purpose::Heartbeat if turn == self.turn => {
                self.memory.dropped = self.memory.blocked.clone().unwrap_or_default();
                self.memory.synced = self.local.semi_master;
            }
            _ => {}
        }
    }

    /// Asks the server to write, twice a second, while it leads.
    fn probe(&mut self) {
        if self.memory.leading.is_none() || self.known.is_none() {
            self.probe = Probe::default();
            return;
        }
        let waits = self.probe.waits();
        if !waits && self.probe.asked.is_none_or(|asked| asked.elapsed() >= PROBE) {
            (self.probe.asked, self.probe.answered) = (Some(Instant::now()), None);
            if let Err(error) = self.rows.write(Purpose::Probe, 0, &[]) {
                tracing::warn!(%error, "the write probe");
            }
        }
    }

    fn complain(&mut self, action: &Action, error: &Error) {
        let text = format!("{action:?}: {error}");
        tracing::warn!(%error, ?action, "not done");
        if self.complained != text {
            self.events.say("database", &text);
            self.complained = text;
        }
    }

    /// Compares the copy with the primary, once since it began to follow.
    fn verify(&mut self, admin: &Login) {
        if self.verifying.due() {
            let gate = self.config.data.join("run/gate/db.sock");
            self.verifying.begin(crate::verify::verify(self.folder.socket(), gate, admin.clone()));
        }
    }

    async fn compared(&mut self) {
        match self.verifying.ended().await {
            Some(Ended::Differs(tables)) => {
                let text = format!("this copy differs from the primary in {tables}; it is made anew");
                self.events.say("database", &text);
            }
            Some(Ended::Failed(error)) => {
                self.copy_trouble(format!(
                    "this copy could not be compared with the primary: {error}; trying again"
                ));
            }
            None => {}
        }
    }

    /// Every few seconds, perhaps for days: said once.
    fn copy_trouble(&mut self, text: String) {
        tracing::warn!("{text}");
        if self.copy_failed != text {
            self.events.say("database", &text);
            self.copy_failed = text;
        }
    }

    fn copied(&mut self) {
        match self.copying.take().and_then(|mut copying| copying.outcome()) {
            Some(Ok(said)) => {
                self.copy_failed.clear();
                self.events.say("database", &said);
            }
            Some(Err(error)) => {
                self.copy_trouble(format!("the copy failed: {error}; it is tried again"));
            }
            None => {}
        }
    }
}

impl Probe {
    fn waits(&self) -> bool {
        self.asked.is_some() && self.answered.is_none()
    }

    /// Whether the server writes, or only waits for an acknowledgement.
    fn good(&self, waits_for_acknowledgement: bool) -> bool {
        let late = self.asked.is_some_and(|asked| asked.elapsed() > PROBE_LIMIT);
        waits_for_acknowledgement || !(self.failed || (self.waits() && late))
    }
}

/// Nodes as a set, for the gate.
type Nodes = BTreeSet<NodeId>;
