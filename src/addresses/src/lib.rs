//! Virtual addresses: those that the cluster gave to this node are on one of its interfaces for as long as its lease
//! runs, and nowhere else.
//!
//! ```text
//! map: who holds which ─┐                        ┌─► kernel: add, prolong, remove (netlink)
//! lease: until when ────┼─► Keeper (pure): acts ─┤
//! who else answers ─────┘                        └─► wire: ask, announce (ARP)
//! ```
//!
//! The kernel itself lets an address go two seconds after it was prolonged last: a keeper that is killed or hangs holds
//! nothing. A new holder first asks the wire who answers, and waits until nobody does; then it tells everybody.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arp;
mod keeper;
mod kernel;
mod wire;

use elpis_watch::{Link, LinkError, Role};
use keeper::{Act, Keeper};
use kernel::Kernel;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use wire::Wire;

/// How often it looks while it holds or wants an address, and while it does not.
const BUSY: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_secs(2);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The node agent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What it works with.
    #[error("cannot open {0}: {1}; an address-keeper needs the capabilities CAP_NET_ADMIN and CAP_NET_RAW")]
    Open(&'static str, std::io::Error),
}

/// Holds what the cluster gives to this node until told to stop; lets all of it go then.
///
/// # Errors
/// Without the right to set addresses, and when another process takes its place.
pub async fn run(socket: &Path, stop: CancellationToken) -> Result<(), AddressError> {
    let Some(link) = stop.run_until_cancelled(Link::connect(socket, Role::AddressKeeper)).await else {
        return Ok(());
    };
    let link = link?;
    let kernel = Kernel::open()?;
    let wire = Wire::open().map_err(|error| AddressError::Open("a socket for ARP", error))?;
    let mut keeper = Keeper::default();
    let progress = link.progress();
    progress.expect_bumps(Duration::from_secs(5));
    let (begin, mut maps) = (Instant::now(), link.map());
    let me = link.welcome().node;
    tracing::info!("address-keeper is ready");
    let superseded = loop {
        progress.bump();
        let map = maps.borrow_and_update().clone();
        let leased = link.gate().session_if_valid().is_some();
        let wanted: BTreeSet<Ipv4Addr> = match leased {
            true => map.addresses(me).filter_map(|text| text.parse().ok()).collect(),
            false => BTreeSet::new(),
        };
        let now_ms = i64::try_from(begin.elapsed().as_millis()).unwrap_or(i64::MAX);
        // What was said before anybody asked is no answer.
        let heard = match (keeper.rests(), wanted.is_empty()) {
            (true, true) => Vec::new(),
            (true, false) => {
                wire.heard();
                Vec::new()
            }
            (false, _) => wire.heard(),
        };
        let acts = keeper.step(now_ms, &wanted, &heard);
        carry_out(acts, &mut keeper, &kernel, &wire, &link).await;
        progress.set_unfit(keeper.trouble());
        let pause = if keeper.rests() { CALM } else { BUSY };
        tokio::select! {
            () = stop.cancelled() => break false,
            () = link.superseded() => break true,
            _ = maps.changed() => {}
            () = sleep(pause) => {}
        }
    };
    let acts = keeper.step(i64::MAX, &BTreeSet::new(), &[]);
    carry_out(acts, &mut keeper, &kernel, &wire, &link).await;
    match superseded {
        true => {
            Err(LinkError::Superseded("another process registered as this node's address-keeper".into())
                .into())
        }
        false => Ok(()),
    }
}

/// An act that fails is tried again by the keeper, and said once.
async fn carry_out(acts: Vec<Act>, keeper: &mut Keeper, kernel: &Kernel, wire: &Wire, link: &Link) {
    for act in acts {
        let done = match &act {
            Act::Ask(address) => wire.ask(*address),
            Act::Announce(address) => wire.announce(*address),
            Act::Hold(address) => kernel.hold(*address).await,
            Act::LetGo(address) => kernel.let_go(*address).await,
            Act::Say(text) => {
                tracing::warn!("{text}");
                if let Err(error) = link.report_event("address", text).await {
                    tracing::debug!(%error, "the node agent does not hear it");
                }
                Ok(())
            }
        };
        match (done, &act) {
            (Ok(()), Act::Hold(address)) => keeper.held(*address),
            (Err(error), Act::Ask(address) | Act::Hold(address)) => {
                if let Some(text) = keeper.failed(*address, &error.to_string()) {
                    tracing::warn!("{text}");
                    let _ = link.report_event("address", &text).await;
                }
            }
            (Err(error), _) => tracing::debug!(%error, ?act, "not done"),
            (Ok(()), _) => {}
        }
    }
}
