//! An image on this node: taken whole from a person or from another node, or not at all.

use super::{Look, Machine};
use crate::agent::member::Member;
use crate::agent::messages::{IMAGE, ImageAsk};
use crate::agent::sock::No;
use crate::agent::{Agent, locked};
use crate::types::hex;
use crate::update::{Act, Image, Order, Refused, Seen};
use aws_lc_rs::digest::{Context, SHA256};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout};

/// Largest image that is taken.
const LARGEST: u64 = 1 << 30;
/// Room that stays free beside it.
const ROOM: u64 = 64 << 20;
/// Bytes of one answer to another node.
const CHUNK: usize = 1 << 20;
/// Between two of them: at most 50 MiB a second, for Raft and the database share the wire.
const CHUNK_PAUSE: Duration = Duration::from_millis(20);
/// For one of them, and for a person's next bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// A part that does not come is asked for so often.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_secs(2);
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
pub(in crate::agent) struct Shelf {
    pub(super) machine: Option<Arc<dyn Machine>>,
    pub(super) folder: PathBuf,
    pub(super) inner: Mutex<Inner>,
    /// One file is written at a time.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) held: Option<Image>,
    /// A person has brought it since the last rollout: somebody else needs it.
    pub(super) brought: bool,
    pub(super) look: Look,
    pub(super) room_bytes: u64,
    /// What it does itself, in words.
    doing: String,
    /// Why taking failed in the rollout of this beginning.
    pub(super) failed: Option<(i64, String)>,
    /// What the master wants now.
    pub(super) order: Option<Order>,
    /// What the machine was told last, and when.
    pub(super) told: Option<(i64, Act, Instant)>,
}

impl Shelf {
    pub(in crate::agent) fn open(machine: Option<Arc<dyn Machine>>, data: &Path) -> Shelf {
        let folder = data.join("update");
        if machine.is_some()
            && let Err(error) = fs::create_dir_all(&folder)
        {
            tracing::error!(folder = %folder.display(), %error, "there is nowhere to keep an image");
        }
        let held = held_in(&folder);
        let inner = Mutex::new(Inner { held, ..Inner::default() });
        Shelf { machine, folder, inner, writing: Arc::default() }
    }

    /// What is told with the renewals; `None` = this machine is nobody's to update.
    pub(in crate::agent) fn seen(&self) -> Option<Seen> {
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
    pub(in crate::agent) fn obey(&self, order: Option<Order>) {
        let mut inner = locked(&self.inner);
        inner.brought &= order.is_none();
        inner.order = order;
    }

    /// The image of a rollout that is over, when this node runs it and nobody has brought it again.
    pub(super) async fn purge(&self, over: &Image) {
        let runs = |inner: &Inner| inner.look.kept && inner.look.runs == over.version;
        let Ok(only) = Arc::clone(&self.writing).try_lock_owned() else { return };
        {
            let mut inner = locked(&self.inner);
            if inner.brought || inner.held.as_ref() != Some(over) || !runs(&inner) {
                return;
            }
            inner.held = None;
        }
        // Outside of the lock, which renewals need: the disk may take its time.
        let files = [FACTS_FILE, IMAGE_FILE].map(|name| self.folder.join(name));
        let gone = blocking(move || {
            let _only = only;
            files.iter().try_for_each(fs::remove_file).map_err(|error| error.to_string())
        });
        if let Err(error) = gone.await {
            tracing::warn!(error, "an image that is not needed any more stays");
        }
    }

    pub(super) fn room(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.folder);
        stat.map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
    }
}

/// A file that becomes an image when all of it is there; else it goes. One is written at a time.
struct Draft {
    path: PathBuf,
    file: File,
    digest: Context,
    bytes: u64,
    _only: OwnedMutexGuard<()>,
}

impl Draft {
    fn new(folder: &Path, only: OwnedMutexGuard<()>) -> Result<Draft, String> {
        let path = folder.join(DRAFT_FILE);
        let file =
            File::create(&path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Draft { path, file, digest: Context::new(&SHA256), bytes: 0, _only: only })
    }

