//! A spool full of files through a data server, all values changing and a tenth of them, against bare statements.

use crate::bare;
use crate::fake::{NodeAgent, number};
use crate::files::{AGENTS, MODULES, Spooled};
use crate::process::Process;
use crate::report::Report;
use anyhow::{Result, anyhow, ensure};
use elpis_store::Endpoint;
use elpis_store::testdb::TestDb;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often progress is looked at: counting costs the database, too.
const LOOK: Duration = Duration::from_millis(500);
/// Without progress for so long it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

const DONE: &str = "SELECT COUNT(*) FROM treport_done";

/// A data server with a spool of its own, and the database that it writes to.
pub(crate) struct Bench<'a> {
    program: &'a Path,
    /// Where rows are counted.
    db: TestDb,
    node: std::sync::Arc<NodeAgent>,
    folder: tempfile::TempDir,
    spooled: Spooled,
}

pub(crate) async fn run(program: &Path, files: u32, report: &mut Report) -> Result<()> {
    let db = TestDb::durable().await.map_err(|e| anyhow!(e))?;
    let way = db.endpoint();
    let mut bench = Bench::open(program, db, way)?;
    bench.drain(1, MODULES, "agents and modules made").await?;
    let all = bench.drain(files, MODULES, "all values changing").await?;
    bench.drain(1, MODULES / 10, "settled").await?;
    let tenth = bench.drain(files * 2, MODULES / 10, "10 % changing").await?;
    let bare = bare::best(&bench.db).await?;
    report.row(
        "data server, one node, 1,000 agents of 20 modules, all values changing",
        "40 % of bare statements",
        format!("{all:.0} of {bare:.0} values/s: {:.0} %", 100.0 * all / bare),
        all >= 0.4 * bare,
    );
    report.row(
        "the same with 10 % of values changing",
        "2.5 x the values/s of all changing",
        format!("{tenth:.0} values/s: {:.1} x", tenth / all),
        tenth >= 2.5 * all,
    );
    Ok(())
}

impl Bench<'_> {
    /// Rows are written through `way` and counted in `db`.
    pub(crate) fn open(program: &Path, db: TestDb, way: Endpoint) -> Result<Bench<'_>> {
        let folder = tempfile::Builder::new().prefix("elpis-bench").tempdir()?;
        let first_s = jiff::Timestamp::now().as_second() - 80_000;
        let spooled = Spooled::open(&folder.path().join("spool"), first_s)?;
        Ok(Bench { program, db, node: NodeAgent::serve(way), folder, spooled })
    }

    /// Rows are written through another way from now on.
    pub(crate) fn go(&mut self, way: Endpoint) {
        self.node.change(|map, _| {
            let named = map.database.as_mut().expect("a database is named");
            (named.url, named.user, named.password) = (way.url, way.user, way.password.expose().to_owned());
            named.epoch += 1;
        });
    }

    /// Fills the spool, lets a data server empty it; values a second from the first commit seen to the last.
    pub(crate) async fn drain(&mut self, rounds: u32, changing: u32, what: &str) -> Result<f64> {
        let begin = Instant::now();
        let files = i64::try_from(self.spooled.fill(rounds, changing)?)?;
        println!("{files} files spooled in {:.0} s", begin.elapsed().as_secs_f64());
        let before = number(&self.db, DONE).await;
        let (socket, data) = (self.node.socket.as_os_str(), self.folder.path().as_os_str());
        let arguments: [&OsStr; 5] =
            ["data-server".as_ref(), "--socket".as_ref(), socket, "--data".as_ref(), data];
        let server = Process::start(self.program, &arguments)?;
        let (mut first, mut last, mut done) = (None, Instant::now(), 0);
        while done < files {
            // Short towards the end, so that the end is not missed by much.
            sleep(if done * 20 > files * 19 { LOOK / 10 } else { LOOK }).await;
            let now = number(&self.db, DONE).await - before;
            if now > done {
                (done, last) = (now, Instant::now());
                first.get_or_insert((done, last));
            }
            ensure!(
                last.elapsed() < PATIENCE,
                "{what}: {done} of {files} files, then nothing for {PATIENCE:?}"
            );
        }
        let (from, since) = first.ok_or_else(|| anyhow!("nothing was stored"))?;
        let seconds = (last - since).as_secs_f64().max(0.001);
        let rate = (done - from) as f64 * f64::from(MODULES) / seconds;
        println!(
            "{what}: {rate:.0} values/s over {seconds:.1} s, {:.1} us of processor a value",
            server.cpu_s() * 1e6 / (files as f64 * f64::from(MODULES))
        );
        drop(server);
        self.spooled.clear()?;
        ensure!(number(&self.db, "SELECT COUNT(*) FROM tagent_module").await == i64::from(AGENTS * MODULES));
        Ok(rate)
    }
}
