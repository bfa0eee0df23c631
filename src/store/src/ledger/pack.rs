//! Executions of one flush as bytes: version, then pairs of variable-length numbers in order.

use elpis_monitor::ModuleId;

/// Version of the packed list.
const VERSION: u8 = 1;

/// A flush's executions, packed.
pub(crate) struct Packed {
    pub(crate) executions: u32,
    pub(crate) first_slot: i64,
    pub(crate) last_slot: i64,
    pub(crate) bytes: Vec<u8>,
}

impl Packed {
    /// Packs; without the list (`list` off) the count and the range of slots stay.
    pub(crate) fn new(executions: &[(ModuleId, i64)], list: bool) -> Packed {
        let mut sorted = executions.to_vec();
        sorted.sort_unstable();
        let slots = sorted.iter().map(|e| e.1);
        let mut bytes = Vec::new();
        if list && !sorted.is_empty() {
            bytes.push(VERSION);
            let (mut module, mut slot) = (0u32, 0i64);
            for (m, s) in &sorted {
                put(&mut bytes, u64::from(m.0.wrapping_sub(module)));
                // Slots go up and down: the sign moves to the lowest bit.
                let step = s.wrapping_sub(slot);
                put(&mut bytes, ((step << 1) ^ (step >> 63)) as u64);
                (module, slot) = (m.0, *s);
            }
        }
        Packed {
            executions: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
            first_slot: slots.clone().min().unwrap_or(0),
            last_slot: slots.max().unwrap_or(0),
            bytes,
        }
    }
}

/// Unpacks; `None` when the bytes are torn or of another version.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Vec<(ModuleId, i64)>> {
    let Some((version, mut rest)) = bytes.split_first() else { return Some(Vec::new()) };
    if *version != VERSION {
        return None;
    }
    let mut list = Vec::new();
    let (mut module, mut slot) = (0u32, 0i64);
    while !rest.is_empty() {
        module = module.wrapping_add(u32::try_from(take(&mut rest)?).ok()?);
        let step = take(&mut rest)?;
        slot = slot.wrapping_add((step >> 1) as i64 ^ -((step & 1) as i64));
        list.push((ModuleId(module), slot));
    }
    Some(list)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, later) = rest.split_first()?;
        *rest = later;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_out_in_order(mut list in prop::collection::vec((any::<u32>(), any::<i64>()), 0..200)) {
            let executions: Vec<_> = list.iter().map(|(m, s)| (ModuleId(*m), *s)).collect();
            let packed = Packed::new(&executions, true);
            list.sort_unstable();
            let expected: Vec<_> = list.into_iter().map(|(m, s)| (ModuleId(m), s)).collect();
            prop_assert_eq!(unpack(&packed.bytes), Some(expected));
        }

        #[test]
        fn torn_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn a_check_costs_a_few_bytes() {
        let executions: Vec<_> =
            (0..1000).map(|i| (ModuleId(5000 + i), 1_700_000_000 + i64::from(i % 7))).collect();
        let packed = Packed::new(&executions, true);
        assert!(packed.bytes.len() < 2100, "{}", packed.bytes.len());
        assert_eq!(
            (packed.executions, packed.first_slot, packed.last_slot),
            (1000, 1_700_000_000, 1_700_000_006)
        );
        assert!(Packed::new(&executions, false).bytes.is_empty());
    }
}
