use super::margins::{Gauge, Margins, What};
use super::*;
use proptest::prelude::*;
use proptest::sample::select;

fn set(ids: &[NodeId]) -> BTreeSet<NodeId> {
    ids.iter().copied().collect()
}

fn formed(profile: Profile) -> Agreed {
    let mut agreed = Agreed::default();
    assert!(agreed.apply(&Change::Formed(profile), &set(&[])));
    agreed
}

fn all(ids: &[NodeId], patience: Profile, step: u64) -> BTreeMap<NodeId, Shown> {
    ids.iter().map(|id| (*id, Shown { patience, step })).collect()
}

use Profile::{Lan, Metro, Safe};

#[test]
fn slower_waits_for_every_member_and_all_of_raft() {
    let mut agreed = formed(Lan);
    let members = set(&[2, 3, 4]);
    assert!(agreed.apply(&Change::Wanted(Metro), &members));
    assert_eq!((agreed.claim, agreed.patience, agreed.step), (Lan, Metro, 2));
    let next = |shown: &BTreeMap<NodeId, Shown>, raft: &[NodeId]| {
        super::next(&agreed, shown, &members, &set(raft), 1 << 40)
    };
    let ready = all(&[2, 3, 4], Metro, 2);
    assert_eq!(next(&all(&[2, 3], Metro, 2), &[2, 3, 4]), None, "one is away");
    assert_eq!(next(&all(&[2, 3, 4], Lan, 2), &[2, 3, 4]), None, "they have kept it and run with the old");
    assert_eq!(next(&all(&[2, 3, 4], Metro, 1), &[2, 3, 4]), None, "of another step");
    assert_eq!(next(&ready, &[2, 3, 4, 9]), None, "one that was removed votes still");
    let claim = next(&ready, &[2, 3, 4]).unwrap();
    assert_eq!(claim, Change::Claim { step: 2, heard: set(&[2, 3, 4]) });
    // Somebody was admitted before this entry.
    assert!(!agreed.apply(&claim, &set(&[2, 3, 4, 7])));
    assert!(agreed.apply(&claim, &members) && agreed.settled() && agreed.step == 3);
    assert!(!agreed.apply(&claim, &members), "twice");
    assert_eq!(super::waiting(&agreed, &all(&[2], Metro, 3)), set(&[]));
}

#[test]
fn quicker_claims_less_at_once_and_waits_for_the_longest_lease() {
    let mut agreed = formed(Metro);
    let members = set(&[2, 3, 4]);
    assert!(agreed.apply(&Change::Wanted(Lan), &members));
    assert_eq!((agreed.claim, agreed.patience), (Lan, Metro));
    // Nobody has shown anything: a member that is away is not waited for.
    let next = |ms| super::next(&agreed, &BTreeMap::new(), &members, &members, ms);
    assert_eq!(next(4_052), None);
    let patience = next(4_053).unwrap();
    assert_eq!(patience, Change::Patience { step: 2 });
    let mut later = agreed;
    assert!(later.apply(&Change::Wanted(Metro), &members), "ordered back meanwhile");
    assert!(!later.apply(&patience, &members));
    assert!(agreed.apply(&patience, &members) && agreed.settled());
    assert_eq!(super::waiting(&agreed, &all(&[2, 3], Metro, 3)), set(&[2, 3]));
}

#[test]
fn a_cluster_of_before_claims_the_least_until_all_have_shown_what_they_run_with() {
    let mut agreed = Agreed::default();
    assert_eq!((agreed.claims(Lan), agreed.claims(Metro)), (Lan, Metro), "as each was started");
    assert!(agreed.apply(&Change::Wanted(Metro), &set(&[2])));
    assert_eq!((agreed.claim, agreed.patience), (Lan, Metro));
    assert!(!agreed.apply(&Change::Formed(Safe), &set(&[])), "it was made long ago");
}

#[test]
fn an_old_state_does_not_take_what_was_shown_back() {
    let mut agreed = formed(Lan);
    let members = set(&[2]);
    let old = agreed;
    agreed.apply(&Change::Wanted(Metro), &members);
    let kept = Kept::after(None, &agreed);
    assert_eq!(kept, Some(Kept { patience: Metro, step: 2 }));
    assert_eq!(Kept::after(kept, &old), None, "it started from an older snapshot");
    assert_eq!(Kept::after(kept, &agreed), None);
}

