//! Debian's packages as the image was made of them, and commands that must go well.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};
use std::process::Command;

/// What it said, whether it was well or not.
pub(crate) fn run(command: &mut Command) -> (bool, String) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    (done.status.success(), text + &String::from_utf8_lossy(&done.stderr))
}

pub(crate) fn well(command: &mut Command) -> String {
    let (good, text) = run(command);
    assert!(good, "{command:?}: {text}");
    text
}

/// They hold all that our package depends on; `make iso-test` fetches them.
pub(crate) fn base() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/iso");
    let bases = std::fs::read_dir(folder).ok()?.map(|file| file.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("base-") && name.ends_with(".tar")
    });
    bases.max_by_key(|path| path.metadata().unwrap().modified().unwrap())
}
