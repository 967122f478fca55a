//! Newtypes of everything that is counted or named, so that an offset cannot be passed for a size.
//!
//! The inner field is public: these types name a value, they do not guard one. Bytes from the
//! network are checked where they are parsed.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(inner: $inner) -> Self {
                Self(inner)
            }
        }
    };
}

newtype! {
    /// The identity of a topic; a topic that is deleted and created again gets a new one (KIP-516).
    TopicId(Uuid)
}

newtype! {
    /// The identity of a segment, equal on all its replicas.
    SegmentId(Uuid)
}

newtype! {
    /// The number of a partition within its topic, counted from 0.
    PartitionIndex(i32)
}

newtype! {
    /// The id of a node, as Kafka clients see it.
    BrokerId(i32)
}

newtype! {
    /// Which life of a broker: a higher one is a later start of the same broker id.
    Incarnation(u64)
}

newtype! {
    /// The position of a record in its partition, counted in records from 0.
    Offset(i64)
}

newtype! {
    /// How often the leadership of a partition has changed hands, stamped into each batch.
    LeaderEpoch(i32)
}

newtype! {
    /// The id that the broker gave to an idempotent or transactional producer.
    ProducerId(i64)
}

newtype! {
    /// The fencing epoch of a producer id.
    ProducerEpoch(i16)
}

newtype! {
    /// The number of a record within (producer id, partition); after 2^31 - 1 comes 0.
    Sequence(i32)
}

newtype! {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    TimestampMs(i64)
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub index: PartitionIndex,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// One life of a broker: what the lists of in-sync, eligible and complete replicas hold.
///
/// Metadata formats 1 and 2 store it as the list `[broker, incarnation]`, which reading takes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The broker.
    pub broker: BrokerId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

impl Member {
    /// This life of that broker.
    #[must_use]
    pub const fn new(broker: BrokerId, incarnation: Incarnation) -> Self {
        Self {
            broker,
            incarnation,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.broker, self.incarnation)
    }
}

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Self = Self(0);

    /// The offset after this one; stays at `i64::MAX`.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// This offset moved by `records`, saturating at both ends of `i64`.
    #[must_use]
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

impl LeaderEpoch {
    /// No epoch is known; what producers send.
    pub const NONE: Self = Self(-1);

    /// The epoch after this one; stays at `i32::MAX`.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl ProducerId {
    /// The batch comes from a producer that is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    /// The batch comes from a producer that is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// The batch carries no sequence: not idempotent, or a control batch.
    pub const NONE: Self = Self(-1);

    /// The sequence `records` further on, wrapping from 2^31 - 1 to 0 as Kafka's producers do.
    ///
    /// A negative `records` counts as 0. [`Sequence::NONE`] behaves as "just before 0".
    #[must_use]
    pub const fn next(self, records: i32) -> Self {
        let step = if records < 0 { 0 } else { records };
        match self.0.checked_add(step) {
            Some(sum) => Self(sum),
            // Both are at most 2^31 - 1, so this cannot go below 0: max - (max - a) = a.
            None => Self(step - (i32::MAX - self.0) - 1),
        }
    }
}

impl TimestampMs {
    /// The record or batch has no timestamp.
    pub const NONE: Self = Self(-1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_to_zero() {
        assert_eq!(Sequence(i32::MAX).next(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX).next(i32::MAX), Sequence(i32::MAX - 1));
        assert_eq!(Sequence(i32::MAX - 2).next(5), Sequence(2));
        assert_eq!(Sequence::NONE.next(1), Sequence(0));
        assert_eq!(Sequence::NONE.next(0), Sequence::NONE);
        assert_eq!(Sequence(7).next(-3), Sequence(7));
    }

    #[test]
    fn offsets_saturate() {
        assert_eq!(Offset::ZERO.next(), Offset(1));
        assert_eq!(Offset(i64::MAX).next(), Offset(i64::MAX));
        assert_eq!(Offset(i64::MIN).plus(-1), Offset(i64::MIN));
        assert_eq!(LeaderEpoch(i32::MAX).next(), LeaderEpoch(i32::MAX));
        assert_eq!(LeaderEpoch::NONE.next(), LeaderEpoch(0));
    }

    #[test]
    fn partition_id_names_topic_and_index() {
        let id = PartitionId {
            topic: TopicId(Uuid::from_u128(1)),
            index: PartitionIndex(7),
        };
        assert_eq!(id.to_string(), "00000000-0000-0000-0000-000000000001-7");
    }
}
