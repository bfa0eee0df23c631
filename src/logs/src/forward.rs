//! One connection after the other: what the journal holds beyond the last sure position goes out.

use crate::Error;
use crate::position::Positions;
use crate::record::read;
use crate::tls::{self, Server};
use elpis_watch::durable::write_whole;
use futures_util::{FutureExt, StreamExt};
use socket2::SockRef;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

/// Until the connection stands, its handshake included.
const CONNECT: Duration = Duration::from_secs(20);
/// Bytes that wait in the kernel, about: less than what is written at once, so that they are gone when that was taken.
const QUEUE: usize = 32 << 10;
/// Bytes that are written at once, about; and the longest line of the journal, in JSON.
const BATCH: usize = 64 << 10;
const LINE: usize = 1 << 20;
/// Fields that a record is made of.
const FIELDS: &str =
    "MESSAGE,PRIORITY,SYSLOG_FACILITY,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_COMM,_HOSTNAME,_SYSTEMD_UNIT";
/// The kept position begins with its version.
const VERSION: &str = "1 ";

/// What is sent where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who takes it.
    pub server: Server,
    /// Folder for the position in the journal.
    pub data: PathBuf,
    /// File that says what is wrong while nothing gets out; there is none while all is well.
    pub trouble: PathBuf,
    /// Program that reads the journal.
    pub journalctl: PathBuf,
    /// Authorities that the machine trusts, PEM.
    pub authorities: PathBuf,
    /// Its times; tests are in a hurry.
    pub pace: Pace,
}

/// Times of a forwarder.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Until the other side takes what is written, and until the kernel gives up what it does not acknowledge.
    pub taken: Duration,
    /// What was handed to a connection so long ago has arrived, or the connection would have broken: longer than `taken`.
    pub sure: Duration,
    /// The other side closed so long after the last record: it had read all of it, else its kernel would have said so.
    pub quiet: Duration,
    /// How often the position is written down.
    pub keep: Duration,
    /// Pauses after a failure: doubled from the first to the last.
    pub first: Duration,
    pub last: Duration,
    /// Trouble that is over sooner is not shown on the screen.
    pub lasts: Duration,
}

const PACE: Pace = Pace {
    taken: Duration::from_secs(30),
    sure: Duration::from_secs(35),
    quiet: Duration::from_secs(5),
    keep: Duration::from_secs(10),
    first: Duration::from_secs(1),
    last: Duration::from_secs(30),
    lasts: Duration::from_secs(60),
};

impl Config {
    /// As Debian has it.
    #[must_use]
    pub fn new(server: Server, data: PathBuf, trouble: PathBuf) -> Config {
        Config {
            server,
            data,
            trouble,
            journalctl: "journalctl".into(),
            authorities: "/etc/ssl/certs/ca-certificates.crt".into(),
            pace: PACE,
        }
    }
}

/// Sends until the token is cancelled. What cannot be sent stays in the journal, and is sent when it can.
///
/// # Errors
/// TLS cannot be set up at all.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let pace = config.pace;
    let mut trouble = Trouble::new(config.trouble.clone(), pace.lasts);
    let tls = tls::config(&config.server, &config.authorities).inspect_err(|error| trouble.show(error));
    let connector = TlsConnector::from(tls?);
    let sure_ms = u64::try_from(pace.sure.as_millis()).unwrap_or(u64::MAX);
    let mut forwarder = Forwarder {
        positions: Positions::from(kept(&config.data), sure_ms),
        written: kept(&config.data),
        trouble,
        began: Instant::now(),
        unwritten: String::new(),
        config,
    };
    let mut pause = pace.first;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => break,
            connected = connect(&forwarder.config.server, &connector, pace.taken) => connected,
        };
        let ended = match connected {
            Ok(stream) => tokio::select! {
                () = stop.cancelled() => break,
                ended = forwarder.send(stream) => ended,
            },
            Err(error) => error,
        };
        forwarder.give_up();
        forwarder.trouble.say(&ended);
        pause = if forwarder.trouble.is_new() { pace.first } else { (pause * 2).min(pace.last) };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    forwarder.give_up();
    Ok(())
}

