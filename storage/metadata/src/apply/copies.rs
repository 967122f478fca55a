//! Commands on complete copies of sealed segments (R32, R34, R35).

use mainstem_record::{Member, PartitionId, SegmentId};

use super::{find_partition, isr::present_life, partition_mut};
use crate::{
    command::{ApplyError, RemoveCopy, SegmentCopy},
    image::{Complete, Image, PartitionRecord, SegmentRecord},
    rules::Rule,
};

/// One copy of [`Command::AddComplete`](crate::Command::AddComplete).
pub(super) fn add(image: &mut Image, copy: &SegmentCopy) -> Result<(), ApplyError> {
    let segment = check(image, copy)?;
    let member = present_life(image, copy.member, Rule::R34)?;
    if find(segment, member).is_some() {
        return Ok(());
    }
    let segment = sealed_mut(image, copy.partition, copy.segment)?;
    if !segment.replicas.contains(&member.broker) {
        segment.replicas.push(member.broker);
    }
    segment
        .complete
        .retain(|other| other.broker != member.broker);
    segment.complete.push(Complete {
        broker: member.broker,
        incarnation: member.incarnation,
        durable: false,
    });
    Ok(())
}

/// One copy of [`Command::MarkDurable`](crate::Command::MarkDurable).
pub(super) fn mark_durable(image: &mut Image, copy: &SegmentCopy) -> Result<(), ApplyError> {
    let segment = check(image, copy)?;
    let member = present_life(image, copy.member, Rule::R34)?;
    let index = find(segment, member).ok_or(ApplyError::NotComplete { member })?;
    let segment = sealed_mut(image, copy.partition, copy.segment)?;
    if let Some(copy) = segment.complete.get_mut(index) {
        copy.durable = true;
    }
    Ok(())
}

/// One copy of [`Command::RemoveComplete`](crate::Command::RemoveComplete).
pub(super) fn remove(image: &mut Image, copy: &RemoveCopy) -> Result<(), ApplyError> {
    let segment = find_sealed(find_partition(image, copy.partition)?, copy.segment)?;
    let member = copy.member;
    let index = find(segment, member).ok_or(ApplyError::NotComplete { member })?;
    let (have, need) = (segment.complete.len() - 1, segment.min_insync_count());
    if !copy.corrupt && have < need && Rule::R35.holds() {
        return Err(ApplyError::TooFewMembers { have, need });
    }
    let segment = sealed_mut(image, copy.partition, copy.segment)?;
    segment.complete.remove(index);
    Ok(())
}

/// The sealed segment that `copy` is of.
fn check<'a>(image: &'a Image, copy: &SegmentCopy) -> Result<&'a SegmentRecord, ApplyError> {
    let segment = find_sealed(find_partition(image, copy.partition)?, copy.segment)?;
    if segment.digest.is_some() && copy.digest != segment.digest {
        return Err(ApplyError::DigestMismatch);
    }
    Ok(segment)
}

/// Where the member is among the complete.
fn find(segment: &SegmentRecord, member: Member) -> Option<usize> {
    let mut complete = segment.complete.iter();
    complete.position(|copy| copy.member() == member)
}

fn find_sealed(partition: &PartitionRecord, id: SegmentId) -> Result<&SegmentRecord, ApplyError> {
    let mut chain = partition.segments.iter();
    let segment = chain.find(|segment| segment.id == id);
    let current = partition.active().map(|open| open.id);
    let segment = segment.ok_or(ApplyError::StaleSegment { current })?;
    if segment.state.is_open() {
        return Err(ApplyError::NotSealed { id });
    }
    Ok(segment)
}

fn sealed_mut(
    image: &mut Image,
    partition: PartitionId,
    id: SegmentId,
) -> Result<&mut SegmentRecord, ApplyError> {
    let mut chain = partition_mut(image, partition)?.segments.iter_mut();
    let segment = chain.find(|segment| segment.id == id);
    segment.ok_or(ApplyError::StaleSegment { current: None })
}
