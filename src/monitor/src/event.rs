//! State events (semantics I.1, I.2).

use crate::{Agent, Context, Event, EventType, Module, Severity, Status};

/// The event of a change of the accepted state, if there is one.
pub(crate) fn state_event(
    agent: &Agent,
    module: &Module,
    from: Status,
    to: Status,
    real: bool,
    data: &str,
    ctx: &Context<'_>,
) -> Option<Event> {
    let settings = ctx.settings;
    let unknown_involved = from == Status::Unknown || to == Status::Unknown;
    let (event_type, severity, text) = match (from, to) {
        (_, Status::Unknown) => (EventType::GoingUnknown, Severity::Minor, &settings.text_unknown),
        (_, Status::Critical) => (EventType::GoingUpCritical, Severity::Critical, &settings.text_critical),
        (Status::Critical, Status::Warning) => {
            (EventType::GoingDownWarning, Severity::Warning, &settings.text_down_warning)
        }
        (_, Status::Warning) => (EventType::GoingUpWarning, Severity::Warning, &settings.text_up_warning),
        (Status::NotInit, Status::Normal) => return None,
        (_, Status::Normal) => (EventType::GoingDownNormal, Severity::Normal, &settings.text_normal),
        (_, Status::NotInit) => return None,
    };
    let disabled = |kind: EventType| module.disabled_events.iter().any(|name| name == kind.name());
    let silent_return = unknown_involved && !real && disabled(EventType::GoingUnknown);
    let skip = ctx.mute || agent.quiet || module.quiet || (unknown_involved && !settings.unknown_events);
    if skip || disabled(event_type) || silent_return {
        return None;
    }
    let shown = shown_value(data, settings.graph_precision);
    Some(Event {
        agent: agent.id,
        module: module.id,
        group: agent.group,
        event_type,
        severity,
        text: text.replace("_module_", &module.name).replace("_data_", &shown),
        utimestamp: ctx.now,
        validated: event_type == EventType::GoingDownNormal,
        validates_earlier: settings.event_auto_validation,
        data: data.to_owned(),
        status: to,
    })
}

/// A value as people see it: numbers with few decimals and no zeros at the end; text as it stands.
pub(crate) fn shown_value(data: &str, precision: usize) -> String {
    let Ok(number) = data.parse::<f64>() else { return data.chars().take(200).collect() };
    let text = format!("{number:.precision$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
