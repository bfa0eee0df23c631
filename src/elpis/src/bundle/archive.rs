//! The file itself: a tar.gz that appears whole or not at all, readable by its owner alone.

use super::redact::Redactor;
use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A bundle that is being made.
pub(super) struct Archive {
    tar: tar::Builder<GzEncoder<BufWriter<File>>>,
    draft: Draft,
    out: PathBuf,
    /// Folder in the archive.
    top: String,
    now: u64,
    redactor: Redactor,
    files: Vec<(String, u64)>,
    missing: Vec<String>,
}

/// What was made.
pub(super) struct Done {
    pub(super) bytes: u64,
    /// Name and size of each file, in order.
    pub(super) files: Vec<(String, u64)>,
    /// What could not be had, and why.
    pub(super) missing: Vec<String>,
}

/// The unfinished file; gone when the making of it fails.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Archive {
    pub(super) fn create(out: &Path, top: &str, now: i64, redactor: Redactor) -> Result<Archive> {
        if fs::symlink_metadata(out).is_ok() {
            bail!("{} is there already; choose another name with --out", out.display());
        }
        let mut draft = out.as_os_str().to_owned();
        draft.push(format!(".{}.part", std::process::id()));
        let draft = PathBuf::from(draft);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.with_context(|| {
            format!("cannot write {}; choose another place with --out FILE.tar.gz", draft.display())
        })?;
        Ok(Archive {
            tar: tar::Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default())),
            draft: Draft(draft),
            out: out.to_owned(),
            top: top.to_owned(),
            now: u64::try_from(now).unwrap_or(0),
            redactor,
            files: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// Adds a text, without the secrets that are known.
    pub(super) fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let text = self.redactor.clean(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        self.tar
            .append_data(&mut header, format!("{}/{name}", self.top), text.as_bytes())
            .with_context(|| format!("cannot write {name} to {}", self.draft.0.display()))?;
        self.files.push((name.to_owned(), text.len() as u64));
        Ok(())
    }

    /// Adds a value as indented JSON.
    pub(super) fn json(&mut self, name: &str, value: &Value) -> Result<()> {
        self.text(name, &format!("{value:#}\n"))
    }

    /// Adds what was asked for, or says why it is not there.
    pub(super) fn answer(&mut self, name: &str, answer: Result<String, String>) -> Result<()> {
        match answer {
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value) if name.ends_with(".json") => self.json(name, &value),
                _ => self.text(name, &text),
            },
            Err(why) => {
                self.missing(format!("{name}: {why}"));
                Ok(())
            }
        }
    }

    /// Notes what could not be had.
    pub(super) fn missing(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }

    /// Adds what the bundle says of itself and gives the file its name.
    pub(super) fn finish(mut self, about: &str) -> Result<Done> {
        let mut text = about.to_owned();
        if !self.missing.is_empty() {
            text.push_str("\nNot in it:\n");
        }
        for what in &self.missing {
            text.push_str(&format!("- {what}\n"));
        }
        self.text("README.txt", &text)?;
        let file = self.tar.into_inner()?.finish()?.into_inner()?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        // A link never replaces; where there are none, the look at the begin has to do.
        if fs::hard_link(&self.draft.0, &self.out).is_err() {
            if fs::symlink_metadata(&self.out).is_ok() {
                bail!("{} has appeared meanwhile; choose another name with --out", self.out.display());
            }
            fs::rename(&self.draft.0, &self.out)?;
        }
        Ok(Done { bytes, files: self.files, missing: self.missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bundle_is_whole_private_and_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("b.tar.gz");
        let mut archive = Archive::create(&out, "b", 7, Redactor::default()).unwrap();
        archive.answer("a.json", Ok("{\"x\":1}".into())).unwrap();
        archive.answer("b.txt", Err("nobody answers".into())).unwrap();
        assert!(!out.exists());
        let done = archive.finish("about\n").unwrap();
        assert_eq!(
            done.files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["a.json", "README.txt"]
        );
        let found = fs::metadata(&out).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.len()), (0o600, done.bytes));
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&out).unwrap()));
        let mut texts = read.entries().unwrap().map(|entry| {
            let mut text = String::new();
            entry.unwrap().read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(texts.next().unwrap(), "{\n  \"x\": 1\n}\n");
        assert!(texts.next().unwrap().contains("b.txt: nobody answers"));
        assert!(Archive::create(&out, "b", 7, Redactor::default()).is_err());
        drop(Archive::create(&dir.path().join("c"), "c", 7, Redactor::default()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a draft is left behind");
    }
}
