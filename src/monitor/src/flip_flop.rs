//! When a raw state becomes the accepted one (semantics A.6, A.7).

use crate::{Module, ModuleState, Status};

/// A warning that lasts becomes critical; the raw state after that rule.
pub(crate) fn escalate(module: &Module, state: &mut ModuleState, raw: Status) -> Status {
    if raw != Status::Warning || module.warning_time == 0 {
        state.warning_count = 0;
        return raw;
    }
    if state.status == Status::Warning {
        state.warning_count += 1;
    }
    if state.warning_count <= module.warning_time {
        return raw;
    }
    state.warning_count = module.warning_time + 1;
    Status::Critical
}

/// Counts the raw state in; true when it becomes the accepted state.
pub(crate) fn accept(module: &Module, state: &mut ModuleState, raw: Status, time: i64, now: i64) -> bool {
    let ff = &module.flip_flop;
    let limit = match (ff.each, raw) {
        (false, _) => ff.limit,
        (true, Status::Critical) => ff.critical,
        (true, Status::Warning) => ff.warning,
        (true, _) => ff.normal,
    };
    if ff.keep_counters {
        keep_counters(module, state, raw, limit)
    } else {
        consecutive(module, state, raw, limit, time.min(now))
    }
}

fn consecutive(module: &Module, state: &mut ModuleState, raw: Status, limit: u32, time: i64) -> bool {
    let ff = &module.flip_flop;
    let same = raw == state.last_known_status;
    state.status_changes = if same { state.status_changes.min(limit) + 1 } else { 0 };
    if ff.timeout_s > 0 && limit != 0 && module.module_type.is_async() {
        let late = time > state.ff_start_utimestamp + i64::from(ff.timeout_s);
        if !same || late {
            state.ff_start_utimestamp = time;
            state.status_changes = 0;
        }
    }
    if ff.interval_s > 0 && state.status_changes < limit {
        state.current_interval = ff.interval_s;
    }
    state.status_changes >= limit && raw != state.known_status
}

fn keep_counters(module: &Module, state: &mut ModuleState, raw: Status, limit: u32) -> bool {
    let counter = match raw {
        Status::Critical => &mut state.ff_critical,
        Status::Warning => &mut state.ff_warning,
        _ => &mut state.ff_normal,
    };
    *counter = counter.saturating_add(1);
    let over = *counter > limit;
    let change = over && raw != state.known_status;
    if over && !change && raw == Status::Normal {
        state.ff_normal = 0;
    } else if over {
        reset_counters(state);
    }
    let settled = if change { raw } else { state.known_status };
    if module.flip_flop.interval_s > 0 && raw != settled {
        state.current_interval = module.flip_flop.interval_s;
    }
    change
}

pub(crate) fn reset_counters(state: &mut ModuleState) {
    (state.ff_normal, state.ff_warning, state.ff_critical) = (0, 0, 0);
}
