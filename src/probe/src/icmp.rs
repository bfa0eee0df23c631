//! ICMP echo: one socket a family, one reader task that gives each answer to who waits for it.

mod codec;

use crate::{Ask, Failure};
use codec::Echo;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::{OnceCell, mpsc},
    time::{Instant, sleep_until, timeout_at},
};

/// One ICMP check.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) address: IpAddr,
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
    pub(crate) packets: u32,
}

/// Both families, each opened when first needed.
#[derive(Default)]
pub(crate) struct Engine {
    four: OnceCell<Arc<Family>>,
    six: OnceCell<Arc<Family>>,
}

/// (address, id, sequence); the id is 0 where the kernel chooses it.
type Key = (IpAddr, u16, u16);
/// Who waits: its token, and where its answers go (the round trip is measured by the reader).
type Waiting = HashMap<Key, (u64, Instant, mpsc::Sender<Duration>)>;

struct Family {
    socket: UdpSocket,
    v6: bool,
    /// A raw socket: sees IP headers and everybody's answers, and keeps our id.
    raw: bool,
    next: AtomicU32,
    base: u16,
    waiting: Mutex<Waiting>,
}

impl Engine {
    /// 1 if any try was answered, else 0.
    pub(crate) async fn reachable(&self, job: &Job, ask: &Ask) -> Result<String, Failure> {
        let family = self.family(job.address).await?;
        for _ in 0..job.tries {
            let start = Instant::now();
            let mut flight = Flight::new(&family, job.address, job.packets as usize);
            for _ in 0..job.packets {
                flight.send(ask).await?;
            }
            if flight.answer(start + job.timeout).await.is_some() {
                return Ok("1".into());
            }
            // Tries are at least a second apart, the last one is followed by none.
            sleep_until(start + Duration::from_secs(1)).await;
        }
        Ok("0".into())
    }

    /// Mean round trip in milliseconds.
    pub(crate) async fn round_trip(&self, job: &Job, ask: &Ask) -> Result<String, Failure> {
        let family = self.family(job.address).await?;
        let deadline = Instant::now() + job.timeout;
        let mut flight = Flight::new(&family, job.address, job.tries as usize);
        for _ in 0..job.tries {
            flight.send(ask).await?;
        }
        let (mut sum, mut count) = (Duration::ZERO, 0_u32);
        while count < job.tries {
            let Some(trip) = flight.answer(deadline).await else { break };
            sum += trip;
            count += 1;
        }
        if count == 0 {
            return Err(Failure::failed(format!(
                "no echo answer from {} within {} s",
                job.address,
                job.timeout.as_secs_f32()
            )));
        }
        Ok(format!("{:.3}", sum.as_secs_f64() * 1000.0 / f64::from(count)))
    }

    async fn family(&self, address: IpAddr) -> Result<Arc<Family>, Failure> {
        let (cell, v6) = if address.is_ipv4() { (&self.four, false) } else { (&self.six, true) };
        let opened = cell.get_or_try_init(|| async { Family::open(v6) }).await;
        opened.cloned().map_err(|error| {
            Failure::failed(match error.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "ICMP needs the right CAP_NET_RAW or ping sockets, and this process has neither ({error}); \
                     run `setcap cap_net_raw+ep` on the elpis program, or `sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`"
                ),
                _ => format!("no ICMP socket on this node: {error}"),
            })
        })
    }
}

impl Family {
    fn open(v6: bool) -> io::Result<Arc<Family>> {
        let (domain, protocol) =
            if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let (socket, raw) = match Socket::new(domain, Type::RAW, Some(protocol)) {
            Ok(socket) => (socket, true),
            Err(_) => (Socket::new(domain, Type::DGRAM, Some(protocol))?, false),
        };
        socket.set_nonblocking(true)?;
        // Thousands of answers may come in one moment; less room than asked for is no error.
        let _ = socket.set_recv_buffer_size(4 << 20);
        let _ = socket.set_send_buffer_size(4 << 20);
        let socket = UdpSocket::from_std(socket.into())?;
        #[allow(clippy::cast_possible_truncation)] // any 16 bits will do
        let base = std::process::id() as u16;
        let family =
            Arc::new(Family { socket, v6, raw, next: AtomicU32::new(0), base, waiting: Mutex::default() });
        tokio::spawn(read(Arc::downgrade(&family)));
        Ok(family)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader: lives as long as its family.
async fn read(family: Weak<Family>) {
    let mut packet = [0_u8; 2048];
    loop {
        let Some(family) = family.upgrade() else { return };
        // Looks now and then whether anybody is left who could wait.
        let soon = Instant::now() + Duration::from_secs(1);
        let Ok(received) = timeout_at(soon, family.socket.recv_from(&mut packet)).await else { continue };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "an ICMP packet could not be received");
                // The errors of a ping socket are those of single targets; a lasting one must not spin.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let now = Instant::now();
        let Some(echo) = codec::reply(&packet[..length], family.v6, family.raw) else { continue };
        let key = (from.ip(), if family.raw { echo.id } else { 0 }, echo.sequence);
        let mut waiting = family.waiting();
        if waiting.get(&key).is_some_and(|(token, ..)| *token == echo.token)
            && let Some((_, sent, to)) = waiting.remove(&key)
        {
            // Bounded by the number of packets sent, so there is always room.
            let _ = to.try_send(now.saturating_duration_since(sent));
        }
    }
}

/// Packets under way of one try; forgotten when dropped.
struct Flight<'a> {
    family: &'a Family,
    address: IpAddr,
    keys: Vec<Key>,
    give: mpsc::Sender<Duration>,
    take: mpsc::Receiver<Duration>,
}

impl<'a> Flight<'a> {
    fn new(family: &'a Family, address: IpAddr, most: usize) -> Flight<'a> {
        let (give, take) = mpsc::channel(most.max(1));
        Flight { family, address, keys: Vec::new(), give, take }
    }

    /// Sends one request. A packet that the network does not take counts as unanswered.
    async fn send(&mut self, ask: &Ask) -> Result<(), Failure> {
        let number = self.family.next.fetch_add(1, Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // the lower and the upper half
        let (sequence, turn) = (number as u16, (number >> 16) as u16);
        let id = self.family.base.wrapping_add(turn);
        let token = u64::from(number) << 16 | u64::from(self.family.base);
        let key = (self.address, if self.family.raw { id } else { 0 }, sequence);
        let packet = codec::request(Echo { id, sequence, token }, self.family.v6);
        ask.may_send()?;
        self.family.waiting().insert(key, (token, Instant::now(), self.give.clone()));
        self.keys.push(key);
        if let Err(error) = self.family.socket.send_to(&packet, SocketAddr::new(self.address, 0)).await {
            tracing::debug!(address = %self.address, %error, "an echo request could not be sent");
        }
        Ok(())
    }

    async fn answer(&mut self, deadline: Instant) -> Option<Duration> {
        timeout_at(deadline, self.take.recv()).await.ok().flatten()
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut waiting = self.family.waiting();
        for key in &self.keys {
            waiting.remove(key);
        }
    }
}
