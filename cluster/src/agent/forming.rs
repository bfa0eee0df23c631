//! Making a cluster and joining one, asked for over `node.sock`.

use super::sock::No;
use super::{Agent, locked, orders, timing};
use crate::bootstrap::{self, Progress};
use crate::identity::Identity;
use crate::raft_node::{self, RaftNode};
use crate::types::monotonic_ms;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// `POST /v1/cluster/init`.
#[derive(Deserialize)]
pub(super) struct Init {
    name: String,
    /// A database outside the nodes.
    #[serde(default)]
    database: Option<orders::Endpoint>,
    /// The nodes run the database.
    #[serde(default)]
    managed: Option<orders::Managed>,
}

/// Its answer.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    node: u64,
    cluster: String,
}

/// `POST /v1/cluster/join`.
#[derive(Deserialize)]
pub(super) struct Join {
    address: String,
    words: String,
}

/// `GET /v1/cluster/join`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JoinStatus {
    /// The step under way; empty before the first and after the last.
    pub step: String,
    /// Seconds since the join was asked for.
    pub seconds: f64,
    pub done: bool,
    /// Everything that is wrong; empty = nothing.
    pub error: String,
    pub steps: Vec<Step>,
}

/// A step of a join that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub seconds: f64,
}

/// Makes a cluster of this node.
pub(super) async fn init(agent: &Arc<Agent>, init: Init) -> Result<Made, No> {
    if init.name.trim().is_empty() {
        return Err(No::bad("a cluster has a name; give one"));
    }
    let config = raft_node::Config { profile: timing::choose(agent).await, ..agent.config.raft.clone() };
    let Ok(mut identity) = agent.identity.try_lock() else { return Err(busy()) };
    if init.managed.is_some() {
        orders::may_manage(agent, init.database.is_some())?;
    }
    if let Some(endpoint) = &init.database {
        orders::try_database(agent, endpoint).await?;
    }
    let node = RaftNode::init_cluster(config, &mut identity, &init.name).await?;
    let made = Made { node: node.id(), cluster: node.state().borrow().uuid.clone() };
    agent.enter(node, &identity);
    drop(identity);
    agent.note(None, "cluster", &format!("cluster {} made", init.name));
    if let Some(managed) = init.managed {
        let member = agent.member().ok_or_else(No::no_cluster)?;
        orders::managed(&member, managed).await?;
    }
    if let Some(endpoint) = init.database {
        let member = agent.member().ok_or_else(No::no_cluster)?;
        orders::set_database(&member, endpoint).await.map_err(|No(status, why)| {
            No(status, format!("the cluster is made, but its database is not: {why}; name it with `elpis cluster database`"))
        })?;
    }
    Ok(made)
}

/// Begins to join; the work goes on after the answer.
pub(super) fn join(agent: &Arc<Agent>, join: Join) -> Result<(), No> {
    if agent.member().is_some() {
        let why = "this node belongs to a cluster; empty its data folder before it joins another";
        return Err(No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()));
    }
    let Ok(identity) = Arc::clone(&agent.identity).try_lock_owned() else { return Err(busy()) };
    *locked(&agent.join) = Joining { began: Some(monotonic_ms()), ..Joining::default() };
    let agent = Arc::clone(agent);
    agent.tasks.clone().spawn(async move {
        let stop = agent.stop.clone();
        stop.run_until_cancelled(work(agent, identity, join)).await;
    });
    Ok(())
}

async fn work(agent: Arc<Agent>, mut identity: OwnedMutexGuard<Identity>, join: Join) {
    let progress = |seen: Progress| locked(&agent.join).saw(seen);
    let config = agent.config.raft.clone();
    let joined = bootstrap::join(config, &mut identity, &join.address, &join.words, progress).await;
    let error = match joined {
        Ok(node) => {
            agent.enter(node, &identity);
            drop(identity);
            agent.note(None, "cluster", "joined");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "not joined");
            if identity.place.is_some() {
                // Admitted already: a start goes on from here.
                match RaftNode::start(agent.config.raft.clone(), identity.clone()).await {
                    Ok(node) => agent.enter(node, &identity),
                    Err(error) => tracing::error!(%error, "this node is admitted but cannot start"),
                }
            }
            Some(error.reasons().join("; "))
        }
    };
    let mut join = locked(&agent.join);
    join.step.clear();
    join.ended = Some(monotonic_ms());
    join.error = error.unwrap_or_default();
    join.done = join.error.is_empty();
}

/// A join under way, or over.
#[derive(Debug, Default)]
pub(super) struct Joining {
    began: Option<i64>,
    ended: Option<i64>,
    step: String,
    steps: Vec<Step>,
    done: bool,
    error: String,
}

impl Joining {
    fn saw(&mut self, seen: Progress) {
        match seen.ms {
            None => seen.step.name().clone_into(&mut self.step),
            Some(ms) => self.steps.push(Step { name: seen.step.name().to_owned(), seconds: seconds(ms) }),
        }
    }

    /// As the socket shows it.
    pub(super) fn status(&self) -> JoinStatus {
        let until = self.ended.unwrap_or_else(monotonic_ms);
        let passed = self.began.map_or(0, |began| u64::try_from(until - began).unwrap_or(0));
        JoinStatus {
            step: self.step.clone(),
            seconds: seconds(passed),
            done: self.done,
            error: self.error.clone(),
            steps: self.steps.clone(),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn busy() -> No {
    let why = "a cluster is being made or joined here just now; wait for it";
    No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned())
}
