//! Commands on the chains of segments.
//!
//! Each keeps what [`PartitionRecord`] promises: a chain without gaps, epochs that grow strictly,
//! and one open segment, the last.

use imbl::Vector;
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId, SegmentId, TimestampMs};

use super::{find_partition, partition_mut, topics::min_insync};
use crate::{
    command::{Applied, ApplyError, Opened, ReplacementSegment, SealAndOpenSingle},
    image::{
        Compaction, EpochEnd, Image, PartitionRecord, SegmentFlush, SegmentRecord, SegmentState,
    },
};

/// Seals the open segment of one partition and opens the next.
pub(super) fn seal_and_open(
    image: &mut Image,
    seal: &SealAndOpenSingle,
) -> Result<Opened, ApplyError> {
    let partition = find_partition(image, seal.partition)?;
    let open = check_seal(image, partition, seal)?;
    let topic = image
        .topic_by_id(seal.partition.topic)
        .ok_or(ApplyError::UnknownTopic)?;
    let mut next = SegmentRecord {
        id: seal.next,
        base: seal.end,
        end: None,
        epoch: open.epoch.next(),
        version: 0,
        state: SegmentState::Active,
        leader: seal.leader,
        leader_incarnation: seal.leader_incarnation,
        replicas: open.replicas.clone(),
        isr: vec![Member::new(seal.leader, seal.leader_incarnation)],
        elr: vec![],
        lost: vec![],
        flush: SegmentFlush::Os,
        complete: vec![],
        lossy: false,
        min_insync: min_insync(&topic.configs, &image.broker_configs),
        bytes: 0,
        max_timestamp: TimestampMs::NONE,
        digest: None,
        compaction: None,
    };

    let partition = partition_mut(image, seal.partition)?;
    if seal.end < partition.log_start {
        // What was lost had been deleted, and so had all before it.
        partition.segments = Vector::new();
        next.base = partition.log_start;
    } else if let Some(last) = partition.segments.back_mut() {
        if last.base == seal.end {
            partition.segments.pop_back();
        } else {
            last.state = SegmentState::Sealed;
            last.end = Some(seal.end);
            last.version = last.version.saturating_add(1);
            last.bytes = seal.bytes;
            last.max_timestamp = seal.max_timestamp;
            last.digest = seal.digest;
        }
    }
    let opened = Opened {
        partition: seal.partition,
        segment: next.id,
        base: next.base,
        epoch: next.epoch,
        version: next.version,
    };
    partition.segments.push_back(next);
    Ok(opened)
}

/// The segment that `seal` may seal.
fn check_seal<'a>(
    image: &Image,
    partition: &'a PartitionRecord,
    seal: &SealAndOpenSingle,
) -> Result<&'a SegmentRecord, ApplyError> {
    let open = partition.active();
    let current = open.map(|open| open.id);
    let open = open
        .filter(|open| open.id == seal.segment)
        .ok_or(ApplyError::StaleSegment { current })?;
    if open.version != seal.version {
        return Err(ApplyError::StaleVersion {
            current: open.version,
        });
    }
    if seal.end < open.base || open.epoch == LeaderEpoch(i32::MAX) {
        return Err(ApplyError::InvalidRange);
    }
    if partition
        .segments
        .iter()
        .any(|segment| segment.id == seal.next)
    {
        return Err(ApplyError::SegmentIdTaken { id: seal.next });
    }
    if !open.replicas.contains(&seal.leader) {
        return Err(ApplyError::NotReplica {
            broker: seal.leader,
        });
    }
    let leader = image
        .brokers
        .get(&seal.leader)
        .ok_or(ApplyError::UnknownBroker {
            broker: seal.leader,
        })?;
    if leader.incarnation != seal.leader_incarnation {
        return Err(ApplyError::StaleIncarnation {
            current: Some(leader.incarnation),
        });
    }
    Ok(open)
}

/// [`Command::DeleteSegments`](crate::Command::DeleteSegments).
pub(super) fn delete(
    image: &mut Image,
    id: PartitionId,
    segments: &[SegmentId],
    log_start: Offset,
) -> Result<Applied, ApplyError> {
    let partition = find_partition(image, id)?;
    let ends = check_sealed_run(partition, 0, segments)?;
    let partition = partition_mut(image, id)?;
    partition.segments = partition.segments.split_off(segments.len());
    partition.log_start = partition.log_start.max(log_start).max(ends);
    Ok(Applied::SegmentsDeleted {
        log_start: partition.log_start,
    })
}

