//! Following the chain of a partition: segments that were sealed, by this node's decision or by
//! others', and the ones that come after them (R33).

use mainstem_log::{PartitionError, Role, SegmentInfo, SegmentSpec};
use mainstem_metadata::{Image, PartitionRecord, SegmentCopy, SegmentRecord, apply::UNCLEAN_GAP};
use mainstem_record::{Offset, SegmentId};

use super::{Host, Hosted, reconcile::NotInLine, spec};
use crate::machine::replica::AtSeal;

/// How the segment that the log writes has ended.
#[derive(Clone, Copy)]
struct Ended {
    end: Offset,
    lossy: bool,
    /// Its digest, if metadata knows it.
    digest: Option<[u8; 16]>,
}

// === impl Host ===

impl Host {
    /// Goes on in the log until its last segment is the last one of the chain.
    pub(super) async fn follow_chain(
        &self,
        hosted: &Hosted,
        image: &Image,
        record: &PartitionRecord,
    ) -> Result<(), NotInLine> {
        loop {
            let Some(last) = hosted.log().segments().pop() else {
                return Ok(());
            };
            let is_last = record
                .segments
                .last()
                .is_some_and(|open| open.id == last.id);
            if is_last {
                return Ok(());
            }
            // Epochs grow strictly along a chain.
            let mut later = record.segments.iter();
            let Some(next) = later.find(|segment| segment.epoch > last.epoch) else {
                // The log is ahead of this image.
                return Ok(());
            };
            let sealed = record.segments.iter().find(|sealed| sealed.id == last.id);
            self.step(hosted, image, (&last, sealed), next).await?;
        }
    }

    /// One step: `last` is sealed, `next` comes after it.
    async fn step(
        &self,
        hosted: &Hosted,
        image: &Image,
        (last, sealed): (&SegmentInfo, Option<&SegmentRecord>),
        next: &SegmentRecord,
    ) -> Result<(), NotInLine> {
        let me = self.me();
        let recruited = self.is_recruited_to(hosted.id(), next.id);
        let holds_next = next.state.is_open() && (spec::is_held(image, next, me) || recruited);
        let mut next_spec = spec::segment_spec(next, holds_next);
        next_spec.end = None;
        let ended = Ended {
            end: sealed
                .and_then(|sealed| sealed.end)
                .unwrap_or_else(|| end_without_record(hosted, last, next)),
            lossy: sealed.is_some_and(|sealed| sealed.lossy),
            digest: sealed.and_then(|sealed| sealed.digest),
        };
        let leads_on = next.leader_member() == me && next.state.is_open();
        let held = if last.end.is_none() && last.held {
            if !leads_on {
                hosted.set_led(None);
            }
            self.end_segment(hosted, last, ended, leads_on).await?
        } else {
            last.held
        };
        let sealed_spec = SegmentSpec {
            id: last.id,
            base: last.base,
            epoch: last.epoch,
            end: Some(ended.end),
            compacted_from: last.compacted_from,
            held,
        };
        if last.end.is_some() {
            hosted.log().seal_commit(next_spec).await?;
        } else {
            hosted.log().advance(sealed_spec, next_spec).await?;
        }
        {
            let mut state = hosted.state.lock();
            (state.replica, state.attached) = (None, false);
            (state.frozen, state.gave_up, state.stands_still) = (None, None, None);
        }
        if held && sealed.is_some() {
            // R32: synced when it was frozen. Metadata is told once the chain is in line.
            hosted.state.lock().synced.insert(last.id);
        }
        tracing::debug!(
            partition = %hosted.id(), segment = %last.id, end = ended.end.0, held,
            next = %next.id, "sealed"
        );
        Ok(())
    }

