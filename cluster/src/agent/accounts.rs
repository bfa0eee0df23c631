//! Database accounts, one a node and role: made and dropped by the master's node agent with the administration account,
//! handed to the server processes of the node they belong to.
//!
//! Which node has its accounts is in the replicated state, so a new master goes on where the last one ended; what was
//! done and not written down is done again. The SQL comes from outside ([`Maker`]): nothing here knows it.

use super::member::Member;
use super::{Agent, locked};
use crate::database::Group;
use crate::key::ClusterKey;
use crate::state::{ClusterState, Command, MANAGED, NodeState, Secret};
use elpis_watch::{Database, NodeId, Role};
use futures_util::future::BoxFuture;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Servers that use the database.
pub const ROLES: [Role; 3] = [Role::DataServer, Role::NetworkServer, Role::Console];
/// Place of the administration password in the state.
const PLACE: &str = "database";
/// How often the state is looked at; a change of it is seen at once.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(2);
/// Trouble that is over sooner is no event.
const LASTS: Duration = Duration::from_secs(10);
/// All accounts are made again this often, so that one which somebody dropped comes back.
const RENEW: Duration = Duration::from_secs(300);
/// Longest work on accounts.
const LIMIT: Duration = Duration::from_secs(60);
/// Why a node without a key gets nowhere.
const NO_KEY: &str = "this node has no cluster key (cluster.key in its data folder): the cluster was made by a program of before accounts, or the file was lost; make the cluster anew, or remove this node and join it again, empty";

/// An account to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub role: Role,
    pub password: Secret,
}

/// What is to be done with the administration account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub url: String,
    /// Administration account.
    pub user: String,
    pub password: Secret,
    /// Bring the schema up to date first.
    pub migrate: bool,
    pub make: Vec<Account>,
    /// Accounts to drop, by name.
    pub drop: Vec<String>,
}

type Work = dyn Fn(Order) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Carries an [`Order`] out in the database; doing one twice is the same as once. The error is for an operator: what
/// happened and what to do.
#[derive(Clone)]
pub struct Maker(Arc<Work>);

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

impl Maker {
    /// From a function.
    pub fn new<F, Fut>(work: F) -> Maker
    where
        F: Fn(Order) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        Maker(Arc::new(move |order| Box::pin(work(order))))
    }
}

/// Name of an account: short enough for every server, and another one in each cluster that shares the server.
fn user(state: &ClusterState, node: NodeId, role: Role) -> String {
    let cluster: String = state.uuid.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
    let role = match role {
        Role::DataServer => "data",
        Role::NetworkServer => "network",
        Role::Console => "console",
        Role::TentacleServer | Role::DbGate | Role::AddressKeeper => "none",
    };
    format!("elpis-{cluster}-{node}-{role}")
}

/// Name of the account under which a node's database server replicates. Another one in each generation: an account that is
/// there is left as it is, and its password is that of the generation.
pub(super) fn replication_user(state: &ClusterState, node: NodeId) -> String {
    let cluster: String = state.uuid.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
    match state.generation {
        1 => format!("elpis-{cluster}-{node}-replica"),
        generation => format!("elpis-{cluster}-{node}-g{generation}-replica"),
    }
}

/// The administration account's password as it lies in the state.
pub(super) fn open(key: &ClusterKey, sealed: &str) -> Option<String> {
    key.open(PLACE, sealed)
}

/// `mysql://localhost/elpis?socket=…` of a socket.
#[must_use]
pub fn socket_url(socket: &Path) -> String {
    let mut path = String::new();
    for byte in socket.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                path.push(char::from(*byte));
            }
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    format!("mysql://localhost/elpis?socket={path}")
}

/// Puts the account of this node and role in the place of the administration account.
pub(super) fn give(database: &mut Database, state: &ClusterState, member: &Member, role: Role) {
    database.user.clear();
    database.password.clear();
    database.ready = database.ready && lacks(state, member).is_none();
    if database.mode == MANAGED {
        database.url.clone_from(&member.gate_url);
    }
    if let (true, Some(key)) = (ROLES.contains(&role), &member.key) {
        database.user = user(state, member.id(), role);
        database.password = key.account_password(member.id(), role, state.generation);
    }
}

/// Why this node is unfit: what its servers say, else that they have no accounts; empty = it is fit.
pub(super) fn unfit(servers: String, member: &Member) -> String {
    let accounts = || lacks(&member.state(), member).unwrap_or_default().to_owned();
    if servers.is_empty() { accounts() } else { servers }
}

