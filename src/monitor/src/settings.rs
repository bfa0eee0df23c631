//! Settings of the rules that hold for all modules, and what surrounds one call.

/// Cluster-wide settings the rules need, with the defaults of the server configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Intervals of silence after which a module is unknown.
    pub unknown_interval: u32,
    /// Events of unknown detection, and of the way back.
    pub unknown_events: bool,
    /// Asynchronous modules fall back to normal when silent.
    pub async_recovery: bool,
    /// A state event validates the module's earlier new ones.
    pub event_auto_validation: bool,
    /// Newest file first: older samples are only stored.
    pub lifo: bool,
    /// Decimals of a value in an event.
    pub graph_precision: usize,
    /// `text_going_down_normal`.
    pub text_normal: String,
    /// `text_going_up_critical`.
    pub text_critical: String,
    /// `text_going_up_warning`.
    pub text_up_warning: String,
    /// `text_going_down_warning`.
    pub text_down_warning: String,
    /// `text_going_unknown`.
    pub text_unknown: String,
}

impl Default for Settings {
    fn default() -> Settings {
        let text = |word: &str| format!("Module '_module_' is going to {word} (_data_)");
        Settings {
            unknown_interval: 2,
            unknown_events: true,
            async_recovery: true,
            event_auto_validation: true,
            lifo: false,
            graph_precision: 1,
            text_normal: text("NORMAL"),
            text_critical: text("CRITICAL"),
            text_up_warning: text("WARNING"),
            text_down_warning: text("WARNING"),
            text_unknown: "Module '_module_' is going to UNKNOWN".to_owned(),
        }
    }
}

/// What surrounds one call of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Server clock (cluster time), Unix seconds.
    pub now: i64,
    /// Offset of local time to UTC in seconds at `now` (cron patterns are local).
    pub local_offset_s: i64,
    /// Warm-up or event storm: states go on, events are not produced.
    pub mute: bool,
    /// Cluster-wide settings.
    pub settings: &'a Settings,
}
