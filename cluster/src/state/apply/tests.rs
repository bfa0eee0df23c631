use super::super::*;

fn admit(name: &str) -> Command {
    Command::AdmitNode {
        uuid: format!("uuid-{name}"),
        name: name.into(),
        spki: format!("key-{name}"),
        address: String::new(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: "1".into(),
    }
}

/// A cluster of nodes 2, 3 and 4, all up, and the next index.
fn three() -> (ClusterState, u64) {
    let mut state = ClusterState::new();
    state.apply(1, &Command::InitCluster { uuid: "u".into(), name: "c".into() }).unwrap();
    for (index, name) in [(2, "a"), (3, "b"), (4, "c")] {
        assert_eq!(state.apply(index, &admit(name)), Ok(Applied::Admitted(index)));
        state.apply(index + 10, &Command::NodeUp { node: index, session: 1 }).unwrap();
    }
    (state, 20)
}

#[test]
fn ids_are_log_indexes_and_a_repeated_admission_is_the_same_node() {
    let (mut state, at) = three();
    assert_eq!(state.apply(at, &admit("b")), Ok(Applied::Admitted(3)));
    let copy = Command::AdmitNode {
        uuid: "uuid-b".into(),
        name: "x".into(),
        spki: "other".into(),
        address: String::new(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: String::new(),
    };
    assert_eq!(state.apply(at, &copy), Err(Refused::IdentityTaken(3)));
}

#[test]
fn a_lease_over_raises_the_session_once() {
    let (mut state, at) = three();
    let over = Command::LeaseOver { node: 3, session: 1, at_ms: 0, reason: String::new() };
    state.apply(at, &over).unwrap();
    assert_eq!(state.nodes[&3].session, 2);
    state.apply(at + 1, &Command::NodeUp { node: 3, session: 2 }).unwrap();
    assert_eq!(state.apply(at + 2, &over), Err(Refused::StaleSession { node: 3, given: 1, current: 2 }));
    assert!(state.live(3));
    assert_eq!(state.nodes[&3].up_index, at + 1);
}

#[test]
fn a_shard_of_a_live_owner_cannot_be_assigned_away() {
    let (mut state, at) = three();
    assert_eq!(state.apply(at, &Command::Assign { shards: vec![(7, 2)] }), Ok(Applied::Shards(1)));
    assert_eq!(state.apply(at + 1, &Command::Assign { shards: vec![(7, 3)] }), Ok(Applied::Shards(0)));
    assert_eq!(state.revision, at);
    assert_eq!((state.shards[7].owner, state.shards[7].epoch), (2, 1));
}

#[test]
fn a_move_ends_with_its_epoch_and_survives_every_death() {
    let start = || {
        let (mut state, at) = three();
        state.apply(at, &Command::Assign { shards: vec![(7, 2)] }).unwrap();
        state.apply(at + 1, &Command::Release { shards: vec![(7, 3)] }).unwrap();
        assert_eq!(state.moves().collect::<Vec<_>>(), [Move { shard: 7, from: 2, to: 3, epoch: 2 }]);
        (state, at + 2)
    };
    let over = |node| Command::LeaseOver { node, session: 1, at_ms: 0, reason: String::new() };

    let (mut state, at) = start();
    assert_eq!(state.apply(at, &Command::CompleteMoves { shards: vec![(7, 1)] }), Ok(Applied::Shards(0)));
    assert_eq!(state.apply(at, &Command::CompleteMoves { shards: vec![(7, 2)] }), Ok(Applied::Shards(1)));
    assert_eq!((state.shards[7].owner, state.shards[7].epoch), (3, 2));

    // The new owner dies: the old one gets it back with an epoch that nobody ever released.
    let (mut state, at) = start();
    state.apply(at, &over(3)).unwrap();
    assert_eq!((state.shards[7].owner, state.shards[7].epoch, state.shards[7].to), (2, 3, None));
    assert_eq!(state.apply(at + 1, &Command::CompleteMoves { shards: vec![(7, 2)] }), Ok(Applied::Shards(0)));

    // The old owner dies: the shard is an orphan whose next epoch is above the reserved one.
    let (mut state, at) = start();
    state.apply(at, &over(2)).unwrap();
    assert_eq!(state.apply(at + 1, &Command::CompleteMoves { shards: vec![(7, 2)] }), Ok(Applied::Shards(0)));
    state.apply(at + 2, &Command::Assign { shards: vec![(7, 4)] }).unwrap();
    assert_eq!((state.shards[7].owner, state.shards[7].epoch), (4, 3));

    let (mut state, at) = start();
    state.apply(at, &Command::AbortMoves { shards: vec![(7, 2)], reason: String::new() }).unwrap();
    assert_eq!((state.shards[7].owner, state.shards[7].epoch), (2, 3));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let (mut state, at) = three();
    let before = state.clone();
    let batch = Command::Batch(vec![
        Command::Assign { shards: vec![(1, 2)] },
        Command::LeaseOver { node: 2, session: 9, at_ms: 0, reason: String::new() },
    ]);
    assert!(state.apply(at, &batch).is_err());
    assert_eq!(state, before);
    assert_eq!(state.apply(at, &Command::Batch(vec![Command::Batch(vec![])])), Err(Refused::NestedBatch));
}

#[test]
fn a_node_that_lives_and_owns_cannot_be_removed_and_its_name_is_free_afterwards() {
    let (mut state, at) = three();
    state.apply(at, &Command::Assign { shards: vec![(1, 2)] }).unwrap();
    assert_eq!(state.apply(at + 1, &Command::Remove { node: 2 }), Err(Refused::StillOwns(2)));
    state
        .apply(at + 2, &Command::LeaseOver { node: 2, session: 1, at_ms: 0, reason: String::new() })
        .unwrap();
    state.apply(at + 3, &Command::Remove { node: 2 }).unwrap();
    assert!(!state.map().nodes.contains_key(&2));
    assert_eq!(state.apply(at + 4, &Command::NodeUp { node: 2, session: 3 }), Err(Refused::Removed(2)));
    assert_eq!(state.apply(at + 5, &admit("a")), Err(Refused::Removed(2)));
}

#[test]
fn the_database_epoch_grows_with_the_way_in_not_with_ready() {
    let (mut state, at) = three();
    let set = |url: &str, ready| Command::SetDatabase {
        url: url.into(),
        user: "root".into(),
        password: Secret("x".into()),
        mode: "endpoint".into(),
        ready,
    };
    for (n, (url, ready, epoch)) in [("a", false, 1), ("a", true, 1), ("b", true, 2)].into_iter().enumerate()
    {
        state.apply(at + n as u64, &set(url, ready)).unwrap();
        assert_eq!(state.database.as_ref().map(|database| database.epoch), Some(epoch));
    }
    assert!(!format!("{:?}", set("a", true)).contains("\"x\""));
}

#[test]
fn lists_are_bounded() {
    let (mut state, at) = three();
    for n in 0..600 {
        let n = at + n;
        state.apply(n, &Command::Audit { at_ms: 0, who: "w".into(), what: "x".into() }).unwrap();
        let join = Command::OpenJoin {
            code: n.to_string(),
            verifier: String::new(),
            expires_ms: n.cast_signed(),
            tries: 3,
        };
        state.apply(n, &join).unwrap();
        let seen = Failover { node: 2, at_ms: n.cast_signed(), ..Failover::default() };
        state.apply(n, &Command::FailoverSeen(seen)).unwrap();
    }
    assert_eq!(
        (state.audit.len(), state.joins.len(), state.failovers.len()),
        (MAX_AUDIT, MAX_JOINS, MAX_FAILOVERS)
    );
    let long = Command::Audit { at_ms: 0, who: "w".repeat(MAX_TEXT + 1), what: String::new() };
    assert!(matches!(state.apply(9999, &long), Err(Refused::TooLong(_))));
}

#[test]
fn state_and_commands_survive_postcard() {
    let (mut state, at) = three();
    state.apply(at, &Command::Assign { shards: (0..4096).map(|n| (n, 2)).collect() }).unwrap();
    let bytes = postcard::to_allocvec(&state).unwrap();
    assert!(bytes.len() < 64 << 10, "{}", bytes.len());
    assert_eq!(postcard::from_bytes::<ClusterState>(&bytes).unwrap(), state);
}

#[test]
fn a_batch_cannot_complete_the_move_that_it_starts() {
    let (mut state, at) = three();
    let ids: Vec<NodeId> = state.members().map(|(id, _)| id).collect();
    state.apply(at, &Command::Assign { shards: vec![(0, ids[0])] }).unwrap();
    let epoch = state.shards[0].named + 1;
    let release = Command::Release { shards: vec![(0, ids[1])] };
    let complete = Command::CompleteMoves { shards: vec![(0, epoch)] };
    state.apply(at + 1, &Command::Batch(vec![release, complete.clone()])).unwrap();
    assert_eq!((state.shards[0].owner, state.shards[0].to), (ids[0], Some(ids[1])));
    state.apply(at + 2, &Command::Batch(vec![complete])).unwrap();
    assert_eq!((state.shards[0].owner, state.shards[0].epoch), (ids[1], epoch));
}

mod random {
    use super::*;
    use proptest::prelude::*;

    fn command() -> impl Strategy<Value = Command> {
        let node = 1u64..8;
        let shards = prop::collection::vec((0u16..6, 1u64..8), 1..6);
        let epochs = prop::collection::vec((0u16..6, 1u64..12), 1..6);
        let one = prop_oneof![
            (node.clone(), 1u64..6).prop_map(|(node, session)| Command::NodeUp { node, session }),
            (node.clone(), 1u64..6, 0i64..200_000).prop_map(|(node, session, at_ms)| {
                Command::LeaseOver { node, session, at_ms, reason: String::new() }
            }),
            shards.clone().prop_map(|shards| Command::Assign { shards }),
            shards.prop_map(|shards| Command::Release { shards }),
            epochs.clone().prop_map(|shards| Command::CompleteMoves { shards }),
            epochs.prop_map(|shards| Command::AbortMoves { shards, reason: String::new() }),
            node.clone().prop_map(|node| Command::Drain { node }),
            node.clone().prop_map(|node| Command::Remove { node }),
            (node, "[ab]").prop_map(|(node, name)| Command::SetJob { name, node }),
        ];
        prop_oneof![4 => one.clone(), 1 => prop::collection::vec(one, 1..4).prop_map(Command::Batch)]
    }

    proptest! {
        /// I1: one owner at every index (a field, so: an owner change means a higher epoch), epochs and sessions only
        /// grow, and a live owner loses a shard only by a completed move.
        #[test]
        fn epochs_and_sessions_only_grow(commands in prop::collection::vec(command(), 1..200)) {
            let (mut state, at) = three();
            for (index, command) in (at..).zip(&commands) {
                let before = state.clone();
                let outcome = state.apply(index, command);
                if outcome.is_err() {
                    prop_assert_eq!(&state, &before);
                }
                prop_assert_eq!(state.shards.len(), 4096);
                for (old, new) in before.shards.iter().zip(state.shards.iter()) {
                    prop_assert!(new.epoch >= old.epoch && new.named >= old.named && new.named >= new.epoch);
                    prop_assert!(new.owner == old.owner || new.epoch > old.epoch);
                    let same_session = |owner| {
                        before.live(owner) && state.live(owner) && before.nodes[&owner].session == state.nodes[&owner].session
                    };
                    if new.owner != old.owner && same_session(old.owner) {
                        prop_assert!(old.to.is_some(), "moved before the old owner could have acknowledged");
                        // A batch may move it on; one command gives it to the one that was named.
                        if !matches!(command, Command::Batch(_)) {
                            prop_assert_eq!(old.to, Some(new.owner));
                            prop_assert_eq!(new.epoch, old.named);
                        }
                    }
                    prop_assert!(new.to.is_none() || new.named > new.epoch);
                }
                for (id, old) in &before.nodes {
                    let new = &state.nodes[id];
                    prop_assert!(new.session >= old.session);
                    prop_assert!(new.state == old.state || new.live() || new.session > old.session
                        || old.state == NodeState::Joining);
                }
                for (name, old) in &before.jobs {
                    let new = state.jobs[name];
                    prop_assert!(new.epoch > old.epoch || new == *old);
                }
            }
        }
    }
}

#[test]
fn a_code_admits_one_node_and_stays_as_spent() {
    let (mut state, at) = three();
    let open = |code: &str| Command::OpenJoin {
        code: code.into(),
        verifier: "v".into(),
        expires_ms: i64::from(code != "a"),
        tries: 2,
    };
    let burn = |whole| Command::BurnJoin { code: "a".into(), whole };
    state.apply(at, &open("a")).unwrap();
    state.apply(at + 1, &burn(false)).unwrap();
    assert_eq!(state.joins["a"].tries, 1);
    let admit = |name: &str| {
        let text = |what: &str| format!("{what} {name}");
        let (uuid, name, spki, address) = (text("u"), name.to_owned(), text("k"), text("a"));
        let empty = String::new;
        let admit = Command::AdmitNode {
            uuid,
            name,
            spki,
            address,
            spool_address: empty(),
            gate_address: empty(),
            console_address: empty(),
            version: empty(),
        };
        Command::Batch(vec![burn(true), admit])
    };
    state.apply(at + 2, &admit("x")).unwrap();
    let before = state.clone();
    assert_eq!(state.apply(at + 3, &admit("y")), Err(Refused::NoSuchCode("a".into())));
    assert_eq!(state.apply(at + 4, &burn(false)), Err(Refused::NoSuchCode("a".into())));
    assert_eq!(state, before);
    // A spent code makes room first.
    for n in 0..MAX_JOINS {
        state.apply(at + 5, &open(&n.to_string())).unwrap();
    }
    assert!(!state.joins.contains_key("a") && state.joins.len() == MAX_JOINS);
}