/// [`Command::SetLogStart`](crate::Command::SetLogStart).
pub(super) fn set_log_start(
    image: &mut Image,
    id: PartitionId,
    log_start: Offset,
) -> Result<Applied, ApplyError> {
    let now = find_partition(image, id)?.log_start;
    if log_start <= now {
        return Ok(Applied::LogStartSet { log_start: now });
    }
    partition_mut(image, id)?.log_start = log_start;
    Ok(Applied::LogStartSet { log_start })
}

/// [`Command::ReplaceSegments`](crate::Command::ReplaceSegments).
pub(super) fn replace(
    image: &mut Image,
    id: PartitionId,
    old: &[SegmentId],
    new: &ReplacementSegment,
) -> Result<Applied, ApplyError> {
    let partition = find_partition(image, id)?;
    let begins = old
        .first()
        .and_then(|first| {
            partition
                .segments
                .iter()
                .position(|segment| segment.id == *first)
        })
        .ok_or_else(|| stale(partition))?;
    let end = check_sealed_run(partition, begins, old)?;
    let replaced = partition.segments.iter().skip(begins).take(old.len());
    let first = replaced.clone().next().ok_or(ApplyError::InvalidCount)?;
    let last = replaced.clone().last().ok_or(ApplyError::InvalidCount)?;
    let fits = new.base == first.base
        && new.end == end
        && new.epoch == last.epoch
        && new.clean_end <= new.end;
    if !fits {
        return Err(ApplyError::InvalidRange);
    }
    if partition
        .segments
        .iter()
        .any(|segment| segment.id == new.id)
    {
        return Err(ApplyError::SegmentIdTaken { id: new.id });
    }
    let compaction = Compaction {
        clean_end: new.clean_end,
        first_epoch: first.first_epoch(),
        earlier_epochs: earlier_epochs(replaced.clone(), partition.log_start),
    };
    let version = replaced
        .map(|segment| segment.version)
        .max()
        .unwrap_or(0)
        .saturating_add(1);
    let merged = SegmentRecord {
        id: new.id,
        base: new.base,
        end: Some(new.end),
        epoch: new.epoch,
        version,
        bytes: new.bytes,
        max_timestamp: new.max_timestamp,
        digest: new.digest,
        compaction: Some(compaction),
        ..last.clone()
    };
    let partition = partition_mut(image, id)?;
    let rest = partition.segments.split_off(begins).split_off(old.len());
    partition.segments.push_back(merged);
    partition.segments.append(rest);
    Ok(Applied::SegmentsReplaced)
}

/// The epochs of neighbours but the last one, as far as they reach above the start of the log.
fn earlier_epochs<'a>(
    replaced: impl Iterator<Item = &'a SegmentRecord>,
    log_start: Offset,
) -> Vec<EpochEnd> {
    let mut epochs: Vec<EpochEnd> = Vec::new();
    for segment in replaced {
        let merged = segment.compaction.as_ref();
        epochs.extend(merged.iter().flat_map(|merged| &merged.earlier_epochs));
        epochs.extend(segment.end.map(|end| EpochEnd {
            epoch: segment.epoch,
            end,
        }));
    }
    epochs.pop();
    epochs.retain(|earlier| earlier.end > log_start);
    epochs
}

/// The end of the last of `segments`, if they lie in the chain from `begins` on and are all sealed.
fn check_sealed_run(
    partition: &PartitionRecord,
    begins: usize,
    segments: &[SegmentId],
) -> Result<Offset, ApplyError> {
    let mut end = None;
    let mut chain = partition.segments.iter().skip(begins);
    for id in segments {
        let segment = chain
            .next()
            .filter(|segment| segment.id == *id)
            .ok_or_else(|| stale(partition))?;
        if segment.state.is_open() {
            return Err(ApplyError::NotSealed { id: *id });
        }
        end = segment.end;
    }
    end.ok_or(ApplyError::InvalidCount)
}

fn stale(partition: &PartitionRecord) -> ApplyError {
    ApplyError::StaleSegment {
        current: partition.active().map(|open| open.id),
    }
}
