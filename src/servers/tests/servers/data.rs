//! Files from the spool to rows, once, in order, whatever is delivered again.

use crate::fake::{ME, NodeAgent, number, until};
use elpis_monitor::Shard;
use elpis_servers::{Ended, data};
use elpis_store::testdb::TestDb;
use elpis_tentacle::spool::{Header, Intake, Limits, Spool};
use tokio_util::sync::CancellationToken;

const TABLES: [&str; 10] = [
    "tagent",
    "tagent_module",
    "tmodule_state",
    "tagent_contact",
    "tagent_count",
    "tagent_data",
    "tagent_data_string",
    "tagent_data_inc",
    "tevent",
    "treport_done",
];

struct Setting {
    db: TestDb,
    node: std::sync::Arc<NodeAgent>,
    intake: Intake,
    folder: tempfile::TempDir,
    now_ms: i64,
}

impl Setting {
    async fn new() -> Setting {
        let db = TestDb::fresh().await.unwrap();
        let node = NodeAgent::start(&db);
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), Limits::default()).unwrap();
        let intake = Intake::open(spool, ME).unwrap();
        intake.spool().set_readiness(&(0..4096).map(|shard| (shard, 1)).collect()).unwrap();
        Setting { db, node, intake, folder, now_ms: jiff::Timestamp::now().as_millisecond() - 3_600_000 }
    }

    fn start(&self) -> (tokio::task::JoinHandle<Ended>, CancellationToken) {
        let stop = CancellationToken::new();
        let config =
            data::DataConfig { socket: self.node.socket.clone(), spool: self.folder.path().to_path_buf() };
        let token = stop.clone();
        (tokio::spawn(async move { data::run(config, token).await.unwrap() }), stop)
    }

    fn accept(&mut self, name: &str, content: &[u8]) -> Header {
        self.now_ms += 1_000;
        let shard = Shard::of_file(name).unwrap().number();
        self.intake.accept(name, content, shard, self.now_ms).unwrap().header().clone()
    }

    /// Waits until no entry waits, then deletes what was handed over, as the tentacle server does.
    async fn drained(&self) {
        let spool = self.intake.spool();
        until("an empty spool", async || {
            spool.shards().unwrap().into_iter().all(|shard| !spool.has_work(shard))
        })
        .await;
        for entry in spool.handed_done().unwrap() {
            self.intake.delete(&entry).unwrap();
        }
    }

    async fn dump(&self) -> Vec<String> {
        let mut all = Vec::new();
        for table in TABLES {
            for row in self.db.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2")).await.unwrap() {
                all.push(format!("{table}: {row}"));
            }
        }
        all
    }
}