#[test]
fn nodes_that_could_hurt_each_other_refuse_to_meet() {
    let hello = |patience, claim, step| Greeting { patience, claim, step };
    let meet = |a: Greeting, b: Greeting| {
        let both = (a.misfit(2, &b, 3).is_some(), b.misfit(3, &a, 2).is_some());
        assert_eq!(both.0, both.1, "{a:?} {b:?}");
        both.0
    };
    let table = [
        (hello(Lan, Lan, 1), hello(Lan, Lan, 1), false),
        // Slower: some run with the new patience already.
        (hello(Metro, Lan, 2), hello(Lan, Lan, 2), false),
        (hello(Metro, Lan, 2), hello(Lan, Lan, 1), false),
        // Quicker: one was away while the others changed; its claim does not count any more.
        (hello(Lan, Lan, 4), hello(Metro, Metro, 1), false),
        (hello(Metro, Lan, 3), hello(Metro, Metro, 2), false),
        // A data folder of before the change was put back.
        (hello(Metro, Metro, 3), hello(Lan, Lan, 1), true),
        // Started by hand with different profiles.
        (hello(Metro, Metro, 0), hello(Lan, Lan, 0), true),
        (hello(Safe, Lan, 1), hello(Lan, Lan, 0), false),
    ];
    for (a, b, unsafe_together) in table {
        assert_eq!(meet(a, b), unsafe_together, "{a:?} {b:?}");
    }
    let why = hello(Metro, Metro, 3).misfit(2, &hello(Lan, Lan, 1), 3).unwrap();
    assert!(why.contains("reset node 3"), "{why}");
}

