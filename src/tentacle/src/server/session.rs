//! One agent's connection: the sans-IO session, a socket, and what the actions mean here.

use super::Shared;
use crate::protocol::{Action, Answer, Closed, Session};
use crate::spool::SpoolError;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Time for the peer to take what is sent.
const WRITE: Duration = Duration::from_secs(60);

pub(super) async fn run(
    shared: &Shared,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: IpAddr,
    stop: &CancellationToken,
) -> io::Result<()> {
    let config = &shared.config;
    let mut session = Session::new(config.session.clone(), config.password.as_deref(), Instant::now());
    let mut chunk = vec![0; 16 * 1024];
    loop {
        while let Some(action) = session.action() {
            let answer = match action {
                Action::Write(bytes) => {
                    timeout(WRITE, async {
                        stream.write_all(&bytes).await?;
                        stream.flush().await
                    })
                    .await??;
                    continue;
                }
                Action::Close(why) => {
                    match why {
                        Closed::Quit => tracing::debug!(%peer, "session ended"),
                        why => tracing::info!(%peer, ?why, "session closed"),
                    }
                    let _ = timeout(WRITE, stream.shutdown()).await;
                    return Ok(());
                }
                Action::Offer { name, size } => {
                    tracing::debug!(%peer, name, size, "file offered");
                    offer(shared, &name)
                }
                Action::Store { name, content } => store(shared, peer, name, content).await,
                Action::Fetch { name } => fetch(shared, name).await,
            };
            session.answer(answer, Instant::now());
        }
        let Some(deadline) = session.deadline() else {
            return Err(io::Error::other("the session neither waits nor acts"));
        };
        let read = timeout_at(deadline.into(), stop.run_until_cancelled(stream.read(&mut chunk))).await;
        match read {
            Err(_) => session.expire(Instant::now()),
            Ok(None) => return Ok(()),
            // The originals close without TLS's closing message.
            Ok(Some(Ok(0))) => return Ok(()),
            Ok(Some(Err(error))) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Some(read)) => session.input(&chunk[..read?], Instant::now()),
        }
    }
}

fn offer(shared: &Shared, name: &str) -> Answer {
    if (shared.shard_of)(name).is_some() || shared.config.overwrite {
        // Data files are compared by content once it is here.
        return Answer::Yes;
    }
    match shared.filters.path(&shared.config.files, name).exists() {
        true => Answer::Refused("file already exists"),
        false => Answer::Yes,
    }
}

async fn store(shared: &Shared, peer: IpAddr, name: String, content: Vec<u8>) -> Answer {
    let bytes = content.len();
    let Some(shard) = (shared.shard_of)(&name) else {
        let path = shared.filters.path(&shared.config.files, &name);
        let overwrite = shared.config.overwrite;
        let written =
            tokio::task::spawn_blocking(move || super::files::write(&path, &content, overwrite)).await;
        return match written.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                tracing::info!(%peer, name, bytes, "file stored");
                Answer::Yes
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Answer::Refused("file already exists")
            }
            Err(error) => {
                tracing::warn!(%peer, name, bytes, %error, "file not stored");
                Answer::Refused("file could not be written")
            }
        };
    };
    match shared.copies.accept(name.clone(), content, shard, (shared.cluster.now_ms)()).await {
        Ok(copied) => {
            tracing::info!(%peer, name, bytes, shard, second_copy = copied, "file accepted");
            Answer::Yes
        }
        Err(error) => {
            tracing::warn!(%peer, name, bytes, %error, "file refused");
            match error {
                SpoolError::Exists(_) => Answer::Refused("file already exists"),
                SpoolError::Full(_) => Answer::Refused("no room on the server"),
                _ => Answer::Refused("file could not be written"),
            }
        }
    }
}

async fn fetch(shared: &Shared, name: String) -> Answer {
    let path = shared.filters.path(&shared.config.files, &name);
    let read = tokio::task::spawn_blocking(move || super::files::read(&path)).await;
    match read {
        Ok(Ok(content)) => Answer::Content(content),
        _ => Answer::Missing,
    }
}
