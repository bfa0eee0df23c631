//! What is done to three servers, and what is looked at.

use elpis_sim::mariadb::{Outcome, Role, Stopped};

/// Three servers, real ones or their twins.
pub(crate) trait Trio {
    /// `id` = `server_id` of this start.
    fn start(&mut self, server: usize, role: Role, id: u32);
    fn kill(&mut self, server: usize);
    fn terminate(&mut self, server: usize);
    fn insert(&mut self, server: usize, row: u64) -> Outcome;
    /// What the client of a row knows after a while.
    fn outcome(&mut self, row: u64) -> Outcome;
    /// `false` = it hangs.
    fn read_only(&mut self, server: usize, on: bool) -> bool;
    fn semi_master(&mut self, server: usize, on: bool);
    fn set_id(&mut self, server: usize, id: u32);
    fn semi_slave(&mut self, server: usize, on: bool);
    fn follow(&mut self, server: usize, source: usize, demote: bool);
    fn start_io(&mut self, server: usize);
    fn start_sql(&mut self, server: usize);
    fn stop_io(&mut self, server: usize);
    fn stop_sql(&mut self, server: usize);
    fn stop_slave(&mut self, server: usize);
    fn reset_slave(&mut self, server: usize);
    fn rows(&mut self, server: usize) -> Vec<u64>;
    /// Sequence received, sequence applied.
    fn positions(&mut self, server: usize) -> (u64, u64);
    /// Sequence and server id of the last transaction in the binary log.
    fn binlog(&mut self, server: usize) -> Option<(u64, u32)>;
    fn error(&mut self, server: usize) -> Option<Stopped>;
    /// Replication goes on until nothing moves.
    fn settle(&mut self);
    /// Notes an answer: both trios must give the same ones.
    fn see(&mut self, what: String);
    fn seen(&self) -> &[String];
}

type Script = fn(&mut dyn Trio);

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("one acknowledgement releases a commit", one_acknowledgement_releases),
    ("what a replica had before it acknowledges it does not acknowledge", late_acknowledger),
    ("without a replica a commit hangs, and switching off says OK", switching_off_lies),
    ("STOP SLAVE loses what was acknowledged", stop_slave_loses),
    ("STOP SLAVE IO_THREAD keeps it", stop_io_keeps),
    ("a restart of the replica loses it", restart_loses),
    ("role MASTER keeps what nobody acknowledged", role_master_diverges),
    ("role SLAVE cuts it off", role_slave_rejoins),
    ("under another id it rejoins without acknowledging", another_id_rejoins),
    ("SIGTERM commits what waits", sigterm_diverges),
    ("read_only hangs behind a commit that waits", read_only_hangs),
    ("a write on a replica stops it, and it still acknowledges", errant_write),
];

/// Server 0 leads, the others acknowledge.
fn group(trio: &mut dyn Trio) {
    trio.start(0, Role::Master, 1);
    for (replica, id) in [(1, 2), (2, 3)] {
        trio.start(replica, Role::Slave, id);
        trio.follow(replica, 0, false);
    }
    trio.semi_master(0, true);
    trio.read_only(0, false);
}

fn insert(trio: &mut dyn Trio, server: usize, row: u64) {
    let outcome = trio.insert(server, row);
    trio.see(format!("row {row} at {server}: {outcome:?}"));
}

fn outcome(trio: &mut dyn Trio, row: u64) -> Outcome {
    let outcome = trio.outcome(row);
    trio.see(format!("row {row}: {outcome:?}"));
    outcome
}

fn rows(trio: &mut dyn Trio, server: usize) -> Vec<u64> {
    let rows = trio.rows(server);
    trio.see(format!("rows of {server}: {rows:?}"));
    rows
}

fn error(trio: &mut dyn Trio, server: usize) -> Option<Stopped> {
    let error = trio.error(server);
    trio.see(format!("{error:?}"));
    error
}

/// Server 1 takes over from a dead server 0, as a failover does it.
fn promote(trio: &mut dyn Trio) {
    trio.stop_io(1);
    trio.settle();
    trio.stop_slave(1);
    trio.reset_slave(1);
    trio.read_only(1, false);
}

fn one_acknowledgement_releases(trio: &mut dyn Trio) {
    group(trio);
    trio.stop_io(2);
    insert(trio, 0, 1);
    assert_eq!(outcome(trio, 1), Outcome::Acknowledged);
    trio.stop_io(1);
    insert(trio, 0, 2);
    assert_eq!(outcome(trio, 2), Outcome::Hangs);
    assert_eq!(rows(trio, 0), [1], "nobody sees it before it is acknowledged");
    trio.start_io(1);
    assert_eq!(outcome(trio, 2), Outcome::Acknowledged);
    trio.settle();
    assert_eq!((rows(trio, 0), rows(trio, 1), rows(trio, 2)), (vec![1, 2], vec![1, 2], vec![]));
}

/// A replica receives a row while it does not acknowledge, and begins to.
fn late_acknowledger(trio: &mut dyn Trio) {
    group(trio);
    trio.settle();
    trio.stop_io(2);
    trio.stop_io(1);
    trio.semi_slave(1, false);
    trio.start_io(1);
    insert(trio, 0, 1);
    assert_eq!(outcome(trio, 1), Outcome::Hangs);
    trio.settle();
    assert_eq!(rows(trio, 1), [1]);
    trio.stop_io(1);
    trio.semi_slave(1, true);
    trio.start_io(1);
    trio.settle();
    let late = outcome(trio, 1);
    insert(trio, 0, 2);
    assert_eq!(
        (late, outcome(trio, 1), outcome(trio, 2)),
        (late, Outcome::Acknowledged, Outcome::Acknowledged)
    );
}

