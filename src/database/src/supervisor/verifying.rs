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

/// What came of a comparison, where there is something to say.
pub(super) enum Ended {
    Differs(String),
    Failed(Error),
}

impl Verifying {
    /// What was found out is of this server since it last began to follow; of another one it says nothing.
    pub(super) fn on(&mut self, of: (u64, u64)) {
        if self.of != of {
            self.stop();
            self.task = None;
            (self.of, self.outcome, self.failed) = (of, None, None);
        }
    }

    /// Threads of the server stand still for it.
    pub(super) fn runs(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Gives one up that goes on; replication goes on by the next orders. What has ended counts.
    pub(super) fn stop(&mut self) {
        if let Some(task) = self.task.take_if(|task| !task.is_finished()) {
            task.abort();
        }
    }

    pub(super) fn begin(&mut self, work: impl Future<Output = Result<Vec<String>, Error>> + Send + 'static) {
        self.task = Some(tokio::spawn(work));
    }

    /// Whether one is to be begun.
    pub(super) fn due(&self) -> bool {
        let wait = self.failed.is_some_and(|failed| failed.elapsed() < AGAIN);
        self.outcome.is_none() && self.task.is_none() && !wait
    }

    /// Takes in one that has ended. Returns at once.
    pub(super) async fn ended(&mut self) -> Option<Ended> {
        let task = self.task.take_if(|task| task.is_finished())?;
        let failed = match task.await {
            Ok(Ok(differ)) => {
                self.outcome = Some(differ.is_empty());
                return (!differ.is_empty()).then(|| Ended::Differs(differ.join(", ")));
            }
            Ok(Err(error)) => error,
            Err(_) => Error::Other("it was cut short".to_owned()),
        };
        self.failed = Some(Instant::now());
        Some(Ended::Failed(failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ends(verifying: &Verifying) {
        while verifying.runs() {
            tokio::task::yield_now().await;
        }
    }

    /// The copy's threads have only just been started again then: it follows, and is not connected.
    #[tokio::test]
    async fn what_has_ended_counts_whatever_is_seen_afterwards() {
        let mut verifying = Verifying::default();
        verifying.on((7, 1));
        verifying.begin(async { Ok(Vec::new()) });
        ends(&verifying).await;
        verifying.stop();
        assert!(!verifying.due() && verifying.ended().await.is_none());
        assert_eq!(verifying.outcome, Some(true));
        verifying.on((7, 1));
        assert!(!verifying.due());
        verifying.on((7, 2));
        assert!(verifying.due() && verifying.outcome.is_none(), "it has begun to follow anew");
        verifying.begin(async { Ok(vec!["tevent".to_owned(), "tagent".to_owned()]) });
        ends(&verifying).await;
        assert!(
            matches!(verifying.ended().await, Some(Ended::Differs(tables)) if tables == "tevent, tagent")
        );
        assert_eq!(verifying.outcome, Some(false));
    }

    #[tokio::test]
    async fn one_that_goes_on_is_given_up_and_one_that_failed_is_made_again_later() {
        let mut verifying = Verifying::default();
        verifying.begin(std::future::pending());
        assert!(verifying.runs() && !verifying.due());
        verifying.stop();
        assert!(verifying.due() && verifying.ended().await.is_none());
        verifying.begin(async { Err(Error::Other("no".to_owned())) });
        ends(&verifying).await;
        assert!(matches!(verifying.ended().await, Some(Ended::Failed(_))));
        assert!(!verifying.due() && verifying.outcome.is_none());
        verifying.failed = verifying.failed.and_then(|failed| failed.checked_sub(AGAIN));
        assert!(verifying.due());
    }
}
