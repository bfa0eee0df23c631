//! A site with many agents and modules, a few of them broken, as rows.

use super::node::World;
use std::fmt::Write;

const NAMES: [(&str, &str); 20] = [
    ("CPU load", "%"),
    ("Memory used", "%"),
    ("Swap used", "%"),
    ("Disk / used", "%"),
    ("Disk /var used", "%"),
    ("Load average 5 min", ""),
    ("Processes", ""),
    ("Open files", ""),
    ("Uptime", "d"),
    ("Users signed in", ""),
    ("eth0 in", "Mbit/s"),
    ("eth0 out", "Mbit/s"),
    ("eth0 errors", "/s"),
    ("TCP connections", ""),
    ("SSH answers", ""),
    ("HTTP answers", ""),
    ("HTTP response time", "ms"),
    ("Mail queue", ""),
    ("Time offset", "ms"),
    ("Package updates", ""),
];

/// Fills the database of `world`: agents with 20 modules each. The first module of the first agent has a day of samples.
pub(crate) async fn fill(world: &World, agents: u32) {
    let now = world.now();
    let (mut a, mut counts, mut m, mut s) = (String::new(), String::new(), String::new(), String::new());
    for agent in 1..=agents {
        let name =
            format!("{}-{agent:03}.site.example", ["web", "db", "app", "edge", "store"][agent as usize % 5]);
        let group = [2, 8, 12, 9, 2][agent as usize % 5];
        let ip = format!("10.{}.{}.{}", agent / 250, agent % 250, 10 + agent % 200);
        let sep = if agent == 1 { "" } else { "," };
        let _ = write!(
            a,
            "{sep}({agent},'{name}','{}','{ip}',{group},{},300,{})",
            &name[..name.find('.').unwrap()],
            now - i64::from(agent % 290),
            agent % 4096
        );
        let mut n = [0; 4];
        for (i, (module, unit)) in NAMES.iter().enumerate() {
            let id = agent * 20 + u32::try_from(i).unwrap();
            let status = match id {
                20 => 2,
                _ if id % 1709 == 0 => 1,
                _ if id % 641 == 0 => 2,
                _ if id % 997 == 0 => 3,
                _ => 0,
            };
            n[status] += 1;
            let value = match status {
                1 => 97.31250,
                2 => 78.5,
                _ => f64::from(id * 37 % 6100) / 100.0,
            };
            let sep = if m.is_empty() { "" } else { "," };
            let _ = write!(m, "{sep}({id},{agent},{i},1,1,'{module}','{unit}',70,85,85,0)");
            let ago = i64::from(id % 280);
            let _ = write!(
                s,
                "{sep}({id},{agent},'{value:.5}',{status},{status},{},{},{},300,{})",
                now - ago,
                now - ago,
                now - ago,
                now - 60 - i64::from(id * 7919 % 90_000)
            );
        }
        let _ = write!(
            counts,
            "{}({agent},{},{},{},{})",
            if agent == 1 { "" } else { "," },
            n[0],
            n[1],
            n[2],
            n[3]
        );
    }
    let mut samples = String::new();
    for i in 0..1440_i32 {
        let at = now - 86_400 + i64::from(i) * 60;
        let x = f64::from(i);
        let value = 46.0
            + 18.0 * (x / 210.0).sin()
            + 7.0 * (x / 17.0).sin()
            + f64::from(i * 7919 % 100) / 12.0
            + if i > 1395 { f64::from(i - 1395) * 0.55 } else { 0.0 };
        let _ = write!(samples, "{}(20,{at},0,{value:.5})", if i == 0 { "" } else { "," });
    }
    let mut events = String::new();
    for i in 0..130 {
        let (kind, severity, word) = [
            ("going_up_critical", 4, "CRITICAL"),
            ("going_down_normal", 2, "NORMAL"),
            ("going_up_warning", 3, "WARNING"),
            ("going_unknown", 5, "UNKNOWN"),
        ][i % 4];
        let (agent, module) = (1 + i % 9, NAMES[i % 20].0);
        let _ = write!(
            events,
            "{}({agent},{},{},'{kind}',{severity},'Module \\'{module}\\' is going to {word} (97.3)')",
            if i == 0 { "" } else { "," },
            agent * 20 + i % 20,
            now - 90_000 + i64::try_from(i).unwrap() * 690
        );
    }
    for sql in [
        format!(
            "INSERT INTO tagent (id_agent, name, alias, address, id_group, last_contact, `interval`, shard) VALUES {a}"
        ),
        format!(
            "INSERT INTO tagent_count (id_agent, normal_count, critical_count, warning_count, unknown_count) VALUES {counts}"
        ),
        format!(
            "INSERT INTO tagent_module (id_agent_module, id_agent, position, id_type_module, id_module, name, unit, min_warning, max_warning, min_critical, max_critical) VALUES {m}"
        ),
        format!(
            "INSERT INTO tmodule_state (id_agent_module, id_agent, data, status, known_status, utimestamp, sample_utimestamp, last_try, current_interval, last_status_change) VALUES {s}"
        ),
        format!("INSERT INTO tagent_data (id_agent_module, utimestamp, n, data) VALUES {samples}"),
        format!(
            "INSERT INTO tevent (id_agent, id_agent_module, utimestamp, event_type, severity, event) VALUES {events}"
        ),
        "ANALYZE TABLE tagent, tagent_module, tmodule_state, tagent_count".to_owned(),
    ] {
        world.db.execute(&sql).await.unwrap();
    }
}
