//! The timing profile in the node agent: measures what the machine leaves, chooses for a new cluster, keeps what was agreed
//! on, and takes orders. What is decided is in [`crate::profile`].

use super::member::Member;
use super::messages::Knowledge;
use super::sock::No;
use super::{Agent, AgentError, locked, status};
use crate::identity::Identity;
use crate::profile::margins::{Margins, What};
use crate::profile::{Agreed, Change, Kept, Profile, Shown};
use crate::state::{ClusterState, Command};
use crate::tls;
use crate::types::monotonic_ms;
use elpis_watch::NodeId;
use hyper::StatusCode;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A choice needs so long a measurement; until then it is measured more often.
const FIRST_MS: i64 = 5_000;
/// Pace of sleeps whose lateness is measured: at first, and later.
const SLEEP: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(50)];
/// Pace of writes that are measured.
const SYNC_MS: [i64; 2] = [50, 10_000];
/// Pace of handshakes that are measured, and how long one may take.
const GREET_MS: [i64; 2] = [200, 60_000];
const GREET: Duration = Duration::from_secs(5);
/// File of those writes.
const PROBE: &str = "margins.probe";
/// Shorter measurements warn of nothing.
const WARN_S: u32 = 600;

/// `POST /v1/cluster/profile`.
#[derive(Deserialize)]
pub(super) struct Order {
    profile: String,
}

/// The profile, as the status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfileLine {
    /// The one that was ordered last, or chosen when the cluster was made.
    pub wanted: String,
    /// By which leases count.
    pub claim: String,
    /// With which nodes are to run.
    pub patience: String,
    /// All of it is done.
    pub settled: bool,
    /// What a change under way waits for; empty = nothing.
    pub waits: String,
    /// The one that the measured margins of all nodes fit; empty = not known.
    pub fits: String,
}

/// A node's part in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarginsLine {
    /// The profile that it runs with.
    pub runs: String,
    /// The quickest that its margins fit.
    pub fits: String,
    #[serde(flatten)]
    pub margins: Margins,
}

/// Measures until the node agent stops.
pub(super) async fn measure(agent: Arc<Agent>) {
    let began = monotonic_ms();
    let (mut synced, mut greeted) = (began - SYNC_MS[0], began - GREET_MS[0]);
    let identity = agent.identity.lock().await.clone();
    let probe = agent.config.raft.data_dir.join(PROBE);
    loop {
        let late = usize::from(monotonic_ms() - began >= FIRST_MS);
        let before = monotonic_ms();
        tokio::select! {
            () = agent.stop.cancelled() => return,
            () = tokio::time::sleep(SLEEP[late]) => {}
        }
        let now = monotonic_ms();
        let asked = i64::try_from(SLEEP[late].as_millis()).unwrap_or(0);
        locked(&agent.gauge).add(now, What::Stall, now - before - asked);
        if now - synced >= SYNC_MS[late] {
            let probe = probe.clone();
            let written = tokio::task::spawn_blocking(move || write(&probe));
            match written.await.map_err(io::Error::other).flatten() {
                Ok(()) => locked(&agent.gauge).add(now, What::Sync, monotonic_ms() - now),
                Err(error) => tracing::debug!(%error, "the disk cannot be measured"),
            }
            synced = monotonic_ms();
        }
        if now - greeted >= GREET_MS[late] {
            let begin = monotonic_ms();
            match tokio::time::timeout(GREET, greet(&identity)).await {
                Ok(Err(error)) => tracing::debug!(%error, "handshakes cannot be measured"),
                // One that takes too long counts as long as it was waited for.
                _ => locked(&agent.gauge).add(now, What::Greet, monotonic_ms() - begin),
            }
            greeted = monotonic_ms();
        }
    }
}

/// A handshake as between two nodes, with itself.
async fn greet(identity: &Identity) -> io::Result<()> {
    let server = tls::server(identity).map_err(io::Error::other)?;
    let client = tls::client(identity, Some(&identity.spki), tls::ALPN_PEER).map_err(io::Error::other)?;
    let name = ServerName::try_from("elpis").map_err(io::Error::other)?;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (connected, accepted) =
        tokio::join!(TlsConnector::from(client).connect(name, near), TlsAcceptor::from(server).accept(far));
    connected?;
    accepted.map(|_| ())
}

/// A write as small as an entry of the log, until it is on the disk.
fn write(path: &Path) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.write_all(&[0u8; 4096])?;
    file.sync_data()
}

/// What this machine leaves.
pub(super) fn margins(agent: &Agent) -> Margins {
    locked(&agent.gauge).margins(monotonic_ms())
}

