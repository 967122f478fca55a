//! What this node leads, and what a request for a partition that it does not lead is answered.

use std::{sync::Arc, time::Duration};

use mainstem_log::Partition;
use mainstem_metadata::{PartitionRecord, SegmentState};
use mainstem_record::{LeaderEpoch, Member, PartitionId};
use mainstem_replication::NotLed;
use tokio::sync::watch;

use super::Core;
use crate::error_code::ErrorCode;

/// How long is waited until partitions that were made or deleted are open or gone.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// What a client is told of a partition that does not work here: what makes it look for the leader
/// again.
fn not_led_code(why: &NotLed) -> ErrorCode {
    match why {
        NotLed::Unknown => ErrorCode::UnknownTopicOrPartition,
        // Not LEADER_NOT_AVAILABLE, which the Java consumer does not expect from a fetch.
        NotLed::Elsewhere { .. } | NotLed::NoLeader | NotLed::Opening => {
            ErrorCode::NotLeaderOrFollower
        }
        NotLed::Failed(_) => ErrorCode::KafkaStorageError,
    }
}

/// Whether one life of a broker has led the partition without a break from the segment of epoch
/// `since` to its open end, and leads it now.
pub(crate) fn leads_since(record: &PartitionRecord, me: Member, since: LeaderEpoch) -> bool {
    let is_led = record
        .active()
        .is_some_and(|open| open.state == SegmentState::Active && open.leader_member() == me);
    // Newest first: chains are long, and what is asked for is almost always at their end.
    let mut later = record.segments.iter().rev();
    let mut is_known = false;
    let unbroken = later
        .by_ref()
        .take_while(|segment| segment.epoch >= since)
        .all(|segment| {
            is_known |= (segment.first_epoch()..=segment.epoch).contains(&since);
            segment.leader_member() == me
        });
    is_led && unbroken && is_known
}

// === impl Core ===

impl Core {
    /// This broker, in this life.
    pub(crate) fn me(&self) -> Member {
        self.replication.me()
    }

    /// A partition that this node leads and has open.
    pub(crate) fn led(&self, id: PartitionId) -> Result<Partition, NotLed> {
        self.replication.led(id)
    }

    /// Whether this node leads the partition, by its newest image.
    pub(crate) fn leads(&self, id: PartitionId) -> bool {
        self.led(id).is_ok()
    }

    /// Whether this node leads the partition and has not opened it yet.
    pub(crate) fn is_opening(&self, id: PartitionId) -> bool {
        matches!(self.led(id), Err(NotLed::Opening))
    }

    /// As [`Core::led`], with what a client is told; one that has failed is still read.
    pub(crate) fn partition(&self, id: PartitionId) -> Result<Partition, ErrorCode> {
        let led = self.led(id).or_else(|why| match why {
            NotLed::Failed(_) => self.replication.held(id).ok_or(why),
            why => Err(why),
        });
        led.map_err(|why| not_led_code(&why))
    }

    /// As [`Core::partition`], for appends: a partition that has failed would make them wait.
    pub(crate) fn writable_partition(&self, id: PartitionId) -> Result<Partition, ErrorCode> {
        if self.is_broken(id) {
            return Err(ErrorCode::KafkaStorageError);
        }
        self.led(id).map_err(|why| not_led_code(&why))
    }

    /// The partitions that this node leads, by id: what is decided about their segments, it decides.
    pub(crate) fn led_partitions(&self) -> Vec<Partition> {
        let mut partitions = self.replication.all_held();
        partitions.retain(|partition| self.leads(partition.id()));
        partitions
    }

    /// How many replicas of the partition are in sync and how many its high watermark needs.
    pub(crate) fn in_sync(&self, id: PartitionId) -> (usize, usize) {
        let image = self.image();
        let open = image.partition(id).and_then(|record| record.active());
        open.map_or((0, 1), |open| {
            (
                image.current(&open.isr).count(),
                open.min_insync_count().max(1),
            )
        })
    }

    /// How many replicas the open segment of a partition is placed on.
    pub(crate) fn replica_count(&self, id: PartitionId) -> usize {
        let image = self.image();
        let record = image.partition(id);
        let open = record.and_then(|record: &Arc<PartitionRecord>| record.active());
        open.map_or(0, |open| open.replicas.len())
    }

    /// Moves after each change of what is led here: look again then.
    pub(crate) fn led_changes(&self) -> watch::Receiver<u64> {
        self.replication.changes()
    }

    /// Waits, within limits, until those of the partitions that this node leads take appends, and
    /// those that were deleted are gone.
    pub(crate) async fn settled(&self, partitions: &[PartitionId]) {
        self.replication.settled(partitions, SETTLE_LIMIT).await;
    }

    /// Waits, within limits, until all partitions here have the present configs.
    pub(crate) async fn settle_configs(&self) {
        let all = self.replication.all_held();
        let ids: Vec<PartitionId> = all.iter().map(Partition::id).collect();
        self.settled(&ids).await;
    }
}
