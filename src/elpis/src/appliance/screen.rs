//! The status screen: draws, reads keys, gives orders.

use super::{facts, install, join, previous, status, update};
use crate::find::Cluster;
use crate::operate::cluster::address_and_words;
use anyhow::{Context, Result};
use elpis_appliance::disk::choice_of;
use elpis_appliance::keys::{Asks, Deed, Key, join_of, network_of};
use elpis_appliance::screen::{SIZE, draw};
use elpis_watch::Method;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use ratatui::{Terminal, TerminalOptions, Viewport};
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two looks at the node.
const LOOK: Duration = Duration::from_millis(1_000);
/// All of it is drawn anew: a terminal that was plugged in late shows all, too.
const ANEW: Duration = Duration::from_secs(10);

pub(super) async fn run() -> Result<()> {
    enable_raw_mode().context("this is no terminal")?;
    let shown = show().await;
    let plain = disable_raw_mode();
    shown?;
    plain.context("the terminal is left as it is")
}

async fn show() -> Result<()> {
    let node = Cluster::of_machine();
    let backend = CrosstermBackend::new(std::io::stdout());
    let mut terminal = Terminal::with_options(backend, TerminalOptions { viewport: Viewport::Fixed(SIZE) })?;
    let (mut asks, mut said) = (Asks::default(), Vec::new());
    let (mut seen, mut looked) = ((facts(), None), None::<Instant>);
    let mut anew = None::<Instant>;
    loop {
        if anew.is_none_or(|last| last.elapsed() > ANEW) {
            terminal.clear()?;
            terminal.hide_cursor()?;
            anew = Some(Instant::now());
        }
        if looked.is_none_or(|last| last.elapsed() >= LOOK) {
            seen = (facts(), status(&node).await);
            looked = Some(Instant::now());
        }
        terminal.draw(|frame| draw(frame, &seen.0, seen.1.as_ref(), &asks.foot(&said)))?;
        // Blocks this thread only: nothing else runs on it. What was typed meanwhile is taken at once.
        let mut wait = LOOK;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            let Some(key) = key(&event::read()?) else { continue };
            let (next, deed) = asks.press(key);
            asks = next;
            if let Some(deed) = deed {
                said = carry_out(&node, deed).await;
            }
        }
    }
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(event) = event else { return None };
    if event.kind == KeyEventKind::Release {
        return None;
    }
    match event.code {
        KeyCode::Char(c) => Some(Key::Char(c)),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Backspace => Some(Key::Backspace),
        KeyCode::Esc => Some(Key::Escape),
        _ => None,
    }
}

/// What the screen says of it.
async fn carry_out(node: &Cluster, deed: Deed) -> Vec<String> {
    let done = match deed {
        Deed::Clear => return Vec::new(),
        Deed::LetIn => {
            let offer = node.node(Method::POST, "/v1/cluster/add-node", Some(&json!({}))).await;
            offer.map(|offer| {
                vec!["On the new machine press j and type:".to_owned(), address_and_words(&offer)]
            })
        }
        Deed::Join(line) => match join_of(&line) {
            Err(why) => Ok(vec![why]),
            Ok((join, confirm)) => join::order(node, &join, confirm.as_deref()).await.map(|said| vec![said]),
        },
        Deed::Disks if install::is_installed() => {
            Ok(vec!["This machine runs from its disk already.".to_owned()])
        }
        Deed::Disks => install::list().map(|disks| match disks.is_empty() {
            true => vec!["There is no disk but the medium.".to_owned()],
            false => disks.iter().map(elpis_appliance::disk::Disk::line).collect(),
        }),
        Deed::Install(line) => match choice_of(&line) {
            Err(why) => Ok(vec![why]),
            Ok(choice) => install::order(node, &choice).await.map(|said| vec![said]),
        },
        Deed::Network(line) => match network_of(&line) {
            Err(why) => Ok(vec![why]),
            Ok(options) => join::move_to(node, &options).await.map(|said| vec![said]),
        },
        Deed::Update => update::order().map(|said| vec![said]),
        Deed::Previous => previous::order().map(|said| vec![said]),
        Deed::Log => super::tools::log().map(|lines| match lines.is_empty() {
            true => vec!["Nothing went wrong since the start.".to_owned()],
            false => lines,
        }),
        Deed::Drain => drain(node).await.map(|said| vec![said]),
        Deed::Reset(name) => join::start_anew(node, name.trim()).await.map(|said| vec![said]),
        Deed::Password => {
            let given = node.api(Method::POST, "/api/v1/users/admin/password", Some(&json!({}))).await;
            given.map(|given| {
                let password = given["password"].as_str().unwrap_or_default();
                vec![
                    format!("User admin has the password {password}"),
                    "It is shown this once, and must be changed at the first sign-in.".to_owned(),
                ]
            })
        }
        // By systemd: units end in their order.
        Deed::Restart => join::systemctl(&["reboot"]).map(|()| vec!["restarting".to_owned()]),
        Deed::PowerOff => join::systemctl(&["poweroff"]).map(|()| vec!["powering off".to_owned()]),
    };
    done.unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// Gives this node's work away, or takes some again.
async fn drain(node: &Cluster) -> Result<String> {
    let seen = status(node).await.context("the node agent does not answer yet")?;
    let mine = elpis_appliance::view::mine(&seen).context("this node belongs to no cluster yet")?;
    let (order, said) = match mine.state == "draining" {
        true => ("undrain", "takes work again"),
        false => ("drain", "gives its work away"),
    };
    node.node(Method::POST, &format!("/v1/node/{order}"), Some(&json!({ "node": mine.name }))).await?;
    Ok(format!("{} {said}", mine.name))
}
