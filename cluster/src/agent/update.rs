//! Images on this node: takes one from a person or from another node, and has the machine do what the master orders.
//! `crate::update` decides; the machine itself is the [`Machine`]'s.

use super::member::Member;
use super::messages::{IMAGE, ImageAsk};
use super::sock::No;
use super::{Agent, lead, locked, status};
use crate::state::Command;
use crate::types::hex;
use crate::update::{
    Act, Entry, Image, Next, Order, Planner, Refused, Rollout, Seen, Sight, WATCH_MS, against, seconds, turns,
};
use aws_lc_rs::digest::{Context, SHA256};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What this machine can do with images; every call may block for a moment, `check` for some seconds.
pub trait Machine: Send + Sync + Debug {
    /// Looks whether a file is a whole image that is signed for this machine; its version.
    ///
    /// # Errors
    /// Why it is not taken, for people.
    fn check(&self, image: &Path) -> Result<String, String>;
    /// How it stands.
    fn look(&self) -> Look;
    /// Has it write the image beside the version that runs, or start anew; `id` comes back in [`Look::failed`].
    ///
    /// # Errors
    /// It could not be told.
    fn order(&self, act: Act, id: i64) -> Result<(), String>;
}

/// How a machine stands with its versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// See [`Seen`] for these.
    pub runs: String,
    pub kept: bool,
    pub written: String,
    pub doing: String,
    pub fell_back: String,
    pub refuses: String,
    /// The last work that was ordered and failed, by its id.
    pub failed: Option<(i64, String)>,
}

/// Largest image that is taken.
pub const LARGEST: u64 = 1 << 30;
/// Room that stays free beside it.
const ROOM: u64 = 64 << 20;
/// Bytes of one answer to another node.
const CHUNK: usize = 1 << 20;
/// Between two of them: at most 50 MiB a second, for Raft and the database share the wire.
const CHUNK_PAUSE: Duration = Duration::from_millis(20);
/// For one of them, and for a person's next bytes.
const PATIENCE: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_secs(1);
/// An order to the machine that brought nothing about is given again.
const AGAIN: Duration = Duration::from_secs(120);
const IMAGE_FILE: &str = "image.iso";
const FACTS_FILE: &str = "image.json";
const DRAFT_FILE: &str = "image.part";
/// Version of the file with the facts.
const VERSION: u32 = 1;

/// What is kept beside an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    format: u32,
    image: Image,
}

/// Where this node keeps an image, and what it does with it.
#[derive(Debug)]
pub(super) struct Shelf {
    machine: Option<Arc<dyn Machine>>,
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// One file is written at a time.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    held: Option<Image>,
    look: Look,
    room_bytes: u64,
    /// What it does itself, in words.
    doing: String,
    /// Why taking failed in the rollout of this beginning.
    failed: Option<(i64, String)>,
    /// What the master wants now.
    order: Option<Order>,
    /// What the machine was told last, and when.
    told: Option<(i64, Act, Instant)>,
}

impl Shelf {
    pub(super) fn open(machine: Option<Arc<dyn Machine>>, data: &Path) -> Shelf {
        let folder = data.join("update");
        if machine.is_some()
            && let Err(error) = fs::create_dir_all(&folder)
        {
            tracing::error!(folder = %folder.display(), %error, "there is nowhere to keep an image");
        }
        let facts = fs::read(folder.join(FACTS_FILE)).ok();
        let facts = facts.and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
        let whole = |facts: &Facts| {
            let length = fs::metadata(folder.join(IMAGE_FILE)).map(|meta| meta.len());
            facts.format == VERSION && length.is_ok_and(|length| length == facts.image.bytes)
        };
        let held = facts.filter(whole).map(|facts| facts.image);
        let inner = Mutex::new(Inner { held, ..Inner::default() });
        Shelf { machine, folder, inner, writing: tokio::sync::Mutex::default() }
    }

