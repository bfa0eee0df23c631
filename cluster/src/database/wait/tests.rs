use super::*;
use crate::database::{Entry, Local, Memory, Mode, Order, Planner};

fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

/// Nodes 2 (primary), 3, 4; in [`Mode::Sync`] 3 and 4 acknowledge.
fn group(mode: Mode) -> Group {
    let mut group = Group::new(2);
    for node in [3, 4] {
        group.apply(&Entry::Joined { node }).unwrap();
    }
    for node in [2, 3, 4] {
        group.apply(&Entry::Verified { epoch: 1, node }).unwrap();
    }
    if mode != Mode::Single {
        for entry in
            [Entry::Grow { epoch: 1, node: 3 }, Entry::Grow { epoch: 1, node: 4 }, Entry::Waits { epoch: 1 }]
        {
            group.apply(&entry).unwrap();
        }
    }
    if mode == Mode::Sync {
        group.apply(&Entry::Sync { epoch: 1 }).unwrap();
    }
    group
}

fn failing(mode: Mode) -> Group {
    let mut group = group(mode);
    group.apply(&Entry::FailoverStart { epoch: 2, prefer: None }).unwrap();
    group
}

fn replica(seq: u64) -> Report {
    let local = Local {
        up: true,
        instance: 1,
        read_only: true,
        source: Some(2),
        io: true,
        sql: true,
        io_seq: seq,
        applied_seq: seq,
        binlog_seq: seq,
        ..Local::default()
    };
    Report { echo: u64::MAX, local, memory: Memory { instance: 1, whole: true, ..Memory::default() } }
}

fn restarted(seq: u64) -> Report {
    let mut report = replica(seq);
    report.memory.whole = false;
    report
}

fn down(broken: bool) -> Report {
    Report { echo: u64::MAX, local: Local { broken, ..Local::default() }, memory: Memory::default() }
}

#[test]
fn who_is_waited_for() {
    let on = |group: &Group, live: &[NodeId], three: Report| {
        let reports = BTreeMap::from([(3, three), (4, replica(9))]);
        waits(group, &set(live), &reports).map(|wait| (wait.on, wait.restarted, wait.best))
    };
    let single = group(Mode::Single);
    assert_eq!(on(&single, &[2, 3, 4], replica(5)), None, "the primary lives");
    assert_eq!(on(&single, &[3, 4], replica(5)), Some((set(&[2]), set(&[]), Some(4))));
    assert_eq!(on(&group(Mode::Waiting), &[3, 4], replica(12)), Some((set(&[2]), set(&[]), Some(3))));
    assert_eq!(on(&group(Mode::Sync), &[3, 4], replica(5)), None, "a failover begins");
    let sync = failing(Mode::Sync);
    assert_eq!(on(&sync, &[3, 4], replica(5)), None, "all of the ack set are there");
    assert_eq!(on(&sync, &[3], replica(5)), Some((set(&[2, 4]), set(&[]), Some(3))));
    assert_eq!(on(&sync, &[3, 4], restarted(5)), Some((set(&[2]), set(&[3]), Some(4))));
    assert_eq!(on(&sync, &[3], down(false)), Some((set(&[2, 4]), set(&[3]), None)));
}

/// Group, who lives, report of node 3 (4 has 9), whom, without whom.
type Case<'a> = (&'a Group, &'a [NodeId], Report, NodeId, &'a [NodeId], Result<(), Unfit>);

#[test]
fn what_an_operator_may_choose() {
    use Unfit::*;
    let single = group(Mode::Single);
    let sync = failing(Mode::Sync);
    let cases: [Case<'_>; 13] = [
        (&single, &[3, 4], replica(9), 3, &[2], Ok(())),
        (&single, &[3, 4], replica(12), 3, &[2], Ok(())),
        (&single, &[3, 4], replica(5), 3, &[2], Err(More(4, 9))),
        (&single, &[3, 4], down(true), 3, &[2], Err(NoCopy(3))),
        (&single, &[3, 4], down(false), 4, &[2], Err(Unknown(3))),
        (&single, &[3, 4], down(true), 4, &[2], Ok(())),
        (&single, &[2, 3, 4], replica(9), 3, &[2], Err(Lives(2))),
        (&single, &[3, 4], replica(9), 3, &[2, 4], Err(Lives(4))),
        (&single, &[3], replica(5), 3, &[2], Err(NotNamed(4))),
        (&single, &[3], replica(5), 3, &[2, 4], Ok(())),
        (&single, &[3], replica(5), 2, &[2, 4], Err(NoMember(2))),
        (&sync, &[3, 4], replica(9), 3, &[2], Err(NotNeeded)),
        (&sync, &[3, 4], restarted(9), 3, &[2], Ok(())),
    ];
    for (number, (group, live, three, node, without, expected)) in cases.into_iter().enumerate() {
        let reports = BTreeMap::from([(3, three), (4, replica(9))]);
        let got = may_adopt(group, &set(live), &reports, node, &set(without));
        assert_eq!(got, expected, "case {number}");
        if let Err(why) = got {
            assert!(!why.words(|node| format!("n{node}")).is_empty());
        }
    }
}

