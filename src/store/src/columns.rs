//! Columns of agents, modules and states, and how rows become nouns. One list for reading, one for writing each.

use crate::ServerKind;
use crate::bulk::{Binder, cut, finite};
use elpis_monitor::{
    Agent, AgentId, AgentMode, Check, FlipFlop, GroupId, Module, ModuleId, ModuleState, ModuleType, Status,
    Threshold,
};
use sqlx::mysql::MySqlRow;
use sqlx::{Decode, MySql, Row, Type};

/// Columns of `tagent a`, in the order of [`agent`].
macro_rules! agent_columns {
    () => {
        "a.id_agent, a.name, a.alias, a.address, a.id_group, a.`interval`, a.mode, a.disabled, a.quiet, \
         a.ignore_unknown, a.fixed_ip, a.id_os, a.os_version, a.agent_version, a.comments, a.custom_id, a.id_parent, \
         a.timezone_offset, a.last_contact, a.last_remote_contact, a.next_position"
    };
}
/// Columns of `tagent_module m`, in the order of [`module`].
macro_rules! module_columns {
    () => {
        "m.id_agent_module, m.id_agent, m.position, m.name, m.id_type_module, m.description, m.extended_info, \
         m.module_interval, m.cron_interval, m.min, m.max, m.post_process, m.min_warning, m.max_warning, \
         m.str_warning, m.warning_inverse, m.percentage_warning, m.min_critical, m.max_critical, m.str_critical, \
         m.critical_inverse, m.percentage_critical, m.warning_time, m.min_ff_event, m.each_ff, \
         m.min_ff_event_normal, m.min_ff_event_warning, m.min_ff_event_critical, m.ff_type, m.ff_timeout, \
         m.module_ff_interval, m.history_data, m.disabled, m.quiet, m.ignore_unknown, m.disabled_types_event, \
         m.unit, m.custom_id, m.id_module_group, m.critical_instructions, m.warning_instructions, \
         m.unknown_instructions, m.ip_target, m.tcp_port, m.tcp_send, m.tcp_rcv, m.snmp_community, m.snmp_oid, \
         m.max_timeout, m.max_retries, m.flag"
    };
}
/// Columns of `tmodule_state s` and `tagent_data_inc i`, in the order of [`state`].
macro_rules! state_columns {
    () => {
        "s.data, s.status, s.known_status, s.last_status, s.last_known_status, s.status_changes, s.utimestamp, \
         s.sample_utimestamp, s.last_execution_try, s.last_try, s.current_interval, s.ff_start_utimestamp, \
         s.ff_normal, s.ff_warning, s.ff_critical, s.last_status_change, s.last_unknown_update, s.warning_count, \
         s.last_error, s.last_slot, i.value, i.utimestamp"
    };
}
pub(crate) use {agent_columns, module_columns, state_columns};

/// Reads the columns of a row one after another.
pub(crate) struct Reader<'r> {
    row: &'r MySqlRow,
    next: usize,
}

impl<'r> Reader<'r> {
    pub(crate) fn new(row: &'r MySqlRow) -> Reader<'r> {
        Reader { row, next: 0 }
    }
    pub(crate) fn take<T: Decode<'r, MySql> + Type<MySql>>(&mut self) -> Result<T, sqlx::Error> {
        self.next += 1;
        self.row.try_get(self.next - 1)
    }
    pub(crate) fn flag(&mut self) -> Result<bool, sqlx::Error> {
        Ok(self.take::<u8>()? != 0)
    }
    pub(crate) fn status(&mut self) -> Result<Status, sqlx::Error> {
        Ok(Status::from_number(self.take()?).unwrap_or_default())
    }
}

