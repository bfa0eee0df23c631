//! `elpis dev remove`: stops a development cluster and deletes its folder, and nothing but such a folder.

use super::layout::Layout;
use super::{control, supervisor};
use crate::output;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Names the cluster; deleted last, so that a removal that was broken off can be repeated.
const MARKER: &str = "ports.json";

pub(crate) fn remove(dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        output::line(&format!("nothing to delete: there is no {}", dir.display()));
        return Ok(());
    }
    let refused = || format!("{} is left alone, nothing in it was touched", dir.display());
    let layout = Layout::open(dir).with_context(refused)?;
    // A file of that name alone is not enough: it has to be our list of nodes.
    if layout.ports().with_context(refused)?.nodes.is_empty() {
        bail!("{}: its {MARKER} names no node", refused());
    }
    control::down(&layout)?;
    let layout = Layout::open(dir)?;
    let Some(lock) = supervisor::lock(&layout)? else {
        bail!("{} has just been started again; try once more", dir.display())
    };
    let done = delete(&layout.dir);
    layout.forget_link();
    drop(lock);
    done?;
    output::line(&format!("{} deleted", layout.dir.display()));
    Ok(())
}

fn delete(dir: &Path) -> Result<()> {
    let failed = |path: &Path| format!("cannot delete {}; delete it by hand", path.display());
    for entry in fs::read_dir(dir).with_context(|| failed(dir))? {
        let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?))).with_context(|| failed(dir))?;
        if path.file_name().is_some_and(|name| name == MARKER) {
            continue;
        }
        // A link is deleted, not what it points to.
        let gone = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.with_context(|| failed(&path))?;
    }
    fs::remove_file(dir.join(MARKER)).with_context(|| failed(dir))?;
    fs::remove_dir(dir).with_context(|| failed(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cluster_of_ours_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let letter = dir.path().join("letter.txt");
        fs::write(&letter, "dear").unwrap();
        let why = format!("{:#}", remove(dir.path()).unwrap_err());
        assert!(why.contains("left alone") && why.contains("no development cluster"), "{why}");
        for foreign in ["{}", r#"{"version":1,"sink":1,"nodes":[]}"#, "not ours"] {
            fs::write(dir.path().join(MARKER), foreign).unwrap();
            let why = format!("{:#}", remove(dir.path()).unwrap_err());
            assert!(why.contains("left alone"), "{why}");
        }
        assert!(letter.is_file());
        remove(&dir.path().join("nowhere")).unwrap();
    }

    #[test]
    fn all_of_it_goes_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("x".repeat(100)), dir.path().join("other"));
        let layout = Layout::create(&ours).unwrap();
        layout.provide_ports(2).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letter.txt"), "dear").unwrap();
        std::os::unix::fs::symlink(&other, ours.join("link")).unwrap();
        remove(&ours).unwrap();
        assert!(!ours.exists() && other.join("letter.txt").is_file());
        assert!(!layout.path("").exists(), "the short name is gone, too");
        remove(&ours).unwrap();
    }
}
