//! What an operator orders of a cluster that stands.

use super::member::Member;
use super::sock::No;
use super::{Agent, accounts, database, status};
use crate::bootstrap;
use crate::database::{Entry, Room};
use crate::state::{Command, MANAGED, Secret};
use elpis_watch::Role;
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

/// A database that the nodes run.
#[derive(Default, Deserialize)]
pub(super) struct Managed {
    /// Of the administration account; without: a random one that nobody needs to know.
    #[serde(default)]
    password: Option<String>,
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

/// `POST /v1/cluster/address`.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    /// As `10.0.0.50`.
    address: String,
    /// False: it goes.
    keep: bool,
}

/// A virtual address comes or goes.
pub(super) async fn address(agent: &Agent, member: &Member, order: Address) -> Result<(), No> {
    if order.keep && !agent.config.roles.contains(&Role::AddressKeeper) {
        let why = "no address-keeper runs on this node: start its node agent with --virtual-addresses, and `elpis address-keeper`";
        return Err(No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()));
    }
    let command = Command::Address { address: order.address, keep: order.keep };
    let what = command.to_string();
    member.node.propose(command).await?;
    audit(member, &what).await;
    Ok(())
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

/// Opens a join code for the place of a dead node.
pub(super) async fn replace(member: &Member, target: Target) -> Result<Words, No> {
    let state = member.state();
    let Some(node) = bootstrap::find(&state, &target.node) else { return Err(unknown(&target.node)) };
    let reasons = bootstrap::against_replacement(&state, &member.node.raft_view(), node);
    if !reasons.is_empty() {
        return Err(No(StatusCode::UNPROCESSABLE_ENTITY, reasons.join("; ")));
    }
    let open = bootstrap::replace_node(&member.node, node).await?;
    Ok(Words { words: open.words, expires_ms: open.expires_ms, address: open.address })
}

/// Whether a database outside of the nodes may be named.
pub(super) fn may_name(member: &Member) -> Result<(), No> {
    if member.state().group.is_none() {
        return Ok(());
    }
    let why = "the nodes of this cluster run the database themselves; it cannot be elsewhere too";
    Err(No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()))
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

/// Whether this node can make the first copy of a database that the nodes run.
pub(super) fn may_manage(agent: &Agent, names_another: bool) -> Result<(), No> {
    if names_another {
        return Err(No::bad("either the nodes run the database, or it has an address; not both"));
    }
    if agent.config.database.is_none() {
        let why = "this node keeps no copy of a database: start its node agent with --gate-address, or name a database";
        return Err(No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()));
    }
    Ok(())
}

/// From now on the nodes run the database; this one makes the first copy.
pub(super) async fn managed(member: &Member, managed: Managed) -> Result<(), No> {
    let failed = |why: String| No(StatusCode::INTERNAL_SERVER_ERROR, why);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let password = match managed.password {
        Some(password) if password.len() < 16 || !password.chars().all(plain) => {
            return Err(No::bad(
                "the password needs 16 letters, digits or dashes at least, and nothing else",
            ));
        }
        Some(password) => password,
        None => {
            crate::key::random_password().ok_or_else(|| failed("the system has no randomness".to_owned()))?
        }
    };
    let password = accounts::seal(member, &password).map_err(failed)?;
    let named = Command::SetDatabase {
        url: String::new(),
        user: database::ADMIN.to_owned(),
        password,
        mode: MANAGED.to_owned(),
        ready: false,
    };
    let formed = Command::Database(Entry::Formed { primary: member.id() });
    member.node.propose(Command::Batch(vec![named, formed])).await?;
    audit(member, "the nodes run the database").await;
    Ok(())
}

/// Names the database; [`try_database`] comes first.
pub(super) async fn set_database(member: &Member, endpoint: Endpoint) -> Result<(), No> {
    member.node.propose(endpoint.command(member)?).await?;
    audit(member, "database set").await;
    Ok(())
}

/// Drains a node, takes that back, or takes the node out.
pub(super) async fn node(member: &Member, order: &str, target: Target) -> Result<(), No> {
    let Some(node) = bootstrap::find(&member.state(), &target.node) else {
        return Err(unknown(&target.node));
    };
    if order == "remove" && member.state().group.as_ref().is_some_and(|group| group.primary == node) {
        let why = "this node is the database's primary: move that first with `elpis database switchover`";
        return Err(No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()));
    }
    match order {
        "drain" => bootstrap::drain(&member.node, node).await?,
        "undrain" => bootstrap::undrain(&member.node, node).await?,
        _ => bootstrap::remove(&member.node, node).await?,
    }
    Ok(())
}

/// Makes another node the database's primary.
pub(super) async fn switchover(agent: &Agent, member: &Member, target: Target) -> Result<(), No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let state = member.state();
    let Some(to) = bootstrap::find(&state, &target.node) else { return Err(unknown(&target.node)) };
    let Some(group) = &state.group else {
        return Err(no("the nodes of this cluster run no database".to_owned()));
    };
    if group.primary == to {
        return Err(no(format!("{} is the primary already", target.node)));
    }
    if !group.heirs().contains(&to) {
        return Err(no(format!(
            "{} does not hold every commit; `elpis cluster status` says who acknowledges",
            target.node
        )));
    }
    if let Some(why) = status::one_copy_of(agent, member).await {
        return Err(no(format!("not now: {why}")));
    }
    let known = status::ask_leader(agent, member, &member.node.raft_view()).await.unwrap_or_default();
    let room = |node| known.database.get(node).map(|known| known.report.local.room).unwrap_or_default();
    if room(&to) >= Room::Critical && room(&to) > room(&group.primary) {
        return Err(no(format!(
            "the disk of {} is nearly full: the primary would be taken away from there again; make room there first",
            target.node
        )));
    }
    let entry = Entry::FailoverStart { epoch: group.epoch + 1, prefer: Some(to) };
    member.node.propose(Command::Database(entry)).await?;
    audit(member, &format!("database switchover to {}", target.node)).await;
    Ok(())
}

pub(super) fn unknown(node: &str) -> No {
    let name: String = node.chars().take(64).collect();
    No(StatusCode::NOT_FOUND, format!("there is no node {name}; list the nodes with `elpis cluster status`"))
}

pub(super) async fn audit(member: &Member, what: &str) {
    let who = format!("node {}", member.id());
    let line = Command::Audit { at_ms: member.cluster_now_ms(), who, what: what.to_owned() };
    if let Err(error) = member.node.propose(line).await {
        tracing::warn!(%error, what, "the order is not in the audit");
    }
}