/// An agent, and the place of its next module.
pub(crate) fn agent(r: &mut Reader<'_>) -> Result<(Agent, u16), sqlx::Error> {
    let agent = Agent {
        id: AgentId(r.take()?),
        name: r.take()?,
        alias: r.take()?,
        address: r.take()?,
        group: GroupId(r.take()?),
        interval_s: r.take()?,
        mode: match r.take::<u8>()? {
            0 => AgentMode::Normal,
            2 => AgentMode::AutoDisable,
            _ => AgentMode::Learning,
        },
        disabled: r.flag()?,
        quiet: r.flag()?,
        ignore_unknown: r.flag()?,
        fixed_ip: r.flag()?,
        os: r.take()?,
        os_version: r.take()?,
        agent_version: r.take()?,
        comments: r.take()?,
        custom_id: r.take()?,
        parent: AgentId(r.take()?),
        timezone_offset_h: r.take()?,
        last_contact: r.take()?,
        last_remote_contact: r.take()?,
    };
    Ok((agent, r.take()?))
}

/// A module.
pub(crate) fn module(r: &mut Reader<'_>) -> Result<Module, sqlx::Error> {
    let id = ModuleId(r.take()?);
    let agent = AgentId(r.take()?);
    let position = r.take()?;
    let name = r.take()?;
    let module_type = ModuleType::from_id(r.take()?).unwrap_or(ModuleType::GENERIC_DATA);
    let mut module = Module {
        id,
        agent,
        position,
        name,
        module_type,
        description: r.take()?,
        extended_info: r.take()?,
        interval_s: r.take()?,
        cron: r.take()?,
        min: r.take()?,
        max: r.take()?,
        post_process: r.take()?,
        warning: threshold(r)?,
        critical: threshold(r)?,
        warning_time: r.take()?,
        flip_flop: FlipFlop {
            limit: r.take()?,
            each: r.flag()?,
            normal: r.take()?,
            warning: r.take()?,
            critical: r.take()?,
            keep_counters: r.flag()?,
            timeout_s: r.take()?,
            interval_s: r.take()?,
        },
        history_data: r.flag()?,
        disabled: r.flag()?,
        quiet: r.flag()?,
        ignore_unknown: r.flag()?,
        disabled_events: serde_json::from_str(&r.take::<String>()?).unwrap_or_default(),
        unit: r.take()?,
        custom_id: r.take()?,
        module_group: r.take()?,
        critical_instructions: r.take()?,
        warning_instructions: r.take()?,
        unknown_instructions: r.take()?,
        check: None,
    };
    let check = Check {
        target: r.take()?,
        port: u16::try_from(r.take::<u32>()?).unwrap_or(0),
        send: r.take()?,
        expect: r.take()?,
        community: r.take()?,
        oid: r.take()?,
        timeout_s: r.take()?,
        retries: r.take()?,
        forced: r.flag()?,
    };
    module.check = module_type.is_network().then_some(check);
    Ok(module)
}

fn threshold(r: &mut Reader<'_>) -> Result<Threshold, sqlx::Error> {
    Ok(Threshold {
        min: r.take()?,
        max: r.take()?,
        text: r.take::<String>()?.into(),
        inverse: r.flag()?,
        percentage: r.flag()?,
    })
}

/// A state as its row says it, brought up to the last sample by the contact row; a module without a row is new.
pub(crate) fn state(
    r: &mut Reader<'_>,
    module: &Module,
    seen: (i64, i64),
) -> Result<ModuleState, sqlx::Error> {
    let Some(data) = r.take::<Option<String>>()? else {
        r.next += 21;
        return Ok(ModuleState::new(module));
    };
    let mut state = ModuleState {
        data,
        status: r.status()?,
        known_status: r.status()?,
        last_status: r.status()?,
        last_known_status: r.status()?,
        status_changes: r.take()?,
        utimestamp: r.take()?,
        timestamp: r.take()?,
        last_execution_try: r.take()?,
        last_try: r.take()?,
        current_interval: r.take()?,
        ff_start_utimestamp: r.take()?,
        ff_normal: r.take()?,
        ff_warning: r.take()?,
        ff_critical: r.take()?,
        last_status_change: r.take()?,
        last_unknown_update: r.take()?,
        warning_count: r.take()?,
        last_error: r.take()?,
        last_slot: r.take()?,
        increment: None,
    };
    let (value, time): (Option<f64>, Option<i64>) = (r.take()?, r.take()?);
    state.increment = value.zip(time);
    crate::seen::complete(seen, module.module_type.is_network(), &mut state);
    Ok(state)
}

