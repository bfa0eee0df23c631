use super::*;
use elpis_watch::VERSION;
use std::process::{Child, Command};

const ROLE: Role = Role::NetworkServer;

struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }
    fn process(&self) -> Process {
        Process::find(self.0.id()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(folder: &tempfile::TempDir, roles: &[Role]) -> Registry {
    Registry::new(roles, Incarnations::open(folder.path()).unwrap(), 0)
}

fn hello(role: Role, incarnation: Option<u64>) -> Hello {
    Hello { version: VERSION, role, pid: 0, incarnation }
}

fn beat(incarnation: u64, unfit: &str) -> Heartbeat {
    Heartbeat { version: VERSION, incarnation, unfit: unfit.to_owned(), ..Heartbeat::default() }
}

#[test]
fn a_new_process_supersedes_and_the_old_one_is_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[ROLE]);
    let (old, new) = (Sleeper::new(), Sleeper::new());
    assert_eq!(table.hello(&hello(ROLE, None), old.process(), 0), Ok(1));
    assert_eq!(table.hello(&hello(ROLE, None), new.process(), 100), Ok(2));
    assert!(matches!(table.beat(ROLE, &beat(1, ""), 200), Err(Unwanted::Superseded(_))));
    assert!(matches!(table.hello(&hello(ROLE, Some(1)), old.process(), 200), Err(Unwanted::Superseded(_))));
    table.beat(ROLE, &beat(2, ""), 2000).unwrap();
    assert_eq!(table.tick(false, 2100).0, vec![]);
    table.beat(ROLE, &beat(2, ""), 2101).unwrap();
    assert_eq!(table.tick(false, 2101).0, vec![old.process()], "it had two seconds to go");
    assert!(matches!(table.hello(&hello(Role::Console, None), new.process(), 0), Err(Unwanted::NoRole(_))));
}

#[test]
fn after_a_restart_of_the_node_agent_the_incarnation_stays() {
    let folder = tempfile::tempdir().unwrap();
    let sleeper = Sleeper::new();
    assert_eq!(registry(&folder, &[ROLE]).hello(&hello(ROLE, None), sleeper.process(), 0), Ok(1));
    let mut table = registry(&folder, &[ROLE]);
    assert!(matches!(table.beat(ROLE, &beat(1, ""), 1), Err(Unwanted::Unknown(_))));
    assert_eq!(table.hello(&hello(ROLE, Some(1)), sleeper.process(), 1), Ok(1));
    // A second process cannot slip in under the same number.
    let other = Sleeper::new();
    assert!(matches!(table.hello(&hello(ROLE, Some(1)), other.process(), 1), Err(Unwanted::Superseded(_))));
    // The counter file was lost: the number of the living process is taken note of.
    std::fs::remove_file(folder.path().join("incarnations.json")).unwrap();
    let mut table = registry(&folder, &[ROLE]);
    assert_eq!(table.hello(&hello(ROLE, Some(41)), sleeper.process(), 1), Ok(41));
    assert_eq!(table.hello(&hello(ROLE, None), other.process(), 1), Ok(42));
}

#[test]
fn a_silent_process_is_hung_killed_and_then_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[ROLE]);
    let state = |table: &Registry, now| table.services(now)["network-server"].clone();
    assert_eq!(state(&table, 10), "starting");
    let mut sleeper = Sleeper::new();
    let process = sleeper.process();
    table.hello(&hello(ROLE, None), process.clone(), 1000).unwrap();
    assert_eq!(state(&table, 1001), "starting");
    table.beat(ROLE, &beat(1, ""), 1500).unwrap();
    assert_eq!(state(&table, 1501), "up");
    assert_eq!(table.tick(false, 3500).0, vec![]);
    assert_eq!(table.tick(true, 3500).0, vec![process.clone()], "a move waits for it");
    assert_eq!(table.tick(false, 3501).0, vec![process.clone()]);
    assert_eq!(state(&table, 3501), "hung");
    process.kill();
    sleeper.0.wait().unwrap();
    let (kill, happened) = table.tick(false, 3600);
    assert_eq!((kill.len(), happened[0].kind), (0, "ended"));
    assert_eq!(state(&table, 3601), "down");
    assert_eq!(table.unfit(3601), "network-server is down");
}

