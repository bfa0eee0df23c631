//! A small world: nodes that do what they are ordered, and the state that they write.

use super::*;
use crate::database::{Group, Member, Mode};
use crate::state::testing::live;

const NEW: &str = "2";

struct World {
    state: ClusterState,
    seen: BTreeMap<NodeId, Seen>,
    planner: Planner,
    now_ms: i64,
    me: NodeId,
    /// Drained, restarted, switched to: what happened, in order.
    story: Vec<String>,
    /// Orders that a node obeys by failing.
    fails: Option<(NodeId, Act)>,
    index: u64,
}

fn image() -> Image {
    Image { version: NEW.into(), sha256: "ab".into(), bytes: 100 << 20 }
}

impl World {
    fn new(nodes: u64) -> World {
        let mut state = live(nodes);
        let mut group = Group::new(3);
        group.mode = Mode::Sync;
        group.ack_set = (2..2 + nodes).filter(|id| *id != 3).collect();
        group.members = (2..2 + nodes).map(|id| (id, Member { verified: true })).collect();
        state.group = Some(group);
        let old = Seen { runs: "1".into(), kept: true, room_bytes: 1 << 30, ..Seen::default() };
        let mut seen: BTreeMap<NodeId, Seen> = (2..2 + nodes).map(|id| (id, old.clone())).collect();
        seen.get_mut(&4).unwrap().holds = "ab".into();
        let planner = Planner::default();
        World { state, seen, planner, now_ms: 1_000, me: 2, story: Vec::new(), fails: None, index: 1_000 }
    }

    fn sight(&self) -> Sight<'_> {
        // As the status counts it.
        let all = self.state.members().count();
        let live: Vec<_> = self.state.members().filter(|(_, node)| node.live()).collect();
        let (up, work) = (live.len(), live.iter().filter(|(_, node)| !node.draining).count());
        let spare = up.saturating_sub(all / 2 + 1).min(work.saturating_sub(1));
        let copies = self.state.group.as_ref().is_none_or(|group| !group.heirs().is_empty());
        Sight {
            state: &self.state,
            seen: &self.seen,
            me: self.me,
            can_lose: if copies { spare.min(1) } else { 0 },
            reason: "one is away",
            now_ms: self.now_ms,
        }
    }

    fn apply(&mut self, command: &Command) {
        self.index += 1;
        self.state.apply(self.index, command).unwrap();
        self.story.push(command.to_string());
    }

    fn begin(&mut self) {
        assert_eq!(against(&self.sight(), &image(), false), Vec::<String>::new());
        let turns = turns(&self.sight(), &image());
        let begin = Entry::Begin {
            image: image(),
            holder: 4,
            turns,
            with_pause: false,
            watch_ms: WATCH_MS,
            at_ms: self.now_ms,
        };
        self.apply(&Command::Update(begin));
    }

    /// A second passes; nodes obey.
    fn second(&mut self) {
        self.now_ms += 1_000;
        let next = {
            let mut planner = std::mem::take(&mut self.planner);
            let next = planner.next(&self.sight());
            self.planner = planner;
            next
        };
        if let Some(command) = &next.command {
            self.apply(command);
        }
        for (id, order) in next.orders {
            let Some(seen) = self.seen.get_mut(&id) else { continue };
            if self.fails == Some((id, order.act)) {
                if order.act == Act::Restart {
                    *seen = Seen { fell_back: NEW.into(), runs: "1".into(), kept: true, ..Seen::default() };
                } else {
                    seen.failed = "no space".into();
                }
                continue;
            }
            match order.act {
                Act::Take => seen.holds = order.image.sha256,
                Act::Write => seen.written = order.image.version,
                Act::Restart => {
                    let group = self.state.group.as_ref().unwrap();
                    assert!(self.me != id && group.primary != id, "{id} has something still");
                    *seen = Seen { runs: NEW.into(), kept: true, holds: "ab".into(), ..Seen::default() };
                    self.story.push(format!("restarted {id}"));
                }
            }
        }
        // What a drain and an order to the database bring about.
        let draining = |id: &NodeId| self.state.nodes[id].draining;
        if draining(&self.me) {
            self.me = (2..).find(|id| !draining(id)).unwrap();
        }
        if let Some(group) = self.state.group.as_mut().filter(|group| group.failing_over) {
            let old = group.primary;
            group.primary = group.prefer.unwrap();
            (group.failing_over, group.prefer) = (false, None);
            group.ack_set.insert(old);
            let primary = group.primary;
            group.ack_set.remove(&primary);
            group.epoch += 1;
        }
    }

    fn until(&mut self, turn: usize, step: Step) {
        for _ in 0..400 {
            if self.state.rollout.as_ref().unwrap().turns[turn].step == step {
                return;
            }
            self.second();
        }
        panic!("{:?} {:#?}", self.state.rollout, self.story);
    }

    fn lose(&mut self, node: NodeId) {
        self.apply(&Command::LeaseOver { node, session: 1, at_ms: 0, reason: "away".into() });
    }

    fn restarted(&self) -> Vec<&str> {
        self.story.iter().filter_map(|line| line.strip_prefix("restarted ")).collect()
    }

    fn until_over(&mut self, seconds: i64) -> Rollout {
        for _ in 0..seconds {
            self.second();
            let rollout = self.state.rollout.clone().unwrap();
            if !rollout.goes_on() {
                return rollout;
            }
        }
        panic!("{:?} {:#?}", self.state.rollout, self.story);
    }
}