    /// What is told with the renewals; `None` = this machine is nobody's to update.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.machine.as_ref()?;
        let inner = locked(&self.inner);
        let look = inner.look.clone();
        if look.runs.is_empty() {
            return None;
        }
        let current = inner.order.as_ref().map(|order| order.begun_ms);
        let failed = [&inner.failed, &look.failed].into_iter().flatten();
        let failed = failed.filter(|(id, _)| Some(*id) == current).map(|(_, why)| why.clone()).next();
        let held = inner.held.clone().unwrap_or_default();
        Some(Seen {
            runs: look.runs,
            kept: look.kept,
            holds: held.sha256,
            version: held.version,
            bytes: held.bytes,
            written: look.written,
            doing: if inner.doing.is_empty() { look.doing } else { inner.doing.clone() },
            failed: failed.unwrap_or_default(),
            fell_back: look.fell_back,
            refuses: look.refuses,
            room_bytes: inner.room_bytes,
        })
    }

    /// The master's word with each renewal.
    pub(super) fn obey(&self, order: Option<Order>) {
        locked(&self.inner).order = order;
    }

    fn doing(&self, words: &str) {
        words.clone_into(&mut locked(&self.inner).doing);
    }

    fn room(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.folder);
        stat.map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
    }
}

/// A file that becomes an image when all of it is there.
struct Draft {
    file: File,
    digest: Context,
    bytes: u64,
}

impl Draft {
    fn new(folder: &Path) -> io::Result<Draft> {
        let file = File::create(folder.join(DRAFT_FILE))?;
        Ok(Draft { file, digest: Context::new(&SHA256), bytes: 0 })
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Blocking work away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// What is there becomes this node's image, once the machine has looked at it.
async fn keep(agent: &Agent, machine: &Arc<dyn Machine>, draft: Draft) -> Result<Image, String> {
    let (machine, folder) = (Arc::clone(machine), agent.shelf.folder.clone());
    let kept = blocking(move || {
        let failed = |error: io::Error| format!("the image cannot be kept: {error}");
        draft.file.sync_all().map_err(failed)?;
        let sha256 = hex(draft.digest.finish().as_ref());
        let version = machine.check(&folder.join(DRAFT_FILE))?;
        let image = Image { version, sha256, bytes: draft.bytes };
        let facts = serde_json::to_vec(&Facts { format: VERSION, image: image.clone() });
        let facts = facts.map_err(|error| error.to_string())?;
        // Facts of the image before must not stand beside this one.
        let _ = fs::remove_file(folder.join(FACTS_FILE));
        fs::rename(folder.join(DRAFT_FILE), folder.join(IMAGE_FILE)).map_err(failed)?;
        elpis_watch::durable::write_whole(&folder.join(FACTS_FILE), &facts, 0o600).map_err(failed)?;
        Ok(image)
    });
    let kept = kept.await;
    if kept.is_err() {
        let _ = fs::remove_file(agent.shelf.folder.join(DRAFT_FILE));
    }
    locked(&agent.shelf.inner).held = kept.as_ref().ok().cloned();
    kept
}

/// `PUT /v1/update/image`: a person's image.
pub(super) async fn receive(agent: &Agent, mut body: Incoming) -> Result<Image, No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let machine = machine(agent)?;
    let refuses = locked(&agent.shelf.inner).look.refuses.clone();
    if !refuses.is_empty() {
        return Err(no(refuses));
    }
    if let Some(going) = agent.member().and_then(|member| member.state().rollout.clone())
        && going.goes_on()
    {
        return Err(no(format!("an update to {} goes on: stop it first", going.image.version)));
    }
    let Ok(_one) = agent.shelf.writing.try_lock() else {
        return Err(No(StatusCode::CONFLICT, "another image is just coming in".to_owned()));
    };
    agent.shelf.doing("takes an image from a person");
    let taken = async {
        let room = agent.shelf.room().saturating_sub(ROOM).min(LARGEST);
        let mut draft = Draft::new(&agent.shelf.folder).map_err(|error| error.to_string())?;
        loop {
            let next = timeout(PATIENCE, body.frame()).await;
            let next = next.map_err(|_| format!("nothing came for {} s", PATIENCE.as_secs()))?;
            let Some(frame) = next else { break };
            let Ok(bytes) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
            if draft.bytes + bytes.len() as u64 > room {
                return Err(format!("it is larger than the {} MiB that may be taken here", room >> 20));
            }
            draft = blocking(move || draft.push(&bytes).map(|()| draft).map_err(|e| e.to_string())).await?;
        }
        agent.shelf.doing("looks at the image");
        keep(agent, &machine, draft).await
    };
    let taken = taken.await;
    agent.shelf.doing("");
    match taken {
        Ok(image) => {
            agent.note(None, "update", &format!("image {} taken", image.version));
            Ok(image)
        }
        Err(why) => {
            let _ = fs::remove_file(agent.shelf.folder.join(DRAFT_FILE));
            // Who still sends would see a connection that breaks, and not the reason.
            let mut rest = 0;
            while let Ok(Some(Ok(frame))) = timeout(PATIENCE, body.frame()).await
                && rest < LARGEST
            {
                rest += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            }
            Err(no(format!("the image is not taken: {why}")))
        }
    }
}

fn machine(agent: &Agent) -> Result<Arc<dyn Machine>, No> {
    let why = "this machine is no appliance: its packages are updated by its own means";
    agent.shelf.machine.clone().ok_or_else(|| No(StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()))
}

/// A part of this node's image, for another node.
pub(super) async fn part(agent: Arc<Agent>, ask: Vec<u8>) -> Result<Vec<u8>, String> {
    let ask: ImageAsk = serde_json::from_slice(&ask).map_err(|error| error.to_string())?;
    let held = locked(&agent.shelf.inner).held.clone();
    let held = held.filter(|image| image.sha256 == ask.sha256).ok_or("this node has no such image")?;
    let path = agent.shelf.folder.join(IMAGE_FILE);
    let read = move || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(ask.at.min(held.bytes)))?;
        let mut bytes = Vec::with_capacity(CHUNK);
        file.take(CHUNK as u64).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    blocking(move || read().map_err(|error| format!("the image cannot be read: {error}"))).await
}

