//! The node's part in the database group: hands the master's orders to the supervisor of this node's server, and brings
//! its reports back. The supervisor comes from outside ([`Hand`]): nothing here knows SQL or processes.

use super::member::Member;
use super::messages::{GroupOrder, GroupReport};
use super::{Agent, accounts, locked};
use crate::database::{Applied, Disks, Order, Report};
use crate::state::{ClusterState, NodeState, Secret};
use elpis_watch::{ADDRESS_JOB, NodeId, Role, Traffic, TrafficDone};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Name of the administration account of a database that the nodes run.
pub const ADMIN: &str = "elpis-admin";
/// Renewals that carry news are at least so far apart.
const NEWS: Duration = Duration::from_millis(10);

/// What the supervisor is to bring about, and what it needs for that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    /// Term and round of the order: a supervisor obeys the newest.
    pub newest: (u64, u64),
    pub order: Order,
    /// How far the members of the group have applied; `None` = not known.
    pub applied: Option<Applied>,
    pub context: Arc<Context>,
}

/// What actions need to know of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// This node.
    pub node: NodeId,
    /// Accounts under which nodes replicate.
    pub replication: BTreeMap<NodeId, Login>,
    /// The administration account.
    pub admin: Login,
    /// Fence rows as Raft has them: writer, session.
    pub fence: Vec<(String, u64)>,
}

/// A database account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

/// What connects the supervisor with its node agent.
#[derive(Debug)]
pub struct Wires {
    /// `None` until the cluster runs its database itself.
    pub tasks: watch::Receiver<Option<Task>>,
    pub reports: watch::Sender<Option<Told>>,
    pub gate: GateOrders,
    pub events: Events,
    pub stop: CancellationToken,
}

/// A report, and which order it was made under.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub term: u64,
    pub order: Order,
    /// Its echo is the round of the order.
    pub report: Report,
    /// For the status alone: a changed number of bytes is no news, and of what it means the report has the level.
    pub disks: Disks,
}

impl Told {
    /// Whether the master should hear of it at once: everything but positions.
    fn is_news(&self, before: &Told) -> bool {
        let still = |told: &Told| {
            let mut report = told.report.clone();
            report.echo = 0;
            (report.local.io_seq, report.local.applied_seq, report.local.binlog_seq) = (0, 0, 0);
            (told.term, report)
        };
        still(self) != still(before) || discriminant(&self.order) != discriminant(&before.order)
    }
}

type Say = dyn Fn(&str, &str) + Send + Sync;

/// Where the supervisor tells what an operator should see.
#[derive(Clone)]
pub struct Events(Arc<Say>);

impl Events {
    /// From a function that takes kind and text.
    pub fn new(take: impl Fn(&str, &str) + Send + Sync + 'static) -> Events {
        Events(Arc::new(take))
    }

    /// Something happened.
    pub fn say(&self, kind: &str, text: &str) {
        (self.0)(kind, text);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

type Work = dyn Fn(Wires) -> BoxFuture<'static, ()> + Send + Sync;

/// Runs the supervisor of a node's database server until the wires' token is cancelled.
#[derive(Clone)]
pub struct Hand(Arc<Work>);

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hand")
    }
}

impl Hand {
    /// From a function.
    pub fn new<F, Fut>(work: F) -> Hand
    where
        F: Fn(Wires) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Hand(Arc::new(move |wires| Box::pin(work(wires))))
    }
}

/// Orders to the database gate of this node. Clones share everything.
#[derive(Clone, Debug)]
pub struct GateOrders {
    orders: Arc<watch::Sender<Option<Traffic>>>,
    done: watch::Receiver<TrafficDone>,
}

impl GateOrders {
    /// Orders this traffic; the same as before is no new order.
    pub fn set(&self, wanted: &Traffic) -> u64 {
        let mut number = 0;
        self.orders.send_if_modified(|held| {
            let before = held.get_or_insert_with(Traffic::default);
            let same = before.number > 0 && Traffic { number: before.number, ..wanted.clone() } == *before;
            number = before.number + u64::from(!same);
            if !same {
                // A restarted node agent must not repeat a number: the gate lives on.
                number = number.max(crate::types::boot_ms().unsigned_abs());
                *before = Traffic { number, ..wanted.clone() };
            }
            !same
        });
        number
    }

    /// The order now; `None` = none was given yet.
    #[must_use]
    pub fn now(&self) -> Option<Traffic> {
        self.orders.borrow().clone()
    }

    /// Port at which the gate takes this node's server to its source, as it said last.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        Some(self.done.borrow().replication_port).filter(|port| *port > 0)
    }

    /// Waits until the gate obeys this order or a later one; the answer is its replication port. `None` = not in time.
    pub async fn obeyed(&mut self, number: u64, limit: Duration) -> Option<u16> {
        let done = timeout(limit, self.done.wait_for(|done| done.number >= number)).await;
        done.ok()?.ok().map(|done| done.replication_port)
    }
}

