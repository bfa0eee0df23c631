//! The nouns: agents, modules, their settings, the state of a module, samples, events.

use crate::{ModuleType, Pattern, Shard};
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { self.0.fmt(f) }
        }
    };
}
id!(/// Id of an agent (`tagent.id_agent`).
    AgentId);
id!(/// Id of a module (`tagent_module.id_agent_module`).
    ModuleId);
id!(/// Id of a group (`tgroup.id_group`).
    GroupId);

/// State of a module, and what an agent or a group shows; numbers as in `tagent_status.status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Within its thresholds.
    Normal = 0,
    /// In its critical range.
    Critical = 1,
    /// In its warning range.
    Warning = 2,
    /// Silent for longer than twice its interval.
    Unknown = 3,
    /// Never had a value.
    #[default]
    NotInit = 4,
}

impl Status {
    /// By number as stored.
    pub fn from_number(number: u8) -> Option<Status> {
        [Status::Normal, Status::Critical, Status::Warning, Status::Unknown, Status::NotInit]
            .into_iter()
            .find(|s| *s as u8 == number)
    }
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            Status::Normal => "normal",
            Status::Critical => "critical",
            Status::Warning => "warning",
            Status::Unknown => "unknown",
            Status::NotInit => "not_init",
        }
    }
}

/// What a data file may change of an agent (`tagent.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum AgentMode {
    /// Nothing; modules come only with the file that creates the agent.
    Normal = 0,
    /// Modules and addresses are learnt.
    #[default]
    Learning = 1,
    /// Learning, and disabled when all is silent.
    AutoDisable = 2,
}

/// A monitored element.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Id; 0 = not stored yet.
    pub id: AgentId,
    /// Identity, case-sensitive, never changes.
    pub name: String,
    /// Name shown.
    pub alias: String,
    /// Main address; may be empty.
    pub address: String,
    /// Group.
    pub group: GroupId,
    /// Interval in seconds.
    pub interval_s: u32,
    /// What files may change.
    pub mode: AgentMode,
    /// Takes no data.
    pub disabled: bool,
    /// No events, no alerts.
    pub quiet: bool,
    /// No unknown detection.
    pub ignore_unknown: bool,
    /// The main address is not taken from files.
    pub fixed_ip: bool,
    /// Operating system (`tconfig_os.id_os`).
    pub os: u16,
    /// Version of the operating system, free text.
    pub os_version: String,
    /// Version of the software agent.
    pub agent_version: String,
    /// Free text (`tagent.comments`).
    pub comments: String,
    /// Operator's own id.
    pub custom_id: String,
    /// Parent, 0 = none.
    pub parent: AgentId,
    /// Offset of its clock in hours.
    pub timezone_offset_h: i8,
    /// Unix seconds, server clock, of the last contact; 0 = never.
    pub last_contact: i64,
    /// Unix seconds of the last contact by the agent's own clock; 0 = never.
    pub last_remote_contact: i64,
}

impl Agent {
    /// Its shard.
    pub fn shard(&self) -> Shard {
        Shard::of_agent(&self.name)
    }
}

/// A warning or critical range.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Lower limit (inclusive).
    pub min: f64,
    /// Upper limit (exclusive); below `min` = open upwards; equal = off.
    pub max: f64,
    /// Regular expression for text types; empty = off.
    pub text: Pattern,
    /// Outside instead of inside.
    pub inverse: bool,
    /// Limits are percentages of the previous value.
    pub percentage: bool,
}

/// Flip-flop settings: how many equal samples make a change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlipFlop {
    /// `min_ff_event`: a change needs one sample more than this.
    pub limit: u32,
    /// `each_ff`: the limits below are used instead.
    pub each: bool,
    /// Limit towards normal.
    pub normal: u32,
    /// Limit towards warning.
    pub warning: u32,
    /// Limit towards critical.
    pub critical: u32,
    /// `ff_type` 1: counters are kept over changes.
    pub keep_counters: bool,
    /// `ff_timeout` in seconds, asynchronous types only; 0 = none.
    pub timeout_s: u32,
    /// `module_ff_interval` in seconds while a change is pending; 0 = none.
    pub interval_s: u32,
}

/// Settings of a module (`tagent_module`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// Id; 0 = not stored yet.
    pub id: ModuleId,
    /// Agent.
    pub agent: AgentId,
    /// Place in the agent's contact row (`tagent_contact.seen`), given at creation, never used again.
    pub position: u16,
    /// Unique within the agent.
    pub name: String,
    /// Type.
    pub module_type: ModuleType,
    /// Free text.
    pub description: String,
    /// Tags of a file that nothing else takes, as text.
    pub extended_info: String,
    /// Seconds; 0 = the agent's.
    pub interval_s: u32,
    /// Five-field pattern (`cron_interval`); empty = none.
    pub cron: String,
    /// Lowest accepted value after post-processing (rules: `max = min` no limit, see semantics A.2).
    pub min: i64,
    /// Highest accepted value.
    pub max: i64,
    /// Multiplier; 0 = 1.
    pub post_process: f64,
    /// Warning range.
    pub warning: Threshold,
    /// Critical range.
    pub critical: Threshold,
    /// Samples of warning after which it becomes critical; 0 = never.
    pub warning_time: u32,
    /// Flip-flop.
    pub flip_flop: FlipFlop,
    /// Samples are stored (else only the state).
    pub history_data: bool,
    /// Neither data nor checks.
    pub disabled: bool,
    /// No events, no alerts.
    pub quiet: bool,
    /// No unknown detection.
    pub ignore_unknown: bool,
    /// Event types that are not produced, by name (`disabled_types_event`).
    pub disabled_events: Vec<String>,
    /// For display.
    pub unit: String,
    /// Operator's own id.
    pub custom_id: String,
    /// Module group, 0 = none.
    pub module_group: u32,
    /// Texts shown with an event.
    pub critical_instructions: String,
    /// Texts shown with an event.
    pub warning_instructions: String,
    /// Texts shown with an event.
    pub unknown_instructions: String,
    /// What the network server needs; `None` for data modules.
    pub check: Option<Check>,
}