fn switching_off_lies(trio: &mut dyn Trio) {
    trio.start(0, Role::Master, 1);
    trio.semi_master(0, true);
    trio.read_only(0, false);
    insert(trio, 0, 1);
    assert_eq!(outcome(trio, 1), Outcome::Hangs);
    trio.semi_master(0, false);
    assert_eq!(outcome(trio, 1), Outcome::Acknowledged);
}

/// Five rows that server 1 alone has received, acknowledged and not applied; then the primary dies.
fn received_only(trio: &mut dyn Trio) {
    group(trio);
    trio.settle();
    trio.stop_io(2);
    trio.stop_sql(1);
    for row in 1..=5 {
        insert(trio, 0, row);
        assert_eq!(outcome(trio, row), Outcome::Acknowledged);
    }
    trio.kill(0);
    let positions = trio.positions(1);
    trio.see(format!("received and applied: {positions:?}"));
    assert_eq!(positions, (5, 0));
}

fn stop_slave_loses(trio: &mut dyn Trio) {
    received_only(trio);
    trio.stop_slave(1);
    trio.start_sql(1);
    trio.settle();
    assert!(rows(trio, 1).is_empty());
}

fn stop_io_keeps(trio: &mut dyn Trio) {
    received_only(trio);
    trio.start_sql(1);
    trio.stop_io(1);
    trio.settle();
    assert_eq!(rows(trio, 1), [1, 2, 3, 4, 5]);
}

fn restart_loses(trio: &mut dyn Trio) {
    received_only(trio);
    trio.kill(1);
    trio.start(1, Role::Slave, 2);
    trio.start_sql(1);
    trio.settle();
    assert!(rows(trio, 1).is_empty());
}

/// Row 1 is acknowledged, row 2 by nobody; then the primary ends as `end` says and server 1 takes over.
fn unacknowledged(trio: &mut dyn Trio, end: fn(&mut dyn Trio)) {
    group(trio);
    insert(trio, 0, 1);
    trio.settle();
    trio.stop_io(1);
    trio.stop_io(2);
    insert(trio, 0, 2);
    assert_eq!(outcome(trio, 2), Outcome::Hangs);
    end(trio);
    promote(trio);
    insert(trio, 1, 3);
    trio.settle();
    let binlog = trio.binlog(1);
    trio.see(format!("binary log of 1 ends at {binlog:?}"));
}

fn role_master_diverges(trio: &mut dyn Trio) {
    unacknowledged(trio, |trio| trio.kill(0));
    trio.start(0, Role::Master, 1);
    assert_eq!(rows(trio, 0), [1, 2]);
    trio.follow(0, 1, true);
    trio.settle();
    let error = error(trio, 0);
    assert_eq!(error, Some(Stopped::Diverged));
}

fn role_slave_rejoins(trio: &mut dyn Trio) {
    unacknowledged(trio, |trio| trio.kill(0));
    trio.start(0, Role::Slave, 1);
    // Whether row 1, acknowledged, is cut off as well depends on the moment: it is fetched again.
    assert!(!trio.rows(0).contains(&2));
    trio.follow(0, 1, true);
    trio.settle();
    let error = error(trio, 0);
    assert_eq!((error, rows(trio, 0)), (None, vec![1, 3]));
}

/// With the semi-synchronous side off a server skips transactions of its own id: what was cut off would never come back.
/// Under another id they are anybody's, and it need not acknowledge before it may.
fn another_id_rejoins(trio: &mut dyn Trio) {
    unacknowledged(trio, |trio| trio.kill(0));
    trio.start(0, Role::Slave, 1);
    assert!(!trio.rows(0).contains(&2));
    let binlog = trio.binlog(0);
    trio.see(format!("{binlog:?}"));
    trio.set_id(0, 11);
    trio.semi_slave(0, false);
    trio.follow(0, 1, true);
    trio.settle();
    let error = error(trio, 0);
    assert_eq!((error, rows(trio, 0)), (None, vec![1, 3]));
}

fn sigterm_diverges(trio: &mut dyn Trio) {
    unacknowledged(trio, |trio| trio.terminate(0));
    trio.start(0, Role::Slave, 1);
    assert_eq!(rows(trio, 0), [1, 2], "an orderly end leaves nothing to cut off");
    trio.follow(0, 1, true);
    trio.settle();
    let error = error(trio, 0);
    assert_eq!(error, Some(Stopped::Diverged));
}

fn read_only_hangs(trio: &mut dyn Trio) {
    group(trio);
    trio.settle();
    trio.stop_io(1);
    trio.stop_io(2);
    insert(trio, 0, 1);
    let set = trio.read_only(0, true);
    trio.see(format!("read_only set: {set}"));
    assert!(!set);
}

fn errant_write(trio: &mut dyn Trio) {
    group(trio);
    trio.settle();
    trio.stop_io(2);
    trio.read_only(1, false);
    insert(trio, 1, 100);
    insert(trio, 0, 1);
    trio.settle();
    let error = error(trio, 1);
    assert_eq!(error, Some(Stopped::OutOfOrder));
    insert(trio, 0, 2);
    assert_eq!(outcome(trio, 2), Outcome::Acknowledged);
    assert_eq!(rows(trio, 1), [100]);
}
