//! Rolling: the seal of the active segment and the opening of the next one, decided in metadata.
//!
//! Order: freeze and sync the active segment, commit `SealAndOpenSingle`, then open the next segment. A
//! crash before the commit leaves the old segment active; after it the chain says where the old one
//! ends, and the log makes the next file when it opens the partition.

use std::collections::BTreeMap;

use mainstem_log::{Partition, SealInfo, SegmentSpec};
use mainstem_metadata::{Applied, PartitionRecord, ProposeError, SegmentFlush, SegmentRecord};
use mainstem_record::{Member, Offset, PartitionId, SegmentId};

use super::{
    BrokerError, Core, PARTITIONS_AT_ONCE,
    seal::{Ending, Frozen},
    segment_spec,
};
use crate::error_code::ErrorCode;
use tokio::sync::{Mutex, MutexGuard};

/// How many partitions are sealed, or go on in their next segment, at the same time.
const SEALS_AT_ONCE: usize = 64;

/// Held while a segment is sealed: whoever is refused thaws, and must not thaw what another has had
/// sealed meanwhile. Partitions share a few locks, so that a slow disk under one of them holds up
/// few others, and no more than [`SEALS_AT_ONCE`] are sealed at a time.
pub(crate) struct Rolling([Mutex<()>; SEALS_AT_ONCE]);

// === impl Rolling ===

impl Default for Rolling {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Rolling {
    /// Waits until nobody else seals segments of this partition.
    async fn lock(&self, id: PartitionId) -> MutexGuard<'_, ()> {
        // Topics' ids are random; the partitions of one follow each other.
        let (_, topic) = id.topic.0.as_u64_pair();
        let place = topic.wrapping_add(u64::from(id.index.0.unsigned_abs())) as usize;
        let lock = self.0.get(place % SEALS_AT_ONCE);
        lock.expect("a remainder is within").lock().await
    }
}

/// A partition whose active segment takes no appends until it is known how it ends.
struct FrozenPartition {
    partition: Partition,
    active: SegmentRecord,
    info: SealInfo,
    /// The policy of the segment that follows.
    flush: SegmentFlush,
}

/// What the log is told of a segment that ends there.
fn sealed_spec(active: &SegmentRecord, end: Offset) -> SegmentSpec {
    SegmentSpec {
        end: Some(end),
        ..segment_spec(active)
    }
}

impl Core {
    /// Seals the active segment of a partition and opens the next one. Does nothing if `segment` is
    /// no longer the active one.
    pub(crate) async fn roll(&self, id: PartitionId, segment: SegmentId) -> Result<(), ErrorCode> {
        let _rolling = self.rolling.lock(id).await;
        if self.has_failed(id) {
            return Ok(());
        }
        let image = self.image();
        let record = image
            .partition(id)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let Some(active) = record.active().filter(|active| active.id == segment) else {
            return Ok(());
        };
        let partition = self.partition(id)?;
        self.roll_group(vec![(partition, active.clone())])
            .await
            .map_err(|error| {
                tracing::warn!(%error, partition = ?id, "segment not rolled; tried again later");
                ErrorCode::UnknownServerError
            })
    }

    /// Every start has a new incarnation, and a segment has one leader for its whole life, so
    /// what an earlier incarnation led is sealed (`seal-protocol` R5).
    pub(super) async fn seal_earlier_incarnations(&self) -> Result<(), BrokerError> {
        let image = self.image();
        let stale = |record: &PartitionRecord| {
            record
                .active()
                .filter(|active| active.leader_incarnation != self.incarnation)
                .cloned()
        };
        let mut work = Vec::new();
        for partition in self.log.partitions() {
            let active = image
                .partition(partition.id())
                .and_then(|record| stale(record));
            work.extend(active.map(|active| (partition, active)));
        }
        let mut work = work.into_iter();
        loop {
            let group: Vec<_> = work.by_ref().take(PARTITIONS_AT_ONCE * 16).collect();
            if group.is_empty() {
                return Ok(());
            }
            self.roll_group(group).await?;
        }
    }

