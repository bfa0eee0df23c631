//! The contact row's `seen`: when each module of an agent was last heard of.

use elpis_monitor::ModuleState;

/// Eight bytes a module position, big-endian: server second and sample second (network checks: the slot).
///
/// `set` for every sample and every recorded slot. A refused value or a failed check keeps the server second (the
/// module grows old) and moves the sample second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<u8>);

impl Seen {
    /// From stored bytes; a torn last entry is dropped.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Seen {
        bytes.truncate(bytes.len() / 8 * 8);
        Seen(bytes)
    }

    /// Bytes as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// (server second, sample second) of a position; zeros when it was never heard of.
    pub fn get(&self, position: u16) -> (i64, i64) {
        let at = usize::from(position) * 8;
        let second = |at: usize| match self.0.get(at..at + 4) {
            Some(&[a, b, c, d]) => i64::from(u32::from_be_bytes([a, b, c, d])),
            _ => 0,
        };
        (second(at), second(at + 4))
    }

    /// Sets both times of a position. Times outside of 1970 to 2106 are held at the ends.
    pub fn set(&mut self, position: u16, server: i64, sample: i64) {
        let at = usize::from(position) * 8;
        if self.0.len() < at + 8 {
            self.0.resize(at + 8, 0);
        }
        let bytes = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX).to_be_bytes();
        self.0[at..at + 4].copy_from_slice(&bytes(server));
        self.0[at + 4..at + 8].copy_from_slice(&bytes(sample));
    }

    /// Takes a state's times in: what the state row will not say by itself.
    pub fn record(&mut self, position: u16, network: bool, state: &ModuleState) {
        let sample = if network { state.last_slot } else { state.timestamp };
        self.set(position, state.utimestamp, sample);
    }

    /// Brings a state as read from its row up to the last sample (the same rule as the view `tagent_status`).
    pub fn complete(&self, position: u16, network: bool, state: &mut ModuleState) {
        complete(self.get(position), network, state);
    }
}

/// [`Seen::complete`] with the pair of one position.
pub(crate) fn complete((server, sample): (i64, i64), network: bool, state: &mut ModuleState) {
    state.utimestamp = state.utimestamp.max(server);
    state.last_execution_try = state.last_execution_try.max(sample);
    if state.last_error.is_empty() {
        state.timestamp = state.timestamp.max(sample);
    }
    if network {
        state.last_slot = state.last_slot.max(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_independent_and_bounded() {
        let mut seen = Seen::default();
        seen.set(3, 1_700_000_000, 1_699_999_990);
        seen.set(0, -5, i64::MAX);
        assert_eq!(seen.get(3), (1_700_000_000, 1_699_999_990));
        assert_eq!(seen.get(0), (0, i64::from(u32::MAX)));
        assert_eq!((seen.get(2), seen.get(60_000)), ((0, 0), (0, 0)));
        assert_eq!(Seen::from_bytes(seen.as_bytes().to_vec()), seen);
    }

    #[test]
    fn a_failed_check_ages_the_module_but_not_its_slot() {
        let mut state = ModuleState {
            utimestamp: 100,
            timestamp: 90,
            last_error: "no answer".into(),
            ..Default::default()
        };
        let mut seen = Seen::default();
        seen.set(1, 100, 160);
        seen.complete(1, true, &mut state);
        assert_eq!(
            (state.utimestamp, state.timestamp, state.last_slot, state.last_execution_try),
            (100, 90, 160, 160)
        );
    }
}
