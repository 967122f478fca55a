//! Where the first segments of new partitions go.

use std::collections::BTreeSet;

use mainstem_metadata::Image;
use mainstem_record::BrokerId;

use super::placement::{Ask, Healthy, Load, Placed, place};

/// What the brokers of this image carry, of those that may be chosen: registered for data, not fenced,
/// not draining.
pub fn healthy_in(image: &Image) -> Healthy {
    let chosen = image
        .brokers
        .values()
        .filter(|broker| broker.roles.broker && !broker.fenced && !broker.draining && !broker.lost);
    let mut healthy: Healthy = chosen
        .filter_map(|broker| Some((image.member(broker.id)?, Load::default())))
        .collect();
    let partitions = image
        .topics_by_id
        .values()
        .flat_map(|topic| &topic.partitions);
    for open in partitions.filter_map(|record| record.active()) {
        for broker in &open.replicas {
            if let Some(load) = load_of(image, &mut healthy, *broker) {
                load.replicas += 1;
            }
        }
        if let Some(load) = load_of(image, &mut healthy, open.leader) {
            load.leads += 1;
        }
    }
    healthy
}

fn load_of<'a>(image: &Image, healthy: &'a mut Healthy, broker: BrokerId) -> Option<&'a mut Load> {
    healthy.get_mut(&image.member(broker)?)
}

/// Places that many new partitions, each on `replicas` brokers, so that replicas and leaders are spread
/// over all of them. `None` if fewer brokers are healthy. Ties are broken differently for each `spread`.
pub fn place_new(
    mut healthy: Healthy,
    partitions: usize,
    replicas: usize,
    spread: u64,
) -> Option<Vec<Placed>> {
    if replicas == 0 || healthy.len() < replicas {
        return None;
    }
    let nobody = BTreeSet::new();
    let mut placed = Vec::with_capacity(partitions);
    for index in (0u64..).take(partitions) {
        let ask = Ask {
            replicas,
            min_insync: replicas,
            prefer: &nobody,
            leader: None,
            spread: spread.wrapping_add(index),
        };
        let next = place(&healthy, &ask)?;
        for member in &next.replicas {
            if let Some(load) = healthy.get_mut(member) {
                load.replicas += 1;
                load.leads += u32::from(*member == next.leader);
            }
        }
        placed.push(next);
    }
    Some(placed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstem_record::{Incarnation, Member};
    use proptest::prelude::*;

    use super::*;

    fn fresh(brokers: i32) -> Healthy {
        (1..=brokers)
            .map(|id| (Member::new(BrokerId(id), Incarnation(1)), Load::default()))
            .collect()
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_spread_evenly(
            brokers in 1i32..7,
            replicas in 1usize..4,
            partitions in 1usize..40,
            spread: u64,
        ) {
            let placed = place_new(fresh(brokers), partitions, replicas, spread);
            if replicas > brokers as usize {
                prop_assert_eq!(placed, None);
                return Ok(());
            }
            let placed = placed.expect("enough brokers");
            prop_assert_eq!(placed.len(), partitions);
            let mut held: BTreeMap<Member, usize> = BTreeMap::new();
            let mut led: BTreeMap<Member, usize> = BTreeMap::new();
            for one in &placed {
                let distinct: BTreeSet<_> = one.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), replicas);
                prop_assert!(one.replicas.contains(&one.leader));
                one.replicas.iter().for_each(|member| *held.entry(*member).or_default() += 1);
                *led.entry(one.leader).or_default() += 1;
            }
            let most = |counts: &BTreeMap<Member, usize>| counts.values().copied().max().unwrap_or(0);
            let fair = |total: usize| total.div_ceil(brokers as usize);
            prop_assert!(most(&held) <= fair(partitions * replicas));
            // Who leads is chosen among those who hold: a little less even.
            prop_assert!(most(&led) <= fair(partitions) + 1, "{:?}", led);
        }
    }
}
