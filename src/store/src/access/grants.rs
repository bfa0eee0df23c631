//! Which role may do what, table by table: what its statements need, no more. `tests/access.rs` runs the statements of
//! each role under such an account, and takes each privilege away to see that one of them then fails.

use super::AccessRole;

/// Table; privileges of data server, network server, console. S select, I insert, U update, D delete, P its partitions.
const TABLES: &[(&str, &str, &str, &str)] = &[
    ("_sqlx_migrations", "", "", "S"),
    ("cluster_fence", "SIU", "SIU", "SIU"),
    ("tagent", "SIU", "SU", "SIUD"),
    ("tagent_contact", "SIUD", "SIU", "SD"),
    ("tagent_count", "SIUD", "SIU", "SIUD"),
    ("tagent_data", "SIUP", "SIU", "S"),
    ("tagent_data_inc", "SIUD", "SIU", "S"),
    ("tagent_data_string", "SIUD", "SIU", "S"),
    ("tagent_module", "SIUD", "SU", "SIU"),
    ("tchange", "SID", "S", "I"),
    ("tconfig", "S", "S", ""),
    ("tconfig_os", "", "", "S"),
    ("tevent", "SIUD", "SIU", "SI"),
    ("tgroup", "S", "", "S"),
    ("tmodule_state", "SIUD", "SIU", "SIUD"),
    ("treport_done", "SID", "", ""),
    ("trun_ledger", "SID", "I", "S"),
    ("trun_schedule", "SID", "", "SI"),
    ("tsession", "", "", "SIUD"),
    ("tuser", "", "", "SIU"),
];

fn letters(role: AccessRole) -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES
        .iter()
        .map(move |(table, data, network, console)| {
            let letters = match role {
                AccessRole::Data => data,
                AccessRole::Network => network,
                AccessRole::Console => console,
            };
            (*table, *letters)
        })
        .filter(|(_, letters)| !letters.is_empty())
}

fn words(letter: char) -> &'static [&'static str] {
    match letter {
        'S' => &["SELECT"],
        'I' => &["INSERT"],
        'U' => &["UPDATE"],
        'D' => &["DELETE"],
        'P' => &["ALTER", "CREATE", "DROP"],
        _ => &[],
    }
}

/// (table, privileges as SQL lists them).
pub(super) fn of(role: AccessRole) -> impl Iterator<Item = (&'static str, String)> {
    letters(role).map(|(table, letters)| {
        let all: Vec<&str> = letters.chars().flat_map(words).copied().collect();
        (table, all.join(", "))
    })
}

/// (table, privilege), one by one.
#[cfg(feature = "testdb")]
pub(crate) fn privileges(role: AccessRole) -> Vec<(&'static str, &'static str)> {
    letters(role)
        .flat_map(|(table, letters)| letters.chars().flat_map(words).map(move |word| (table, *word)))
        .collect()
}