#[test]
fn one_after_the_other_and_the_master_last() {
    let mut world = World::new(3);
    world.begin();
    let over = world.until_over(400);
    assert_eq!(over.stopped, None);
    assert!(world.seen.values().all(|seen| seen.runs == NEW));
    assert!(world.state.members().all(|(_, node)| !node.draining));
    assert_eq!(world.restarted(), ["4", "3", "2"], "follower, primary, master");
    let minutes = (over.ended_ms.unwrap() - over.begun_ms) / MINUTE_MS;
    assert!((3..5).contains(&minutes), "{minutes}: each is watched for a minute");
}

#[test]
fn what_fails_stops_all_and_gives_the_node_its_work_back() {
    for (id, act, words, touched) in [
        (3, Act::Take, "n3 cannot take the image: no space", 0),
        (4, Act::Write, "n4 cannot write the image: no space", 0),
        (3, Act::Restart, "2 did not work on n3, which runs 1 again", 1),
    ] {
        let mut world = World::new(3);
        world.fails = Some((id, act));
        world.begin();
        let over = world.until_over(400);
        assert_eq!(over.stopped.as_deref(), Some(words));
        assert_eq!(world.seen.values().filter(|seen| seen.runs == NEW).count(), touched);
        assert!(world.state.members().all(|(_, node)| !node.draining), "{act:?}");
        assert_eq!(Planner::default().next(&world.sight()), Next::default(), "it is over");
    }
}

#[test]
fn a_node_that_does_not_come_back_stops_all() {
    let mut world = World::new(3);
    world.begin();
    world.until(0, Step::Restarts);
    world.seen.insert(4, Seen::default());
    world.lose(4);
    let over = world.until_over(RESTART_MS / 1_000 + 10);
    assert!(over.stopped.unwrap().contains("n4 has not come back with the new version for 60 minutes"));
    assert_eq!(world.seen[&3].runs, "1");
}

#[test]
fn a_node_that_is_lost_meanwhile_keeps_the_next_one_from_starting_anew() {
    for step in [Step::Drains, Step::Restarts] {
        let mut world = World::new(3);
        world.begin();
        world.until(0, step);
        world.lose(3);
        for _ in 0..500 {
            world.second();
        }
        assert_eq!(world.restarted(), Vec::<&str>::new(), "{step:?}");
        assert_eq!(world.seen[&4].written, NEW);
        let over = world.until_over(RESTART_MS / 1_000);
        let why = over.stopped.unwrap();
        assert!(why.contains("cannot lose it") || why.contains("has not come back"), "{why}");
        assert!(!world.state.nodes[&4].draining, "it has its work again");
    }
}

#[test]
fn the_next_turn_waits_for_the_copy_of_the_one_before() {
    let mut world = World::new(3);
    world.begin();
    world.until(0, Step::Settles);
    world.state.group.as_mut().unwrap().ack_set.remove(&4);
    for _ in 0..200 {
        world.second();
    }
    assert_eq!(world.state.rollout.as_ref().unwrap().turns[0].step, Step::Settles);
    world.state.group.as_mut().unwrap().ack_set.insert(4);
    assert_eq!(world.until_over(400).stopped, None);

    // For as long as one turn may take, and no longer; what was well before does not count.
    let mut world = World::new(3);
    world.begin();
    let rollout = world.state.rollout.as_mut().unwrap();
    rollout.watch_ms = 2 * SETTLE_MS;
    world.until(0, Step::Settles);
    for _ in 0..SETTLE_MS / 1_000 + 60 {
        world.second();
    }
    world.state.group.as_mut().unwrap().ack_set.remove(&4);
    let left = world.now_ms;
    let over = world.until_over(SETTLE_MS / 1_000 + 10);
    assert!(over.stopped.unwrap().contains("n4 works, but its copy of the database is not back"));
    assert!(over.ended_ms.unwrap() - left > SETTLE_MS);
}