/// The image of another node.
async fn take(
    agent: &Agent,
    member: &Member,
    machine: &Arc<dyn Machine>,
    order: &Order,
) -> Result<(), String> {
    let _one = agent.shelf.writing.lock().await;
    let (mut draft, image) = (Draft::new(&agent.shelf.folder).map_err(|e| e.to_string())?, &order.image);
    if image.bytes > agent.shelf.room().saturating_sub(ROOM).min(LARGEST) {
        return Err("there is no room for it".to_owned());
    }
    while draft.bytes < image.bytes {
        let percent = draft.bytes * 100 / image.bytes.max(1);
        agent.shelf.doing(&format!("takes the image, {percent} %"));
        let ask = ImageAsk { sha256: image.sha256.clone(), at: draft.bytes };
        let ask = serde_json::to_vec(&ask).map_err(|error| error.to_string())?;
        let bytes = member.node.fetch(order.holder, IMAGE, ask, PATIENCE);
        let bytes = bytes.await.map_err(|error| error.to_string())?;
        if bytes.is_empty() || draft.bytes + bytes.len() as u64 > image.bytes {
            return Err("the other node's image has another length".to_owned());
        }
        draft = blocking(move || draft.push(&bytes).map(|()| draft).map_err(|e| e.to_string())).await?;
        sleep(CHUNK_PAUSE).await;
    }
    agent.shelf.doing("looks at the image");
    let kept = keep(agent, machine, draft).await?;
    if kept != *image {
        locked(&agent.shelf.inner).held = None;
        return Err("what came is not what was named".to_owned());
    }
    Ok(())
}