    async fn roll_group(&self, group: Vec<(Partition, SegmentRecord)>) -> Result<(), BrokerError> {
        let mut frozen = Vec::new();
        let begun = self.all_at_once("seal", group, |partition, active| async move {
            let begun = partition.seal_begin().await;
            (partition, active, begun)
        });
        for (partition, active, begun) in begun.await {
            match begun {
                Ok(info) if info.segment == active.id => frozen.push((partition, active, info)),
                Ok(info) => self.thaw(&partition, info.segment).await,
                Err(error) => {
                    tracing::warn!(partition = ?partition.id(), %error, "segment not sealed");
                    self.thaw(&partition, active.id).await;
                }
            }
        }
        let image = self.image();
        let mut by_ending: BTreeMap<Ending, Vec<FrozenPartition>> = BTreeMap::new();
        for (partition, active, info) in frozen {
            let ending = Ending::of(&image, &active);
            let frozen = FrozenPartition {
                flush: self.segment_flush(&image, partition.id().topic),
                partition,
                active,
                info,
            };
            by_ending.entry(ending).or_default().push(frozen);
        }
        let mut result = Ok(());
        for (ending, frozen) in by_ending {
            let ended = self.end_group(ending, frozen).await;
            result = result.and(ended);
        }
        result
    }

    /// Has metadata seal what is frozen, and goes on in what it opens.
    async fn end_group(
        &self,
        ending: Ending,
        frozen: Vec<FrozenPartition>,
    ) -> Result<(), BrokerError> {
        let all: Vec<Frozen<'_>> = frozen
            .iter()
            .map(|frozen| Frozen {
                partition: frozen.partition.id(),
                active: &frozen.active,
                info: &frozen.info,
                next: self.new_segment_id(),
                flush: frozen.flush,
            })
            .collect();
        let me = Member::new(self.node_id(), self.incarnation);
        let applied = match self.metadata.propose(ending.command(me, &all)).await {
            Ok(applied) => applied,
            Err(error) => {
                self.seal_unknown(&frozen, &error).await;
                return Err(error.into());
            }
        };
        let Applied::SealedAndOpened { results } = applied else {
            panic!("metadata answered a seal with {applied:?}");
        };
        let mut opened = Vec::new();
        for (frozen, result) in frozen.into_iter().zip(results) {
            match result {
                Ok(next) => {
                    if ending == Ending::Unclean {
                        self.report_loss(&frozen, next.base);
                    }
                    let next = SegmentSpec {
                        id: next.segment,
                        base: next.base,
                        epoch: next.epoch,
                        end: None,
                        compacted_from: None,
                        held: true,
                    };
                    let sealed = sealed_spec(&frozen.active, frozen.info.end);
                    opened.push((frozen.partition, (sealed, next)));
                }
                Err(error) => {
                    tracing::warn!(partition = ?frozen.partition.id(), %error, "seal refused");
                    self.thaw(&frozen.partition, frozen.active.id).await;
                }
            }
        }
        self.open_next(opened).await;
        Ok(())
    }

    /// The decision is made, so a failure here fails the partition: its chain has moved on.
    async fn open_next(&self, decided: Vec<(Partition, (SegmentSpec, SegmentSpec))>) {
        let open = |partition: Partition, (sealed, next)| async move {
            let result = partition.advance(sealed, next).await;
            (partition, result)
        };
        for (partition, result) in self.all_at_once("open segment", decided, open).await {
            if let Err(error) = result {
                tracing::error!(partition = ?partition.id(), %error, "next segment not opened");
                self.mark_failed(partition.id(), error.to_string());
                continue;
            }
            // A flush policy holds from one segment to the next.
            let image = self.image();
            if let Some(topic) = image.topic_by_id(partition.id().topic) {
                let settings = self.partition_settings(topic, partition.id().index);
                partition.update_settings(settings).await;
            }
        }
    }