#[test]
fn a_node_that_is_removed_in_its_turn_ends_the_rollout() {
    let mut world = World::new(4);
    world.begin();
    world.until(0, Step::Restarts);
    world.seen.insert(4, Seen::default());
    world.lose(4);
    world.state.group.as_mut().unwrap().ack_set.remove(&4);
    world.state.group.as_mut().unwrap().members.remove(&4);
    world.apply(&Command::Remove { node: 4 });
    let over = world.until_over(10);
    assert_eq!(over.stopped.as_deref(), Some("node 4 is no member any more"));
}

#[test]
fn a_node_on_trial_stands_against_the_next_rollout() {
    let mut world = World::new(3);
    *world.seen.get_mut(&4).unwrap() = Seen { runs: NEW.into(), kept: false, ..Seen::default() };
    let reasons = against(&world.sight(), &image(), false);
    assert!(reasons.len() == 1 && reasons[0].contains("n4 runs 2, which has not shown yet"), "{reasons:?}");
}

#[test]
fn an_image_that_cannot_be_taken_later_on_stops_all() {
    let mut world = World::new(3);
    world.begin();
    world.until(0, Step::Settles);
    world.seen.remove(&3);
    let over = world.until_over(TAKE_MS / 1_000 + 200);
    assert!(over.stopped.unwrap().contains("n3 has not taken the image"));
}

#[test]
fn a_node_that_was_drained_stays_so_and_a_new_master_goes_on() {
    let mut world = World::new(4);
    world.state.apply(900, &Command::Drain { node: 5 }).unwrap();
    let turns = turns(&world.sight(), &image());
    let begin =
        Entry::Begin { image: image(), holder: 4, turns, with_pause: true, watch_ms: WATCH_MS, at_ms: 1_000 };
    world.apply(&Command::Update(begin));
    for _ in 0..500 {
        world.second();
        // In every second another one leads, with an empty memory but in the last minute of a turn.
        let settles =
            world.state.rollout.as_ref().unwrap().current().is_some_and(|t| t.step == Step::Settles);
        if !settles {
            world.planner = Planner::default();
        }
    }
    assert_eq!(world.state.rollout.as_ref().unwrap().stopped, None);
    assert!(!world.state.rollout.as_ref().unwrap().goes_on());
    assert!(world.state.nodes[&5].draining && !world.state.nodes[&4].draining);
}

#[test]
fn a_node_alone_pauses_only_when_that_is_wanted() {
    let mut world = World::new(3);
    for id in [2, 3] {
        world.state.nodes.remove(&id);
        world.seen.remove(&id);
    }
    world.state.group = Some(Group::new(4));
    world.me = 4;
    let sight = Sight { can_lose: 0, ..world.sight() };
    let reasons = against(&sight, &image(), false);
    assert!(reasons.len() == 1 && reasons[0].contains("--with-pause"), "{reasons:?}");
    assert_eq!(against(&sight, &image(), true), Vec::<String>::new());
    let turns = turns(&sight, &image());
    let begin =
        Entry::Begin { image: image(), holder: 4, turns, with_pause: true, watch_ms: WATCH_MS, at_ms: 0 };
    world.apply(&Command::Update(begin));
    let mut restarts = 0;
    for _ in 0..100 {
        world.now_ms += 1_000;
        let sight = Sight { can_lose: 0, ..world.sight() };
        let next = world.planner.clone().next(&sight);
        if let Some(command) = &next.command {
            assert!(!command.to_string().contains("drain"), "{command}");
            world.index += 1;
            world.state.apply(world.index, command).unwrap();
        }
        for order in next.orders.values() {
            let seen = world.seen.get_mut(&4).unwrap();
            match order.act {
                Act::Take => {}
                Act::Write => seen.written = NEW.into(),
                Act::Restart => (restarts, seen.runs) = (restarts + 1, NEW.into()),
            }
        }
        if restarts > 0 {
            break;
        }
    }
    assert_eq!(restarts, 1, "{:?}", world.state.rollout);
}

#[test]
fn all_that_stands_against_it_is_said_together() {
    let mut world = World::new(3);
    world.lose(3);
    world.seen.get_mut(&2).unwrap().room_bytes = 10 << 20;
    world.seen.get_mut(&4).unwrap().refuses = "it runs from its medium".into();
    let reasons = against(&world.sight(), &image(), false).join("\n");
    for words in [
        "n3 is down: start it, or remove it",
        "n2 has 10 MiB of room for the image, 164 are needed",
        "n4: it runs from its medium",
        "cannot lose a node now (one is away)",
    ] {
        assert!(reasons.contains(words), "{reasons}");
    }
    let mut world = World::new(3);
    world.seen.values_mut().for_each(|seen| seen.runs = NEW.into());
    assert_eq!(against(&world.sight(), &image(), false), ["all nodes run 2 already"]);
}