    async fn push(mut self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Draft, String> {
        blocking(move || {
            let bytes = bytes.as_ref();
            self.file.write_all(bytes).map_err(|error| format!("it cannot be written: {error}"))?;
            self.digest.update(bytes);
            self.bytes += bytes.len() as u64;
            Ok(self)
        })
        .await
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone under its name when it became an image.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a node does with an image, as long as it does it.
struct Doing<'a>(&'a Shelf);

impl Doing<'_> {
    fn says(&self, words: &str) {
        words.clone_into(&mut locked(&self.0.inner).doing);
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        locked(&self.0.inner).doing.clear();
    }
}

/// Blocking work away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// What is there becomes this node's image, once the machine has looked at it.
async fn keep(shelf: &Shelf, machine: &Arc<dyn Machine>, draft: Draft) -> Result<Image, String> {
    let (machine, folder) = (Arc::clone(machine), shelf.folder.clone());
    let kept = blocking(move || {
        let failed = |error: io::Error| format!("the image cannot be kept: {error}");
        draft.file.sync_all().map_err(failed)?;
        let version = machine.check(&draft.path)?;
        let sha256 = hex(draft.digest.clone().finish().as_ref());
        let image = Image { version, sha256, bytes: draft.bytes };
        let facts = serde_json::to_vec(&Facts { format: VERSION, image: image.clone() });
        let facts = facts.map_err(|error| error.to_string())?;
        // Facts of the image before must not stand beside this one.
        let _ = fs::remove_file(folder.join(FACTS_FILE));
        fs::rename(&draft.path, folder.join(IMAGE_FILE)).map_err(failed)?;
        elpis_watch::durable::write_whole(&folder.join(FACTS_FILE), &facts, 0o600).map_err(failed)?;
        Ok(image)
    });
    let kept = kept.await;
    // One that was refused leaves the one of before.
    locked(&shelf.inner).held = kept.as_ref().ok().cloned().or_else(|| held_in(&shelf.folder));
    kept
}

/// The image in the folder, when it is whole.
fn held_in(folder: &Path) -> Option<Image> {
    let facts: Facts = serde_json::from_slice(&fs::read(folder.join(FACTS_FILE)).ok()?).ok()?;
    let length = fs::metadata(folder.join(IMAGE_FILE)).ok()?.len();
    (facts.format == VERSION && length == facts.image.bytes).then_some(facts.image)
}

/// `PUT /v1/update/image`: a person's image.
pub(in crate::agent) async fn receive(agent: &Agent, mut body: Incoming) -> Result<Image, No> {
    let taken = receive_all(agent, &mut body).await;
    match &taken {
        Ok(image) => agent.note(None, "update", &format!("image {} taken", image.version)),
        Err(_) => {
            // Who still sends would see a connection that breaks, and not the reason.
            let mut rest = 0;
            while let Ok(Some(Ok(frame))) = timeout(PATIENCE, body.frame()).await
                && rest < LARGEST
            {
                rest += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            }
        }
    }
    let no = |why| No(StatusCode::UNPROCESSABLE_ENTITY, format!("the image is not taken: {why}"));
    taken.map_err(no)
}

async fn receive_all(agent: &Agent, body: &mut Incoming) -> Result<Image, String> {
    let shelf = &agent.shelf;
    let why = "this machine is no appliance: its packages are updated by its own means";
    let machine = shelf.machine.clone().ok_or(why)?;
    let refuses = locked(&shelf.inner).look.refuses.clone();
    if !refuses.is_empty() {
        return Err(refuses);
    }
    no_rollout(agent)?;
    let only = Arc::clone(&shelf.writing).try_lock_owned().map_err(|_| "another one is just coming in")?;
    let doing = Doing(shelf);
    doing.says("takes an image from a person");
    let room = shelf.room().saturating_sub(ROOM).min(LARGEST);
    let mut draft = Draft::new(&shelf.folder, only)?;
    loop {
        let next = timeout(PATIENCE, body.frame()).await;
        let next = next.map_err(|_| format!("nothing came for {} s", PATIENCE.as_secs()))?;
        let Some(frame) = next else { break };
        let Ok(bytes) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
        if draft.bytes + bytes.len() as u64 > room {
            return Err(format!("it is larger than the {} MiB that may be taken here", room >> 20));
        }
        draft = draft.push(bytes).await?;
    }
    // It took its time, and the one that lies here may be on its way to the others.
    no_rollout(agent)?;
    doing.says("looks at the image");
    let image = keep(shelf, &machine, draft).await?;
    locked(&shelf.inner).brought = true;
    Ok(image)
}

fn no_rollout(agent: &Agent) -> Result<(), String> {
    let state = agent.member().map(|member| member.state());
    let going = state.as_ref().and_then(|state| state.rollout.as_ref()).filter(|rollout| rollout.goes_on());
    going.map_or(Ok(()), |going| Err(Refused::GoesOn(going.image.version.clone()).to_string()))
}

/// A part of this node's image, for another node.
pub(in crate::agent) async fn part(agent: Arc<Agent>, ask: Vec<u8>) -> Result<Vec<u8>, String> {
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
pub(super) async fn take(
    shelf: &Shelf,
    member: &Member,
    machine: &Arc<dyn Machine>,
    order: &Order,
) -> Result<(), String> {
    let only = Arc::clone(&shelf.writing).lock_owned().await;
    let (image, doing) = (&order.image, Doing(shelf));
    if image.bytes > shelf.room().saturating_sub(ROOM).min(LARGEST) {
        return Err("there is no room for it".to_owned());
    }
    let mut draft = Draft::new(&shelf.folder, only)?;
    while draft.bytes < image.bytes {
        doing.says(&format!("takes the image, {} %", draft.bytes * 100 / image.bytes.max(1)));
        let bytes = fetch(member, order, draft.bytes).await?;
        if bytes.is_empty() || draft.bytes + bytes.len() as u64 > image.bytes {
            return Err("the other node's image has another length".to_owned());
        }
        draft = draft.push(bytes).await?;
        sleep(CHUNK_PAUSE).await;
    }
    doing.says("looks at the image");
    if keep(shelf, machine, draft).await? != *image {
        locked(&shelf.inner).held = None;
        return Err("what came is not what was named".to_owned());
    }
    Ok(())
}

/// The next part; a connection that breaks is no reason to stop for all.
async fn fetch(member: &Member, order: &Order, at: u64) -> Result<Vec<u8>, String> {
    let ask = ImageAsk { sha256: order.image.sha256.clone(), at };
    let ask = serde_json::to_vec(&ask).map_err(|error| error.to_string())?;
    let mut tries = 1;
    loop {
        match member.node.fetch(order.holder, IMAGE, ask.clone(), PATIENCE).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if tries == TRIES => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, at, "a part of the image did not come; asking again"),
        }
        tries += 1;
        sleep(TRY_PAUSE).await;
    }
}
