//! From outcomes of the rules to one batch of writes. Pure.

use elpis_monitor::{Agent, AgentId, Counts, Event, Module, ModuleId, ModuleState, Outcome};
use elpis_store::{AgentSeen, Batch, Contact, Flush, Row, Seen, ServerKind, Writer};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Outcomes gathered for one transaction.
///
/// A module may come several times: its last state wins, its rows all stay, its counters add up.
#[derive(Debug, Default)]
pub struct Pack {
    values: usize,
    rows: Vec<Row>,
    ordinals: HashMap<(ModuleId, i64), u16>,
    /// Seconds of modules that may have stored samples already.
    again: BTreeSet<(ModuleId, i64)>,
    increments: BTreeMap<ModuleId, (f64, i64)>,
    states: BTreeMap<ModuleId, (AgentId, ModuleState)>,
    counts: BTreeMap<AgentId, Counts>,
    events: Vec<Event>,
    touched: BTreeSet<AgentId>,
    learnt: Vec<AgentSeen>,
    executions: Vec<(ModuleId, i64)>,
    clear_forced: BTreeSet<ModuleId>,
    reports: Vec<[u8; 32]>,
}

impl Pack {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.values == 0 && self.events.is_empty() && self.states.is_empty() && self.reports.is_empty()
    }

    /// Values taken in, for the bound of a batch.
    pub fn values(&self) -> usize {
        self.values
    }

    /// Samples and states to write: what a batch costs the database.
    pub fn writes(&self) -> usize {
        self.rows.len() + self.states.len()
    }

    /// Agents whose contact row this batch writes.
    pub fn touched(&self) -> impl Iterator<Item = AgentId> {
        self.touched.iter().copied()
    }

    /// Takes in what one sample (or one look at the clock) made of a module; gives back the state to go on with.
    pub fn add(&mut self, agent: &Agent, module: &Module, outcome: Outcome) -> ModuleState {
        let Outcome { state, row, increment_changed, events, changed, state_row_changed, duplicate, .. } =
            outcome;
        if duplicate {
            return state;
        }
        self.values += 1;
        if let Some((utimestamp, value)) = row {
            let next = self.ordinals.entry((module.id, utimestamp)).or_insert(0);
            self.rows.push(Row { module: module.id, utimestamp, n: *next, value });
            *next = next.saturating_add(1);
        }
        if let (true, Some((raw, time))) = (increment_changed, state.increment) {
            self.increments.insert(module.id, (raw, time));
        }
        if state_row_changed {
            self.states.insert(module.id, (agent.id, state.clone()));
        } else if let Some((_, held)) = self.states.get_mut(&module.id) {
            // An earlier sample of this batch writes the row: it has to say the newest.
            held.clone_from(&state);
        }
        if let Some((from, to)) = changed {
            self.counts.entry(agent.id).or_default().merge(Counts::change(from, to));
        }
        self.events.extend(events);
        state
    }

    /// Samples of earlier batches may stand in this second of the module.
    pub fn may_stand(&mut self, module: ModuleId, second: i64) {
        self.again.insert((module, second));
    }

    /// Seconds whose stored samples must be asked for right before the batch is sealed, for [`Pack::follow`].
    pub fn again(&self) -> Vec<(ModuleId, i64)> {
        self.again.iter().copied().collect()
    }

    /// Moves rows behind the samples that stand in their seconds; then nothing may be added any more.
    pub fn follow(&mut self, next: &HashMap<(ModuleId, i64), u16>) {
        for row in &mut self.rows {
            if let Some(first) = next.get(&(row.module, row.utimestamp)) {
                row.n = row.n.saturating_add(*first);
            }
        }
    }

    /// The agent's contact row is to be written.
    pub fn touch(&mut self, agent: AgentId) {
        self.touched.insert(agent);
    }

    /// What the agent's own row is to learn.
    pub fn learn(&mut self, seen: AgentSeen) {
        self.learnt.push(seen);
    }

    /// A check ran for this slot.
    pub fn executed(&mut self, module: ModuleId, slot: i64, forced: bool) {
        self.executions.push((module, slot));
        if forced {
            self.clear_forced.insert(module);
        }
    }

    /// An event of its own.
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// This report is in the batch.
    pub fn report(&mut self, key: [u8; 32]) {
        self.reports.push(key);
    }

    /// The batch. `seen` gives an agent's contact row; `flush` = number of a network server's flush.
    pub fn seal(
        self,
        writer: Writer,
        kind: ServerKind,
        flush: Option<u64>,
        now: i64,
        mut seen: impl FnMut(AgentId) -> Option<Seen>,
    ) -> Batch {
        let contacts = self
            .touched
            .iter()
            .filter_map(|&agent| Some(Contact { agent, kind, utimestamp: now, seen: seen(agent)? }))
            .collect();
        Batch {
            reports: self.reports,
            flush: flush.map(|number| Flush { number, executions: self.executions, now }),
            rows: self.rows,
            increments: self
                .increments
                .into_iter()
                .map(|(module, (raw, time))| (module, raw, time))
                .collect(),
            states: self.states.into_iter().map(|(module, (agent, state))| (module, agent, state)).collect(),
            contacts,
            counts: self.counts.into_iter().filter(|(_, counts)| !counts.is_zero()).collect(),
            agents: self.learnt,
            events: self.events,
            clear_forced: self.clear_forced.into_iter().collect(),
            ..Batch::new(writer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use elpis_monitor::{Context, ModuleType, Reading, Settings, Status, Value, process};

    /// Runs samples (time, raw) of one module through the rules into one batch.
    fn batch(module_type: &str, samples: &[(i64, &str)]) -> (Batch, ModuleState) {
        let agent = Agent { id: AgentId(7), interval_s: 300, ..Agent::default() };
        let mut module = Module::with_defaults(agent.id, "m", ModuleType::from_name(module_type).unwrap());
        module.id = ModuleId(3);
        let settings = Settings::default();
        let mut state = ModuleState::new(&module);
        let mut pack = Pack::default();
        for (time, raw) in samples {
            let ctx = Context { now: *time, local_offset_s: 0, mute: false, settings: &settings };
            let reading = Reading { time: *time, raw: (*raw).to_owned(), given_status: None };
            let outcome = process(&agent, &module, &state, &reading, &ctx);
            if !outcome.duplicate {
                pack.executed(module.id, *time, false);
                pack.touch(agent.id);
            }
            state = pack.add(&agent, &module, outcome);
        }
        let writer = Writer { name: "n1/network-server".into(), session: 1, incarnation: 2 };
        (pack.seal(writer, ServerKind::Network, Some(9), 5000, |_| Some(Seen::default())), state)
    }

    #[test]
    fn an_unchanged_value_costs_a_contact_and_nothing_else() {
        let (batch, state) = batch("remote_tcp_proc", &[(1000, "1"), (1300, "1"), (1300, "1"), (1600, "1")]);
        assert_eq!(batch.rows.len(), 1);
        assert_eq!(batch.states, [(ModuleId(3), AgentId(7), state)]);
        assert_eq!((batch.contacts.len(), batch.contacts[0].utimestamp), (1, 5000));
        // The second result for slot 1300 is no execution.
        let flush = batch.flush.unwrap();
        assert_eq!((flush.number, flush.executions.len()), (9, 3));
    }

    #[test]
    fn changes_add_up_and_the_last_state_wins() {
        let (batch, state) = batch("remote_tcp_proc", &[(1000, "1"), (1300, "0"), (1600, "1"), (1900, "0")]);
        assert_eq!((batch.rows.len(), batch.events.len()), (4, 3));
        assert_eq!((state.status, batch.states[0].2.timestamp), (Status::Critical, 1900));
        let counts = Counts { not_init: -1, critical: 1, ..Counts::default() };
        assert_eq!(batch.counts, [(AgentId(7), counts)]);
    }

    #[test]
    fn rates_carry_their_base_and_equal_seconds_their_ordinal() {
        let (batch, _) = batch("remote_snmp_inc", &[(1000, "10"), (1100, "210")]);
        assert_eq!(batch.rows[0].value, Value::Number(2.0));
        assert_eq!(batch.increments, [(ModuleId(3), 210.0, 1100)]);
        let (batch, _) = super::tests::batch("generic_data", &[(1000, "1"), (1000, "2"), (1000, "3")]);
        assert_eq!(batch.rows.iter().map(|row| row.n).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