    /// Records that may have been read are gone (`seal-protocol` R37).
    fn report_loss(&self, frozen: &FrozenPartition, next_base: Offset) {
        self.unclean_recoveries.inc();
        let lost: Vec<String> = frozen.active.lost.iter().map(Member::to_string).collect();
        tracing::error!(
            partition = ?frozen.partition.id(),
            end = frozen.info.end.0,
            next_base = next_base.0,
            lost = lost.join(", "),
            "records may be lost: the only replica did not stop cleanly and had not synced them"
        );
    }

    /// Does the same for several partitions, [`SEALS_AT_ONCE`] at a time: most of it is waiting
    /// for syncs. The results are in the order of the partitions.
    async fn all_at_once<A: Send + 'static, T: Send + 'static, F>(
        &self,
        name: &'static str,
        group: Vec<(Partition, A)>,
        work: impl Fn(Partition, A) -> F,
    ) -> Vec<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut results = Vec::with_capacity(group.len());
        let mut group = group.into_iter().peekable();
        while group.peek().is_some() {
            let some = group.by_ref().take(SEALS_AT_ONCE);
            let started: Vec<_> = some
                .map(|(partition, with)| self.env.start(name, work(partition, with)))
                .collect();
            for started in started {
                // Dropped only when the runtime ends, and then nobody asks.
                results.extend(started.await);
            }
        }
        results
    }

    /// A refused command changed nothing, so appends go on. Of any other failure nobody knows
    /// whether it was applied: thawing could let a segment grow past its sealed end (`seal-protocol`
    /// F37), so the partitions stay frozen until [`Core::resume_failed`] or a restart reads what was
    /// decided.
    async fn seal_unknown(&self, frozen: &[FrozenPartition], error: &ProposeError) {
        for FrozenPartition {
            partition, active, ..
        } in frozen
        {
            if matches!(error, ProposeError::Apply(_)) {
                self.thaw(partition, active.id).await;
            } else {
                tracing::error!(partition = ?partition.id(), %error, "seal of unknown outcome");
                self.mark_failed(partition.id(), format!("seal of unknown outcome: {error}"));
            }
        }
    }

    /// Lets appends go on in a segment that was not sealed; one that metadata has sealed must not
    /// grow, and waits for [`Core::resume_failed`].
    async fn thaw(&self, partition: &Partition, segment: SegmentId) {
        let image = self.image();
        // A partition that is gone is removed from the log by whoever had it deleted.
        let Some(record) = image.partition(partition.id()) else {
            return;
        };
        if record.active().is_some_and(|active| active.id == segment) {
            partition.seal_abort().await;
        } else {
            self.mark_failed(partition.id(), "sealed by another decision".to_owned());
        }
    }

    /// Opens the segments that metadata has opened and the log has not: their files could not be
    /// made, or the outcome of the seal was not known.
    pub(crate) async fn resume_failed(&self) {
        for id in self.failed_ids() {
            let _rolling = self.rolling.lock(id).await;
            let image = self.image();
            let active = image.partition(id).and_then(|record| record.active());
            let (Some(partition), Some(active)) = (self.log.partition(id), active) else {
                continue;
            };
            let last = partition.segments().pop();
            let is_behind = last
                .as_ref()
                .is_some_and(|last| last.end.is_none() && last.id != active.id);
            // Freezing once more tells the log which segment is left.
            if !is_behind {
                continue;
            }
            let Ok(frozen) = partition.seal_begin().await else {
                continue;
            };
            let Some(last) = last.filter(|last| last.id == frozen.segment) else {
                continue;
            };
            let sealed = SegmentSpec {
                id: last.id,
                base: last.base,
                epoch: last.epoch,
                end: Some(frozen.end),
                compacted_from: None,
                held: true,
            };
            match partition.advance(sealed, segment_spec(active)).await {
                Ok(()) => {
                    tracing::info!(partition = ?partition.id(), "the partition works again");
                    self.forget_failed(partition.id());
                }
                Err(error) => {
                    tracing::warn!(partition = ?partition.id(), %error, "next segment not opened");
                }
            }
        }
    }
}
