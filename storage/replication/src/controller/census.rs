//! What the open segments of all partitions add up to: what each broker carries, and how many
//! partitions are not as they should be. Kept up from image to image at the cost of what changed.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_metadata::{Image, PartitionRecord, SegmentState, Topic};
use mainstem_record::{BrokerId, Member, PartitionId, PartitionIndex};

use crate::machine::placement::{Healthy, Load};

/// How many partitions, and how many of them are not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub partitions: u64,
    /// Nobody leads them: their open segment is being sealed.
    pub leaderless: u64,
    /// Their ISR has fewer members than the topic has replicas.
    pub under_replicated: u64,
    /// Their ISR has fewer members than `min.insync.replicas`: they take no acks=all.
    pub under_min_isr: u64,
    /// Brokers whose session is over.
    pub fenced_brokers: u64,
}

/// What one image adds up to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    image: Arc<Image>,
    loads: BTreeMap<BrokerId, Load>,
    counts: Counts,
}

/// Whether what is counted comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Comes,
    Goes,
}

// === impl Counts ===

impl Counts {
    /// What an image adds up to. Looks at every partition.
    pub fn of(image: &Arc<Image>) -> Self {
        let mut census = Census::default();
        census.take(image);
        census.counts()
    }
}

// === impl Census ===

impl Census {
    /// The image that was taken last.
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    pub(crate) fn counts(&self) -> Counts {
        let brokers = self.image.brokers.values();
        let fenced = brokers.filter(|broker| broker.fenced && broker.roles.broker);
        Counts {
            fenced_brokers: fenced.count() as u64,
            ..self.counts
        }
    }

    /// Takes a newer image; returns the partitions that have changed or are gone.
    pub(crate) fn take(&mut self, image: &Arc<Image>) -> Vec<PartitionId> {
        let before = std::mem::replace(&mut self.image, Arc::clone(image));
        let mut changed = Vec::new();
        for id in before.topics.values() {
            if image.topic_by_id(*id).is_none()
                && let Some(topic) = before.topic_by_id(*id)
            {
                self.compare(Some(topic), None, &mut changed);
            }
        }
        for id in image.topics.values() {
            let (old, new) = (before.topic_by_id(*id), image.topic_by_id(*id));
            let is_same = old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new));
            if !is_same {
                self.compare(old, new, &mut changed);
            }
        }
        changed
    }

    fn compare(
        &mut self,
        old: Option<&Arc<Topic>>,
        new: Option<&Arc<Topic>>,
        changed: &mut Vec<PartitionId>,
    ) {
        let Some(topic) = new.or(old) else {
            return;
        };
        let count = |topic: Option<&Arc<Topic>>| topic.map_or(0, |it| it.partitions.len());
        let mut olds = old.into_iter().flat_map(|topic| topic.partitions.iter());
        let mut news = new.into_iter().flat_map(|topic| topic.partitions.iter());
        for index in (0..).map(PartitionIndex).take(count(old).max(count(new))) {
            let (before, after) = (olds.next(), news.next());
            if let (Some(before), Some(after)) = (before, after)
                && Arc::ptr_eq(before, after)
            {
                continue;
            }
            let topic_id = topic.id;
            let id = PartitionId {
                topic: topic_id,
                index,
            };
            if let Some(record) = before {
                self.count(topic, record, Change::Goes);
            }
            if let Some(record) = after {
                self.count(topic, record, Change::Comes);
            }
            changed.push(id);
        }
    }

    /// Counts a partition by its record alone, so that it goes as it came.
    fn count(&mut self, topic: &Topic, record: &PartitionRecord, change: Change) {
        let add = |count: &mut u64, is_so: bool| {
            *count = match change {
                Change::Comes => count.saturating_add(u64::from(is_so)),
                Change::Goes => count.saturating_sub(u64::from(is_so)),
            };
        };
        add(&mut self.counts.partitions, true);
        let Some(open) = record.active() else {
            return;
        };
        let is_sealing = open.state == SegmentState::Sealing;
        let wanted = usize::try_from(topic.replication_factor).unwrap_or(0);
        add(&mut self.counts.leaderless, is_sealing);
        add(
            &mut self.counts.under_replicated,
            open.isr.len() < wanted.max(1),
        );
        add(
            &mut self.counts.under_min_isr,
            open.isr.len() < open.min_insync_count(),
        );
        for broker in &open.replicas {
            let load = self.loads.entry(*broker).or_default();
            let leads = *broker == open.leader && !is_sealing;
            for (number, is_so) in [(&mut load.replicas, true), (&mut load.leads, leads)] {
                *number = match change {
                    Change::Comes => number.saturating_add(u32::from(is_so)),
                    Change::Goes => number.saturating_sub(u32::from(is_so)),
                };
            }
        }
    }

    /// Who may hold new segments, with what each carries: registered, not fenced, draining or lost,
    /// and alive as far as `lives` says.
    pub(crate) fn healthy(&self, lives: impl Fn(Member) -> bool) -> Healthy {
        let brokers = self.image.brokers.values();
        let may = brokers.filter(|broker| {
            broker.roles.broker && !(broker.fenced || broker.draining || broker.lost)
        });
        let members = may.map(|broker| Member::new(broker.id, broker.incarnation));
        let members = members.filter(|member| lives(*member));
        members
            .map(|member| (member, self.load(member.broker)))
            .collect()
    }

    /// What a broker carries.
    pub(crate) fn load(&self, broker: BrokerId) -> Load {
        self.loads.get(&broker).copied().unwrap_or_default()
    }
}
