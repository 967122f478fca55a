//! The immutable image of the cluster's metadata.
//!
//! A request loads one image and works on it to its end, so it never sees half a change. The maps
//! share structure (imbl): a new image costs as much as what changed in it, and a clone is cheap.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{OrdMap, Vector};
use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, SegmentId, TimestampMs,
    TopicId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// All metadata of the cluster after one command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Raft log index of the last applied command, also when that command was refused; 0 at first.
    pub version: u64,
    /// The cluster's id: 22 characters, a UUID in base64url as Kafka prints it. Empty until the
    /// first start of the first node has set it.
    pub cluster_id: String,
    /// Brokers that have ever registered.
    pub brokers: OrdMap<BrokerId, Broker>,
    /// Topics by name.
    pub topics: OrdMap<String, TopicId>,
    /// The same topics by id.
    pub topics_by_id: OrdMap<TopicId, Arc<Topic>>,
    /// The next producer id that has not been given to a broker.
    pub next_producer_id: i64,
    /// Broker configs set at runtime for the whole cluster, by Kafka name.
    pub broker_configs: OrdMap<String, String>,
    /// What was decided about the first level of MQTT topics.
    pub routes: OrdMap<String, Route>,
}

/// A broker that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// Its id.
    pub id: BrokerId,
    /// Which life of it registered last.
    pub incarnation: Incarnation,
    /// The identity of its data directory: another one means that the old data is not there.
    pub directory_id: Uuid,
    /// Where clients reach it, by listener name (`"kafka"`).
    pub listeners: BTreeMap<String, Endpoint>,
    /// Where other nodes reach it, as `host:port`; `None` if it takes no connections of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What it takes part in.
    #[serde(default)]
    pub roles: Roles,
    /// Its session is over: it leads nothing and is in no ISR of an active segment.
    #[serde(default)]
    pub fenced: bool,
    /// It is about to stop: nothing new is placed on it.
    #[serde(default)]
    pub draining: bool,
    /// It was declared lost and has not registered since: its present incarnation is one that nobody
    /// lives.
    #[serde(default)]
    pub lost: bool,
    /// The request that registered it; nil if a build that knew formats 1 and 2 did.
    #[serde(default)]
    pub request: Uuid,
}

/// What a node takes part in (`process.roles`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// It may vote on and lead the metadata log.
    pub controller: bool,
    /// It may hold segments and serve clients.
    pub broker: bool,
}

/// A host and a port that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// A TCP port.
    pub port: u16,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    /// Its identity; a topic made again under the same name has another one.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Whether the broker uses it itself; clients see it flagged and may not write it.
    pub internal: bool,
    /// Who made it.
    pub origin: TopicOrigin,
    /// How many replicas each segment is meant to have.
    pub replication_factor: i16,
    /// Topic configs that were set, by Kafka name; what is absent has its default.
    pub configs: OrdMap<String, String>,
    /// Partitions, by index from 0.
    pub partitions: Vector<Arc<PartitionRecord>>,
}

/// Who made a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicOrigin {
    /// An admin request (Kafka `CreateTopics`).
    Admin,
    /// A Kafka client that named a topic that was not there.
    AutoCreated,
    /// An MQTT publish or subscription.
    Mqtt,
    /// The broker, for itself.
    Internal,
}

/// A partition: where its log starts, and its chain of segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Records below it are deleted. Never goes back.
    pub log_start: Offset,
    /// The chain, oldest first: each begins where the one before ends, epochs grow strictly, and
    /// only the last is `Active` or `Sealing`. Never empty.
    pub segments: Vector<SegmentRecord>,
}

/// One segment of a partition: one leader, one leader epoch, one writer for its whole life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Its identity on all replicas.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record, once sealed.
    pub end: Option<Offset>,
    /// The leader epoch of every batch in it (the highest of them, after compaction).
    pub epoch: LeaderEpoch,
    /// Grows with every change of state, leader or ISR: what a change is conditioned on.
    pub version: u32,
    /// Where it is in its life.
    pub state: SegmentState,
    /// The broker that writes it.
    pub leader: BrokerId,
    /// The life of that broker.
    pub leader_incarnation: Incarnation,
    /// The brokers that hold it.
    pub replicas: Vec<BrokerId>,
    /// The replicas that are in sync, while it is open. An entry whose incarnation is not the broker's
    /// current one does not exist ([`Image::is_current`]).
    pub isr: Vec<Member>,
    /// Eligible leader replicas, while it is open: they hold everything below the high watermark,
    /// since it has not moved since they left the ISR. Entries as in `isr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<Member>,
    /// The lives that lost data since the ISR last had `min_insync` members. Kept in a segment that
    /// was sealed because of it (`lossy`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Member>,
    /// When its replicas sync, for its whole life.
    #[serde(default)]
    pub flush: SegmentFlush,
    /// Once sealed, who holds all of it. Entries as in `isr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complete: Vec<Complete>,
    /// Records after its end may have been read and are lost: the next segment begins 2^32 further
    /// on (seal protocol R37).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lossy: bool,
    /// How many in-sync replicas the high watermark needs to move: `min.insync.replicas`, at most the
    /// number of replicas.
    pub min_insync: i16,
    /// Bytes, once sealed; 0 before.
    pub bytes: u64,
    /// The highest record timestamp, once sealed.
    pub max_timestamp: TimestampMs,
    /// xxh3-128 of the segment file, once sealed, if it was computed.
    pub digest: Option<[u8; 16]>,
    /// What compaction has made of it; `None` if it is as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
}

