//! Bulk statements of a batch.

use crate::bulk::Bulk;

pub(super) const REPORTS: Bulk = Bulk {
    head: "INSERT INTO treport_done (report_key, utimestamp) VALUES ",
    row: "(?,?)",
    tail: "",
    repeatable: false,
};
pub(super) const NUMBERS: Bulk = Bulk {
    head: "INSERT INTO tagent_data (id_agent_module, utimestamp, n, data) VALUES ",
    row: "(?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE data=VALUES(data)",
    repeatable: true,
};
pub(super) const TEXTS: Bulk = Bulk {
    head: "INSERT INTO tagent_data_string (id_agent_module, utimestamp, n, data) VALUES ",
    row: "(?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE data=VALUES(data)",
    repeatable: true,
};
pub(super) const BASES: Bulk = Bulk {
    head: "INSERT INTO tagent_data_inc (id_agent_module, value, utimestamp) VALUES ",
    row: "(?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE value=VALUES(value), utimestamp=VALUES(utimestamp)",
    repeatable: true,
};
pub(super) const STATES: Bulk = Bulk {
    head: "INSERT INTO tmodule_state (id_agent_module, id_agent, data, status, known_status, last_status, \
        last_known_status, status_changes, utimestamp, sample_utimestamp, last_execution_try, last_try, \
        current_interval, ff_start_utimestamp, ff_normal, ff_warning, ff_critical, last_status_change, \
        last_unknown_update, warning_count, last_error, last_slot) VALUES ",
    row: "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE data=VALUES(data), status=VALUES(status), known_status=VALUES(known_status), \
        last_status=VALUES(last_status), last_known_status=VALUES(last_known_status), \
        status_changes=VALUES(status_changes), utimestamp=VALUES(utimestamp), \
        sample_utimestamp=VALUES(sample_utimestamp), last_execution_try=VALUES(last_execution_try), \
        last_try=VALUES(last_try), current_interval=VALUES(current_interval), \
        ff_start_utimestamp=VALUES(ff_start_utimestamp), ff_normal=VALUES(ff_normal), ff_warning=VALUES(ff_warning), \
        ff_critical=VALUES(ff_critical), last_status_change=VALUES(last_status_change), \
        last_unknown_update=VALUES(last_unknown_update), warning_count=VALUES(warning_count), \
        last_error=VALUES(last_error), last_slot=VALUES(last_slot)",
    repeatable: true,
};
pub(super) const CONTACTS: Bulk = Bulk {
    head: "INSERT INTO tagent_contact (id_agent, server_type, utimestamp, running_by, seen) VALUES ",
    row: "(?,?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE utimestamp=VALUES(utimestamp), running_by=VALUES(running_by), seen=VALUES(seen)",
    repeatable: true,
};
pub(super) const COUNTS: Bulk = Bulk {
    head: "INSERT INTO tagent_count (id_agent, normal_count, critical_count, warning_count, unknown_count, \
        notinit_count, fired_count) VALUES ",
    row: "(?,?,?,?,?,?,?)",
    tail: " ON DUPLICATE KEY UPDATE normal_count=normal_count+VALUES(normal_count), \
        critical_count=critical_count+VALUES(critical_count), warning_count=warning_count+VALUES(warning_count), \
        unknown_count=unknown_count+VALUES(unknown_count), notinit_count=notinit_count+VALUES(notinit_count), \
        fired_count=fired_count+VALUES(fired_count)",
    repeatable: false,
};
pub(super) const UNFORCE: Bulk = Bulk {
    head: "UPDATE tagent_module SET flag=0 WHERE id_agent_module IN (",
    row: "?",
    tail: ")",
    repeatable: true,
};
pub(super) const EVENTS: Bulk = Bulk {
    head: "INSERT INTO tevent (id_agent, id_agent_module, id_group, status, utimestamp, ack_utimestamp, event_type, \
        severity, event, data, module_status) VALUES ",
    row: "(?,?,?,?,?,?,?,?,?,?,?)",
    tail: "",
    repeatable: false,
};

/// One text of each bulk statement, for the tests that prepare them all.
#[cfg(feature = "testdb")]
pub(crate) fn texts() -> Vec<String> {
    let mut texts = texts_of_results();
    texts.push(REPORTS.text(2));
    texts
}

/// Those that the results of checks need.
#[cfg(feature = "testdb")]
pub(crate) fn texts_of_results() -> Vec<String> {
    [NUMBERS, TEXTS, BASES, STATES, CONTACTS, COUNTS, UNFORCE, EVENTS].iter().map(|b| b.text(2)).collect()
}

/// Those that an operator's changes need.
#[cfg(feature = "testdb")]
pub(crate) fn texts_of_operators() -> Vec<String> {
    [STATES, COUNTS, EVENTS].iter().map(|b| b.text(2)).collect()
}
