//! An agent's file of any bytes: refused or parsed, and then within its limits.
#![no_main]

use elpis_agentxml::{Limits, decode, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let Ok(text) = decode(bytes, &limits) else { return };
    let Ok(report) = parse(&text, &limits) else { return };
    assert!(report.modules.len() <= limits.modules);
    assert!(report.modules.iter().all(|module| !module.name.trim().is_empty()));
});
