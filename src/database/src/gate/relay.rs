//! Bytes, both ways.

use std::io::Result;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::sleep;

const PIECE: usize = 32 * 1024;
/// How often a lease that is over is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What the client says is for this node's server.
pub(super) trait Serving {
    /// The node holds its lease.
    fn may(&self) -> bool;
    /// Pause before each piece, milliseconds.
    fn slow_ms(&self) -> u32;
}

/// Nothing to ask.
struct Free;

impl Serving for Free {
    fn may(&self) -> bool {
        true
    }
    fn slow_ms(&self) -> u32 {
        0
    }
}

/// Carries bytes until one side ends. To this node's server, what the client says goes on only while it is valid: a node that was
/// cut off keeps it until it is back, or the epoch moves and the connection is cut.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
    serving: Option<&impl Serving>,
) -> Result<()> {
    let (client_read, client_write) = split(client);
    let (server_read, server_write) = split(server);
    tokio::select! {
        done = carry(client_read, server_write, serving) => done,
        done = carry(server_read, client_write, None::<&Free>) => done,
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    serving: Option<&impl Serving>,
) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            // What is written is on its way before the end is.
            return to.shutdown().await;
        }
        if let Some(serving) = serving {
            let slow_ms = serving.slow_ms();
            // Even the shortest sleep is a millisecond.
            if slow_ms > 0 {
                sleep(Duration::from_millis(slow_ms.into())).await;
            }
            while !serving.may() {
                sleep(LOOK).await;
            }
        }
        to.write_all(&piece[..count]).await?;
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use elpis_watch::{Gate, Lease, boottime_ms};
    use tokio::io::duplex;
    use tokio::time::timeout;

    impl Serving for Gate {
        fn may(&self) -> bool {
            self.session_if_valid().is_some()
        }
        fn slow_ms(&self) -> u32 {
            0
        }
    }

    #[tokio::test]
    async fn what_a_client_says_waits_for_the_lease() {
        let lease = Gate::default();
        let ((mut client, there), (here, mut server)) = (duplex(64), duplex(64));
        let gate = lease.clone();
        let relaying = tokio::spawn(async move { relay(there, here, Some(&gate)).await });
        client.write_all(b"COMMIT").await.unwrap();
        let mut heard = [0; 6];
        let early = timeout(Duration::from_millis(60), server.read_exact(&mut heard)).await;
        assert!(early.is_err(), "nothing passes without a lease");
        server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        lease.set(Lease { session: 1, until_boot_ms: boottime_ms() + 60_000, ..Lease::default() });
        // What was read before the time-out is lost to that future: the rest must come.
        client.write_all(b"!").await.unwrap();
        drop(client);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!((answer, rest.as_slice()), (*b"answer", &b"COMMIT!"[..]));
        relaying.await.unwrap().unwrap();
    }
}