/// A replica that holds all of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// The broker.
    pub broker: BrokerId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Whether the copy is synced, so that it outlives a power cut.
    pub durable: bool,
}

/// When the replicas of a segment sync what they write (`mainstem.flush`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SegmentFlush {
    /// When the operating system likes to; also what segments of formats 1 and 2 are taken for.
    #[default]
    Os,
    /// After so many bytes or so long.
    Interval,
    /// Before anything is acknowledged.
    Always,
}

/// What is known of a segment that was compacted, alone or together with its neighbours. Its offsets
/// may have gaps; its batches keep the leader epochs that they were written with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// Records below it are the newest of their keys, compared with each other.
    pub clean_end: Offset,
    /// The lowest leader epoch that a batch in it may have.
    pub first_epoch: LeaderEpoch,
    /// The epochs before the segment's own, in order, as far as they reach above the start of the
    /// log. Each begins where the one before ends, the first where the segment does.
    pub earlier_epochs: Vec<EpochEnd>,
}

/// A leader epoch and where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// Where a segment is in its life.
///
/// ```text
/// Active ──> Sealed ──> Deleting ──> (gone)
///    └─> Sealing ─┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SegmentState {
    /// Its leader appends to it.
    Active,
    /// Nobody appends; its end is not decided yet. The leader registered anew, so what it held in
    /// memory (high watermark, proposals) is gone.
    Sealing,
    /// Its end is decided and nothing in it changes any more.
    Sealed,
    /// It is to be deleted.
    Deleting,
}

/// What was decided about a first level of MQTT topics, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where its records go.
    pub target: RouteTarget,
    /// The image version from which on this holds.
    pub since_version: u64,
}

/// Where the records of a first level go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteTarget {
    /// A Kafka topic of its own.
    OwnTopic(TopicId),
    /// The common overflow topic.
    Overflow,
}

// === impl Image ===

impl Image {
    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_by_id(*self.topics.get(name)?)
    }

    /// The topic of that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    /// A partition.
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<PartitionRecord>> {
        let index = usize::try_from(id.index.0).ok()?;
        self.topic_by_id(id.topic)?.partitions.get(index)
    }

    /// A broker in its present life.
    pub fn member(&self, broker: BrokerId) -> Option<Member> {
        let incarnation = self.brokers.get(&broker)?.incarnation;
        Some(Member::new(broker, incarnation))
    }

    /// Whether it is that broker's present life: an entry of another one does not exist.
    pub fn is_current(&self, member: Member) -> bool {
        self.member(member.broker) == Some(member)
    }

    /// The entries of `members` that exist.
    pub fn current<'a>(&'a self, members: &'a [Member]) -> impl Iterator<Item = Member> + use<'a> {
        let members = members.iter().copied();
        members.filter(|member| self.is_current(*member))
    }
}

// === impl Roles ===

impl Default for Roles {
    /// Both, as every node of formats 1 and 2 was.
    fn default() -> Self {
        Self {
            controller: true,
            broker: true,
        }
    }
}

// === impl Complete ===

impl Complete {
    /// Whose copy it is.
    pub fn member(&self) -> Member {
        Member::new(self.broker, self.incarnation)
    }
}

// === impl PartitionRecord ===

impl PartitionRecord {
    /// The open end of the chain: the last segment while it is `Active` or `Sealing`.
    pub fn active(&self) -> Option<&SegmentRecord> {
        self.segments
            .last()
            .filter(|segment| segment.state.is_open())
    }

    /// The partition's current leader epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        self.segments
            .last()
            .map_or(LeaderEpoch::NONE, |segment| segment.epoch)
    }

    /// The largest epoch that is at most `asked`, and the offset after its last record; for Kafka's
    /// OffsetForLeaderEpoch (KIP-101, KIP-279).
    ///
    /// `log_end` ends the segment that is still open. If all of that epoch and those before it is
    /// deleted, it is `asked` itself and the first offset that is left: a consumer whose next record
    /// is that one has missed nothing. `None` if `asked` is negative or later than the current
    /// epoch: then nothing is known of it here.
    pub fn end_of_epoch(
        &self,
        asked: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if asked <= LeaderEpoch::NONE || asked > self.epoch() {
            return None;
        }
        let found = match self
            .segments
            .binary_search_by(|segment| segment.epoch.cmp(&asked))
        {
            Ok(index) => Some(index),
            Err(later) => {
                let merged = self.segments.get(later);
                if let Some(earlier) = merged.and_then(|segment| segment.earlier_epoch(asked)) {
                    return Some((earlier.epoch, earlier.end));
                }
                later.checked_sub(1)
            }
        };
        match found {
            Some(index) => {
                let segment = self.segments.get(index)?;
                Some((segment.epoch, segment.end.unwrap_or(log_end)))
            }
            None => Some((asked, self.segments.front()?.base)),
        }
    }
}

