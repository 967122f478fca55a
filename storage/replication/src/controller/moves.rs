//! Segments that no longer fit the brokers that there are: which should be sealed, by whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mainstem_metadata::{BeginSeal, Image, SegmentState};
use mainstem_record::{BrokerId, Member, PartitionId, SegmentId};

use crate::{
    machine::{
        Segment,
        placement::{Healthy, Misplaced, misplaced},
    },
    wire::RollOrder,
};

/// Orders to roll of one answer to a heartbeat.
const ROLLS_PER_ANSWER: usize = 256;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Brokers must have come and gone no more for so long before segments are made to use them.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// A segment that was to be rolled is asked for again after this.
const ROLL_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What one controller knows of them.
pub(crate) struct Moves {
    /// Who was healthy at the last tick, and since when it is the same.
    healthy: BTreeSet<Member>,
    settled: Duration,
    looked: Duration,
    /// Segments that their leaders are to roll.
    rolls: BTreeMap<BrokerId, BTreeMap<PartitionId, SegmentId>>,
    /// Those that were told, when.
    told: BTreeMap<PartitionId, Duration>,
}

// === impl Moves ===

impl Moves {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            healthy: BTreeSet::new(),
            settled: now,
            looked: now,
            rolls: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Looks, if it is time to: segments that take nothing any more are to be sealed by the
    /// controller (returned), those that want more replicas by their leaders.
    pub(crate) fn look(
        &mut self,
        image: &Image,
        healthy: &Healthy,
        now: Duration,
    ) -> Vec<BeginSeal> {
        if !self.healthy.iter().eq(healthy.keys()) {
            self.healthy = healthy.keys().copied().collect();
            self.settled = now;
        }
        if now < self.looked.saturating_add(PAUSE) {
            return Vec::new();
        }
        self.looked = now;
        self.rolls.clear();
        self.told
            .retain(|_, at| now < at.saturating_add(ROLL_AGAIN_AFTER));
        let is_settled = now >= self.settled.saturating_add(SETTLED_AFTER);
        let mut seals = Vec::new();
        for (id, segment, wrong) in all_misplaced(image, healthy) {
            match wrong {
                Misplaced::TooFewLive => seals.push(BeginSeal {
                    partition: id,
                    segment: segment.id,
                    version: segment.version,
                }),
                Misplaced::TooFewReplicas if is_settled && !self.told.contains_key(&id) => {
                    let rolls = self.rolls.entry(segment.leader.broker).or_default();
                    rolls.insert(id, segment.id);
                }
                Misplaced::TooFewReplicas => {}
            }
        }
        seals
    }

    /// What the leader of these segments is told with the answer to its heartbeat.
    pub(crate) fn take_rolls(&mut self, broker: BrokerId, now: Duration) -> Vec<RollOrder> {
        let Some(rolls) = self.rolls.get_mut(&broker) else {
            return Vec::new();
        };
        let mut orders = Vec::new();
        while orders.len() < ROLLS_PER_ANSWER
            && let Some((partition, segment)) = rolls.pop_first()
        {
            self.told.insert(partition, now);
            orders.push(RollOrder { partition, segment });
        }
        orders
    }
}

fn all_misplaced(image: &Image, healthy: &Healthy) -> Vec<(PartitionId, Segment, Misplaced)> {
    let mut found = Vec::new();
    let topics = image.topics.values();
    for topic in topics.filter_map(|id| image.topic_by_id(*id)) {
        let wanted = usize::try_from(topic.replication_factor).unwrap_or(1);
        for (index, record) in (0..).zip(&topic.partitions) {
            let Some(open) = record.active() else {
                continue;
            };
            // Cheap, and nearly all end here.
            let is_fine = open.replicas.len() >= wanted.min(healthy.len())
                && open.isr.len() >= open.min_insync_count();
            if is_fine || open.state != SegmentState::Active {
                continue;
            }
            let id = PartitionId {
                topic: topic.id,
                index: mainstem_record::PartitionIndex(index),
            };
            if let Some(segment) = Segment::open(image, id)
                && let Some(wrong) = misplaced(&segment, healthy, wanted)
            {
                found.push((id, segment, wrong));
            }
        }
    }
    found
}