/// Looks at the machine and does what the master wants, until the node agent stops.
pub(super) async fn run(agent: Arc<Agent>, member: Arc<Member>) {
    let Some(machine) = agent.shelf.machine.clone() else { return };
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = agent.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let shown = Arc::clone(&machine);
        let (look, room) = tokio::join!(blocking(move || Ok(shown.look())), async { agent.shelf.room() },);
        let order = {
            let mut inner = locked(&agent.shelf.inner);
            match look {
                Ok(look) => inner.look = look,
                Err(error) => tracing::warn!(error, "this machine's versions cannot be looked at"),
            }
            inner.room_bytes = room;
            inner.order.clone()
        };
        match order {
            Some(order) => agent
                .stop
                .run_until_cancelled(obey(&agent, &member, &machine, &order))
                .await
                .unwrap_or_default(),
            None => purge(&agent, &member),
        }
    }
}

async fn obey(agent: &Agent, member: &Member, machine: &Arc<dyn Machine>, order: &Order) {
    let id = order.begun_ms;
    if order.act == Act::Take {
        let (held, failed) = {
            let inner = locked(&agent.shelf.inner);
            (inner.held.clone(), inner.failed.clone())
        };
        if held.as_ref() == Some(&order.image) || failed.is_some_and(|(of, _)| of == id) {
            return;
        }
        let taken = take(agent, member, machine, order).await;
        agent.shelf.doing("");
        match taken {
            Ok(()) => agent.note(None, "update", &format!("image {} taken", order.image.version)),
            Err(why) => {
                agent.note(None, "update", &format!("image {} not taken: {why}", order.image.version));
                locked(&agent.shelf.inner).failed = Some((id, why));
            }
        }
        return;
    }
    {
        let mut inner = locked(&agent.shelf.inner);
        // An order may be older than what it wanted: the master hears of a start only after it.
        let (look, version) = (&inner.look, &order.image.version);
        if look.runs == *version || (look.written == *version) != (order.act == Act::Restart) {
            return;
        }
        let recently = |(of, act, at): &(i64, Act, Instant)| {
            *of == id && *act == order.act && (at.elapsed() < AGAIN || !inner.look.doing.is_empty())
        };
        if inner.told.as_ref().is_some_and(recently) {
            return;
        }
        inner.told = Some((id, order.act, Instant::now()));
    }
    let (version, act) = (&order.image.version, order.act);
    let words = if act == Act::Write { "is written beside the one that runs" } else { "is started" };
    agent.note(None, "update", &format!("version {version} {words}"));
    let told = Arc::clone(machine);
    if let Err(why) = blocking(move || told.order(act, id)).await {
        agent.note(None, "update", &format!("the machine was not told: {why}"));
        locked(&agent.shelf.inner).failed = Some((id, why));
    }
}

/// An image that this node runs already, and that nobody else needs, takes room only.
fn purge(agent: &Agent, member: &Member) {
    let mut inner = locked(&agent.shelf.inner);
    let (look, held) = (inner.look.clone(), inner.held.clone());
    let state = member.state();
    let over = state.rollout.as_ref().is_some_and(|rollout| {
        !rollout.goes_on() && rollout.stopped.is_none() && Some(&rollout.image) == held.as_ref()
    });
    if over && look.kept && held.is_some_and(|held| held.version == look.runs) {
        inner.held = None;
        for name in [FACTS_FILE, IMAGE_FILE] {
            if let Err(error) = fs::remove_file(agent.shelf.folder.join(name)) {
                tracing::warn!(name, %error, "an image that is not needed any more stays");
            }
        }
    }
}

/// Body of `POST /v1/update/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Start {
    with_pause: bool,
    /// Seconds for which each node is watched; without: 60.
    watch_s: Option<u32>,
    /// Only say what would be done.
    dry: bool,
}

/// What would be done, or is.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    version: String,
    /// Names, in order.
    nodes: Vec<String>,
    /// About so long.
    seconds: u64,
    /// What stands against it.
    against: Vec<String>,
    begun: bool,
}

