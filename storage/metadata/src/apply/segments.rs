//! Commands on the chains of segments.
//!
//! Each keeps what [`PartitionRecord`] promises: a chain without gaps, epochs that grow strictly,
//! and one open segment, the last.

use mainstem_record::{Member, Offset, PartitionId, SegmentId};

use super::{find_partition, isr::check_distinct, partition_mut};
use crate::{
    command::{Applied, ApplyError, ReplacementSegment},
    image::{Compaction, Complete, EpochEnd, Image, PartitionRecord, SegmentRecord},
    rules::Rule,
};

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
    // Relative offsets of one file do not reach across the gap of an unclean recovery.
    let mut neighbours = replaced.clone().zip(replaced.clone().skip(1));
    let has_gap = neighbours.any(|(one, next)| one.end != Some(next.base));
    let fits = !has_gap
        && new.base == first.base
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
    let complete = merged_copies(replaced.clone(), last, &new.complete)?;
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
        complete,
        compaction: Some(compaction),
        ..last.clone()
    };
    let partition = partition_mut(image, id)?;
    let rest = partition.segments.split_off(begins).split_off(old.len());
    partition.segments.push_back(merged);
    partition.segments.append(rest);
    Ok(Applied::SegmentsReplaced)
}

/// Who holds the segment that takes the place of `replaced`, of which `last` is the last.
fn merged_copies<'a>(
    mut replaced: impl Iterator<Item = &'a SegmentRecord>,
    last: &SegmentRecord,
    named: &[Member],
) -> Result<Vec<Complete>, ApplyError> {
    let members: Vec<Member> = match named {
        [] => last.complete.iter().map(Complete::member).collect(),
        named => named.to_vec(),
    };
    check_distinct(&members)?;
    // One file was written: without names, it can be only one broker's.
    if named.is_empty() && members.len() > 1 {
        return Err(ApplyError::InvalidMembers);
    }
    let (have, need) = (members.len(), last.min_insync_count());
    if have < need && Rule::R35.holds() {
        return Err(ApplyError::TooFewMembers { have, need });
    }
    let is_missing = |segment: &SegmentRecord, member: &Member| {
        let mut complete = segment.complete.iter();
        complete.all(|copy| copy.member() != *member)
    };
    let missing = replaced.find_map(|segment| {
        let mut members = members.iter();
        members.find(|member| is_missing(segment, member)).copied()
    });
    if let Some(member) = missing {
        return Err(ApplyError::NotComplete { member });
    }
    let complete = members.iter().map(|member| Complete {
        broker: member.broker,
        incarnation: member.incarnation,
        durable: true,
    });
    Ok(complete.collect())
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