/// Why this node's servers have no accounts, when the database itself is ready.
fn lacks(state: &ClusterState, member: &Member) -> Option<&'static str> {
    let database = state.database.as_ref().filter(|database| database.ready)?;
    if member.key.is_none() {
        return Some(NO_KEY);
    }
    let made = state.accounts.get(&member.id()) == Some(&database.epoch);
    (!made).then_some("its database accounts are not made yet; `elpis cluster status` says why")
}

/// Seals the administration password for the log.
pub(super) fn seal(member: &Member, password: &str) -> Result<Secret, String> {
    let key = member.key.as_ref().ok_or(NO_KEY)?;
    key.seal(PLACE, password).map(Secret).ok_or_else(|| "the password cannot be sealed".to_owned())
}

/// Goes into a database with its administration account, and changes nothing there.
pub(super) async fn try_in(agent: &Agent, url: String, user: String, password: Secret) -> Result<(), String> {
    let order = Order { url, user, password, migrate: false, make: Vec::new(), drop: Vec::new() };
    carry_out(agent, order).await
}

async fn carry_out(agent: &Agent, order: Order) -> Result<(), String> {
    let done = timeout(LIMIT, (agent.config.accounts.0)(order)).await;
    done.map_err(|_| format!("the database did not finish within {} s", LIMIT.as_secs()))?
}

/// Works whenever this node leads, until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let mut states = member.node.state();
    let mut led = 0;
    let mut renew_at = Instant::now();
    let mut trouble = Trouble::default();
    loop {
        let view = member.node.raft_view();
        let mut pause = LOOK;
        if view.is_leader {
            // What the master before did and did not write down is unknown: everything once more.
            let all = std::mem::replace(&mut led, view.term) != view.term || Instant::now() >= renew_at;
            let outcome = turn(&agent, &member, view.term, all).await;
            match outcome {
                Ok(()) => {
                    trouble = Trouble::default();
                    if all {
                        renew_at = Instant::now() + RENEW;
                    }
                }
                Err(error) => {
                    (led, pause) = (if all { 0 } else { led }, AGAIN);
                    if trouble.is_news(&error, Instant::now()) {
                        agent.note(None, "accounts", &error);
                    }
                    *locked(&member.accounts_error) = error;
                }
            }
        } else {
            trouble = Trouble::default();
            locked(&member.accounts_error).clear();
        }
        tokio::select! {
            () = agent.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = states.changed(), if pause == LOOK => if changed.is_err() { return },
        }
        states.borrow_and_update();
    }
}

/// Errors in a row. The status has each at once; an event is what lasts: a database that starts or moves refuses for a
/// while.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    told: String,
}

impl Trouble {
    fn is_news(&mut self, error: &str, now: Instant) -> bool {
        let lasts = now.duration_since(*self.since.get_or_insert(now)) >= LASTS;
        let news = lasts && self.told != error;
        if news {
            error.clone_into(&mut self.told);
        }
        news
    }
}

async fn turn(agent: &Agent, member: &Member, term: u64, all: bool) -> Result<(), String> {
    let state = member.state();
    // The nodes' own has nobody to go in as before its first copy is made.
    let made =
        |database: &&Database| database.mode == MANAGED && state.group.as_ref().is_some_and(Group::is_made);
    let Some(database) = state.database.as_ref().filter(|database| database.ready || made(database)) else {
        locked(&member.accounts_error).clear();
        return Ok(());
    };
    // In the nodes' own database nobody else drops accounts. What changes accounts there is no transaction: a server
    // that dies with it at the end of its log cannot cut off what nobody acknowledged, and needs a new copy.
    let todo = todo(&state, database.epoch, all && database.mode != MANAGED);
    // It gets its schema from whoever leads with a newer program.
    let migrate = database.mode == MANAGED && (all || !database.ready);
    if todo.is_empty() && !migrate {
        locked(&member.accounts_error).clear();
        return Ok(());
    }
    let key = member.key.as_ref().ok_or(NO_KEY)?;
    let password = key.open(PLACE, &database.password).ok_or(
        "the administration account's password in the log was sealed with another key; give it again with `elpis cluster database`",
    )?;
    let accounts = |node: &NodeId| {
        let node = *node;
        let (state, generation) = (&state, state.generation);
        ROLES.map(|role| Account {
            user: user(state, node, role),
            role,
            password: Secret(key.account_password(node, role, generation)),
        })
    };
    let order = Order {
        url: if database.mode == MANAGED { member.gate_url.clone() } else { database.url.clone() },
        user: database.user.clone(),
        password: Secret(password),
        migrate,
        make: todo.make.iter().flat_map(accounts).collect(),
        drop: todo.drop.iter().flat_map(|node| ROLES.map(|role| user(&state, *node, role))).collect(),
    };
    let (made, dropped) = (order.make.len(), order.drop.len());
    tokio::select! {
        done = carry_out(agent, order) => done?,
        () = agent.stop.cancelled() => return Ok(()),
    }
    if !database.ready {
        let ready = Command::SetDatabase {
            url: database.url.clone(),
            user: database.user.clone(),
            password: Secret(database.password.clone()),
            mode: database.mode.clone(),
            ready: true,
        };
        let written = member.node.propose_in_term(term, ready).await;
        written.map_err(|error| format!("the schema is there but not written down: {error}"))?;
    }
    let command = todo.command(database.epoch);
    if state.changes(&command) {
        let written = member.node.propose_in_term(term, command).await;
        written.map_err(|error| format!("accounts are made but not written down: {error}"))?;
        tracing::info!(made, dropped, epoch = database.epoch, "database accounts made and dropped");
    }
    locked(&member.accounts_error).clear();
    Ok(())
}