#[test]
fn unfitness_is_what_the_servers_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[ROLE, Role::Console]);
    let sleeper = Sleeper::new();
    table.hello(&hello(ROLE, None), sleeper.process(), 0).unwrap();
    for (at, unfit, expected) in
        [(500, "", ""), (1000, "no database", "network-server: no database"), (1500, "", "")]
    {
        table.beat(ROLE, &beat(1, unfit), at).unwrap();
        table.tick(false, at);
        assert_eq!(table.unfit(at), expected, "at {at}");
    }
}

#[test]
fn a_role_that_keeps_ending_makes_unfit() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[ROLE]);
    for round in 0..3 {
        let sleeper = Sleeper::new();
        let incarnation = table.hello(&hello(ROLE, None), sleeper.process(), round * 1000).unwrap();
        table.beat(ROLE, &beat(incarnation, ""), round * 1000 + 1).unwrap();
        drop(sleeper);
        table.tick(false, round * 1000 + 2);
    }
    let sleeper = Sleeper::new();
    table.hello(&hello(ROLE, None), sleeper.process(), 3000).unwrap();
    for at in (3000..14_000).step_by(500) {
        table.beat(ROLE, &beat(4, ""), at).unwrap();
        table.tick(false, at);
        assert_eq!(table.unfit(at).is_empty(), at >= 13_000, "at {at}: {}", table.unfit(at));
    }
}

#[test]
fn a_move_is_acknowledged_when_all_who_work_on_shards_have() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[Role::TentacleServer, Role::DataServer, ROLE]);
    let sleepers = [Sleeper::new(), Sleeper::new()];
    for (role, sleeper) in [Role::DataServer, ROLE].into_iter().zip(&sleepers) {
        table.hello(&hello(role, None), sleeper.process(), 0).unwrap();
    }
    let release = |role, shards: &[(u16, u64)]| Released {
        version: VERSION,
        role,
        incarnation: 1,
        shards: shards.to_vec(),
    };
    table.released(&release(ROLE, &[(7, 3), (9, 5), (5000, 1)])).unwrap();
    assert_eq!(table.acknowledged(&[(7, 3), (9, 5)]), vec![]);
    table.released(&release(Role::DataServer, &[(7, 3), (9, 4)])).unwrap();
    assert_eq!(table.acknowledged(&[(7, 3), (9, 5)]), vec![(7, 3)]);
    // It holds for a restarted process too: what was released is not taken back.
    let again = Sleeper::new();
    table.hello(&hello(ROLE, None), again.process(), 10).unwrap();
    assert_eq!(table.acknowledged(&[(7, 3)]), vec![(7, 3)]);
    assert_eq!(table.acknowledged(&[(7, 4)]), vec![]);
}

#[test]
fn loads_are_summed_and_told_until_heard() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = registry(&folder, &[Role::DataServer, ROLE]);
    let sleeper = Sleeper::new();
    for (role, load) in [(Role::DataServer, 1.5), (ROLE, 2.0)] {
        table.hello(&hello(role, None), sleeper.process(), 0).unwrap();
        let loaded =
            Heartbeat { load: vec![(7, load), (8, f32::NAN), (9, -1.0), (5000, 1.0)], ..beat(1, "") };
        table.beat(role, &loaded, 1).unwrap();
    }
    let loads = table.loads();
    assert_eq!(loads, vec![(7, 3.5)]);
    table.loads_heard(&loads);
    assert_eq!(table.loads(), vec![]);
    table.all_loads_unheard();
    assert_eq!(table.loads(), vec![(7, 3.5)], "for another leader");
}
