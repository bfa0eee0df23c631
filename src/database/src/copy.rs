//! Copies of the primary's files for a node that has none, or one that went astray: `mariadb-backup` on one side, its
//! stream through both nodes' gates, `mbstream` and the preparation on the other.

use crate::folder::{Folder, as_user, finished, gate_folder, modest, user_name};
use crate::{Config, Error, disk};
use elpis_cluster::database::Room;
use elpis_watch::NodeId;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Without a byte for so long a copy is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Version of the stream, its first byte.
const VERSION: u8 = 1;
/// Last byte of a whole stream; a stream that ends without it is half.
const WHOLE: u8 = b'W';
/// Time for a gate that has just been started.
const GATE: Duration = Duration::from_secs(20);
/// So far ahead of the allowed rate it may be: a shorter sleep lasts longer than it should.
const AHEAD: Duration = Duration::from_millis(20);
const PIECE: usize = 256 * 1024;
/// Beside a copy as large as the old one.
const SPARE: u64 = 64 << 20;
/// Pause after a failed try.
const AGAIN: Duration = Duration::from_secs(3);

/// Where the gate asks for a copy of this node's files.
pub(crate) fn out_socket(node: &Path) -> PathBuf {
    gate_folder(node).join("copy-out.sock")
}

/// Where the gate brings the primary's copy.
pub(crate) fn in_socket(node: &Path) -> PathBuf {
    gate_folder(node).join("copy-in.sock")
}

/// Rights of both: owner and group.
pub(crate) const SHARED: u32 = 0o660;

/// Whether a copy is being given, and when the last one was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    pub(crate) under_way: bool,
    pub(crate) last: Option<Instant>,
}

/// Gives copies out, one at a time.
pub(crate) async fn serve(
    config: Config,
    folder: Folder,
    given: watch::Sender<Given>,
    stop: CancellationToken,
) {
    let path = out_socket(&config.data);
    let _ = fs::remove_file(&path);
    let listener = match UnixListener::bind(&path).and_then(|listener| shared(&path).map(|()| listener)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "this node gives no copies of its database");
            return;
        }
    };
    let place = Semaphore::new(1);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(_place) = place.acquire().await else { return };
        let begin = Instant::now();
        given.send_modify(|given| given.under_way = true);
        let done = stop.run_until_cancelled(give(&config, &folder, stream)).await;
        given.send_replace(Given { under_way: false, last: Some(Instant::now()) });
        match done {
            Some(Ok(bytes)) => {
                tracing::info!(
                    bytes,
                    seconds = begin.elapsed().as_secs_f32(),
                    "a copy of the database was given"
                );
            }
            Some(Err(error)) => tracing::warn!(%error, "a copy of the database was not given"),
            None => return,
        }
    }
}

/// Whoever may enter the folder may connect: until then, less than that.
fn shared(path: &Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(SHARED))
}

async fn give(config: &Config, folder: &Folder, mut to: UnixStream) -> Result<u64, Error> {
    let target = folder.path("tmp/backup");
    let _ = fs::remove_dir_all(&target);
    let errors = folder.open_log()?;
    let mut child = modest("mariadb-backup")?
        .args(["--no-defaults", "--backup", "--stream=mbstream"])
        .arg(format!("--target-dir={}", target.display()))
        .arg(format!("--datadir={}", folder.data().display()))
        .arg(format!("--socket={}", folder.socket().display()))
        .arg(format!("--user={}", user_name()?))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::File("cannot start mariadb-backup".to_owned(), e))?;
    let mut from =
        child.stdout.take().ok_or_else(|| Error::Other("mariadb-backup has no output".to_owned()))?;
    let broken = |e| Error::File("the copy's stream broke".to_owned(), e);
    to.write_all(&[VERSION]).await.map_err(broken)?;
    let (begin, mut bytes, mut piece) = (Instant::now(), 0u64, vec![0; PIECE]);
    loop {
        let count = within(from.read(&mut piece)).await?;
        if count == 0 {
            break;
        }
        within(to.write_all(&piece[..count])).await?;
        bytes += count as u64;
        // No faster than allowed: the disk and the network are the primary's first.
        let due = Duration::from_secs_f64(bytes as f64 / config.copy_bytes_per_s.max(1) as f64);
        let ahead = due.saturating_sub(begin.elapsed());
        if ahead > AHEAD {
            sleep(ahead).await;
        }
    }
    let status = child.wait().await.map_err(broken)?;
    if !status.success() {
        let log = folder.log();
        return Err(Error::Other(format!("mariadb-backup failed ({status}); see {}", log.display())));
    }
    within(to.write_all(&[WHOLE])).await?;
    within(to.shutdown()).await?;
    Ok(bytes)
}

async fn within<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, Error> {
    match timeout(SILENCE, work).await {
        Ok(done) => done.map_err(|e| Error::File("the copy's stream broke".to_owned(), e)),
        Err(_) => Err(Error::Other(format!("the copy stood still for {} s", SILENCE.as_secs()))),
    }
}

/// A copy that is being fetched.
#[derive(Debug)]
pub(crate) struct Copying {
    /// Whose files.
    pub(crate) primary: NodeId,
    task: JoinHandle<Result<String, Error>>,
    outcome: Option<Result<String, Error>>,
}

impl Copying {
    /// From the primary, through the gate.
    pub(crate) fn begin(folder: &Folder, primary: NodeId) -> Copying {
        let folder = folder.clone();
        Copying { primary, task: tokio::spawn(async move { fetch(&folder, primary).await }), outcome: None }
    }

