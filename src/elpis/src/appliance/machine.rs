//! This machine as the node agent sees it: what runs, what is written, and orders to a unit that may do it. The node agent
//! has no rights of its own but to leave an order, which names nothing: what is written is the image in its folder, when
//! that is signed and not older.

use super::source::Source;
use super::update::{self, IMAGE};
use super::{install, tools};
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::install::Work;
use elpis_cluster::agent::update::{Look, Machine};
use elpis_cluster::types::PROTOCOL;
use elpis_cluster::update::{Act, is_newer};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Version of an order.
const VERSION: u32 = 1;
/// Longest order that is read.
const LONGEST: u64 = 1024;
const ORDER: &str = "order";

/// What the node agent leaves for the unit.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    version: u32,
    act: Act,
    id: i64,
}

/// An appliance; orders go to this folder.
#[derive(Debug)]
pub(crate) struct Appliance {
    pub(crate) orders: PathBuf,
}

impl Machine for Appliance {
    fn check(&self, image: &Path) -> Result<String, String> {
        check(image).map_err(|error| format!("{error:#}"))
    }

    fn look(&self) -> Look {
        let runs = update::version().unwrap_or_default();
        let progress = tools::progress().filter(|progress| progress.work == Work::Update);
        let refuses = if install::is_installed() {
            String::new()
        } else {
            "it runs from its medium and keeps nothing: install it on a disk first".to_owned()
        };
        let failed = progress.as_ref().and_then(|progress| {
            let why = progress.error()?.to_owned();
            Some((progress.order?, why))
        });
        let written = progress.as_ref().filter(|progress| progress.is_done());
        Look {
            kept: update::is_kept(&runs),
            written: written.and_then(|progress| progress.to.clone()).unwrap_or_default(),
            doing: progress.filter(|p| p.runs()).map(|p| p.line()).unwrap_or_default(),
            fell_back: update::failed_version().unwrap_or_default(),
            refuses,
            failed,
            runs,
        }
    }

    fn order(&self, act: Act, id: i64) -> Result<(), String> {
        let order = Order { version: VERSION, act, id };
        let write = || {
            let text = serde_json::to_vec(&order)?;
            elpis_watch::durable::write_whole(&self.orders.join(ORDER), &text, 0o600)
        };
        write().map_err(|error| format!("cannot leave an order in {}: {error}", self.orders.display()))
    }
}

fn check(image: &Path) -> Result<String> {
    let source = Source::open(image)?;
    let (new, old) = (&source.manifest.version, update::version()?);
    ensure!(!is_newer(&old, new), "it has version {new}, this machine runs {old} already");
    let speaks = source.manifest.speaks;
    ensure!(
        speaks == PROTOCOL,
        "its nodes speak version {speaks} to each other, these speak {PROTOCOL}: they could not work side by side; take \
         a version between them"
    );
    source.check()?;
    Ok(new.clone())
}

/// As root: obeys the order that is there.
pub(super) fn obey(orders: &Path) -> Result<()> {
    let path = orders.join(ORDER);
    let mut text = Vec::new();
    // The folder is the node agent's: a link in it leads nowhere.
    let opened = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
    let read = opened.and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    // Gone before it is obeyed: the unit starts as long as there is one.
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let order: Order = serde_json::from_slice(&text).context("the node agent's order")?;
    ensure!(order.version == VERSION, "an order of version {}, this is {VERSION}", order.version);
    match order.act {
        Act::Write => update::write_image(Path::new(IMAGE), order.id),
        Act::Restart => super::join::systemctl(&["reboot"]),
        Act::Take => bail!("an image is taken by the node agent itself"),
    }
}
