//! The status screen: draws, reads keys, gives orders.

use super::{facts, join, status};
use crate::find::Cluster;
use anyhow::{Context, Result};
use elpis_appliance::answers::Join;
use elpis_appliance::screen::{Foot, SIZE, draw};
use elpis_watch::Method;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use ratatui::{Terminal, TerminalOptions, Viewport};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A look at the node, and how long a key waits for it at most.
const LOOK: Duration = Duration::from_millis(1_000);
/// All of it is drawn anew: a terminal that was plugged in late shows all, too.
const ANEW: Duration = Duration::from_secs(10);
const KEYS: &str = "a let a node in   j join a cluster   r restart   p power off";

/// What the person in front of it is doing.
enum Asks {
    Nothing,
    /// Typing address and words of a cluster.
    Join(String),
    /// A key again confirms it.
    Confirm(char),
}

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
    let (mut asks, mut said, mut anew) = (Asks::Nothing, Vec::new(), None::<Instant>);
    loop {
        if anew.is_none_or(|last| last.elapsed() > ANEW) {
            terminal.clear()?;
            terminal.hide_cursor()?;
            anew = Some(Instant::now());
        }
        let (facts, status) = (facts(), status(&node).await);
        let foot = match &asks {
            Asks::Nothing => Foot { text: said.clone(), keys: KEYS.to_owned() },
            Asks::Join(typed) => Foot {
                text: vec![
                    "Address and six words, as `let a node in` shows them on a member:".to_owned(),
                    format!("> {typed}_"),
                ],
                keys: "Enter join   Esc back".to_owned(),
            },
            Asks::Confirm(key) => Foot {
                text: vec![format!("Really? {key} again does it, any other key goes back.")],
                keys: String::new(),
            },
        };
        terminal.draw(|frame| draw(frame, &facts, status.as_ref(), &foot))?;
        // Blocks this thread only: nothing else runs on it.
        if !event::poll(LOOK)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        asks = match (asks, key.code) {
            (Asks::Nothing, KeyCode::Char('a')) => {
                said = let_in(&node).await;
                Asks::Nothing
            }
            (Asks::Nothing, KeyCode::Char('j')) => Asks::Join(String::new()),
            (Asks::Nothing, KeyCode::Char(key @ ('r' | 'p'))) => Asks::Confirm(key),
            (Asks::Nothing, _) => {
                said.clear();
                Asks::Nothing
            }
            (Asks::Confirm(first), KeyCode::Char(second)) if first == second => {
                said = vec![power(first)];
                Asks::Nothing
            }
            (Asks::Join(typed), KeyCode::Enter) => {
                said = vec![join_by(&node, &typed).await];
                Asks::Nothing
            }
            (Asks::Join(mut typed), KeyCode::Char(c)) if typed.len() < 120 => {
                typed.push(c);
                Asks::Join(typed)
            }
            (Asks::Join(mut typed), KeyCode::Backspace) => {
                typed.pop();
                Asks::Join(typed)
            }
            (Asks::Join(typed), key) if key != KeyCode::Esc => Asks::Join(typed),
            _ => Asks::Nothing,
        };
    }
}

async fn let_in(node: &Cluster) -> Vec<String> {
    match node.node(Method::POST, "/v1/cluster/add-node", Some(&json!({}))).await {
        Err(error) => vec![format!("{error:#}")],
        Ok(offer) => {
            let words = match &offer["words"] {
                Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
                words => words.as_str().unwrap_or_default().to_owned(),
            };
            let address = offer["address"].as_str().unwrap_or_default();
            vec!["On the new machine press j and type:".to_owned(), format!("{address} {words}")]
        }
    }
}

/// `ADDRESS WORDS…`, and the node's own name behind them where it has agents to lose.
async fn join_by(node: &Cluster, typed: &str) -> String {
    let words: Vec<&str> = typed.split_whitespace().collect();
    let (Some((address, words)), true) = (words.split_first(), (7..=8).contains(&words.len())) else {
        return "address and six words are needed, separated by spaces".to_owned();
    };
    let wanted = Join { address: (*address).to_owned(), words: words[..6].join(" ") };
    match join::order(node, &wanted, words.get(6).copied()).await {
        Ok(said) => said,
        Err(error) => format!("{error:#}"),
    }
}

/// By systemd: units end in their order.
fn power(key: char) -> String {
    let order = if key == 'r' { "reboot" } else { "poweroff" };
    match join::systemctl(&[order]) {
        Ok(()) => format!("{order}…"),
        Err(error) => format!("{error:#}"),
    }
}
