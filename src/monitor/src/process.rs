//! What one sample does to a module (semantics A.5 with the corrections of part J).

use crate::clean::{Cleaned, clean};
use crate::event::state_event;
use crate::{
    Agent, Context, Event, Kind, Module, ModuleState, Reading, Status, Value, cron, flip_flop, judge,
};

/// Seconds after which an unchanged value is stored again.
const KEEP_FOR_S: i64 = 86_400;

/// Everything that follows from one sample or one look at the clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The state afterwards.
    pub state: ModuleState,
    /// Sample row to store.
    pub row: Option<(i64, Value)>,
    /// `state.increment` is new (`tagent_data_inc`).
    pub increment_changed: bool,
    /// Events, in order.
    pub events: Vec<Event>,
    /// Why the value was refused.
    pub refused: Option<String>,
    /// Accepted state before and after, when it changed.
    pub changed: Option<(Status, Status)>,
    /// `tmodule_state` must be written; otherwise the contact row says all that is new.
    pub state_row_changed: bool,
    /// A network result for a slot that is recorded already: nothing may be written.
    pub duplicate: bool,
}

impl ModuleState {
    /// State of a module that was just created.
    pub fn new(module: &Module) -> ModuleState {
        let status = if module.module_type.is_async() { Status::Normal } else { Status::NotInit };
        ModuleState {
            status,
            known_status: status,
            last_status: status,
            last_known_status: status,
            ..ModuleState::default()
        }
    }

    /// Same state row? Times that the contact row carries do not count.
    fn same_row(&self, other: &ModuleState) -> bool {
        let bare = |state: &ModuleState| ModuleState {
            utimestamp: 0,
            timestamp: 0,
            last_execution_try: 0,
            last_slot: 0,
            increment: None,
            ..state.clone()
        };
        bare(self) == bare(other)
    }
}

/// Interval of a module in seconds.
pub fn interval_of(agent: &Agent, module: &Module) -> u32 {
    match (module.interval_s, agent.interval_s) {
        (0, 0) => 300,
        (0, agent) => agent,
        (own, _) => own,
    }
}

fn next_interval(agent: &Agent, module: &Module, ctx: &Context<'_>) -> u32 {
    let interval = interval_of(agent, module);
    cron::next_delay(&module.cron, ctx.now + ctx.local_offset_s, i64::from(interval))
        .try_into()
        .unwrap_or(interval)
}

/// Takes one sample in.
pub fn process(
    agent: &Agent,
    module: &Module,
    state: &ModuleState,
    reading: &Reading,
    ctx: &Context<'_>,
) -> Outcome {
    let network = module.module_type.is_network();
    if network && reading.time <= state.last_slot {
        return Outcome { state: state.clone(), duplicate: true, ..Outcome::default() };
    }
    let interval = interval_of(agent, module);
    let ahead = reading.time > ctx.now + i64::from(interval);
    let time = if ahead { ctx.now } else { reading.time };
    let mut next = state.clone();
    if network {
        next.last_slot = reading.time;
    }
    let (text, number, base) = match clean(module, state, reading, time) {
        Cleaned::Value { text, number, base } => (text, number, base),
        Cleaned::Discarded { reason, base, alive } => {
            return discarded(next, reason, base, alive, interval, time, ctx.now);
        }
    };
    let value = number.map_or_else(|| Value::Text(text.clone()), Value::Number);
    let increment_changed = base.is_some();
    next.increment = base.or(next.increment);

    let due = text != state.data || state.last_try < time - KEEP_FOR_S;
    let late = state.utimestamp != 0 && time < state.timestamp;
    let stale = ctx.settings.lifo && time <= state.utimestamp;
    if late || stale {
        let save = module.history_data && (stale || due || module.module_type.is_async());
        let row = save.then_some((time, value));
        return Outcome { state: next, row, increment_changed, ..Outcome::default() };
    }

    let raw =
        flip_flop::escalate(module, &mut next, judge::judge(module, &text, number, reading, &state.data));
    next.current_interval = next_interval(agent, module, ctx);
    let mut events = Vec::new();
    if flip_flop::accept(module, &mut next, raw, time, ctx.now) {
        next.known_status = raw;
        events.extend(state_event(agent, module, state.status, raw, true, &text, ctx));
        next.status = raw;
    } else if next.status == Status::NotInit {
        (next.status, next.known_status) = (Status::Normal, Status::Normal);
    } else if next.status == Status::Unknown {
        let back = if next.known_status == Status::Unknown { raw } else { next.known_status };
        events.extend(state_event(agent, module, Status::Unknown, back, false, &text, ctx));
        next.status = back;
        next.known_status = back;
        flip_flop::reset_counters(&mut next);
    }
    let save = module.history_data && (due || module.module_type.is_async());
    (next.last_status, next.last_known_status) = (raw, raw);
    next.utimestamp = ctx.now;
    next.timestamp = time;
    next.last_execution_try = time;
    next.data = text;
    next.last_error.clear();
    if save {
        next.last_try = time;
    }
    finish(state, next, save.then_some((time, value)), increment_changed, events, ctx.now)
}

