//! Who holds and who leads the next segment. It starts empty, so it may be placed on any brokers,
//! also on none of the old ones (R31): load moves without copying.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_metadata::SegmentState;
use mainstem_record::{BrokerId, Member};

use super::Segment;

/// What a broker carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Open segments that it is a replica of.
    pub replicas: u32,
    /// Open segments that it leads.
    pub leads: u32,
}

/// The brokers that may be chosen: registered, not fenced, not draining, with a session.
pub type Healthy = BTreeMap<Member, Load>;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// How many replicas; fewer are taken where fewer brokers are healthy.
    pub replicas: usize,
    /// R26 (e): below this nothing is placed.
    pub min_insync: usize,
    /// Taken first: who holds what was just sealed has warm caches and was heard a moment ago.
    pub prefer: &'a BTreeSet<BrokerId>,
    /// Who is to lead if healthy: the leader of a roll, so that clients notice nothing.
    pub leader: Option<BrokerId>,
    /// Spreads equals: partitions with different ones begin at different brokers.
    pub spread: u64,
}

/// Who holds the next segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// All of them healthy, so all of them are the first ISR.
    pub replicas: Vec<Member>,
    /// One of them.
    pub leader: Member,
}

/// Chooses replicas and leader: preferred ones first, then those with the fewest open replicas;
/// among them the one that leads the fewest. `None` if fewer than min_insync brokers are healthy.
pub fn place(healthy: &Healthy, ask: &Ask<'_>) -> Option<Placed> {
    let count = u64::try_from(healthy.len()).ok()?;
    if healthy.is_empty() || healthy.len() < ask.min_insync {
        return None;
    }
    // The same brokers in another order for each partition, so that equals are not all the first.
    let first = ask.spread % count;
    let order = (0..count).map(|index| (index + count - first) % count);
    let mut ranked: Vec<_> = healthy.iter().zip(order).collect();
    ranked.sort_by_key(|((member, load), order)| {
        let is_leader = ask.leader == Some(member.broker);
        let is_preferred = ask.prefer.contains(&member.broker);
        (!is_leader, !is_preferred, load.replicas, *order)
    });
    ranked.truncate(ask.replicas.max(ask.min_insync).max(1));
    let leader = ranked.iter().min_by_key(|((member, load), order)| {
        (ask.leader != Some(member.broker), load.leads, *order)
    });
    let leader = *leader?.0.0;
    Some(Placed {
        replicas: ranked.iter().map(|((member, _), _)| **member).collect(),
        leader,
    })
}

/// Why an `Active` segment should be succeeded by one that is placed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// Fewer replicas live than min_insync, though enough brokers are healthy: it takes no acks=all
    /// until one comes back. Its leader may not freeze (R28), so the controller seals (R21) and
    /// recruits (R23).
    TooFewLive,
    /// Fewer replicas than it is meant to have, though more brokers are healthy: its leader can seal.
    TooFewReplicas,
}

/// Whether the segment should move on; `replicas` is how many it is meant to have.
pub fn misplaced(segment: &Segment, healthy: &Healthy, replicas: usize) -> Option<Misplaced> {
    if segment.state != SegmentState::Active {
        return None;
    }
    let live = healthy.keys();
    let live = live.filter(|member| segment.replicas.contains(&member.broker));
    let live = live.count();
    if live < segment.min_insync && healthy.len() >= segment.min_insync {
        return Some(Misplaced::TooFewLive);
    }
    let possible = replicas.min(healthy.len());
    (segment.replicas.len() < possible).then_some(Misplaced::TooFewReplicas)
}

#[cfg(test)]
mod tests {
    use mainstem_record::Incarnation;

    use super::*;

    fn member(broker: i32) -> Member {
        Member::new(BrokerId(broker), Incarnation(1))
    }

    fn healthy(loads: &[(i32, u32, u32)]) -> Healthy {
        let loads = loads.iter();
        loads
            .map(|(broker, replicas, leads)| {
                let load = Load {
                    replicas: *replicas,
                    leads: *leads,
                };
                (member(*broker), load)
            })
            .collect()
    }

    fn ask(prefer: &BTreeSet<BrokerId>, spread: u64) -> Ask<'_> {
        Ask {
            replicas: 3,
            min_insync: 2,
            prefer,
            leader: None,
            spread,
        }
    }

    #[test]
    fn the_least_loaded_hold_it_and_the_one_that_leads_least_leads() {
        let healthy = healthy(&[(1, 9, 0), (2, 3, 2), (3, 3, 1), (4, 4, 3)]);
        let placed = place(&healthy, &ask(&BTreeSet::new(), 0)).expect("enough are healthy");
        assert_eq!(placed.replicas, [member(2), member(3), member(4)]);
        assert_eq!(placed.leader, member(3));
    }

    #[test]
    fn preferred_brokers_come_first_and_a_healthy_leader_stays() {
        let healthy = healthy(&[(1, 9, 9), (2, 3, 2), (3, 3, 1), (4, 4, 3)]);
        let prefer = BTreeSet::from([BrokerId(4)]);
        let ask = Ask {
            leader: Some(BrokerId(1)),
            ..ask(&prefer, 0)
        };
        let placed = place(&healthy, &ask).expect("enough are healthy");
        assert_eq!(placed.replicas, [member(1), member(4), member(2)]);
        assert_eq!(placed.leader, member(1));
    }

    #[test]
    fn equals_are_spread_over_partitions() {
        let healthy = healthy(&[(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
        let leaders = (0..3).map(|spread| {
            let placed = place(&healthy, &ask(&BTreeSet::new(), spread));
            placed.expect("all are healthy").leader
        });
        let leaders: BTreeSet<Member> = leaders.collect();
        assert_eq!(leaders.len(), 3);
    }

    #[test]
    fn below_min_insync_nothing_is_placed() {
        let one = healthy(&[(1, 0, 0)]);
        assert_eq!(place(&one, &ask(&BTreeSet::new(), 0)), None);
        let two = healthy(&[(1, 0, 0), (2, 0, 0)]);
        let placed = place(&two, &ask(&BTreeSet::new(), 0)).expect("two are enough");
        assert_eq!(placed.replicas.len(), 2);
    }
}