/// Begins a rollout of the newest image that a node holds, or says what stands against it.
pub(super) async fn start(agent: &Agent, member: &Member, order: Start) -> Result<Plan, No> {
    let no = |why: String| No(StatusCode::UNPROCESSABLE_ENTITY, why);
    let view = member.node.raft_view();
    let Some(known) = status::ask_leader(agent, member, &view).await else {
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, "there is no master to ask".to_owned()));
    };
    let state = member.state();
    if let Some(going) = state.rollout.as_ref().filter(|rollout| rollout.goes_on() && !order.dry) {
        return Err(no(Refused::GoesOn(going.image.version.clone()).to_string()));
    }
    // This node's own first: a person has just brought it.
    let held = |id: u64| {
        let seen = if id == member.id() { agent.shelf.seen() } else { known.updates.get(&id).cloned() };
        seen.filter(|seen| !seen.holds.is_empty())
            .map(|seen| (id, Image { version: seen.version, sha256: seen.holds, bytes: seen.bytes }))
    };
    let found = held(member.id()).or_else(|| state.members().find_map(|(id, _)| held(id)));
    let Some((holder, image)) = found else {
        return Err(no("no node has an image: bring one first (`elpis update take FILE`)".to_owned()));
    };
    let (can_lose, reason) = status::can_lose(&state, &view, Some(&known));
    let sight = Sight {
        state: &state,
        seen: &known.updates,
        me: known.leader,
        can_lose,
        reason: &reason,
        now_ms: known.cluster_now_ms,
    };
    let name = |id: u64| state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone());
    let watch_ms = order.watch_s.map_or(WATCH_MS, |seconds| i64::from(seconds.clamp(1, 86_400)) * 1_000);
    let turns = turns(&sight, &image);
    let mut plan = Plan {
        version: image.version.clone(),
        nodes: turns.iter().map(|turn| name(turn.node)).collect(),
        seconds: seconds(turns.len(), watch_ms),
        against: against(&sight, &image, order.with_pause),
        begun: false,
    };
    if order.dry {
        return Ok(plan);
    }
    if !plan.against.is_empty() {
        return Err(no(plan.against.join("; ")));
    }
    let begin = Entry::Begin {
        image,
        holder,
        turns,
        with_pause: order.with_pause,
        watch_ms,
        at_ms: known.cluster_now_ms,
    };
    member.node.propose(Command::Update(begin)).await?;
    super::orders::audit(member, &format!("update to {}", plan.version)).await;
    plan.begun = true;
    Ok(plan)
}

/// Stops the rollout that goes on; the node in turn gets its work back.
pub(super) async fn stop(member: &Member) -> Result<(), No> {
    let state = member.state();
    let turn = state.rollout.as_ref().and_then(Rollout::current);
    let sight = Sight {
        state: &state,
        seen: &BTreeMap::new(),
        me: member.id(),
        can_lose: 0,
        reason: "",
        now_ms: member.cluster_now_ms(),
    };
    let stop = crate::update::stop(&sight, turn, "somebody stopped it".to_owned());
    member.node.propose(stop).await?;
    super::orders::audit(member, "update stopped").await;
    Ok(())
}

/// The master's look at a rollout.
pub(super) fn lead(
    agent: &Agent,
    member: &Member,
    planner: &mut Planner,
    seen: &BTreeMap<u64, Seen>,
) -> Option<Next> {
    let (state, view) = (member.state(), member.node.raft_view());
    state.rollout.as_ref().filter(|rollout| rollout.goes_on())?;
    let known = lead::knowledge(agent, member)?;
    let (can_lose, reason) = status::can_lose(&state, &view, Some(&known));
    let sight = Sight {
        state: &state,
        seen,
        me: member.id(),
        can_lose,
        reason: &reason,
        now_ms: known.cluster_now_ms,
    };
    Some(planner.next(&sight))
}
