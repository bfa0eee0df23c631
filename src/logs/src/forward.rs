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
/// Until the other side takes what is written, and until the kernel gives up what it does not acknowledge: shorter than
/// [`crate::position::SURE_MS`].
const TAKEN: Duration = Duration::from_secs(30);
/// Pauses after a failure: doubled from the first to the last.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(30);
/// How often the position is written down.
const KEEP: Duration = Duration::from_secs(10);
/// Trouble that is over sooner is not shown on the screen.
const LASTS: Duration = Duration::from_secs(60);
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
}

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
        }
    }
}

/// Sends until the token is cancelled. What cannot be sent stays in the journal, and is sent when it can.
///
/// # Errors
/// TLS cannot be set up at all.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let connector = TlsConnector::from(tls::config(&config.server, &config.authorities)?);
    let mut forwarder = Forwarder {
        positions: Positions::from(kept(&config.data)),
        trouble: Trouble::new(config.trouble.clone()),
        began: Instant::now(),
        written: None,
        config,
    };
    let mut pause = FIRST;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => break,
            connected = connect(&forwarder.config.server, &connector) => connected,
        };
        let sent = match connected {
            Ok(stream) => tokio::select! {
                () = stop.cancelled() => break,
                sent = forwarder.send(stream) => sent,
            },
            Err(error) => Err(error),
        };
        forwarder.positions.broken();
        if let Err(error) = sent {
            forwarder.trouble.say(&error);
        }
        pause = if forwarder.trouble.is_new() { FIRST } else { (pause * 2).min(LAST) };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    forwarder.keep()
}

async fn connect(server: &Server, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, Error> {
    let failed = |why: String| Error::Server { server: server.to_string(), why };
    let name = tls::name(server)?;
    let connected = timeout(CONNECT, async {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(TAKEN))?;
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
    /// The position as it was written down last.
    written: Option<String>,
}

impl Forwarder {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ends with what broke.
    async fn send(&mut self, stream: TlsStream<TcpStream>) -> Result<(), Error> {
        let broke = |why: &str| Error::Server { server: self.config.server.to_string(), why: why.to_owned() };
        let (closed, slow) = (broke("it closed the connection"), broke("it takes nothing"));
        let failed = |server: &Server, error: &std::io::Error| Error::Server {
            server: server.to_string(),
            why: error.to_string(),
        };
        let now = self.now_ms();
        let mut journal = Journal::open(&self.config.journalctl, self.positions.safe(now))?;
        tracing::info!(server = %self.config.server, "the journal goes to the log server");
        let (mut answers, mut out) = tokio::io::split(stream);
        let (mut keep, mut unasked) = (interval(KEEP), [0; 1024]);
        loop {
            tokio::select! {
                batch = journal.batch() => {
                    let Batch { frames, cursor } = batch?;
                    let taken = timeout(TAKEN, async {
                        out.write_all(&frames).await?;
                        out.flush().await
                    });
                    let Ok(taken) = taken.await else { return Err(slow) };
                    taken.map_err(|error| failed(&self.config.server, &error))?;
                    let now = self.now_ms();
                    self.positions.sent(now, cursor);
                    self.trouble.over();
                }
                // A log server says nothing; that it is gone is heard here.
                read = answers.read(&mut unasked) => match read {
                    Ok(0) => return Err(closed),
                    Ok(_) => {}
                    Err(error) => return Err(failed(&self.config.server, &error)),
                },
                _ = keep.tick() => self.keep()?,
            }
        }
    }

    /// Writes the sure position down.
    fn keep(&mut self) -> Result<(), Error> {
        let now = self.now_ms();
        let safe = self.positions.safe(now).map(str::to_owned);
        if safe == self.written {
            return Ok(());
        }
        let file = self.config.data.join("position");
        let text = format!("{VERSION}{}\n", safe.as_deref().unwrap_or_default());
        write_whole(&file, text.as_bytes(), 0o600)
            .map_err(|error| Error::File { what: format!("cannot write {}", file.display()), error })?;
        self.written = safe;
        Ok(())
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
    /// After the cursor; without one, since the machine was started.
    fn open(program: &Path, after: Option<&str>) -> Result<Journal, Error> {
        let from = after.map_or("--boot".to_owned(), |cursor| format!("--after-cursor={cursor}"));
        let started = Command::new(program)
            .args(["--output=json", "--all", "--quiet", "--follow", "--no-tail", "--no-pager"])
            .arg(format!("--output-fields={FIELDS}"))
            .arg(from)
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

/// Failures in a row: logged when they are new, shown when they last.
struct Trouble {
    file: PathBuf,
    since: Option<(Instant, jiff::Timestamp)>,
    said: String,
}

impl Trouble {
    fn new(file: PathBuf) -> Trouble {
        let mut trouble = Trouble { file, since: None, said: String::new() };
        trouble.clear();
        trouble
    }

    /// It is the first since something got out.
    fn is_new(&self) -> bool {
        self.since.is_none_or(|(since, _)| since.elapsed() < FIRST)
    }

    fn say(&mut self, error: &Error) {
        let text = error.to_string();
        let (since, at) = *self.since.get_or_insert_with(|| (Instant::now(), jiff::Timestamp::now()));
        if self.said != text {
            tracing::warn!("{text}; tried again, and nothing is lost while the journal has room");
            self.said.clone_from(&text);
        }
        if since.elapsed() >= LASTS {
            let shown = format!("no log has gone out since {}: {text}", at.strftime("%Y-%m-%d %H:%M UTC"));
            if let Err(error) = write_whole(&self.file, shown.as_bytes(), 0o644) {
                tracing::warn!(%error, "cannot write {}", self.file.display());
            }
        }
    }

    fn over(&mut self) {
        if self.since.take().is_some() {
            tracing::info!("the log server takes the journal again");
            self.said.clear();
            self.clear();
        }
    }

    fn clear(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.file)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove {}", self.file.display());
        }
    }
}
