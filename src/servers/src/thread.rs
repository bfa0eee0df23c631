//! One thread owns a server's main loop.

use crate::ServerError;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Runs a server's loop, its reads and its commits on a thread of their own, so that a burst of probes or parsing
/// delays none of them. Inside, `tokio::task::spawn_local` works.
pub(crate) async fn own<T, F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> Result<T, ServerError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ServerError>>,
{
    let (answer, answered) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServerError::Thread)?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _ = answer.send(LocalSet::new().block_on(&runtime, work()));
        })
        .map_err(ServerError::Thread)?;
    answered.await.unwrap_or(Err(ServerError::Panicked))
}
