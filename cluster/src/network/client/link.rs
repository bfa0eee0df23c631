//! One connection to a member, and its questions one after the other.
//!
//! Making a connection, and waiting for an answer, go on for a while when the question that wanted them is given up. Where
//! network or processors are slower than a question may take, each would else be left for a new connection, whose
//! handshakes cost both sides more than the answers: they would never speak again.

use crate::network::{FRAME_MAX, Kind, NetError, read_frame, write_frame};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

type Answer = std::io::Result<(Kind, Vec<u8>)>;

#[derive(Debug, Default)]
pub(super) enum Link<S> {
    #[default]
    None,
    Making(JoinHandle<Result<S, NetError>>),
    /// It was asked something; the end is the connection, where that is still of use.
    Asked(JoinHandle<Option<S>>),
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link<S> {
    /// Asks over the connection that there is, else over a new one. May be given up at any time: `late` is how much longer
    /// the answer is then waited for.
    pub(super) async fn ask<M>(
        &mut self,
        node: u64,
        kind: Kind,
        body: &[u8],
        late: Duration,
        make: impl Fn() -> M,
    ) -> Result<(Kind, Vec<u8>), NetError>
    where
        M: Future<Output = Result<S, NetError>> + Send + 'static,
    {
        if let Some(stream) = self.kept().await {
            match self.over(stream, kind, body, late).await {
                Ok(answer) => return Ok(answer),
                // The member restarted, most likely. Asking again is harmless for every kind on a kept lane.
                Err(error) => tracing::debug!(node, %error, "connection ended, making a new one"),
            }
        }
        if !matches!(self, Link::Making(_)) {
            *self = Link::Making(tokio::spawn(make()));
        }
        let Link::Making(making) = self else { return Err(NetError::Timeout(node)) };
        let made = making.await;
        *self = Link::None;
        let stream = made.map_err(|_| NetError::Timeout(node))??;
        let answer = self.over(stream, kind, body, late).await;
        answer.map_err(|e| NetError::Unreachable { node, address: String::new(), why: e.to_string() })
    }

    /// The connection that was asked over before, once its answer is there.
    async fn kept(&mut self) -> Option<S> {
        let Link::Asked(before) = self else { return None };
        let stream = before.await.ok().flatten();
        *self = Link::None;
        stream
    }

    async fn over(&mut self, mut stream: S, kind: Kind, body: &[u8], late: Duration) -> Answer {
        let (mut tell, told) = oneshot::channel();
        let body = body.to_vec();
        *self = Link::Asked(tokio::spawn(async move {
            // Nobody waits any more: the answer may still come, and the connection is then as good as before.
            let given_up = async {
                tell.closed().await;
                tokio::time::sleep(late).await;
            };
            let answer = tokio::select! {
                answer = exchange(&mut stream, kind, &body) => answer,
                () = given_up => return None,
            };
            let good = answer.is_ok();
            // Whoever gave it up does not want it.
            let _ = tell.send(answer);
            good.then_some(stream)
        }));
        told.await.unwrap_or_else(|_| Err(std::io::Error::other("the question ended")))
    }
}

/// One question and its answer.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    kind: Kind,
    body: &[u8],
) -> Answer {
    write_frame(stream, kind, body).await?;
    read_frame(stream, FRAME_MAX).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::{sleep, timeout};

    const PATIENCE: Duration = Duration::from_millis(100);
    const LATE: Duration = Duration::from_secs(1);

    /// A member that answers over one connection after the other, each time after so many milliseconds, with what it was
    /// asked. Without a connection left, it cannot be reached.
    struct World {
        link: Link<DuplexStream>,
        connections: Arc<Mutex<VecDeque<Vec<u64>>>>,
    }

    impl World {
        fn new(connections: &[&[u64]]) -> World {
            let connections = connections.iter().map(|pauses| pauses.to_vec()).collect();
            World { link: Link::default(), connections: Arc::new(Mutex::new(connections)) }
        }

        async fn ask(&mut self, text: &str) -> String {
            let connections = Arc::clone(&self.connections);
            let make = || {
                let pauses = connections.lock().unwrap().pop_front();
                async move {
                    let pauses = pauses.ok_or(NetError::Unknown(2))?;
                    // A handshake.
                    sleep(Duration::from_millis(250)).await;
                    let (here, there) = duplex(1 << 16);
                    tokio::spawn(member(there, pauses));
                    Ok(here)
                }
            };
            match timeout(PATIENCE, self.link.ask(2, Kind::Call, text.as_bytes(), LATE, make)).await {
                Ok(Ok((_, body))) => String::from_utf8(body).unwrap(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "given up".to_owned(),
            }
        }
    }

    async fn member(mut stream: DuplexStream, pauses: Vec<u64>) {
        for pause in pauses {
            let Ok((_, body)) = read_frame(&mut stream, FRAME_MAX).await else { return };
            sleep(Duration::from_millis(pause)).await;
            if write_frame(&mut stream, Kind::Answer, &body).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_late_answer_costs_no_connection_and_is_nobody_elses() {
        let mut world = World::new(&[&[0, 350].repeat(50)]);
        let (mut answered, mut given_up) = (0, 0);
        for number in 0..200 {
            let text = number.to_string();
            match world.ask(&text).await {
                said if said == text => answered += 1,
                said if said == "given up" => given_up += 1,
                said => panic!("question {text}: {said}"),
            }
            if answered == 3 {
                break;
            }
        }
        // The handshake took longer than one, and each late answer than some.
        assert!(answered == 3 && given_up >= 3, "{answered} answers, {given_up} given up");
    }

    #[tokio::test]
    async fn who_does_not_answer_at_all_is_connected_to_anew() {
        let mut world = World::new(&[&[600_000], &[0]]);
        let (begin, mut asked) = (std::time::Instant::now(), 0);
        while world.ask("a").await != "a" {
            asked += 1;
            assert!(asked < 300, "never again");
        }
        assert!(begin.elapsed() > LATE, "{:?}", begin.elapsed());
        assert!(world.connections.lock().unwrap().is_empty());
    }
}
