//! How far an installation or an update is. PURE.

use serde::{Deserialize, Serialize};

/// Version of the file.
const VERSION: u32 = 1;
/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Install,
    Update,
    /// Back to the version in the other slot.
    Previous,
}

impl Work {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Work::Install => "Install",
            Work::Update => "Update",
            Work::Previous => "Previous",
        }
    }

    /// How many steps it has.
    #[must_use]
    pub fn steps(self) -> u32 {
        match self {
            Work::Install => 5,
            Work::Update => 4,
            Work::Previous => 3,
        }
    }
}

/// Work on a disk that goes on, went well or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    version: u32,
    pub work: Work,
    /// Name of the disk.
    pub disk: String,
    /// 0 before the first one.
    pub step: u32,
    what: String,
    percent: Option<u64>,
    done: bool,
    error: Option<String>,
    /// Of an update: the version that the next start runs.
    #[serde(default)]
    pub to: Option<String>,
    /// Which order of the node agent it follows.
    #[serde(default)]
    pub order: Option<i64>,
}

impl Progress {
    #[must_use]
    pub fn new(work: Work, disk: &str) -> Progress {
        Progress {
            version: VERSION,
            work,
            disk: disk.to_owned(),
            step: 0,
            what: String::new(),
            percent: None,
            done: false,
            error: None,
            to: None,
            order: None,
        }
    }

    pub fn step(&mut self, what: &str) {
        self.step += 1;
        what.clone_into(&mut self.what);
        self.percent = None;
    }

    /// Whether that is news.
    pub fn at(&mut self, percent: u64) -> bool {
        self.percent.replace(percent) != Some(percent)
    }

    pub fn finish(&mut self) {
        self.done = true;
    }

    pub fn fail(&mut self, why: &str) {
        self.error = Some(why.to_owned());
    }

    /// It goes on.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.done && self.error.is_none()
    }

    /// Why it failed.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The disk is ready to be started from.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// For a person.
    #[must_use]
    pub fn line(&self) -> String {
        let disk = &self.disk;
        if let Some(why) = &self.error {
            return format!("on {disk} failed: {why}");
        }
        if self.done {
            return match self.work {
                Work::Install => {
                    format!("on {disk} done: take the medium out and restart; memory's state is left")
                }
                Work::Update | Work::Previous => {
                    format!("on {disk} done: restart; if it does not work this version starts again")
                }
            };
        }
        let percent = self.percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
        format!("on {disk}, step {} of {}: {}{percent}", self.step, self.work.steps(), self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_how_far_it_is() {
        let mut progress = Progress::new(Work::Install, "vda");
        progress.step("parts");
        progress.step("the root");
        assert!(progress.at(45) && !progress.at(45) && progress.runs());
        assert_eq!(progress.line(), "on vda, step 2 of 5: the root, 45 %");
        let mut failed = progress.clone();
        failed.fail("no space");
        assert!(!failed.runs() && failed.line() == "on vda failed: no space");
        progress.finish();
        assert!(!progress.runs() && progress.line().contains("done"));
    }
}
