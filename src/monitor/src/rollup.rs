//! What an agent or a group shows, from counters (semantics A.12, the seed's order).

use crate::{Agent, Module, Status};

/// Modules of an agent by accepted state (`tagent.*_count`). As a difference it may hold negative numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)] // the words say it
pub struct Counts {
    pub normal: i64,
    pub critical: i64,
    pub warning: i64,
    pub unknown: i64,
    pub not_init: i64,
    /// Modules with a fired alert that nobody validated.
    pub fired: i64,
}

impl Counts {
    /// Counts `n` modules in this state.
    pub fn add(&mut self, status: Status, n: i64) {
        let field = match status {
            Status::Normal => &mut self.normal,
            Status::Critical => &mut self.critical,
            Status::Warning => &mut self.warning,
            Status::Unknown => &mut self.unknown,
            Status::NotInit => &mut self.not_init,
        };
        *field += n;
    }

    /// The difference that a change of one module makes.
    pub fn change(from: Status, to: Status) -> Counts {
        let mut counts = Counts::default();
        counts.add(from, -1);
        counts.add(to, 1);
        counts
    }

    /// Adds another one field by field.
    pub fn merge(&mut self, other: Counts) {
        self.normal += other.normal;
        self.critical += other.critical;
        self.warning += other.warning;
        self.unknown += other.unknown;
        self.not_init += other.not_init;
        self.fired += other.fired;
    }

    /// All modules.
    pub fn total(&self) -> i64 {
        self.normal + self.critical + self.warning + self.unknown + self.not_init
    }

    /// Nothing changes.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }
}

/// What an agent, a group or a policy shows; the later the worse.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// No module ever had a value.
    #[default]
    NotInit,
    /// All with a value are normal.
    Normal,
    /// Silent.
    Unknown,
    /// A module is in warning.
    Warning,
    /// A module is critical.
    Critical,
    /// An alert has fired and nobody validated it.
    AlertFired,
}

impl Shown {
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            Shown::NotInit => "not_init",
            Shown::Normal => "normal",
            Shown::Unknown => "unknown",
            Shown::Warning => "warning",
            Shown::Critical => "critical",
            Shown::AlertFired => "alert_fired",
        }
    }

    /// From counters, worst first.
    pub fn of_counts(counts: &Counts) -> Shown {
        [
            (counts.fired, Shown::AlertFired),
            (counts.critical, Shown::Critical),
            (counts.warning, Shown::Warning),
            (counts.unknown, Shown::Unknown),
            (counts.normal, Shown::Normal),
        ]
        .into_iter()
        .find(|(n, _)| *n > 0)
        .map_or(Shown::NotInit, |(_, shown)| shown)
    }

    /// Of an agent: as its counters say, but unknown when it has synchronous modules and has been silent for more
    /// than twice its interval. A fired alert stays visible.
    pub fn of_agent(counts: &Counts, agent: &Agent, has_synchronous: bool, now: i64) -> Shown {
        let silent = agent.last_contact + 2 * i64::from(agent.interval_s) < now;
        match Shown::of_counts(counts) {
            Shown::AlertFired => Shown::AlertFired,
            _ if has_synchronous && silent && agent.last_contact != 0 => Shown::Unknown,
            shown => shown,
        }
    }

    /// Of a group: the worst of its agents.
    pub fn of_group(agents: impl IntoIterator<Item = Shown>) -> Shown {
        agents.into_iter().max().unwrap_or_default()
    }
}

impl Module {
    /// Counts for the silence of its agent.
    pub fn is_synchronous(&self) -> bool {
        !self.module_type.is_async() && self.module_type != crate::ModuleType::KEEP_ALIVE
    }
}