/// A member with its disk, its state and its process. The log is one list; a member has applied a part of it.
#[derive(Clone, Debug)]
struct Member {
    applied: usize,
    kept: Option<Kept>,
    runs: Profile,
    /// What the leader of now heard of it last.
    shown: Option<Shown>,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Want(Profile),
    /// The member applies one more entry.
    Apply(usize),
    Keep(usize),
    Show(usize),
    /// Its process ends and starts, with a state that is older by so many entries.
    Restart(usize, usize),
    /// The leader proposes what is due.
    Lead,
    Pass,
    /// Another one leads: nothing is remembered.
    Elect,
    Join,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = || 0..4usize;
    let act = prop_oneof![
        2 => select(Profile::ALL.to_vec()).prop_map(Act::Want),
        8 => who().prop_map(Act::Apply),
        6 => who().prop_map(Act::Keep),
        6 => who().prop_map(Act::Show),
        4 => (who(), 0..4usize).prop_map(|(at, back)| Act::Restart(at, back)),
        6 => Just(Act::Lead),
        3 => Just(Act::Pass),
        1 => Just(Act::Elect),
        1 => Just(Act::Join),
    ];
    proptest::collection::vec(act, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes in between: the claim of a leader, which has applied all, never exceeds the patience of a member;
    /// where all goes on, the change comes to its end.
    #[test]
    fn no_claim_exceeds_any_patience(begin in select(Profile::ALL.to_vec()), acts in acts()) {
        let mut agreed = formed(begin);
        // What the state says after each entry.
        let mut history = vec![agreed];
        let fresh = |agreed: &Agreed, applied| Member {
            applied, kept: Some(Kept { patience: agreed.patience, step: agreed.step }), runs: agreed.patience, shown: None,
        };
        let mut members: Vec<Member> = (0..3).map(|_| fresh(&agreed, 1)).collect();
        let mut passed = 0i64;
        let tail = (0..60).flat_map(|_| (0..4).flat_map(|at| {
            [Act::Apply(at), Act::Keep(at), Act::Restart(at, 0), Act::Show(at), Act::Pass, Act::Lead]
        }));
        for act in acts.into_iter().chain(tail) {
            let ids: BTreeSet<NodeId> = (0..members.len() as u64).collect();
            let mut entry = None;
            match act {
                Act::Want(profile) => entry = Some(Change::Wanted(profile)),
                Act::Lead => {
                    let shown = members.iter().zip(0u64..).filter_map(|(m, id)| Some((id, m.shown?))).collect();
                    entry = super::next(&agreed, &shown, &ids, &ids, passed);
                }
                Act::Pass => passed += 5_000,
                Act::Elect => {
                    members.iter_mut().for_each(|member| member.shown = None);
                    passed = 0;
                }
                Act::Join if members.len() < 4 => members.push(fresh(&agreed, history.len())),
                Act::Join => {}
                Act::Apply(at) | Act::Keep(at) | Act::Show(at) | Act::Restart(at, _) => {
                    let Some(member) = members.get_mut(at) else { continue };
                    match act {
                        Act::Apply(_) => member.applied = (member.applied + 1).min(history.len()),
                        Act::Keep(_) => {
                            let seen = history[member.applied - 1];
                            member.kept = Kept::after(member.kept, &seen).or(member.kept);
                        }
                        Act::Show(_) => {
                            let step = member.kept.map_or(0, |kept| kept.step);
                            member.shown = Some(Shown { patience: member.runs, step });
                        }
                        Act::Restart(_, back) => {
                            member.applied = member.applied.saturating_sub(back).max(1);
                            member.runs = member.kept.map_or(Metro, |kept| kept.patience);
                        }
                        _ => {}
                    }
                }
            }
            if let Some(change) = entry {
                passed = if agreed.apply(&change, &ids) { 0 } else { passed };
                history.push(agreed);
            }
            for member in &members {
                prop_assert!(agreed.claim <= member.runs, "{act:?}: {agreed:?} with {member:?}");
                // Nor with what it would start with.
                prop_assert!(member.kept.is_none_or(|kept| agreed.claim <= kept.patience), "{act:?}: {member:?}");
            }
        }
        prop_assert!(agreed.settled(), "{agreed:?} {members:?}");
    }
}

fn measured(stalls: &[(usize, i64)], syncs: &[(usize, i64)]) -> Margins {
    let mut gauge = Gauge::default();
    for (what, values) in [(What::Stall, stalls), (What::Sync, syncs)] {
        for (times, ms) in values {
            (0..*times).for_each(|_| gauge.add(0, what, *ms));
        }
    }
    gauge.margins(5_000)
}

#[test]
fn the_choice_follows_what_was_measured() {
    // (stalls, writes, choice)
    type Values = &'static [(usize, i64)];
    let table: [(Values, Values, Profile); 11] = [
        (&[(500, 0)], &[(100, 2)], Lan),
        (&[(499, 1), (1, 100)], &[(100, 30)], Lan),
        // In few values every stall counts.
        (&[(499, 1), (1, 101)], &[(100, 2)], Safe),
        (&[(499, 1), (1, 167)], &[(100, 2)], Metro),
        (&[(500, 0)], &[(98, 2), (2, 31)], Safe),
        (&[(500, 0)], &[(98, 2), (2, 51)], Metro),
        (&[(500, 0)], &[(99, 2), (1, 400)], Lan),
        (&[(500, 0)], &[(3, 500)], Metro),
        // In many it is the third, and one in a thousand.
        (&[(10_000, 1), (2, 5_000)], &[(100, 2)], Lan),
        (&[(10_000, 1), (3, 301)], &[(100, 2)], Safe),
        (&[(10_000, 1), (30, 101)], &[(100, 2)], Safe),
    ];
    for (stalls, syncs, choice) in table {
        let margins = measured(stalls, syncs);
        assert_eq!(margins.choice(), choice, "{stalls:?} {syncs:?} {margins:?}");
        assert_eq!(margins.against(choice).is_none(), choice < Metro || margins.excesses(Metro).is_empty());
    }
    // Before it has any work, a machine shows its best side.
    for (stall, choice) in [(50, Lan), (51, Safe), (83, Safe), (84, Metro), (170, Metro)] {
        assert_eq!(measured(&[(499, 1), (1, stall)], &[(100, 2)]).first_choice(), choice, "{stall}");
    }
    for (greet, choice) in [(10, Lan), (11, Safe), (15, Safe), (16, Metro)] {
        let mut gauge = Gauge::default();
        (0..18).for_each(|_| gauge.add(0, What::Greet, 1));
        (0..2).for_each(|_| gauge.add(0, What::Greet, 400));
        assert_eq!(gauge.margins(5_000).first_choice(), Lan, "two in twenty");
        (0..20).for_each(|_| gauge.add(0, What::Greet, greet));
        assert_eq!(gauge.margins(5_000).first_choice(), choice, "{greet}");
    }
    let hopeless = measured(&[(500, 2_500)], &[(10, 3_000)]);
    assert_eq!(hopeless.choice(), Metro);
    let why = hopeless.against(Metro).unwrap();
    assert!(why.contains("its third longest stall took 2500 ms, 1000 are allowed"), "{why}");
}

#[test]
fn what_is_older_than_two_hours_is_forgotten() {
    let mut gauge = Gauge::default();
    gauge.add(0, What::Stall, 900);
    for second in 1..3 * 3600 {
        gauge.add(second * 1000, What::Stall, 1);
    }
    let margins = gauge.margins(3 * 3600 * 1000);
    assert_eq!((margins.stall_max_ms, margins.trip_p99_ms), (1, None));
    assert!((7_200..8_000).contains(&margins.seconds), "{margins:?}");
}

proptest! {
    #[test]
    fn slower_values_never_choose_a_quicker_profile(
        values in proptest::collection::vec((0..1_500i64, 0..300i64), 1..400), more in 0..500i64,
    ) {
        let (mut quick, mut slow) = (Gauge::default(), Gauge::default());
        for (stall, sync) in values {
            quick.add(0, What::Stall, stall);
            quick.add(0, What::Sync, sync);
            slow.add(0, What::Stall, stall + more);
            slow.add(0, What::Sync, sync + more);
        }
        prop_assert!(quick.margins(0).choice() <= slow.margins(0).choice());
    }
}