/// A network check (`ip_target`, `tcp_*`, `snmp_*` columns).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Host name or address; empty or `auto` = the agent's main address.
    pub target: String,
    /// Port of TCP, UDP, SNMP; 0 = default of the kind.
    pub port: u16,
    /// What is sent (`|` separates exchanges, `^M` = CR LF); SNMP: version 1, 2 or 2c.
    pub send: String,
    /// What is expected (regular expression); empty = connection is enough.
    pub expect: String,
    /// SNMP community.
    pub community: String,
    /// SNMP object.
    pub oid: String,
    /// Seconds; 0 = the server's setting.
    pub timeout_s: u32,
    /// Tries; 0 = the server's setting.
    pub retries: u32,
    /// `flag`: run once, as soon as possible.
    pub forced: bool,
}

/// State of a module between two samples (`tmodule_state` and the module's place in `tagent_contact`).
///
/// Times are Unix seconds. `last_status` is the last *raw* state, `last_try` the time of the last *stored* sample
/// (semantics part J, rows 4 and 5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModuleState {
    /// Last value, cleaned: numbers with five decimals.
    pub data: String,
    /// Accepted state.
    pub status: Status,
    /// Accepted state, not touched by unknown detection.
    pub known_status: Status,
    /// Raw state of the last sample (3 after unknown detection).
    pub last_status: Status,
    /// Raw state of the last sample, not touched by unknown detection.
    pub last_known_status: Status,
    /// Flip-flop counter.
    pub status_changes: u32,
    /// Server clock of the last accepted sample.
    pub utimestamp: i64,
    /// Time of the last accepted sample (text column `timestamp`).
    pub timestamp: i64,
    /// Sample time of the last accepted sample, or server clock of a refused one.
    pub last_execution_try: i64,
    /// Time of the last stored sample.
    pub last_try: i64,
    /// Seconds until the next execution.
    pub current_interval: u32,
    /// Start of the current raw state (asynchronous types with `ff_timeout`).
    pub ff_start_utimestamp: i64,
    /// Counters of `ff_type` 1.
    pub ff_normal: u32,
    /// Counters of `ff_type` 1.
    pub ff_warning: u32,
    /// Counters of `ff_type` 1.
    pub ff_critical: u32,
    /// When the accepted state last changed, server clock.
    pub last_status_change: i64,
    /// When unknown detection last touched it.
    pub last_unknown_update: i64,
    /// Samples of lasting warning.
    pub warning_count: u32,
    /// Why the last value was refused or the last check failed; empty = it did not.
    pub last_error: String,
    /// Newest recorded slot (network checks); a result for this slot or an older one is not recorded again.
    pub last_slot: i64,
    /// Base of rate and difference types: (raw value, time).
    pub increment: Option<(f64, i64)>,
}

/// A value that goes into `tagent_data` or `tagent_data_string`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Numeric, boolean, rate, difference.
    Number(f64),
    /// Text.
    Text(String),
}

/// A value that came in, before any rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its time, Unix seconds (network checks: the slot).
    pub time: i64,
    /// The text as delivered.
    pub raw: String,
    /// State given with the value (`<status>` of a data file).
    pub given_status: Option<Status>,
}

/// What an event is about (`tevent.event_type`), names as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// Silent for too long.
    GoingUnknown,
    /// Any state to critical.
    GoingUpCritical,
    /// Normal or unknown to warning.
    GoingUpWarning,
    /// Critical to warning.
    GoingDownWarning,
    /// Back to normal.
    GoingDownNormal,
    /// An agent was created.
    NewAgent,
    /// Of the product itself.
    System,
    /// A file or a setting could not be used.
    Error,
    /// A recorded change of settings.
    ConfigurationChange,
    /// An operator validated an alert.
    AlertManualValidation,
}

impl EventType {
    /// Name as stored.
    pub fn name(self) -> &'static str {
        match self {
            EventType::GoingUnknown => "going_unknown",
            EventType::GoingUpCritical => "going_up_critical",
            EventType::GoingUpWarning => "going_up_warning",
            EventType::GoingDownWarning => "going_down_warning",
            EventType::GoingDownNormal => "going_down_normal",
            EventType::NewAgent => "new_agent",
            EventType::System => "system",
            EventType::Error => "error",
            EventType::ConfigurationChange => "configuration_change",
            EventType::AlertManualValidation => "alert_manual_validation",
        }
    }
}

/// How bad an event is; numbers as stored (0 maintenance to 6 major).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)] // the words say it
pub enum Severity {
    Maintenance = 0,
    Informational = 1,
    Normal = 2,
    Warning = 3,
    Critical = 4,
    Minor = 5,
    Major = 6,
}

/// An event to be recorded (`tevent`).
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Agent, 0 = none.
    pub agent: AgentId,
    /// Module, 0 = none.
    pub module: ModuleId,
    /// Group, 0 = none.
    pub group: GroupId,
    /// Type.
    pub event_type: EventType,
    /// Severity.
    pub severity: Severity,
    /// One sentence.
    pub text: String,
    /// Unix seconds, server clock.
    pub utimestamp: i64,
    /// Born validated.
    pub validated: bool,
    /// Validates all new events of this module first (`event_auto_validation`).
    pub validates_earlier: bool,
    /// Value as text.
    pub data: String,
    /// State of the module.
    pub status: Status,
}