fn file(agent: &str, at: i64, k: i64) -> String {
    format!(
        "<?xml version='1.0' encoding='UTF-8'?><agent_data agent_name='{agent}' interval='300' version='1' \
         timestamp='{at}' os_name='Linux' address='10.0.0.1'>\
         <module><name>load</name><type>generic_data</type><data>{}</data><max_critical>100</max_critical>\
         <min_critical>8</min_critical></module>\
         <module><name>in</name><type>generic_data_inc</type><data>{}</data></module>\
         <module><name>text</name><type>generic_data_string</type><data>same</data></module>\
         <module><name>twice</name><type>async_data</type><datalist><data><value>1</value></data>\
         <data><value>2</value></data></datalist></module></agent_data>",
        k % 10,
        k * k * 10
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn files_become_samples_once_and_in_order() {
    let mut setting = Setting::new().await;
    let agents = ["alpha", "beta", "gamma"];
    let begin = setting.now_ms / 1000;
    let mut headers = Vec::new();
    let files: Vec<(String, String)> = (0..20)
        .flat_map(|k| agents.map(|agent| (format!("{agent}.{k}.data"), file(agent, begin + k * 60, k))))
        .collect();
    for (name, content) in &files {
        headers.push(setting.accept(name, content.as_bytes()));
    }
    let (server, stop) = setting.start();
    setting.drained().await;
    let db = &setting.db;
    assert_eq!(number(db, "SELECT COUNT(*) FROM tagent").await, 3);
    assert_eq!(number(db, "SELECT COUNT(*) FROM tagent_module").await, 12);
    assert_eq!(number(db, "SELECT COUNT(*) FROM tevent WHERE event_type='new_agent'").await, 3);
    assert_eq!(number(db, "SELECT COUNT(*) FROM treport_done").await, 60);
    // Taken in order, a counter that grows never resets: 19 rates each, all different.
    let rates =
        "SELECT COUNT(*) FROM tagent_data d JOIN tagent_module m USING (id_agent_module) WHERE m.name='in'";
    assert_eq!(number(db, rates).await, 3 * 19);
    let twice = "SELECT COUNT(*) FROM tagent_data d JOIN tagent_module m USING (id_agent_module) \
                 WHERE m.name='twice' AND d.n=1";
    assert_eq!(number(db, twice).await, 3 * 20);
    assert_eq!(number(db, "SELECT COUNT(*) FROM tagent_data_string").await, 3);
    // k % 10 is 9 at the end: critical, after one going up in the middle and one back.
    assert_eq!(number(db, "SELECT SUM(critical_count) FROM tagent_count").await, 3);
    assert_eq!(number(db, "SELECT COUNT(*) FROM tevent WHERE event_type='going_up_critical'").await, 6);
    let before = setting.dump().await;

    // Again by the sender (new ids), and the other copy (another receiver's id).
    for (name, content) in &files {
        setting.accept(name, content.as_bytes());
    }
    setting.drained().await;
    for (header, (_, content)) in headers.iter().zip(&files) {
        let header = Header { receiver: 99, ..header.clone() };
        setting.intake.take_copy(&header, content.as_bytes()).unwrap();
    }
    setting.drained().await;
    assert_eq!(setting.dump().await, before);

    // Restarted, and again: still nothing new.
    stop.cancel();
    assert_eq!(server.await.unwrap(), Ended::Stopped);
    let (server, stop) = setting.start();
    for (name, content) in &files {
        setting.accept(name, content.as_bytes());
    }
    setting.drained().await;
    assert_eq!(setting.dump().await, before);
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_one_second_all_stay_over_a_restart_and_when_they_come_late() {
    let mut setting = Setting::new().await;
    let at = setting.now_ms / 1000;
    let loads =
        "SELECT COUNT(*) FROM tagent_data d JOIN tagent_module m USING (id_agent_module) WHERE m.name='load'";
    for (round, (second, k)) in [(at, 1), (at, 2), (at + 300, 3), (at, 4)].into_iter().enumerate() {
        setting.accept(&format!("theta.{round}.data"), file("theta", second, k).as_bytes());
        let (server, stop) = setting.start();
        setting.drained().await;
        stop.cancel();
        server.await.unwrap();
        assert_eq!(number(&setting.db, loads).await, i64::try_from(round + 1).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_set_aside_and_the_rest_goes_on() {
    let mut setting = Setting::new().await;
    setting.accept("delta.1.data", file("delta", setting.now_ms / 1000, 1).as_bytes());
    setting.accept("delta.2.data", b"<agent_data agent_name='delta'><module>");
    // Named after one agent, written by another: it belongs to another shard.
    setting.accept("delta.3.data", file("epsilon", setting.now_ms / 1000, 1).as_bytes());
    setting.accept("delta.4.data", file("delta", setting.now_ms / 1000, 2).as_bytes());
    let (server, stop) = setting.start();
    setting.drained().await;
    let reason = std::fs::read_to_string(setting.folder.path().join("bad/delta.2.data.reason")).unwrap();
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!(reason["file"], "delta.2.data");
    assert!(reason["error"].as_str().unwrap().contains("well-formed"), "{reason}");
    let forwarded = setting.intake.spool().handed_forward().unwrap();
    assert_eq!(forwarded.len(), 1);
    assert_eq!(forwarded[0].shard, Shard::of_agent("epsilon").number());
    let events = setting.db.rows("SELECT event FROM tevent WHERE event_type='error'").await.unwrap();
    assert_eq!(events.len(), 1);
    assert!(events[0].contains("delta.2.data"), "{events:?}");
    assert_eq!(number(&setting.db, "SELECT COUNT(*) FROM treport_done").await, 3);

    // The same bad file again is known: no second event.
    setting.accept("delta.2.data", b"<agent_data agent_name='delta'><module>");
    setting.drained().await;
    assert_eq!(number(&setting.db, "SELECT COUNT(*) FROM tevent WHERE event_type='error'").await, 1);
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_file_leaves_the_spool() {
    let mut setting = Setting::new().await;
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../agentxml/tests/cases");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "data"));
    names.sort();
    for path in &names {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Filed under the shard of the agent inside, where there is one, as an agent would name it.
        let content = std::fs::read(path).unwrap();
        let limits = elpis_agentxml::Limits::default();
        let report =
            elpis_agentxml::decode(&content, &limits).and_then(|t| elpis_agentxml::parse(&t, &limits));
        let agent = report.ok().and_then(|r| r.agent_name().ok().map(str::to_owned));
        let shard = agent.map_or(7, |agent| Shard::of_agent(&agent).number());
        setting.now_ms += 1;
        setting.intake.accept(name, &content, shard, setting.now_ms).unwrap();
    }
    assert!(names.len() > 40);
    let (server, stop) = setting.start();
    setting.drained().await;
    assert!(number(&setting.db, "SELECT COUNT(*) FROM tagent_module").await > 50);
    let kept = number(&setting.db, "SELECT COUNT(*) FROM treport_done").await;
    assert_eq!(kept, i64::try_from(names.len()).unwrap());
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_given_away_after_its_last_commit() {
    let mut setting = Setting::new().await;
    setting.accept("zeta.1.data", file("zeta", setting.now_ms / 1000, 1).as_bytes());
    let (server, stop) = setting.start();
    setting.drained().await;
    let shard = Shard::of_agent("zeta").number();
    setting.node.take_away(shard).await;
    setting.accept("zeta.2.data", file("zeta", setting.now_ms / 1000, 2).as_bytes());
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(setting.intake.spool().has_work(shard));
    // Back, but the other nodes have not been asked for this epoch yet.
    setting.node.give_back(shard);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(setting.intake.spool().has_work(shard));
    let mut marks = setting.intake.spool().readiness();
    marks.insert(shard, 3);
    setting.intake.spool().set_readiness(&marks).unwrap();
    setting.drained().await;
    assert_eq!(number(&setting.db, "SELECT COUNT(*) FROM treport_done").await, 2);
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_database_refuses_is_set_aside_and_the_others_are_stored() {
    let mut setting = Setting::new().await;
    let begin = setting.now_ms / 1000;
    for k in 0..10 {
        for agent in ["eta", "theta", "iota"] {
            let content = file(agent, begin + k * 60, k);
            let content =
                if (agent, k) == ("theta", 4) { content.replace("same", "poison") } else { content };
            setting.accept(&format!("{agent}.{k}.data"), content.as_bytes());
        }
    }
    // As a column too short for a value would do.
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON tagent_data_string FOR EACH ROW \
        IF NEW.data='poison' THEN SIGNAL SQLSTATE '22001' SET MESSAGE_TEXT='too long'; END IF";
    setting.db.execute(refuse).await.unwrap();
    let (server, stop) = setting.start();
    setting.drained().await;
    let reason = setting.folder.path().join("bad/theta.4.data.reason");
    let reason: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(reason).unwrap()).unwrap();
    assert!(reason["error"].as_str().unwrap().contains("too long"), "{reason}");
    let loads = "SELECT a.name, COUNT(*) FROM tagent_data d JOIN tagent_module m USING (id_agent_module) \
        JOIN tagent a ON a.id_agent=m.id_agent WHERE m.name='load' GROUP BY a.name ORDER BY a.name";
    assert_eq!(setting.db.rows(loads).await.unwrap(), ["eta|10", "iota|10", "theta|9"]);
    assert_eq!(number(&setting.db, "SELECT COUNT(*) FROM treport_done").await, 30);
    assert_eq!(number(&setting.db, "SELECT COUNT(*) FROM tevent WHERE event_type='error'").await, 1);
    stop.cancel();
    server.await.unwrap();
}