/// The wires' other ends.
#[derive(Debug)]
pub(super) struct Desk {
    tasks: watch::Sender<Option<Task>>,
    reports: watch::Receiver<Option<Told>>,
    pub(super) traffic: Arc<watch::Sender<Option<Traffic>>>,
    done: watch::Sender<TrafficDone>,
    /// Taken when the supervisor starts.
    report_to: Mutex<Option<watch::Sender<Option<Told>>>>,
}

impl Default for Desk {
    fn default() -> Desk {
        let (report_to, reports) = watch::channel(None);
        Desk {
            tasks: watch::Sender::default(),
            reports,
            traffic: Arc::default(),
            done: watch::Sender::default(),
            report_to: Mutex::new(Some(report_to)),
        }
    }
}

impl Desk {
    /// Takes the master's order.
    pub(super) fn obey(&self, term: u64, order: &GroupOrder) {
        self.tasks.send_if_modified(|task| {
            let Some(task) = task.as_mut().filter(|task| (term, order.round) > task.newest) else {
                return false;
            };
            task.newest = (term, order.round);
            task.order.clone_from(&order.order);
            task.applied.clone_from(&order.applied);
            true
        });
    }

    /// What the supervisor says, for the master of this term.
    pub(super) fn report(&self, term: u64) -> Option<GroupReport> {
        let told = self.reports.borrow().clone()?;
        let mut report = told.report;
        if told.term != term {
            // What was obeyed of an earlier master says nothing of this one's rounds.
            report.echo = 0;
        }
        Some(GroupReport { report, disks: told.disks })
    }

    /// What the supervisor told last.
    pub(super) fn told(&self) -> Option<Told> {
        self.reports.borrow().clone()
    }

    /// The gate obeys.
    pub(super) fn gate_obeys(&self, done: TrafficDone) {
        self.done.send_replace(done);
    }
}

/// Starts the supervisor and tells it what changes, until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let desk = &member.desk;
    let Some((hand, reports)) = agent.config.database.clone().zip(locked(&desk.report_to).take()) else {
        return;
    };
    let events = {
        let agent = Arc::downgrade(&agent);
        Events::new(move |kind, text| {
            if let Some(agent) = agent.upgrade() {
                agent.note(None, kind, text);
            }
        })
    };
    let wires = Wires {
        tasks: desk.tasks.subscribe(),
        reports,
        gate: GateOrders { orders: Arc::clone(&desk.traffic), done: desk.done.subscribe() },
        events,
        stop: agent.stop.clone(),
    };
    agent.tasks.spawn((hand.0)(wires));
    let mut states = member.node.state();
    let mut told = desk.reports.clone();
    let mut last = None;
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        if state.group.is_some() && state.nodes.contains_key(&member.id()) {
            let context = context(&state, &member);
            desk.tasks.send_if_modified(|task| {
                let task = task.get_or_insert_with(Task::default);
                let new = *task.context != context;
                if new {
                    task.context = Arc::new(context);
                }
                new
            });
        }
        let mut news = false;
        tokio::select! {
            () = agent.stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = told.changed() => news = changed.is_ok(),
        }
        if news {
            let now = told.borrow_and_update().clone();
            let urgent =
                now.as_ref().zip(last.as_ref()).is_none_or(|(now, last): (&Told, &Told)| now.is_news(last));
            if urgent {
                member.renew_now.notify_one();
                last = now;
                tokio::time::sleep(NEWS).await;
            }
        }
    }
}

fn context(state: &ClusterState, member: &Member) -> Context {
    let mut context = Context { node: member.id(), ..Context::default() };
    let Some(key) = &member.key else { return context };
    for (id, node) in &state.nodes {
        if node.state != NodeState::Removed {
            let user = accounts::replication_user(state, *id);
            let password = Secret(key.replication_password(*id, state.generation));
            context.replication.insert(*id, Login { user, password });
        }
        for role in [Role::DataServer, Role::NetworkServer, Role::Console] {
            context.fence.push((format!("{}/{}", node.name, role.as_str()), node.session));
        }
    }
    // Holding an address writes nothing.
    let writes = state.jobs.iter().filter(|(name, _)| !name.starts_with(ADDRESS_JOB));
    context.fence.extend(writes.map(|(name, job)| (format!("job/{name}"), job.epoch)));
    if let Some(named) = &state.database {
        let password = accounts::open(key, &named.password).unwrap_or_default();
        context.admin = Login { user: named.user.clone(), password: Secret(password) };
    }
    context
}