/// The profile of a cluster that is made now: the one that was named, or the one that fits what was measured.
pub(super) async fn choose(agent: &Agent) -> Profile {
    if !agent.config.measured {
        return agent.config.raft.profile;
    }
    loop {
        let margins = margins(agent);
        if i64::from(margins.seconds) * 1000 >= FIRST_MS {
            let profile = margins.first_choice();
            tracing::info!(%profile, ?margins, "measured");
            let found = format!(
                "longest stall {} ms, one write to the disk in 100 {} ms, one handshake in 10 {} ms, counted twice",
                margins.stall_max_ms,
                margins.sync_p99_ms.unwrap_or(0),
                margins.greet_p90_ms.unwrap_or(0)
            );
            agent.note(None, "cluster", &format!("profile {profile} chosen: {found}"));
            return profile;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Keeps what was agreed on, before it is shown to the leader.
pub(super) async fn keep(agent: Arc<Agent>, member: Arc<Member>) {
    let mut states = member.node.state();
    loop {
        let agreed = states.borrow_and_update().profile;
        if let Some(next) = Kept::after(member.kept(), &agreed) {
            let mut identity = agent.identity.lock().await;
            if let Some(mut place) = identity.place.clone() {
                place.profile = Some(next);
                match identity.settle(place) {
                    Ok(()) => member.keeps(next),
                    Err(error) => tracing::error!(%error, "the profile cannot be kept; trying again"),
                }
            }
        }
        tokio::select! {
            () = agent.stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            // Where it could not be written.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// The leader says that it is this node's turn to start anew.
pub(super) fn start_anew(agent: &Agent, member: &Member) {
    if let Some(kept) = member.kept().filter(|kept| kept.patience != member.node.patience()) {
        agent.fail(AgentError::OtherProfile(kept.patience));
    }
}

/// An operator wants another profile.
pub(super) async fn order(agent: &Agent, member: &Member, order: Order) -> Result<(), No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let profile: Profile = order.profile.parse().map_err(No::bad)?;
    let known = status::ask_leader(agent, member, &member.node.raft_view()).await;
    let known = known.ok_or_else(|| no("there is no master to ask; nothing was changed".to_owned()))?;
    let state = member.state();
    let unheard = |id: &NodeId| known.nodes.get(id).is_none_or(|node| node.shown.is_none());
    let old: Vec<&str> =
        state.members().filter(|(id, _)| unheard(id)).map(|(_, node)| node.name.as_str()).collect();
    if state.profile.step == 0 && !old.is_empty() {
        return Err(no(format!(
            "{} did not say yet that it knows profiles: start it, or update its program; nothing was changed",
            old.join(", ")
        )));
    }
    // Half done it would be slow to elect and quick to lose leases: it is not begun where it cannot end.
    let away: Vec<&str> =
        state.members().filter(|(_, node)| !node.live()).map(|(_, node)| node.name.as_str()).collect();
    if profile > state.profile.claim && !away.is_empty() {
        return Err(no(format!(
            "{} is not up, and a slower profile waits for every member: start it, remove or replace it first; nothing \
             was changed",
            away.join(", ")
        )));
    }
    member.node.propose(Command::Profile(Change::Wanted(profile))).await?;
    super::orders::audit(member, &format!("profile {profile} wanted")).await;
    Ok(())
}

/// PURE: the profile in the status.
pub(super) fn line(state: &ClusterState, known: Option<&Knowledge>) -> ProfileLine {
    let agreed = &state.profile;
    let name = |id: &NodeId| state.nodes.get(id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let shown = |id: &NodeId| known.and_then(|known| known.nodes.get(id)).and_then(|node| node.shown);
    let late: Vec<String> = state
        .members()
        .map(|(id, _)| id)
        .filter(|id| shown(id).is_none_or(|shown| !is_with(agreed, shown)))
        .map(|id| name(&id))
        .collect();
    let waits = match (agreed.step, late.is_empty()) {
        (0, _) => String::new(),
        (_, false) if known.is_none() => String::new(),
        (_, false) => format!("{} to run with profile {}", late.join(", "), agreed.patience),
        (_, true) if !agreed.settled() => "the end of the longest lease of before".to_owned(),
        (_, true) => String::new(),
    };
    let fits = known
        .and_then(|known| known.nodes.values().filter_map(|node| node.margins).map(|m| m.choice()).max());
    ProfileLine {
        wanted: agreed.wanted.name().to_owned(),
        claim: agreed.claim.name().to_owned(),
        patience: agreed.patience.name().to_owned(),
        settled: agreed.settled() && waits.is_empty(),
        waits,
        fits: fits.map_or_else(String::new, |profile| profile.name().to_owned()),
    }
}

fn is_with(agreed: &Agreed, shown: Shown) -> bool {
    shown.step == agreed.step && shown.patience == agreed.patience
}

/// PURE: what a node shows of it.
pub(super) fn of_node(shown: Option<Shown>, margins: Option<Margins>) -> Option<MarginsLine> {
    let (shown, margins) = (shown?, margins.unwrap_or_default());
    let fits = margins.choice().name().to_owned();
    Some(MarginsLine { runs: shown.patience.name().to_owned(), fits, margins })
}

/// PURE: nodes whose margins do not fit the profile, with the numbers and what to do.
pub(super) fn warnings(state: &ClusterState, known: &Knowledge) -> Vec<String> {
    let wanted = state.profile.wanted;
    let tight = state.members().filter_map(|(id, node)| {
        let margins = known.nodes.get(&id)?.margins.filter(|margins| margins.seconds >= WARN_S)?;
        let why = margins.against(wanted)?;
        let (minutes, fits) = (margins.seconds / 60, margins.choice());
        let advice = match fits > wanted {
            true => format!("`elpis cluster profile {fits}` gives more time, or find out what stalls it"),
            false => "no profile gives more time: find out what stalls it".to_owned(),
        };
        Some(format!("{} is too slow for profile {wanted}: in {minutes} min {why}; {advice}", node.name))
    });
    tight.collect()
}
