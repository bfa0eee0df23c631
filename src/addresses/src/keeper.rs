//! When an address is asked for, held, announced and let go. PURE; times in milliseconds of any one clock.

use crate::arp::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Questions before an address is taken: at once and so much later; nobody has answered when the last time is over.
const ASK_MS: [i64; 2] = [0, 60];
const QUIET_MS: i64 = 120;
/// Somebody answered: asked again after this.
const AGAIN_MS: i64 = 250;
/// Somebody answers for longer than a dead holder's kernel does: an operator should know.
const FOREIGN_MS: i64 = 5_000;
/// A held address is prolonged so often; the kernel would let it go after [`crate::kernel::LIFETIME_S`].
const PROLONG_MS: i64 = 500;
/// Announcements after it is held; then every half a minute: tables that an old holder has spoiled are set right.
const ANNOUNCE_MS: [i64; 13] =
    [0, 50, 200, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 10_000];
const ANNOUNCE_LATER_MS: i64 = 30_000;
/// A claim of somebody else is answered so often: two that answer each other at once never end.
const DEFEND_MS: i64 = 2_000;
/// What cannot be done is tried again after this.
const FAILED_MS: i64 = 1_000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Ask the wire who has it.
    Ask(Ipv4Addr),
    /// Have the kernel hold it, or hold it for longer; [`Keeper::held`] says that it does.
    Hold(Ipv4Addr),
    /// Tell the wire.
    Announce(Ipv4Addr),
    LetGo(Ipv4Addr),
    /// Tell the operator.
    Say(String),
}

#[derive(Clone, Debug)]
enum Stand {
    /// Nobody may answer before it is taken.
    Asks {
        since: i64,
        asked: usize,
        answers: Option<Mac>,
        first: i64,
        said: bool,
    },
    /// The kernel was told.
    Takes,
    Holds {
        since: i64,
        prolonged: i64,
        announced: usize,
        last: i64,
        rival: Option<i64>,
    },
    /// It did not work.
    Failed {
        since: i64,
    },
}

/// The addresses of this node.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    now: i64,
    stands: BTreeMap<Ipv4Addr, Stand>,
    /// Why an address could not be held, until it is.
    failures: BTreeMap<Ipv4Addr, String>,
}

impl Keeper {
    /// It neither holds nor wants an address.
    pub(crate) fn rests(&self) -> bool {
        self.stands.is_empty()
    }

    /// `wanted`: what this node has to hold now, nothing without a lease. `heard`: who else claims what.
    pub(crate) fn step(
        &mut self,
        now: i64,
        wanted: &BTreeSet<Ipv4Addr>,
        heard: &[(Ipv4Addr, Mac)],
    ) -> Vec<Act> {
        self.now = now;
        let mut acts = Vec::new();
        self.stands.retain(|address, stand| {
            let stays = wanted.contains(address);
            // Whatever failed: the kernel may hold it all the same.
            if !stays && !matches!(stand, Stand::Asks { .. }) {
                acts.push(Act::LetGo(*address));
            }
            stays
        });
        self.failures.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let stand = self.stands.entry(*address).or_insert(asks(now, now, false));
            let claimed = heard.iter().find(|(of, _)| of == address).map(|(_, mac)| *mac);
            stand.step(now, *address, claimed, &mut acts);
        }
        acts
    }

    /// The kernel holds it.
    pub(crate) fn held(&mut self, address: Ipv4Addr) {
        let now = self.now;
        self.failures.remove(&address);
        match self.stands.get_mut(&address) {
            Some(Stand::Holds { prolonged, .. }) => *prolonged = now,
            Some(stand) => {
                *stand = Stand::Holds { since: now, prolonged: now, announced: 0, last: now, rival: None };
            }
            None => {}
        }
    }

    /// It could not be asked for or held; what an operator should hear of it.
    pub(crate) fn failed(&mut self, address: Ipv4Addr, why: &str) -> Option<String> {
        let now = self.now;
        *self.stands.get_mut(&address)? = Stand::Failed { since: now };
        let before = self.failures.insert(address, why.to_owned());
        (before.as_deref() != Some(why))
            .then(|| format!("virtual address {address} cannot be held here: {why}"))
    }

    /// Why this node does not hold what it should, by its own fault; empty = it does.
    pub(crate) fn trouble(&self) -> String {
        let first = self.failures.first_key_value();
        first.map_or_else(String::new, |(address, why)| format!("{address}: {why}"))
    }
}

fn asks(now: i64, first: i64, said: bool) -> Stand {
    Stand::Asks { since: now, asked: 0, answers: None, first, said }
}

