//! A comparison that is under way, and what came of it.

use crate::Error;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause after a comparison that could not be made.
const AGAIN: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Verifying {
    /// Instance of the server, and how often it had begun to follow.
    of: (u64, u64),
    /// The rows are the primary's, or are not; `None` = not known yet.
    pub(super) outcome: Option<bool>,
    task: Option<JoinHandle<Result<Vec<String>, Error>>>,
    failed: Option<Instant>,
}

/// What is to be done or said.
pub(super) enum Step {
    Begin,
    Differs(String),
    Failed(Error),
    Nothing,
}

impl Verifying {
    /// What was found out is of this server since it last began to follow; of another one it says nothing.
    pub(super) fn on(&mut self, of: (u64, u64)) {
        if self.of != of {
            self.stop();
            (self.of, self.outcome, self.failed) = (of, None, None);
        }
    }

    /// Threads of the server stand still for it.
    pub(super) fn runs(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Gives one up; replication goes on by the next orders.
    pub(super) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    pub(super) fn begin(&mut self, work: impl Future<Output = Result<Vec<String>, Error>> + Send + 'static) {
        self.task = Some(tokio::spawn(work));
    }

    /// Returns at once.
    pub(super) async fn step(&mut self) -> Step {
        if self.outcome.is_some() || self.runs() {
            return Step::Nothing;
        }
        let Some(task) = self.task.take() else {
            let wait = self.failed.is_some_and(|failed| failed.elapsed() < AGAIN);
            return if wait { Step::Nothing } else { Step::Begin };
        };
        match task.await {
            Ok(Ok(differ)) if differ.is_empty() => {
                self.outcome = Some(true);
                Step::Nothing
            }
            Ok(Ok(differ)) => {
                self.outcome = Some(false);
                Step::Differs(differ.join(", "))
            }
            Ok(Err(error)) => {
                self.failed = Some(Instant::now());
                Step::Failed(error)
            }
            Err(_) => {
                self.failed = Some(Instant::now());
                Step::Failed(Error::Other("it was cut short".to_owned()))
            }
        }
    }
}