    /// What came of it, once [`ended`] has resolved.
    pub(crate) fn outcome(&mut self) -> Option<Result<String, Error>> {
        self.outcome.take()
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Resolves when the copy under way is over; never when there is none.
pub(crate) async fn ended(copying: &mut Option<Copying>) {
    let Some(copying) = copying else { return std::future::pending().await };
    let done = (&mut copying.task).await;
    copying.outcome =
        Some(done.unwrap_or_else(|error| Err(Error::Other(format!("it was cut short: {error}")))));
}

async fn fetch(folder: &Folder, primary: NodeId) -> Result<String, Error> {
    let fetched = fetch_once(folder, primary).await;
    if fetched.is_err() {
        // Half a copy may be what fills the disk.
        let half = folder.path("new");
        let removed = blocking(move || {
            let gone = !half.exists() || fs::remove_dir_all(&half).is_ok();
            if gone { Ok(()) } else { Err(Error::Other(format!("{} stays", half.display()))) }
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "half a copy is not removed");
        }
        // The next try begins after this one has been told.
        sleep(AGAIN).await;
    }
    fetched
}

async fn fetch_once(folder: &Folder, primary: NodeId) -> Result<String, Error> {
    folder.make()?;
    let begin = Instant::now();
    let new = folder.path("new");
    let empty = new.clone();
    let there = folder.clone();
    blocking(move || {
        let _ = fs::remove_dir_all(&empty);
        make_room(&there)?;
        fs::create_dir(&empty).map_err(|e| Error::File(format!("cannot make {}", empty.display()), e))
    })
    .await?;
    let gate = folder.copy_in_socket();
    let no_gate = |e| Error::File("the database gate of this node does not answer".to_owned(), e);
    // A gate that has just been started, or that waits for the other one.
    let mut from = loop {
        match UnixStream::connect(&gate).await {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > GATE => return Err(no_gate(error)),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    };
    let mut version = [0];
    within(from.read_exact(&mut version)).await?;
    if version != [VERSION] {
        return Err(Error::Other(format!(
            "the copy has version {}, this program knows {VERSION}",
            version[0]
        )));
    }
    let mut child = modest("mbstream")?
        .args(["-x", "-C"])
        .arg(&new)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(folder.open_log()?)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::File("cannot start mbstream".to_owned(), e))?;
    let mut to = child.stdin.take().ok_or_else(|| Error::Other("mbstream has no input".to_owned()))?;
    let (mut bytes, mut piece, mut held) = (0u64, vec![0; PIECE], 0);
    loop {
        let count = within(from.read(&mut piece[held..])).await?;
        if count == 0 {
            break;
        }
        // The last byte says whether the stream is whole; it is not mbstream's, and stays here until it is known to be it.
        let end = held + count - 1;
        within(to.write_all(&piece[..end])).await?;
        (piece[0], held) = (piece[end], 1);
        bytes += count as u64;
    }
    drop(to);
    let status = child.wait().await.map_err(|e| Error::File("mbstream".to_owned(), e))?;
    if held == 0 || piece[0] != WHOLE {
        return Err(Error::Other(format!(
            "node {primary} ended the copy after {bytes} bytes; its log says why"
        )));
    }
    if !status.success() {
        return Err(Error::Other(format!("mbstream failed ({status}); see {}", folder.log().display())));
    }
    let fetched = begin.elapsed();
    let mut prepare = modest("mariadb-backup")?;
    prepare
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--target-dir={}", new.display()))
        .args(as_user());
    finished("the preparation of the copy", &mut prepare).await?;
    let position = position(&new)?;
    fs::write(new.join(POSITION), &position)
        .map_err(|e| Error::File("cannot write the copy's position".to_owned(), e))?;
    let (there, ready) = (folder.clone(), new.clone());
    blocking(move || there.replace(&ready)).await?;
    let mib = bytes / (1 << 20);
    Ok(format!(
        "copied {mib} MiB from node {primary} in {:.1} s, prepared in {:.1} s, at {position}",
        fetched.as_secs_f32(),
        (begin.elapsed() - fetched).as_secs_f32()
    ))
}

/// Where both do not fit the old copy goes first: it is no good, or no other one would have been ordered. Where not even
/// that is enough the primary is not asked.
fn make_room(folder: &Folder) -> Result<(), Error> {
    let (place, data) = (folder.path(""), folder.data());
    let _ = fs::remove_dir_all(folder.path("old"));
    let measure = || disk::measure(&place).unwrap_or((u64::MAX, 0));
    let old = disk::size(&data);
    if measure().0 < old.saturating_add(SPARE) && data.exists() {
        tracing::warn!(
            mib = old >> 20,
            "two copies do not fit on the disk: the one that is no good goes first"
        );
        fs::remove_dir_all(&data).map_err(|e| Error::File(format!("cannot remove {}", data.display()), e))?;
    }
    let (free, total) = measure();
    if Room::Critical.next(free, total) < Room::Critical {
        return disk::try_out(&place);
    }
    Err(Error::Other(format!(
        "the disk has no room for a copy, {} MiB are free; it is fetched when there is room: remove what does not belong \
         there, or give the node a larger disk",
        free >> 20
    )))
}

/// Removing a large copy takes its time; leases are renewed meanwhile.
async fn blocking(work: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Other(format!("it was cut short: {error}"))))
}

/// A copy's position lies beside it until its server has taken it.
pub(crate) const POSITION: &str = "elpis.position";

fn position(copy: &Path) -> Result<String, Error> {
    let path = copy.join("xtrabackup_binlog_info");
    let text =
        fs::read_to_string(&path).map_err(|e| Error::File(format!("cannot read {}", path.display()), e))?;
    let gtid = text.split_whitespace().nth(2).unwrap_or_default().to_owned();
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '-' | ',');
    if gtid.is_empty() || !gtid.chars().all(plain) {
        return Err(Error::Other(format!("the copy names no position: {:?}", text.trim())));
    }
    Ok(gtid)
}
