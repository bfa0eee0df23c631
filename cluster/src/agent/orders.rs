//! What an operator orders of a cluster that stands.

use super::member::Member;
use super::sock::No;
use super::{Agent, accounts};
use crate::bootstrap;
use crate::state::{Command, Secret};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

/// Where the database is.
#[derive(Deserialize)]
pub(super) struct Endpoint {
    url: String,
    user: String,
    password: String,
    /// False while its schema is not there yet; servers wait for it.
    #[serde(default = "yes")]
    ready: bool,
}

fn yes() -> bool {
    true
}

impl Endpoint {
    /// Names it to the cluster; the password goes sealed.
    fn command(self, member: &Member) -> Result<Command, No> {
        let failed = |why| No(StatusCode::INTERNAL_SERVER_ERROR, why);
        let password = accounts::seal(member, &self.password).map_err(failed)?;
        Ok(Command::SetDatabase {
            url: self.url,
            user: self.user,
            password,
            mode: "endpoint".to_owned(),
            ready: self.ready,
        })
    }
}

/// `POST /v1/node/…`.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    /// Name or id.
    node: String,
}

/// Answer of `POST /v1/cluster/add-node`.
#[derive(Serialize)]
pub(super) struct Words {
    words: String,
    /// Cluster time, Unix milliseconds.
    expires_ms: i64,
    address: String,
}

/// Opens a join code.
pub(super) async fn add_node(member: &Member) -> Result<Words, No> {
    let open = bootstrap::add_node(&member.node).await?;
    Ok(Words { words: open.words, expires_ms: open.expires_ms, address: open.address })
}

/// Goes into the database as its administration account would: a wrong address would stop the whole cluster.
pub(super) async fn try_database(agent: &Agent, endpoint: &Endpoint) -> Result<(), No> {
    if !endpoint.ready {
        return Ok(());
    }
    let (url, user) = (endpoint.url.clone(), endpoint.user.clone());
    let tried = accounts::try_in(agent, url, user, Secret(endpoint.password.clone())).await;
    tried.map_err(|why| No(StatusCode::UNPROCESSABLE_ENTITY, format!("{why}; nothing was changed")))
}

/// Names the database; [`try_database`] comes first.
pub(super) async fn database(member: &Member, endpoint: Endpoint) -> Result<(), No> {
    member.node.propose(endpoint.command(member)?).await?;
    audit(member, "database set").await;
    Ok(())
}

/// Drains a node, takes that back, or takes the node out.
pub(super) async fn node(member: &Member, order: &str, target: Target) -> Result<(), No> {
    let Some(node) = bootstrap::find(&member.state(), &target.node) else {
        let name: String = target.node.chars().take(64).collect();
        let why = format!("there is no node {name}; list the nodes with `elpis cluster status`");
        return Err(No(StatusCode::NOT_FOUND, why));
    };
    match order {
        "drain" => bootstrap::drain(&member.node, node).await?,
        "undrain" => bootstrap::undrain(&member.node, node).await?,
        _ => bootstrap::remove(&member.node, node).await?,
    }
    Ok(())
}

async fn audit(member: &Member, what: &str) {
    let who = format!("node {}", member.id());
    let line = Command::Audit { at_ms: member.cluster_now_ms(), who, what: what.to_owned() };
    if let Err(error) = member.node.propose(line).await {
        tracing::warn!(%error, what, "the order is not in the audit");
    }
}