// === impl SegmentRecord ===

impl SegmentRecord {
    /// The broker that writes it, in the life that does.
    pub fn leader_member(&self) -> Member {
        Member::new(self.leader, self.leader_incarnation)
    }

    /// [`Self::min_insync`], to compare counts with.
    pub fn min_insync_count(&self) -> usize {
        usize::try_from(self.min_insync).unwrap_or(0).max(1)
    }

    /// The lowest leader epoch that a batch in it may have.
    pub fn first_epoch(&self) -> LeaderEpoch {
        let compaction = self.compaction.as_ref();
        compaction.map_or(self.epoch, |compaction| compaction.first_epoch)
    }

    /// The largest epoch before the segment's own that is at most `asked`.
    fn earlier_epoch(&self, asked: LeaderEpoch) -> Option<&EpochEnd> {
        let epochs = &self.compaction.as_ref()?.earlier_epochs;
        let after = epochs.partition_point(|earlier| earlier.epoch <= asked);
        epochs.get(after.checked_sub(1)?)
    }
}

// === impl SegmentState ===

impl SegmentState {
    /// Whether the segment's end is not decided yet.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Active | Self::Sealing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base: i64, end: Option<i64>, epoch: i32) -> SegmentRecord {
        SegmentRecord {
            id: SegmentId(Uuid::from_u128(epoch as u128)),
            base: Offset(base),
            end: end.map(Offset),
            epoch: LeaderEpoch(epoch),
            version: 0,
            state: if end.is_some() {
                SegmentState::Sealed
            } else {
                SegmentState::Active
            },
            leader: BrokerId(1),
            leader_incarnation: Incarnation(1),
            replicas: vec![BrokerId(1)],
            isr: vec![Member::new(BrokerId(1), Incarnation(1))],
            elr: vec![],
            lost: vec![],
            flush: SegmentFlush::Os,
            complete: vec![],
            lossy: false,
            min_insync: 1,
            bytes: 0,
            max_timestamp: TimestampMs::NONE,
            digest: None,
            compaction: None,
        }
    }

    #[test]
    fn end_of_epoch_knows_the_epochs_of_a_merged_segment() {
        let merged = SegmentRecord {
            compaction: Some(Compaction {
                clean_end: Offset(35),
                first_epoch: LeaderEpoch(1),
                earlier_epochs: [(2, 15), (4, 20)]
                    .map(|(epoch, end)| EpochEnd {
                        epoch: LeaderEpoch(epoch),
                        end: Offset(end),
                    })
                    .into(),
            }),
            ..segment(10, Some(35), 5)
        };
        let partition = PartitionRecord {
            log_start: Offset(10),
            segments: [merged, segment(35, None, 6)].into_iter().collect(),
        };
        let ask = |epoch| {
            partition
                .end_of_epoch(LeaderEpoch(epoch), Offset(50))
                .map(|(epoch, end)| (epoch.0, end.0))
        };
        assert_eq!(ask(1), Some((1, 10)));
        assert_eq!(ask(2), Some((2, 15)));
        assert_eq!(ask(3), Some((2, 15)));
        assert_eq!(ask(4), Some((4, 20)));
        assert_eq!(ask(5), Some((5, 35)));
        assert_eq!(ask(6), Some((6, 50)));
    }

    #[test]
    fn end_of_epoch_is_that_of_the_largest_epoch_not_above_the_asked_one() {
        let partition = PartitionRecord {
            log_start: Offset(10),
            segments: [
                segment(10, Some(20), 2),
                segment(20, Some(35), 3),
                segment(35, None, 6),
            ]
            .into_iter()
            .collect(),
        };
        let ask = |epoch| {
            partition
                .end_of_epoch(LeaderEpoch(epoch), Offset(50))
                .map(|(epoch, end)| (epoch.0, end.0))
        };
        assert_eq!(ask(-1), None);
        assert_eq!(ask(1), Some((1, 10)));
        assert_eq!(ask(2), Some((2, 20)));
        assert_eq!(ask(3), Some((3, 35)));
        assert_eq!(ask(5), Some((3, 35)));
        assert_eq!(ask(6), Some((6, 50)));
        assert_eq!(ask(7), None);
    }
}
