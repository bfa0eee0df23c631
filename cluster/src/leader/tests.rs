use super::*;

const LAN: Profile = Profile::Lan;

/// A cluster in which node 2 leads and the test is Raft.
struct World {
    state: ClusterState,
    view: RaftView,
    leader: Leader,
    now: i64,
}

impl World {
    fn new(nodes: u64) -> World {
        let state = crate::state::testing::admitted(nodes);
        let view = RaftView {
            term: 1,
            leader: Some(2),
            is_leader: true,
            first_entry_applied: true,
            elected_at_boot_ms: Some(0),
            last_quorum_acked_boot_ms: Some(0),
            applied_index: 100,
            voters: (2..2 + nodes).collect(),
            ..RaftView::default()
        };
        let mut leader = Leader::new(2, LAN);
        leader.follow(0, None);
        World { state, view, leader, now: 0 }
    }

    /// Lets time pass in steps of 50 ms; the nodes of `alive` renew, and acknowledge what they are asked to release.
    fn run(&mut self, ms: i64, alive: &[NodeId]) -> Vec<Command> {
        let mut done = Vec::new();
        let end = self.now + ms;
        while self.now < end {
            self.now += 50;
            self.view.last_quorum_acked_boot_ms = Some(self.now);
            for id in alive {
                let released = self.state.map().releasing(*id);
                self.renew(*id, Renewal { released, ..Renewal::default() });
            }
            let now = Now { boot_ms: self.now, unix_ms: self.now, view: &self.view, state: &self.state };
            if let Some(command) = self.leader.tick(&now) {
                self.view.applied_index += 1;
                self.state.apply(self.view.applied_index, &command).unwrap();
                done.push(command);
            }
        }
        done
    }

    fn renew(&mut self, id: NodeId, renewal: Renewal) -> Grant {
        let now = Now { boot_ms: self.now, unix_ms: self.now, view: &self.view, state: &self.state };
        let session = self.state.nodes[&id].session;
        let renewal =
            Renewal { session, applied_index: self.view.applied_index, unix_ms: self.now, ..renewal };
        self.leader.renewal(id, &renewal, &now)
    }
}

#[test]
fn nodes_come_up_and_share_the_shards() {
    let mut world = World::new(3);
    world.run(300, &[2]);
    assert_eq!(world.state.owned(2), 4096, "the first owns all at once");
    world.run(2_000, &[2, 3, 4]);
    for id in 2..5 {
        let owned = world.state.owned(id);
        assert!((1300..=1435).contains(&owned), "{id} owns {owned}");
    }
    assert_eq!(world.state.moves().count(), 0);
    assert_eq!(world.state.jobs.len(), JOBS.len());
}

#[test]
fn a_silent_node_loses_its_session_and_its_shards_in_one_entry() {
    let mut world = World::new(3);
    world.run(3_000, &[2, 3, 4]);
    let before = world.now;
    let quiet = world.run(1_400, &[2, 3]);
    assert!(quiet.is_empty(), "its lease may still run: {quiet:?}");
    let done = world.run(400, &[2, 3]);
    assert_eq!(done.len(), 1, "{done:?}");
    assert!(world.now - before < 2_000);
    assert_eq!(world.state.owned(4), 0);
    assert_eq!(world.state.nodes[&4].session, 2);
    assert!(world.state.shards.iter().all(|shard| world.state.live(shard.owner)));
    let line = world.state.failovers.last().unwrap();
    assert!((1_500..1_700).contains(&line.detected_ms) && line.moved > 1_000, "{line:?}");
    // It comes back in its new session and gets its share again.
    world.state.database = None;
    world.run(3_000, &[2, 3, 4]);
    assert!(world.state.owned(4) > 1_200, "within 5 % of even");
}

#[test]
fn a_move_waits_for_its_owner_and_is_given_up_in_the_end() {
    let mut world = World::new(2);
    world.run(1_000, &[2, 3]);
    let had = world.state.owned(2);
    world.state.apply(900, &Command::Drain { node: 2 }).unwrap();
    // The owner renews but acknowledges nothing.
    for _ in 0..(MOVE_MS - 500) / 200 {
        world.renew(2, Renewal::default());
        let done = world.run(200, &[3]);
        assert!(!done.iter().any(|command| format!("{command}").contains("abort")), "{done:?}");
    }
    assert_eq!(world.state.owned(2), had);
    assert!(world.state.moves().count() > 0);
    // An acknowledgement of somebody else, or of another epoch, is none.
    let (shard, epoch) = world.state.map().releasing(2)[0];
    world.renew(3, Renewal { released: vec![(shard, epoch)], ..Renewal::default() });
    world.renew(2, Renewal { released: vec![(shard, epoch - 1)], ..Renewal::default() });
    world.run(50, &[]);
    assert_eq!(world.state.shards[usize::from(shard)].owner, 2);
    for _ in 0..10 {
        world.renew(2, Renewal::default());
        world.run(200, &[3]);
    }
    assert!(world.state.shards[usize::from(shard)].epoch > epoch, "given up, with a fresh epoch");
}

