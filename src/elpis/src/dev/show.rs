//! What runs in a development cluster, as a table and as shell lines.

use super::layout::{Layout, local};
use super::process::{self, Condition};
use super::{control, mariadb, supervisor};
use crate::output;
use anyhow::Result;
use serde_json::{Value, json};

/// Processes with their conditions: `up`, `paused`, `down`.
pub(crate) fn status(layout: &Layout, as_json: bool) -> Result<()> {
    let mut nodes = Vec::new();
    let mut rows =
        vec![row("", "supervisor", process::find(&supervisor::pid_file(layout), &layout.path("")))];
    let managed = layout.is_managed();
    rows.push(row("", "mariadbd", process::find(&mariadb::pid_file(layout), &mariadb::folder(layout))));
    let outside = rows[1][2].clone();
    if managed {
        rows.pop();
    }
    for node in layout.ports()?.nodes {
        let mut processes = serde_json::Map::new();
        for (file, folder) in control::files_of(layout, &node.name)? {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let cells = row(&node.name, &name, process::find(&file, &folder));
            processes.insert(name, json!({ "state": cells[2], "pid": cells[3].parse::<i32>().ok() }));
            rows.push(cells);
        }
        let down = layout.down_mark(&node.name).exists();
        nodes.push(json!({ "name": node.name, "down": down, "processes": processes }));
    }
    if as_json {
        output::json(&json!({
            "dir": layout.dir,
            "supervisor": rows[0][2],
            "mariadbd": if managed { Value::Null } else { json!(outside) },
            "nodes": Value::Array(nodes),
        }));
    } else {
        output::print(&output::table(&["node", "process", "state", "pid"], &rows, "nothing"));
    }
    Ok(())
}

fn row(node: &str, name: &str, found: Option<process::Process>) -> Vec<String> {
    let (state, pid) = match found {
        Some(p) if p.condition == Condition::Paused => ("paused", p.pid.to_string()),
        Some(p) => ("up", p.pid.to_string()),
        None => ("down", "-".to_owned()),
    };
    vec![node.to_owned(), name.to_owned(), state.to_owned(), pid]
}

/// Shell lines: `eval "$(elpis dev env)"`.
pub(crate) fn env(layout: &Layout) -> Result<()> {
    let mut lines = vec![("ELPIS_DEV_DIR".to_owned(), layout.dir.display().to_string())];
    let ports = layout.ports()?;
    lines.push(("ELPIS_NODES".into(), ports.nodes.len().to_string()));
    lines.push(("ELPIS_SINK".into(), local(ports.sink).to_string()));
    lines.push(("ELPIS_ADMIN_PASSWORD_FILE".into(), layout.dir.join("admin.password").display().to_string()));
    let (socket, user) = match layout.is_managed() {
        // The first node's gate leads to the primary, wherever that is.
        true => (layout.node("n1").join("run/gate/db.sock"), elpis_cluster::agent::database::ADMIN),
        false => (mariadb::socket(layout), mariadb::USER),
    };
    lines.push(("ELPIS_DATABASE_URL".into(), elpis_cluster::agent::accounts::socket_url(&socket)));
    lines.push(("ELPIS_DATABASE_USER".into(), user.into()));
    lines.push(("ELPIS_DATABASE_PASSWORD_FILE".into(), layout.dir.join("db.password").display().to_string()));
    lines.push(("ELPIS_DATABASE_SOCKET".into(), socket.display().to_string()));
    for (number, node) in (1..).zip(&ports.nodes) {
        let mut line = |name: &str, value: String| lines.push((format!("ELPIS_{name}_{number}"), value));
        line("CONSOLE", local(node.console).to_string());
        line("TENTACLE", local(node.tentacle).to_string());
        line("CLUSTER", local(node.cluster).to_string());
        line("DATA", layout.node(&node.name).display().to_string());
        for (file, folder) in control::files_of(layout, &node.name)? {
            if let Some(process) = process::find(&file, &folder) {
                let name =
                    file.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_").to_uppercase();
                line(&format!("PID_{name}"), process.pid.to_string());
            }
        }
    }
    for (name, value) in lines {
        output::line(&format!("{name}={}", quoted(&value)));
    }
    Ok(())
}

/// A word of the shell.
fn quoted(value: &str) -> String {
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/.:_-".contains(&b)) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn the_shell_reads_back_what_was_meant() {
        assert_eq!(quoted("/tmp/a-b"), "/tmp/a-b");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