    /// Brings the written segment to its end; whether all of it is here then.
    async fn end_segment(
        &self,
        hosted: &Hosted,
        last: &SegmentInfo,
        ended: Ended,
        leads_on: bool,
    ) -> Result<bool, NotInLine> {
        let log = hosted.log();
        let what = {
            let mut state = hosted.state.lock();
            let attached = state.attached;
            let ends = hosted.ends();
            let now = self.inner.env.now();
            let replica = state.replica.as_mut();
            let replica = replica.filter(|replica| replica.segment().id == last.id);
            let learned = replica.map(|replica| {
                if attached {
                    // What it exposes now is below the end, or it would not have been sealed there.
                    let _ = replica.wrote(ends, now);
                }
                replica.learn_seal(ended.end, ended.lossy)
            });
            state.attached = false;
            learned.map(|(what, _)| what)
        };
        // Without a machine (R6) the log alone tells.
        let what = what.unwrap_or_else(|| at_seal(log.ends().log_end, ended.end));
        if !(leads_on && what == AtSeal::Exact) {
            // What waits learns that its outcome is unknown.
            self.set_role(hosted, Role::Fenced).await?;
        }
        if let AtSeal::Cut(end) = what {
            match log.cut(end).await {
                Ok(()) => {}
                Err(PartitionError::CannotCut { end }) => {
                    tracing::error!(
                        partition = %hosted.id(), segment = %last.id, end = end.0,
                        "the log cannot be cut where its segment was sealed; the copy is dropped"
                    );
                    return Err(PartitionError::CannotCut { end }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let info = log.seal_begin().await?;
        let is_whole = info.end == ended.end;
        let is_same = ended
            .digest
            .is_none_or(|digest| digest == info.digest.to_be_bytes());
        if is_whole && !is_same && info.end > last.base {
            tracing::error!(
                partition = %hosted.id(), segment = %last.id,
                "this copy differs from the sealed segment; it is not read, and repaired"
            );
        }
        Ok(is_whole && (is_same || info.end == last.base))
    }

    /// Tells metadata of copies that it does not know to be complete, or synced, yet.
    pub(super) fn say_of_copies(&self, hosted: &Hosted, record: &PartitionRecord) {
        let synced: Vec<SegmentId> = hosted.state.lock().synced.iter().copied().collect();
        for id in synced {
            match record.segments.iter().find(|segment| segment.id == id) {
                Some(sealed) => self.say_of_copy(hosted, sealed),
                None => {
                    hosted.state.lock().synced.remove(&id);
                }
            }
        }
    }

    fn say_of_copy(&self, hosted: &Hosted, sealed: &SegmentRecord) {
        let me = self.me();
        let known = sealed.complete.iter().find(|copy| copy.member() == me);
        let copy = SegmentCopy {
            partition: hosted.id(),
            segment: sealed.id,
            member: me,
            digest: sealed.digest,
        };
        match known {
            Some(known) if known.durable => {
                hosted.state.lock().synced.remove(&sealed.id);
            }
            Some(_) => self.inner.proposals.mark_durable(copy),
            None => self.inner.proposals.add_complete(copy),
        }
    }

    fn is_recruited_to(&self, id: mainstem_record::PartitionId, segment: SegmentId) -> bool {
        self.inner.recruited.lock().get(&id) == Some(&segment)
    }
}

/// Where a segment ended that the chain has no record of: an empty one leaves none, nor does one that
/// was deleted or compacted since.
fn end_without_record(hosted: &Hosted, last: &SegmentInfo, next: &SegmentRecord) -> Offset {
    let is_alone = {
        let state = hosted.state.lock();
        let replica = state.replica.as_ref();
        let replica = replica.filter(|replica| replica.segment().id == last.id);
        replica.is_some_and(|replica| replica.segment().replicas.len() == 1)
    };
    if is_alone {
        // Nobody else has more of it, whatever the next one begins with.
        return hosted.log().ends().log_end.min(next.base);
    }
    // R37: empty, and followed by a hole.
    if next.base == last.base.plus(UNCLEAN_GAP) {
        return last.base;
    }
    next.base
}

/// What a log that ends at `log_end` has to do for a seal at `end`.
fn at_seal(log_end: Offset, end: Offset) -> AtSeal {
    match log_end.cmp(&end) {
        std::cmp::Ordering::Less => AtSeal::Short(log_end),
        std::cmp::Ordering::Equal => AtSeal::Exact,
        std::cmp::Ordering::Greater => AtSeal::Cut(end),
    }
}
