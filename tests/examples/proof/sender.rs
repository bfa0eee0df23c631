//! Agents that send files as stock ones do: one connection a file, one file after another, to the next server when one
//! does not take it. Nothing of the product is used here.

use anyhow::{Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);
/// One file is tried for so long.
const LIMIT: Duration = Duration::from_secs(60);
const SENDERS: u32 = 16;
/// Seconds between two reports of an agent.
const STEP_S: i64 = 60;

/// What is sent: the same for the same numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) agents: u32,
    pub(crate) each: u32,
    /// Unix seconds of the first report.
    pub(crate) from: i64,
}

impl Load {
    pub(crate) fn files(&self) -> u32 {
        self.agents * self.each
    }

    fn file(&self, agent: u32, number: u32) -> (String, String) {
        let when = self.from + i64::from(number) * STEP_S;
        let stamp = civil(when);
        // Scattered, so that thresholds are crossed now and then and every value differs from the one before.
        let value = (u64::from(agent) * 7_919 + u64::from(number) * 104_729) % 1_000;
        let name = format!("proof-{agent:04}");
        let content = format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n<agent_data agent_name='{name}' timestamp='{stamp}' interval='300' os_name='Linux'>\n\
             <module><name>load</name><type>generic_data</type><data>{value}</data><min_critical>900</min_critical><max_critical>1000</max_critical></module>\n\
             <module><name>alive</name><type>generic_proc</type><data>{}</data></module>\n\
             <module><name>octets</name><type>generic_data_inc</type><data>{}</data></module>\n\
             <module><name>word</name><type>generic_data_string</type><data>w{}</data></module>\n\
             </agent_data>\n",
            u8::from(value % 17 != 0),
            u64::from(number) * 1_000 + value,
            value % 5,
        );
        (format!("{name}.{number}.data"), content)
    }
}

/// `2026/11/25 08:00:00` (UTC; the clusters of the proof run with TZ=UTC).
fn civil(unix: i64) -> String {
    let (days, second) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // Howard Hinnant's days-to-civil.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}/{month:02}/{day:02} {:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: u32,
    /// Tries that failed and were made again, elsewhere.
    pub(crate) again: u32,
    pub(crate) longest: Duration,
}

/// Sends all; each agent begins at another server. `progress` counts accepted files.
pub(crate) fn send_all(load: Load, servers: &[SocketAddr], progress: &AtomicU32) -> Result<Sent> {
    let work = |sender: u32| -> Result<Sent> {
        let mut sent = Sent::default();
        for number in 0..load.each {
            for agent in (sender..load.agents).step_by(SENDERS as usize) {
                let (name, content) = load.file(agent, number);
                let begin = Instant::now();
                let mut at = agent as usize % servers.len();
                loop {
                    match send(servers[at], &name, content.as_bytes()) {
                        Ok(()) => break,
                        Err(error) if begin.elapsed() > LIMIT => {
                            bail!("{name} was not taken within {} s: {error}", LIMIT.as_secs())
                        }
                        Err(_) => sent.again += 1,
                    }
                    at = (at + 1) % servers.len();
                    if at == agent as usize % servers.len() {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                sent.longest = sent.longest.max(begin.elapsed());
                sent.accepted += 1;
                progress.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(sent)
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || work(sender))).collect();
        let mut all = Sent::default();
        for sender in senders {
            let Ok(sent) = sender.join() else { bail!("a sender panicked") };
            let sent = sent?;
            all.accepted += sent.accepted;
            all.again += sent.again;
            all.longest = all.longest.max(sent.longest);
        }
        Ok(all)
    })
}

fn send(server: SocketAddr, name: &str, content: &[u8]) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(&server, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(&stream);
    (&stream).write_all(format!("SEND <{name}> SIZE {}\n", content.len()).as_bytes())?;
    expect_ok(&mut answers)?;
    (&stream).write_all(content)?;
    expect_ok(&mut answers)?;
    // Accepted; a farewell that fails changes nothing.
    let _ = (&stream).write_all(b"QUIT\n");
    Ok(())
}

fn expect_ok(answers: &mut impl BufRead) -> std::io::Result<()> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if line == "SEND OK\n" { Ok(()) } else { Err(std::io::Error::other(format!("answer {line:?}"))) }
}