struct Led {
    group: Group,
    planner: Planner,
    reports: BTreeMap<NodeId, Report>,
    live: BTreeSet<NodeId>,
    now_ms: i64,
}

impl Led {
    fn look(&mut self) -> (Option<Entry>, Option<Order>) {
        self.now_ms += 100;
        let plan = self.planner.plan(&self.group, &self.live, &self.reports, 4, |_| false, self.now_ms);
        (plan.entry, plan.orders.get(&3).cloned())
    }
}

/// Freezes, detaches, and only then is it agreed on; nobody is told to lead before.
#[test]
fn the_planner_adopts_as_it_fails_over() {
    let mut group = group(Mode::Single);
    let mut led = Led {
        planner: Planner::default(),
        reports: BTreeMap::from([(3, replica(5))]),
        live: set(&[3]),
        now_ms: 0,
        group: group.clone(),
    };
    for _ in 0..100 {
        let (entry, order) = led.look();
        assert_eq!(entry, None, "nothing is chosen without an operator");
        assert!(matches!(order, Some(Order::Follow { .. })));
    }
    group.apply(&Entry::Adopt { epoch: 2, node: 3, without: set(&[2, 4]) }).unwrap();
    led.group = group;
    assert_eq!(led.look(), (None, Some(Order::Freeze { epoch: 2 })));
    let report = led.reports.get_mut(&3).unwrap();
    // A restart in between: nothing that it had not applied is there any more, and it starts first.
    *report = down(false);
    assert!(matches!(led.look().1, Some(Order::Follow { acks: true, .. })));
    *led.reports.get_mut(&3).unwrap() = restarted(7);
    assert_eq!(led.look(), (None, Some(Order::Freeze { epoch: 2 })));
    let report = led.reports.get_mut(&3).unwrap();
    (report.local.io, report.memory.frozen, report.local.binlog_seq) = (false, Some(2), 6);
    assert_eq!(led.look(), (None, Some(Order::Detach { epoch: 2, upto: 7 })));
    let report = led.reports.get_mut(&3).unwrap();
    (report.local.source, report.local.binlog_seq, report.memory.detached) = (None, 7, Some(2));
    // The old one is back in time: nothing has to be given up.
    led.live.insert(2);
    led.reports.insert(2, down(false));
    assert!(matches!(led.look().0, Some(Entry::Promoted { primary: 2, .. })));
    led.live.remove(&2);
    led.reports.remove(&2);
    let (entry, order) = led.look();
    assert_eq!(entry, Some(Entry::Promoted { epoch: 2, primary: 3, base_seq: 7 }));
    assert_eq!(order, Some(Order::Detach { epoch: 2, upto: 7 }), "it opens only when it is agreed on");
    led.group.apply(&entry.unwrap()).unwrap();
    led.live.insert(2);
    led.reports.insert(2, replica(20));
    let plan = led.planner.plan(&led.group, &led.live, &led.reports, 4, |_| false, led.now_ms);
    assert!(
        matches!(plan.orders.get(&3), Some(Order::Lead { epoch: 2, sync: false, install: false, .. })),
        "{plan:?}"
    );
    assert!(
        matches!(plan.orders.get(&2), Some(Order::Follow { primary: 3, acks: false, verify: true, .. })),
        "the one before is compared: {plan:?}"
    );
}

#[test]
fn all_of_the_ack_set_back_makes_the_choice_needless() {
    let mut group = failing(Mode::Sync);
    group.apply(&Entry::Adopt { epoch: 2, node: 3, without: set(&[2, 4]) }).unwrap();
    let frozen = |seq: u64| {
        let mut report = replica(seq);
        (report.local.io, report.memory.frozen) = (false, Some(2));
        report
    };
    let reports = BTreeMap::from([(3, frozen(5)), (4, frozen(9))]);
    let plan = Planner::default().plan(&group, &set(&[3, 4]), &reports, 3, |_| false, 0);
    assert_eq!(plan.orders.get(&4), Some(&Order::Detach { epoch: 2, upto: 9 }), "it has more");
}