fn finish(
    before: &ModuleState,
    mut next: ModuleState,
    row: Option<(i64, Value)>,
    increment_changed: bool,
    events: Vec<Event>,
    now: i64,
) -> Outcome {
    let changed = (before.status != next.status).then_some((before.status, next.status));
    if changed.is_some() {
        next.last_status_change = now;
    }
    let state_row_changed = row.is_some() || !next.same_row(before);
    Outcome {
        state: next,
        row,
        increment_changed,
        events,
        changed,
        state_row_changed,
        refused: None,
        duplicate: false,
    }
}

fn discarded(
    mut next: ModuleState,
    reason: String,
    base: Option<(f64, i64)>,
    alive: bool,
    interval: u32,
    time: i64,
    now: i64,
) -> Outcome {
    let increment_changed = base.is_some();
    next.increment = base.or(next.increment);
    // The first sample of a counter is no error; its try has the sample's time.
    next.last_execution_try = if reason.is_empty() { time } else { now };
    next.current_interval = interval;
    if alive {
        next.utimestamp = now;
    }
    next.last_error.clone_from(&reason);
    let refused = (!reason.is_empty()).then_some(reason);
    Outcome { state: next, increment_changed, refused, state_row_changed: true, ..Outcome::default() }
}

/// A network check that brought no value (no answer, bad target): only the try is recorded.
pub fn process_error(
    agent: &Agent,
    module: &Module,
    state: &ModuleState,
    slot: i64,
    reason: &str,
    ctx: &Context<'_>,
) -> Outcome {
    if slot <= state.last_slot {
        return Outcome { state: state.clone(), duplicate: true, ..Outcome::default() };
    }
    let mut next = state.clone();
    next.last_slot = slot;
    next.last_execution_try = slot;
    next.current_interval = next_interval(agent, module, ctx);
    next.last_error = reason.to_owned();
    let state_row_changed = !next.same_row(state);
    Outcome { state: next, refused: Some(reason.to_owned()), state_row_changed, ..Outcome::default() }
}

/// Looks at the clock: has this module been silent for too long (semantics A.9)? `None` = nothing to do.
///
/// Asynchronous modules fall back to normal instead, keep-alive modules get the value 0.
pub fn detect_unknown(
    agent: &Agent,
    module: &Module,
    state: &ModuleState,
    ctx: &Context<'_>,
) -> Option<Outcome> {
    let exempt = agent.disabled || module.disabled || agent.ignore_unknown || module.ignore_unknown;
    if exempt || state.utimestamp == 0 {
        return None;
    }
    let keep_alive = module.module_type == crate::ModuleType::KEEP_ALIVE;
    let interval = match (keep_alive, state.current_interval) {
        (true, _) => agent.interval_s.max(1),
        (false, 0) => interval_of(agent, module),
        (false, current) => current,
    };
    let limit = i64::from(ctx.settings.unknown_interval) * i64::from(interval);
    if state.utimestamp + limit >= ctx.now {
        return None;
    }
    if keep_alive {
        let own = state.last_execution_try + i64::from(state.current_interval) < ctx.now;
        let reading = Reading { time: ctx.now, raw: "0".to_owned(), given_status: None };
        // Still silent and said so: nothing new until the agent is back.
        let said = state.data == "0.00000";
        return (own && !said).then(|| process(agent, module, state, &reading, ctx));
    }
    let mut next = state.clone();
    if module.module_type.is_async() {
        if state.status == Status::Normal || !ctx.settings.async_recovery {
            return None;
        }
        let normal = Status::Normal;
        (next.status, next.known_status, next.last_status, next.last_known_status) =
            (normal, normal, normal, normal);
        let event = state_event(agent, module, state.status, Status::Normal, true, "N/A", ctx);
        let event = event.map(|event| Event { severity: crate::Severity::Minor, validated: false, ..event });
        return Some(finish(state, next, None, false, event.into_iter().collect(), ctx.now));
    }
    if state.status == Status::Unknown {
        return None;
    }
    (next.status, next.last_status) = (Status::Unknown, Status::Unknown);
    next.last_unknown_update = ctx.now;
    let event = state_event(agent, module, state.status, Status::Unknown, true, &state.data, ctx);
    Some(finish(state, next, None, false, event.into_iter().collect(), ctx.now))
}

impl Module {
    /// A module with the defaults of the schema.
    pub fn with_defaults(agent: crate::AgentId, name: &str, module_type: crate::ModuleType) -> Module {
        Module {
            id: crate::ModuleId(0),
            agent,
            position: 0,
            name: name.to_owned(),
            module_type,
            description: String::new(),
            extended_info: String::new(),
            interval_s: 0,
            cron: String::new(),
            min: 0,
            max: 0,
            post_process: 0.0,
            warning: crate::Threshold::default(),
            critical: crate::Threshold::default(),
            warning_time: 0,
            flip_flop: crate::FlipFlop::default(),
            history_data: true,
            disabled: false,
            quiet: false,
            ignore_unknown: false,
            disabled_events: Vec::new(),
            unit: String::new(),
            custom_id: String::new(),
            module_group: 0,
            critical_instructions: String::new(),
            warning_instructions: String::new(),
            unknown_instructions: String::new(),
            check: None,
        }
    }

    /// Values of this module go to `tagent_data_string`.
    pub fn is_text(&self) -> bool {
        self.module_type.kind() == Kind::Text
    }
}
