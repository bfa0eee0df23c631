//! What the processes of a node log, when an operator wants more or less of it for a while.
//!
//! Kept in memory: a node agent that is started again logs as usual, and so do its servers.

use super::messages::{LOG, LogAsk, LogLevel, LogLevels};
use super::sock::No;
use super::{Agent, locked};
use crate::bootstrap;
use crate::types::boot_ms;
use elpis_watch::Role;
use elpis_watch::log::{self, LONGEST_S, LogOrder};
use hyper::StatusCode;
use std::collections::BTreeMap;

/// Name of the node agent among the roles.
const AGENT: &str = "node";
/// Directives that end an order.
const DEFAULT: &str = "default";
/// A debug level that nobody ends must not fill the disk.
const USUAL_S: u64 = 15 * 60;

/// Orders that stand, by process; `None` = the node agent.
#[derive(Debug, Default)]
pub(super) struct Logs {
    orders: BTreeMap<Option<Role>, LogOrder>,
}

impl Logs {
    /// What a process is told, if anything.
    pub(super) fn of(&self, role: Option<Role>) -> Option<LogOrder> {
        self.orders.get(&role).filter(|order| order.ms_left() > 0).cloned()
    }

    fn set(&mut self, roles: &[Option<Role>], order: Option<&LogOrder>) {
        for role in roles {
            match order {
                Some(order) => self.orders.insert(*role, order.clone()),
                None => self.orders.remove(role),
            };
        }
    }

    fn levels(&self, roles: &[Option<Role>]) -> Vec<LogLevel> {
        let level = |role: &Option<Role>| {
            let order = self.of(*role);
            LogLevel {
                role: name(*role).to_owned(),
                ms_left: order.as_ref().map_or(0, LogOrder::ms_left),
                directives: order.map_or_else(|| DEFAULT.to_owned(), |order| order.directives),
            }
        };
        roles.iter().map(level).collect()
    }
}

fn name(role: Option<Role>) -> &'static str {
    role.map_or(AGENT, Role::as_str)
}

/// The processes that an order means.
fn meant(agent: &Agent, role: Option<&str>) -> Result<Vec<Option<Role>>, String> {
    let all = || std::iter::once(None).chain(agent.config.roles.iter().copied().map(Some));
    let Some(wanted) = role else { return Ok(all().collect()) };
    match all().find(|role| name(*role) == wanted) {
        Some(role) => Ok(vec![role]),
        None => {
            let wanted: String = wanted.chars().take(64).collect();
            let known: Vec<&str> = all().map(name).collect();
            Err(format!("no {wanted} runs on this node; it has {}", known.join(", ")))
        }
    }
}

/// Carries out an order to this node, or only says how its logs stand.
///
/// # Errors
/// In words, when the order makes no sense.
pub(super) fn here(agent: &Agent, ask: &LogAsk) -> Result<LogLevels, String> {
    let roles = meant(agent, ask.role.as_deref())?;
    if let Some(directives) = &ask.directives {
        let order = order_of(directives, ask.for_s)?;
        locked(&agent.logs).set(&roles, order.as_ref());
        let mine = locked(&agent.logs).of(None);
        log::want(mine);
        for role in &roles {
            let text = match &order {
                Some(order) => format!("{} for {} s", order.directives, order.ms_left().div_ceil(1000)),
                None => "as started".to_owned(),
            };
            agent.note(*role, LOG, &text);
        }
    }
    let node = agent.config.raft.name.clone();
    Ok(LogLevels { node, levels: locked(&agent.logs).levels(&roles) })
}

/// `None` = back to the start.
fn order_of(directives: &str, for_s: Option<u64>) -> Result<Option<LogOrder>, String> {
    let for_s = for_s.unwrap_or(USUAL_S);
    if !(1..=LONGEST_S).contains(&for_s) {
        return Err(format!("a log level stands for 1 s to {} h, not for {for_s} s", LONGEST_S / 3600));
    }
    if directives == DEFAULT {
        return Ok(None);
    }
    log::check(directives)?;
    let until_boot_ms = boot_ms().saturating_add_unsigned(for_s.saturating_mul(1000));
    Ok(Some(LogOrder { directives: directives.to_owned(), until_boot_ms }))
}

/// Carries out an order here or on the node that it names.
pub(super) async fn order(agent: &Agent, mut ask: LogAsk) -> Result<LogLevels, No> {
    let wanted = ask.node.take().filter(|node| *node != agent.config.raft.name);
    let Some(wanted) = wanted else { return here(agent, &ask).map_err(No::bad) };
    if let Some(directives) = &ask.directives {
        order_of(directives, ask.for_s).map_err(No::bad)?;
    }
    let member = agent.member().ok_or_else(No::no_cluster)?;
    let Some(node) = bootstrap::find(&member.state(), &wanted) else {
        let name: String = wanted.chars().take(64).collect();
        let why = format!("there is no node {name}; list the nodes with `elpis cluster status`");
        return Err(No(StatusCode::NOT_FOUND, why));
    };
    if node == member.id() {
        return here(agent, &ask).map_err(No::bad);
    }
    let body = serde_json::to_vec(&ask).map_err(|error| No::bad(error.to_string()))?;
    let answer = member.node.call(node, LOG, body).await?;
    serde_json::from_slice(&answer).map_err(|error| {
        No(StatusCode::BAD_GATEWAY, format!("the answer of {wanted} cannot be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_stand_for_their_time_and_can_be_taken_back() {
        let mut logs = Logs::default();
        let order = order_of("debug", Some(60)).unwrap().unwrap();
        assert!((59_000..=60_000).contains(&order.ms_left()));
        let (agent, console) = (None, Some(Role::Console));
        logs.set(&[agent, console], Some(&order));
        logs.set(&[agent], None);
        assert_eq!((logs.of(agent), logs.of(console)), (None, Some(order)));
        logs.set(&[console], Some(&LogOrder { directives: "trace".into(), until_boot_ms: boot_ms() }));
        assert_eq!(logs.of(console), None);
        let level = |role: &str| LogLevel { role: role.into(), directives: DEFAULT.into(), ms_left: 0 };
        assert_eq!(logs.levels(&[agent, console]), [level("node"), level("console")]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(order_of(DEFAULT, None), Ok(None));
        assert!(order_of("debug", Some(0)).is_err() && order_of("debug", Some(u64::MAX)).is_err());
        assert!(order_of("noisy", None).unwrap_err().contains("no log directive"));
        let usual = order_of("debug", None).unwrap().unwrap();
        assert!(usual.ms_left() > 14 * 60 * 1000);
    }
}