#[test]
fn a_newcomer_gets_what_has_no_load_at_once_and_the_rest_bit_by_bit() {
    // Shards with a load; how many of all, and of those, the newcomer has three seconds later.
    for (loads, all, busy) in [(10, 1_350..=1_700, 8..=10), (4_000, 128..=224, 128..=224)] {
        let mut world = World::new(2);
        world.run(300, &[2]);
        let (url, user, mode) = ("mysql://db".into(), "u".into(), "endpoint".into());
        let set = Command::SetDatabase { url, user, password: Default::default(), mode, ready: true };
        world.state.apply(900, &set).unwrap();
        let told = (0..loads).map(|shard| (shard, 1.0)).collect();
        world.renew(2, Renewal { loads: told, ..Renewal::default() });
        let done = world.run(3_000, &[2, 3]);
        let of = |shards: &[crate::state::Shard]| shards.iter().filter(|shard| shard.owner == 3).count();
        let has = (of(&world.state.shards[..]), of(&world.state.shards[..usize::from(loads)]));
        assert!(all.contains(&has.0) && busy.contains(&has.1), "{loads}: {has:?}");
        // Each is a map that every server reads.
        assert!(done.len() < 40, "{loads}: {} commands", done.len());
    }
}

#[test]
fn nothing_is_decided_without_a_majority_or_while_giving_up_the_lead() {
    let mut world = World::new(3);
    world.run(1_000, &[2, 3, 4]);
    world.view.transferring = true;
    assert!(world.run(5_000, &[2]).is_empty());
    assert!(!world.renew(3, Renewal::default()).refused.is_empty());
}

#[test]
fn unfit_nodes_give_their_shards_away_while_others_are_fit() {
    let mut world = World::new(2);
    world.run(1_000, &[2, 3]);
    for _ in 0..60 {
        let released = world.state.map().releasing(3);
        world.renew(3, Renewal { unfit: "the spool's disk is full".into(), released, ..Renewal::default() });
        world.run(100, &[2]);
    }
    assert_eq!(world.state.owned(3), 0);
    assert_eq!(world.leader.unfit(3), "the spool's disk is full");
    world.run(2_000, &[2, 3]);
    assert!(world.state.owned(3) > 1_900, "fit again");
}

/// Lets time pass while node `id` says that a server is down and acknowledges nothing.
fn stuck(world: &mut World, id: NodeId, ms: i64, others: &[NodeId]) -> Vec<Command> {
    let mut done = Vec::new();
    for _ in 0..ms / 100 {
        world.renew(id, Renewal { unfit: "data-server is down".into(), ..Renewal::default() });
        done.extend(world.run(100, others));
    }
    done
}

#[test]
fn an_unfit_node_that_does_not_release_loses_its_session() {
    let mut world = World::new(3);
    world.run(3_000, &[2, 3, 4]);
    let done = stuck(&mut world, 3, UNFIT_MS + UNFIT_MOVE_MS + LeaseTimings::of(LAN).lease_ms + 500, &[2, 4]);
    assert_eq!(world.state.owned(3), 0, "{done:?}");
    assert_eq!(world.state.moves().count(), 0);
    assert!(
        done.iter().any(|c| format!("{c:?}").contains("did not release its shards: data-server is down"))
    );
    let epochs: Vec<u64> = world.state.shards.iter().map(|shard| shard.epoch).collect();
    stuck(&mut world, 3, 20_000, &[2, 4]);
    let later: Vec<u64> = world.state.shards.iter().map(|shard| shard.epoch).collect();
    assert_eq!(epochs, later, "up again it gets none, and nothing else moves");
    assert!(world.state.nodes[&3].live());
}

#[test]
fn an_unfit_leader_that_does_not_release_yields() {
    let mut world = World::new(3);
    world.run(3_000, &[2, 3, 4]);
    stuck(&mut world, 2, UNFIT_MS, &[3, 4]);
    assert!(!world.leader.must_yield());
    stuck(&mut world, 2, UNFIT_MOVE_MS + 500, &[3, 4]);
    assert!(world.leader.must_yield());
    assert!(world.state.owned(2) > 1_000, "nobody ends its session while it leads");
}

#[test]
fn one_wrong_clock_moves_cluster_time_by_nothing() {
    let mut world = World::new(3);
    world.run(1_000, &[2, 3, 4]);
    let year = 365 * 86_400_000;
    for _ in 0..50 {
        let now = Now { boot_ms: world.now, unix_ms: world.now, view: &world.view, state: &world.state };
        let renewal = Renewal {
            session: 1,
            applied_index: world.view.applied_index,
            unix_ms: world.now + year,
            ..Renewal::default()
        };
        let grant = world.leader.renewal(4, &renewal, &now);
        assert!((grant.cluster_now_ms - world.now).abs() <= 50, "{grant:?}");
        let _ = world.leader.tick(&now);
        world.now += 50;
        world.view.last_quorum_acked_boot_ms = Some(world.now);
        let _ = world.renew(3, Renewal::default());
    }
}

#[test]
fn the_death_of_the_leader_before_counts_from_its_last_grant() {
    let mut world = World::new(3);
    world.run(1_000, &[2, 3, 4]);
    // Node 3 led before; this node asked for its last grant 900 ms before it was elected itself.
    world.leader.follow(0, Some(world.now - 900));
    world.view.term = 2;
    world.view.predecessor = Some(3);
    world.view.elected_at_boot_ms = Some(world.now);
    world.run(900, &[2, 4]);
    let line = world.state.failovers.last().unwrap();
    assert_eq!(line.node, 3);
    assert!((1_550..1_700).contains(&line.detected_ms), "{line:?}");
}