async fn connect(
    server: &Server,
    connector: &TlsConnector,
    taken: Duration,
) -> Result<TlsStream<TcpStream>, Error> {
    let failed = |why: String| Error::Server { server: server.to_string(), why };
    let name = tls::name(server)?;
    let connected = timeout(CONNECT, async {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(taken))?;
        SockRef::from(&stream).set_send_buffer_size(QUEUE)?;
        connector.connect(name, stream).await
    });
    let late = || failed(format!("no connection within {} s", CONNECT.as_secs()));
    connected.await.map_err(|_| late())?.map_err(|error| failed(error.to_string()))
}

struct Forwarder {
    config: Config,
    positions: Positions,
    trouble: Trouble,
    began: Instant,
    /// The position as it was written down last, and why it could not be.
    written: Option<String>,
    unwritten: String,
}

impl Forwarder {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The answer is what broke.
    async fn send(&mut self, stream: TlsStream<TcpStream>) -> Error {
        let server = self.config.server.to_string();
        let broke = |why: String| Error::Server { server: server.clone(), why };
        let Pace { taken, quiet, keep, .. } = self.config.pace;
        let now = self.now_ms();
        let mut journal = match Journal::open(&self.config.journalctl, self.positions.safe(now)) {
            Ok(journal) => journal,
            Err(error) => return error,
        };
        tracing::info!(server, "the journal goes to the log server");
        let (mut answers, mut out) = tokio::io::split(stream);
        let (mut keep, mut unasked, mut last) = (interval(keep), [0; 1024], Instant::now());
        loop {
            tokio::select! {
                // That a connection broke comes before anything counts that it was given.
                biased;
                // A log server says nothing; that it is gone is heard here.
                read = answers.read(&mut unasked) => {
                    let closed = match read {
                        Ok(0) => "it closed the connection".to_owned(),
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
                        Ok(_) => continue,
                        Err(error) => return broke(error.to_string()),
                    };
                    if last.elapsed() >= quiet {
                        self.positions.taken();
                    }
                    return broke(closed);
                }
                _ = keep.tick() => self.settle(),
                batch = journal.batch() => {
                    let Batch { frames, cursor } = match batch {
                        Ok(batch) => batch,
                        Err(error) => return error,
                    };
                    let written = timeout(taken, async {
                        out.write_all(&frames).await?;
                        out.flush().await
                    });
                    match written.await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return broke(error.to_string()),
                        Err(_) => return broke(format!("it takes nothing for {} s", taken.as_secs())),
                    }
                    last = Instant::now();
                    let now = self.now_ms();
                    self.positions.sent(now, cursor);
                }
            }
        }
    }

    /// The connection is over. Since when is not known: what was not sure while it lived counts for nothing.
    fn give_up(&mut self) {
        self.positions.broken();
        self.settle();
    }

    /// Writes the sure position down. That it moves shows that records get out; where it cannot be written they do all the
    /// same.
    fn settle(&mut self) {
        let now = self.now_ms();
        let safe = self.positions.safe(now).map(str::to_owned);
        if safe == self.written {
            return;
        }
        self.trouble.over();
        let file = self.config.data.join("position");
        let text = format!("{VERSION}{}\n", safe.as_deref().unwrap_or_default());
        match write_whole(&file, text.as_bytes(), 0o600) {
            Ok(()) => self.unwritten.clear(),
            Err(error) => {
                let why = format!("cannot write {}: {error}", file.display());
                if self.unwritten != why {
                    tracing::warn!("{why}; the log goes out, and some of it again after a restart");
                    self.unwritten = why;
                }
            }
        }
        self.written = safe;
    }
}

/// The kept position; none of another version, nor one that is no cursor.
fn kept(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("position")).ok()?;
    let cursor = text.strip_prefix(VERSION)?.trim();
    (!cursor.is_empty() && !cursor.contains(char::is_whitespace)).then(|| cursor.to_owned())
}

/// Records that go out together.
struct Batch {
    frames: Vec<u8>,
    /// Of the last one.
    cursor: String,
}

/// `journalctl` that follows the journal. Ends with its drop.
struct Journal {
    _program: Child,
    lines: FramedRead<ChildStdout, LinesCodec>,
}

