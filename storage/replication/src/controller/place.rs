//! Where new segments go, on any node: those of new topics, and those that follow a planned seal.

use std::sync::Arc;

use mainstem_env::Env;
use mainstem_metadata::{Broker, Image, Metadata, NewSegment, SegmentFlush};
use mainstem_record::{BrokerId, Member, SegmentId};
use parking_lot::Mutex;
use uuid::Uuid;

use super::census::{Census, Counts};
use crate::machine::placement::{Healthy, Load, Placed};

/// What the partitions of a new topic are to be like.
#[derive(Clone, Copy, Debug)]
pub struct NewPartitions {
    /// How many.
    pub count: usize,
    /// Replicas of each.
    pub replication_factor: usize,
    /// When their replicas sync.
    pub flush: SegmentFlush,
}

/// Why partitions cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There are fewer brokers than replicas.
    #[error("{asked} replicas, and {brokers} brokers")]
    TooFewBrokers {
        /// What was asked for.
        asked: usize,
        /// How many brokers there are.
        brokers: usize,
    },
    /// No broker lives that could lead.
    #[error("no broker that could lead is alive")]
    NobodyAlive,
}

/// What brokers carry in the newest image. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Placer {
    env: Env,
    metadata: Metadata,
    census: Arc<Mutex<Census>>,
}

// === impl Placer ===

impl Placer {
    pub(crate) fn new(env: Env, metadata: Metadata) -> Self {
        Self {
            env,
            metadata,
            census: Arc::default(),
        }
    }

    /// How many partitions are not as they should be.
    pub(crate) fn counts(&self) -> Counts {
        self.census().counts()
    }

    /// Who may hold what follows a planned seal.
    pub(crate) fn healthy(&self) -> Healthy {
        self.census().healthy(|_| true)
    }

    fn census(&self) -> parking_lot::MutexGuard<'_, Census> {
        let mut census = self.census.lock();
        let image = self.metadata.image();
        if image.version > census.image().version {
            census.take(&image);
        }
        census
    }

    /// Places the partitions of a new topic, or new ones of an old topic: leaders spread over the
    /// brokers that live, replicas by load. Brokers that are away are taken only where there are too
    /// few others: they come into the ISR when they are back.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) fn place(&self, ask: NewPartitions) -> Result<Vec<NewSegment>, PlaceError> {
        let census = self.census();
        let image = Arc::clone(census.image());
        let mut healthy = census.healthy(|_| true);
        let mut away: Vec<(Member, Load)> = away(&image)
            .map(|member| (member, census.load(member.broker)))
            .collect();
        drop(census);
        let wanted = ask.replication_factor.max(1);
        let brokers = healthy.len() + away.len();
        if wanted > brokers {
            return Err(PlaceError::TooFewBrokers {
                asked: wanted,
                brokers,
            });
        }
        if healthy.is_empty() {
            return Err(PlaceError::NobodyAlive);
        }
        // Topics begin at different brokers where all carry the same.
        let start = self.env.random_u64() >> 1;
        let mut segments = Vec::with_capacity(ask.count);
        for spread in (start..).take(ask.count) {
            let Some(Placed { replicas, leader }) = place_new(&healthy, wanted, spread) else {
                return Err(PlaceError::NobodyAlive);
            };
            let mut brokers: Vec<BrokerId> = replicas.iter().map(|it| it.broker).collect();
            for member in &replicas {
                if let Some(load) = healthy.get_mut(member) {
                    load.replicas += 1;
                    load.leads += u32::from(*member == leader);
                }
            }
            away.sort_by_key(|(member, load)| (load.replicas, *member));
            for (member, load) in away.iter_mut().take(wanted - brokers.len()) {
                load.replicas += 1;
                brokers.push(member.broker);
            }
            segments.push(NewSegment {
                id: SegmentId(Uuid::from_bytes(self.env.random_uuid())),
                replicas: brokers,
                leader: Some(leader.broker),
                flush: ask.flush,
            });
        }
        Ok(segments)
    }
}

fn place_new(healthy: &Healthy, replicas: usize, spread: u64) -> Option<Placed> {
    let ask = crate::machine::placement::Ask {
        replicas,
        min_insync: 1,
        prefer: &std::collections::BTreeSet::new(),
        leader: None,
        spread,
    };
    crate::machine::placement::place(healthy, &ask)
}

/// Brokers that hold data and are not healthy, but not given up either.
fn away(image: &Image) -> impl Iterator<Item = Member> {
    let is_away = |broker: &&Broker| {
        broker.roles.broker && !broker.lost && (broker.fenced || broker.draining)
    };
    let away = image.brokers.values().filter(is_away);
    away.map(|broker| Member::new(broker.id, broker.incarnation))
}