/// Nodes to make accounts for, and nodes whose accounts go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Todo {
    make: Vec<NodeId>,
    drop: Vec<NodeId>,
}

impl Todo {
    fn is_empty(&self) -> bool {
        self.make.is_empty() && self.drop.is_empty()
    }

    fn command(self, epoch: u64) -> Command {
        Command::AccountsMade { epoch, made: self.make, dropped: self.drop }
    }
}

/// PURE: what is to be done. `all`: also what is written down as done.
fn todo(state: &ClusterState, epoch: u64, all: bool) -> Todo {
    let mut todo = Todo::default();
    for (id, node) in &state.nodes {
        let made = state.accounts.get(id);
        if node.state == NodeState::Removed {
            // Also when none is written down: its master may have fallen in between.
            if all || made.is_some() {
                todo.drop.push(*id);
            }
        } else if all || made != Some(&epoch) {
            todo.make.push(*id);
        }
    }
    todo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::live;

    #[test]
    fn only_trouble_that_lasts_is_an_event() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        assert!(!trouble.is_news("no answer", start) && !trouble.is_news("refused", start + LASTS / 2));
        assert!(trouble.is_news("refused", start + LASTS) && !trouble.is_news("refused", start + LASTS * 2));
        assert!(trouble.is_news("other", start + LASTS * 2));
    }

    #[test]
    fn what_is_to_be_done_follows_from_the_state() {
        let mut state = live(3);
        let todo_now = |state: &ClusterState, all| {
            let todo = todo(state, 1, all);
            (todo.make, todo.drop)
        };
        assert_eq!(todo_now(&state, false), (vec![2, 3, 4], vec![]));
        let set = Command::SetDatabase {
            url: "u".into(),
            user: "u".into(),
            password: Secret::default(),
            mode: "endpoint".into(),
            ready: true,
        };
        state.apply(200, &set).unwrap();
        state.apply(201, &Command::AccountsMade { epoch: 1, made: vec![2, 3], dropped: vec![] }).unwrap();
        assert_eq!(todo_now(&state, false), (vec![4], vec![]));
        assert_eq!(todo_now(&state, true), (vec![2, 3, 4], vec![]));
        assert_eq!(todo(&state, 2, false).make, [2, 3, 4], "another database");
        state.apply(202, &Command::Remove { node: 3 }).unwrap();
        state.apply(203, &Command::Remove { node: 4 }).unwrap();
        assert_eq!(todo_now(&state, false), (vec![], vec![3]));
        state.apply(204, &Command::AccountsMade { epoch: 1, made: vec![], dropped: vec![3] }).unwrap();
        assert_eq!(todo_now(&state, false), (vec![], vec![]));
        assert_eq!(todo_now(&state, true), (vec![2], vec![3, 4]), "whoever leads next makes sure");
    }

    #[test]
    fn names_are_short_and_differ_between_clusters() {
        let mut state = live(1);
        state.uuid = "4f1c2a-99".into();
        assert_eq!(user(&state, 2, Role::NetworkServer), "elpis-4f1c2a-2-network");
        assert!(user(&state, 99_999_999, Role::NetworkServer).len() <= 32);
        assert_eq!(replication_user(&state, 2), "elpis-4f1c2a-2-replica");
        state.generation = 2;
        assert_eq!(replication_user(&state, 2), "elpis-4f1c2a-2-g2-replica");
        // After a recovery ids are above 2^32.
        assert!(user(&state, (5 << 32) + 99_999, Role::NetworkServer).len() <= 32);
    }
}