impl Stand {
    fn step(&mut self, now: i64, address: Ipv4Addr, claimed: Option<Mac>, acts: &mut Vec<Act>) {
        match self {
            Stand::Asks { since, asked, answers, first, said } => {
                *answers = claimed.or(*answers);
                let passed = now - *since;
                if let Some(mac) = *answers {
                    if now - *first >= FOREIGN_MS && !*said {
                        *said = true;
                        acts.push(Act::Say(format!(
                            "virtual address {address} is in use by a machine that this cluster does not know ({}): it \
                             is not taken before that one gives it up",
                            text(mac)
                        )));
                    }
                    if passed >= AGAIN_MS {
                        *self = asks(now, *first, *said);
                        self.step(now, address, None, acts);
                    }
                    return;
                }
                if ASK_MS.get(*asked).is_some_and(|after| passed >= *after) {
                    *asked += 1;
                    acts.push(Act::Ask(address));
                }
                if passed >= QUIET_MS && *asked == ASK_MS.len() {
                    *self = Stand::Takes;
                    acts.push(Act::Hold(address));
                }
            }
            Stand::Takes => acts.push(Act::Hold(address)),
            Stand::Holds { since, prolonged, announced, last, rival } => {
                if now - *prolonged >= PROLONG_MS {
                    acts.push(Act::Hold(address));
                }
                let due = match ANNOUNCE_MS.get(*announced) {
                    Some(after) => now - *since >= *after,
                    None => now - *last >= ANNOUNCE_LATER_MS,
                };
                let defends = claimed.is_some() && now - *last >= DEFEND_MS;
                if due || defends {
                    (*announced, *last) = (*announced + 1, now);
                    acts.push(Act::Announce(address));
                }
                if let Some(mac) = claimed
                    && rival.is_none_or(|told| now - told >= ANNOUNCE_LATER_MS)
                {
                    *rival = Some(now);
                    acts.push(Act::Say(format!(
                        "virtual address {address}, held here, is claimed by another machine too ({})",
                        text(mac)
                    )));
                }
            }
            Stand::Failed { since } => {
                if now - *since >= FAILED_MS {
                    // Somebody else may have it by now.
                    *self = asks(now, now, false);
                    self.step(now, address, None, acts);
                }
            }
        }
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
    const OTHER: Mac = [2, 0, 0, 0, 0, 9];

    /// Steps every 10 ms to this time; acts with their times. The kernel does what it is told.
    fn go(keeper: &mut Keeper, from: i64, to: i64, wanted: bool, claimed: bool) -> Vec<(i64, Act)> {
        let wanted: BTreeSet<Ipv4Addr> = wanted.then_some(ADDRESS).into_iter().collect();
        let heard: Vec<(Ipv4Addr, Mac)> = claimed.then_some((ADDRESS, OTHER)).into_iter().collect();
        let mut all = Vec::new();
        for now in (from..to).step_by(10) {
            for act in keeper.step(now, &wanted, &heard) {
                if act == Act::Hold(ADDRESS) {
                    keeper.held(ADDRESS);
                }
                all.push((now, act));
            }
        }
        all
    }

    fn times(acts: &[(i64, Act)], wanted: &Act) -> Vec<i64> {
        acts.iter().filter(|(_, act)| act == wanted).map(|(at, _)| *at).collect()
    }

    #[test]
    fn asked_for_held_prolonged_announced_and_let_go() {
        let mut keeper = Keeper::default();
        assert!(keeper.rests());
        let acts = go(&mut keeper, 0, 2_000, true, false);
        assert_eq!(times(&acts, &Act::Ask(ADDRESS)), [0, 60]);
        assert_eq!(times(&acts, &Act::Hold(ADDRESS)), [120, 620, 1120, 1620]);
        assert_eq!(times(&acts, &Act::Announce(ADDRESS)), [130, 170, 320, 620, 1120]);
        let later = go(&mut keeper, 2_000, 75_000, true, false);
        assert_eq!(times(&later, &Act::Announce(ADDRESS)).len(), 10, "then every half a minute");
        assert_eq!(go(&mut keeper, 75_000, 75_010, false, false), [(75_000, Act::LetGo(ADDRESS))]);
        assert!(keeper.rests());
    }

    #[test]
    fn nothing_is_taken_while_somebody_answers() {
        let mut keeper = Keeper::default();
        let acts = go(&mut keeper, 0, 2_000, true, true);
        assert!(times(&acts, &Act::Hold(ADDRESS)).is_empty(), "{acts:?}");
        assert!(acts.iter().all(|(_, act)| *act == Act::Ask(ADDRESS)), "{acts:?}");
        // The old holder's kernel has let it go.
        let acts = go(&mut keeper, 2_000, 3_000, true, false);
        let taken = times(&acts, &Act::Hold(ADDRESS))[0];
        assert!(taken <= 2_000 + AGAIN_MS + QUIET_MS + 10, "{taken}");
        // A foreign machine does not: said once.
        let mut keeper = Keeper::default();
        let acts = go(&mut keeper, 0, 60_000, true, true);
        let said = acts.iter().filter(|(_, act)| matches!(act, Act::Say(_))).count();
        assert_eq!((said, times(&acts, &Act::Hold(ADDRESS)).len()), (1, 0));
    }

    #[test]
    fn a_rival_is_answered_and_told_of_now_and_then() {
        let mut keeper = Keeper::default();
        go(&mut keeper, 0, 20_000, true, false);
        let acts = go(&mut keeper, 20_000, 25_000, true, true);
        assert_eq!(times(&acts, &Act::Announce(ADDRESS)).len(), 3);
        assert_eq!(acts.iter().filter(|(_, act)| matches!(act, Act::Say(_))).count(), 1);
    }

    #[test]
    fn what_fails_is_said_once_and_asked_for_again() {
        let mut keeper = Keeper::default();
        let wanted = [ADDRESS].into();
        keeper.step(0, &wanted, &[]);
        assert!(keeper.failed(ADDRESS, "no network").is_some_and(|text| text.contains("no network")));
        assert_eq!(keeper.trouble(), "10.0.0.50: no network");
        assert!(keeper.step(500, &wanted, &[]).is_empty());
        assert_eq!(keeper.step(1_000, &wanted, &[]), [Act::Ask(ADDRESS)]);
        assert_eq!(keeper.failed(ADDRESS, "no network"), None);
        let acts = go(&mut keeper, 2_000, 2_200, true, false);
        assert_eq!(times(&acts, &Act::Hold(ADDRESS)), [2_120], "{acts:?}");
        assert_eq!(keeper.trouble(), "");
        // One that failed to be prolonged may be there: it is let go all the same.
        keeper.failed(ADDRESS, "no answer");
        assert_eq!(keeper.step(2_300, &BTreeSet::new(), &[]), [Act::LetGo(ADDRESS)]);
    }
}
