//! From the log to the sessions.
//!
//! One follower per partition while somebody wants it reads each committed record once, decodes it
//! once, matches it once against the subscription trie, and pushes it, shared, to whom it concerns;
//! each of them is woken once per read. A session (or share group) that has no room reads the log
//! itself later ([`catch_up`]).

mod broadcast;
mod catch_up;
mod follower;
mod plan;
mod position;
mod refresh;
mod resume;
mod scan;

use std::{collections::HashMap, sync::Arc};

use mainstem_metadata::Topic;
use mainstem_record::{Offset, PartitionId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use catch_up::{Lost, OwnFilters, Reading};
pub(crate) use position::Position;
pub(crate) use refresh::partitions_of;
pub(crate) use scan::{Scan, Scanned, scan};

use super::{
    Delivery, Message, SubscriptionIds,
    hub::Hub,
    session::{SessionEntry, Subscription, records::Options},
    share::ShareGroup,
};
use crate::{access::Reader, error_code::ErrorCode};

/// Where a delivery comes from.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) origin: Origin,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
}

/// By which way a delivery came.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A partition that the session follows.
    Feed,
    /// The retained view.
    Retained,
    /// A shared subscription.
    Shared(Arc<ShareGroup>),
}

/// What a filter in the trie leads to.
#[derive(Debug)]
pub(crate) enum Target {
    /// A session's own subscription.
    Session(Arc<SessionEntry>, Arc<Subscription>),
    /// A shared subscription.
    Group(Arc<ShareGroup>),
}

/// One partition's tail.
pub(crate) struct Follower {
    pub(crate) id: PartitionId,
    pub(crate) topic_name: Arc<str>,
    pub(crate) reader: Mutex<Reader>,
    pub(crate) position: Arc<Position>,
    stop: CancellationToken,
}

/// The followers that run.
#[derive(Default)]
pub(crate) struct Followers {
    running: Mutex<HashMap<PartitionId, Running>>,
}

struct Running {
    follower: Arc<Follower>,
    interests: usize,
}

/// Keeps a follower running; the last one that is dropped ends it.
pub(crate) struct Interest {
    followers: Arc<Followers>,
    partition: PartitionId,
}

// === impl Token ===

impl Token {
    pub(crate) fn is_feed(&self) -> bool {
        matches!(self.origin, Origin::Feed)
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.offset == other.offset
            && self.partition == other.partition
            && std::mem::discriminant(&self.origin) == std::mem::discriminant(&other.origin)
    }
}

// === impl Followers ===

impl Hub {
    /// Follows the tail of a partition from its present committed end, if nobody does already.
    pub(crate) fn follow(
        self: &Arc<Self>,
        topic: &Topic,
        id: PartitionId,
    ) -> Result<(Arc<Position>, Interest), ErrorCode> {
        let reader = self.core.reader(id)?;
        let mut running = self.followers.running.lock();
        let entry = running.entry(id).or_insert_with(|| {
            let follower = Arc::new(Follower {
                id,
                topic_name: Arc::from(topic.name.as_str()),
                position: Arc::new(Position::new(reader.ends().committed_end)),
                reader: Mutex::new(reader),
                stop: self.core.stop.child_token(),
            });
            self.core.spawn(
                "mqtt follower",
                follower::run(self.clone(), follower.clone()),
            );
            Running {
                follower,
                interests: 0,
            }
        });
        entry.interests += 1;
        let interest = Interest {
            followers: self.followers.clone(),
            partition: id,
        };
        Ok((entry.follower.position.clone(), interest))
    }
}

// === impl Interest ===

impl Drop for Interest {
    fn drop(&mut self) {
        let mut running = self.followers.running.lock();
        let Some(entry) = running.get_mut(&self.partition) else {
            return;
        };
        entry.interests -= 1;
        if entry.interests == 0 {
            entry.follower.stop.cancel();
            running.remove(&self.partition);
        }
    }
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interest").field(&self.partition).finish()
    }
}

// === impl Delivery ===

impl Delivery {
    /// A message for a subscription.
    pub(crate) fn new(message: Arc<Message>, options: &Options, token: Token) -> Self {
        let mut delivery = Self {
            qos: options.qos.min(message.qos),
            retain: options.retain_as_published && message.retain,
            subscription_ids: SubscriptionIds::None,
            duplicate: false,
            message,
            token,
        };
        delivery.subscription_ids.add(options.subscription_id);
        delivery
    }

    /// Another subscription of the same session matches too: one copy, with the higher QoS
    /// (MQTT 5.0 section 3.3.4).
    pub(crate) fn merge(&mut self, options: &Options) {
        self.qos = self.qos.max(options.qos.min(self.message.qos));
        self.retain |= options.retain_as_published && self.message.retain;
        self.subscription_ids.add(options.subscription_id);
    }
}