/// Columns that an insert of a module names, in the order of [`bind_module`].
macro_rules! module_insert {
    () => {
        "INSERT INTO tagent_module (id_agent, position, id_type_module, id_module, name, description, extended_info, \
         module_interval, cron_interval, min, max, post_process, min_warning, max_warning, str_warning, \
         warning_inverse, percentage_warning, min_critical, max_critical, str_critical, critical_inverse, \
         percentage_critical, warning_time, min_ff_event, each_ff, min_ff_event_normal, min_ff_event_warning, \
         min_ff_event_critical, ff_type, ff_timeout, module_ff_interval, history_data, disabled, quiet, \
         ignore_unknown, disabled_types_event, unit, custom_id, id_module_group, critical_instructions, \
         warning_instructions, unknown_instructions, ip_target, tcp_port, tcp_send, tcp_rcv, snmp_community, \
         snmp_oid, max_timeout, max_retries, flag) VALUES "
    };
}
pub(crate) use module_insert;

/// One row of [`module_insert`].
pub(crate) const MODULE_MARKS: &str =
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

/// Characters kept of a TEXT column (64 KiB of bytes).
const MAX_TEXT: usize = 16_000;

pub(crate) fn bind_module(q: &mut Binder, m: &Module) {
    let text = |text: &str| cut(text, MAX_TEXT).to_owned();
    let short = |text: &str| cut(text, 255).to_owned();
    q.add(m.agent.0);
    q.add(m.position);
    q.add(m.module_type.id());
    q.add(u16::from(ServerKind::of(m.module_type).number()));
    q.add(m.name.as_str());
    q.add(text(&m.description));
    q.add(text(&m.extended_info));
    q.add(m.interval_s);
    q.add(cut(&m.cron, 100));
    q.add(m.min);
    q.add(m.max);
    q.add(finite(m.post_process));
    for threshold in [&m.warning, &m.critical] {
        q.add(finite(threshold.min));
        q.add(finite(threshold.max));
        q.add(text(threshold.text.as_str()));
        q.add(u8::from(threshold.inverse));
        q.add(u8::from(threshold.percentage));
    }
    let ff = &m.flip_flop;
    q.add(m.warning_time);
    q.add(ff.limit);
    q.add(u8::from(ff.each));
    q.add(ff.normal);
    q.add(ff.warning);
    q.add(ff.critical);
    q.add(u8::from(ff.keep_counters));
    q.add(ff.timeout_s);
    q.add(ff.interval_s);
    for flag in [m.history_data, m.disabled, m.quiet, m.ignore_unknown] {
        q.add(u8::from(flag));
    }
    let disabled = serde_json::Value::from(m.disabled_events.clone()).to_string();
    q.add(if m.disabled_events.is_empty() { String::new() } else { disabled });
    q.add(cut(&m.unit, 100));
    q.add(short(&m.custom_id));
    q.add(m.module_group);
    q.add(text(&m.critical_instructions));
    q.add(text(&m.warning_instructions));
    q.add(text(&m.unknown_instructions));
    let none = Check::default();
    let check = m.check.as_ref().unwrap_or(&none);
    q.add(short(&check.target));
    q.add(u32::from(check.port));
    q.add(text(&check.send));
    q.add(text(&check.expect));
    q.add(short(&check.community));
    q.add(short(&check.oid));
    q.add(check.timeout_s);
    q.add(check.retries);
    q.add(u8::from(check.forced));
}