impl Journal {
    /// From the cursor's own entry on, which is sent twice: behind it the first would be left out where it is gone. Without
    /// one, all that there is.
    fn open(program: &Path, after: Option<&str>) -> Result<Journal, Error> {
        let from = after.map(|cursor| format!("--cursor={cursor}"));
        let started = Command::new(program)
            .args(["--output=json", "--all", "--quiet", "--follow", "--no-tail", "--no-pager"])
            .arg(format!("--output-fields={FIELDS}"))
            .args(from)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let failed = |why: &str| Error::Journal(format!("cannot run {}: {why}", program.display()));
        let mut program = started.map_err(|error| failed(&error.to_string()))?;
        let output = program.stdout.take().ok_or_else(|| failed("it has no output"))?;
        Ok(Journal {
            _program: program,
            lines: FramedRead::new(output, LinesCodec::new_with_max_length(LINE)),
        })
    }

    /// At least one record, and those that are there. May be given up at any point: nothing is taken before it waits.
    async fn batch(&mut self) -> Result<Batch, Error> {
        let mut batch: Option<Batch> = None;
        loop {
            let line = match &batch {
                None => self.lines.next().await,
                Some(full) if full.frames.len() >= BATCH => break,
                Some(_) => match self.lines.next().now_or_never() {
                    Some(line) => line,
                    None => break,
                },
            };
            let line = match line {
                Some(Ok(line)) => line,
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    tracing::warn!("an entry of the journal with more than {LINE} bytes was left out");
                    // The reader says once that it is at an end, after an error of its lines.
                    let _ = self.lines.next().now_or_never();
                    continue;
                }
                Some(Err(LinesCodecError::Io(error))) => return Err(Error::Journal(error.to_string())),
                None if batch.is_some() => break,
                None => return Err(Error::Journal("journalctl ended".to_owned())),
            };
            let Some(record) = read(&line) else {
                tracing::warn!("a line of journalctl is no entry, and was left out");
                continue;
            };
            match &mut batch {
                Some(batch) => {
                    batch.frames.extend(record.frame);
                    batch.cursor = record.cursor;
                }
                None => batch = Some(Batch { frames: record.frame, cursor: record.cursor }),
            }
        }
        batch.ok_or_else(|| Error::Journal("journalctl ended".to_owned()))
    }
}

/// Failures since records surely got out: logged when they are new, shown when they last.
struct Trouble {
    file: PathBuf,
    lasts: Duration,
    since: Option<(Instant, jiff::Timestamp)>,
    said: String,
    /// On the screen, perhaps since an earlier run.
    shown: bool,
    count: u32,
}

impl Trouble {
    fn new(file: PathBuf, lasts: Duration) -> Trouble {
        let shown = file.exists();
        Trouble { file, lasts, since: None, said: String::new(), shown, count: 0 }
    }

    fn is_new(&self) -> bool {
        self.count <= 1
    }

    fn say(&mut self, error: &Error) {
        self.count = self.count.saturating_add(1);
        let text = error.to_string();
        if self.said != text {
            tracing::warn!("{text}; tried again, and nothing is lost while the journal has room");
            self.said = text;
        }
        if self.since().0.elapsed() >= self.lasts {
            self.show(error);
        }
    }

    fn since(&mut self) -> (Instant, jiff::Timestamp) {
        *self.since.get_or_insert_with(|| (Instant::now(), jiff::Timestamp::now()))
    }

    fn show(&mut self, error: &Error) {
        let at = self.since().1.strftime("%Y-%m-%d %H:%M UTC");
        let text = format!("no log has surely gone out since {at}: {error}");
        match write_whole(&self.file, text.as_bytes(), 0o644) {
            Ok(()) => self.shown = true,
            Err(error) => tracing::warn!(%error, "cannot write {}", self.file.display()),
        }
    }

    fn over(&mut self) {
        if self.since.take().is_some() {
            tracing::info!("the log server takes the journal again");
        }
        self.said.clear();
        self.count = 0;
        if std::mem::take(&mut self.shown)
            && let Err(error) = std::fs::remove_file(&self.file)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove {}", self.file.display());
        }
    }
}
