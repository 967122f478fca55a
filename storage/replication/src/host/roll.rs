//! Planned seals (R28-R31): the leader ends its segment and says who holds the next one.
//!
//! ```text
//!  roll ──> log frozen and synced ──> machine frozen ──> hw = leo = E ──> SealAndOpen ──> image
//!                                          │ given up, or an image in which it leads on
//!                                          └──> thawed: appends go on in the same segment
//! ```

use std::collections::BTreeSet;

use mainstem_log::PartitionError;
use mainstem_metadata::{
    Applied, ApplyError, Command, Image, NextSegment, ProposeError, SealAndOpen, SegmentRecord,
};
use mainstem_record::{BrokerId, PartitionId, SegmentId};
use uuid::Uuid;

use super::{Host, Hosted, hosted::Planned};
use crate::machine::{
    leader::{FreezeRefusal, SealProposal},
    placement::{Ask, Healthy, Placed, place},
};

/// How many seals go with one command.
const SEALS_MAX: usize = 256;

/// Why a segment was not sealed as planned. It may be tried again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// This node does not lead the partition.
    #[error("not the leader")]
    NotLeader,
    /// Not now.
    #[error(transparent)]
    NotNow(#[from] FreezeRefusal),
    /// Too few healthy brokers for the next segment.
    #[error("no place for the next segment")]
    NoPlace,
    /// The log could not be frozen.
    #[error("log: {0}")]
    Log(#[from] PartitionError),
    /// It is not known in time.
    #[error("not sealed in time")]
    TooLate,
}

// === impl Host ===

impl Host {
    /// Seals `segment`, the active one of a partition that is led here, and opens the next one. Does
    /// nothing if it is not the open one any more. Returns when this node goes on, here or elsewhere.
    ///
    /// # Errors
    /// [`RollError`]: nothing has changed, or it is not known yet.
    pub(crate) async fn roll(&self, id: PartitionId, segment: SegmentId) -> Result<(), RollError> {
        self.roll_to(id, segment, &BTreeSet::new()).await
    }

    /// As [`Host::roll`], with the next segment on none of `avoid` where others are healthy.
    pub(crate) async fn roll_to(
        &self,
        id: PartitionId,
        segment: SegmentId,
        avoid: &BTreeSet<BrokerId>,
    ) -> Result<(), RollError> {
        let hosted = self.hosted(id).ok_or(RollError::NotLeader)?;
        let mut changes = self.changes();
        if !self.begin_roll(&hosted, segment, avoid).await? {
            return Ok(());
        }
        // The machine gives up what it has not proposed, and asks the controller about the rest.
        let limit = self.inner.timers.freeze_max * 2;
        let over = async {
            while hosted.is_frozen(segment) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let waited = self.inner.env.timeout(limit, over).await;
        match hosted.open_segment() {
            Some(open) if open == segment => Err(RollError::TooLate),
            _ if waited.is_err() => Err(RollError::TooLate),
            _ => Ok(()),
        }
    }

    /// Freezes; whether there was anything to freeze.
    async fn begin_roll(
        &self,
        hosted: &Hosted,
        segment: SegmentId,
        avoid: &BTreeSet<BrokerId>,
    ) -> Result<bool, RollError> {
        let _turn = hosted.turn.lock().await;
        let image = self.image();
        let record = image
            .partition(hosted.id())
            .and_then(|record| record.active());
        let Some(open) = record.filter(|open| open.id == segment) else {
            return Ok(false);
        };
        if hosted.led_epoch() != Some(open.epoch) {
            return Err(RollError::NotLeader);
        }
        if hosted.is_frozen(segment) {
            // Somebody else has begun.
            return Ok(true);
        }
        may_freeze(hosted)?;
        let next = self.place_next(&image, hosted.id(), open, avoid);
        let next = next.ok_or(RollError::NoPlace)?;
        let info = match hosted.log().seal_begin().await {
            Ok(info) => info,
            Err(error) => {
                hosted.log().seal_abort().await;
                return Err(error.into());
            }
        };
        hosted.state.lock().frozen = Some(Planned { info, next });
        let frozen = hosted.feed(self, segment, |replica, now| {
            let Some(leader) = replica.leader_mut() else {
                return (Err(RollError::NotLeader), Vec::new());
            };
            match leader.freeze(now) {
                Ok(effects) => (Ok(()), effects),
                Err(refused) => (Err(refused.into()), Vec::new()),
            }
        });
        match frozen.unwrap_or(Err(RollError::NotLeader)) {
            Ok(()) => {
                self.set_ticking(hosted.id(), true);
                Ok(true)
            }
            Err(refused) => {
                hosted.state.lock().frozen = None;
                hosted.log().seal_abort().await;
                Err(refused)
            }
        }
    }

    /// Who holds the segment after `open`.
    fn place_next(
        &self,
        image: &Image,
        id: PartitionId,
        open: &SegmentRecord,
        avoid: &BTreeSet<BrokerId>,
    ) -> Option<NextSegment> {
        let topic = image.topic_by_id(id.topic)?;
        let replicas = usize::try_from(topic.replication_factor)
            .unwrap_or(1)
            .max(1);
        let mut healthy = self.inner.placer.healthy();
        let usable = |healthy: &Healthy| {
            let others = healthy.keys().filter(|it| !avoid.contains(&it.broker));
            others.count()
        };
        if usable(&healthy) >= open.min_insync_count() {
            healthy.retain(|member, _| !avoid.contains(&member.broker));
        }
        let prefer: BTreeSet<BrokerId> = open.replicas.iter().copied().collect();
        let ask = Ask {
            replicas,
            min_insync: open.min_insync_count(),
            prefer: &prefer,
            leader: Some(self.me().broker),
            spread: u64::from(id.index.0.unsigned_abs()),
        };
        let Placed { replicas, leader } = place(&healthy, &ask)?;
        Some(NextSegment {
            id: SegmentId(Uuid::from_bytes(self.inner.env.random_uuid())),
            replicas: replicas.iter().map(|member| member.broker).collect(),
            isr: replicas,
            leader,
            flush: self.inner.policies.flush(topic),
        })
    }

    /// Proposes planned seals, many at once.
    pub(super) async fn propose_seals(&self) {
        loop {
            let batch = self.inner.proposals.seals.next(SEALS_MAX).await;
            let mut seals = Vec::with_capacity(batch.len());
            for ((id, _), proposal) in batch {
                seals.extend(self.seal_command(id, proposal));
            }
            if seals.is_empty() {
                continue;
            }
            let command = Command::SealAndOpen {
                seals: seals.clone(),
            };
            match self.inner.metadata.propose(command).await {
                Ok(Applied::SealedAndOpened { results }) => {
                    for (seal, result) in seals.iter().zip(results) {
                        self.seal_outcome(seal, result.err());
                    }
                }
                Ok(other) => panic!("metadata answered a seal with {other:?}"),
                // R30: of unknown outcome; the machine stays frozen and proposes the same again.
                Err(error) => self.seals_unanswered(&seals, &error),
            }
        }
    }

    fn seal_command(&self, id: PartitionId, proposal: SealProposal) -> Option<SealAndOpen> {
        let hosted = self.hosted(id)?;
        let state = hosted.state.lock();
        let planned = state.frozen.as_ref()?;
        let SealProposal {
            segment,
            version,
            end,
        } = proposal;
        // The log is frozen before the machine is.
        assert_eq!(
            (planned.info.segment, planned.info.end),
            (segment, end),
            "R28: what was frozen is what is sealed"
        );
        Some(SealAndOpen {
            partition: id,
            segment,
            version,
            end,
            bytes: planned.info.bytes,
            max_timestamp: planned.info.max_timestamp,
            digest: Some(planned.info.digest.to_be_bytes()),
            durable: vec![self.me()],
            next: planned.next.clone(),
        })
    }

    fn seal_outcome(&self, seal: &SealAndOpen, refused: Option<ApplyError>) {
        let id = seal.partition;
        let Some(error) = refused else {
            self.look_at(id);
            return;
        };
        tracing::warn!(partition = %id, %error, "seal refused");
        // The same end under the same version may go on in another segment: only one of the two
        // commands can be applied.
        let Some(hosted) = self.hosted(id) else {
            return;
        };
        let image = self.image();
        let record = image.partition(id).and_then(|record| record.active());
        let open = record.filter(|open| open.id == seal.segment && open.version == seal.version);
        let next = open.and_then(|open| self.place_next(&image, id, open, &BTreeSet::new()));
        let mut state = hosted.state.lock();
        let planned = state.frozen.as_mut();
        if let Some((planned, next)) = planned.zip(next)
            && planned.info.segment == seal.segment
        {
            planned.next = next;
        }
        drop(state);
        self.look_at(id);
    }

    fn seals_unanswered(&self, seals: &[SealAndOpen], error: &ProposeError) {
        for seal in seals {
            tracing::warn!(partition = %seal.partition, %error, "seal of unknown outcome");
        }
    }
}

// === impl Hosted ===

impl Hosted {
    /// Whether that segment is frozen for a planned seal.
    fn is_frozen(&self, segment: SegmentId) -> bool {
        let state = self.state.lock();
        let planned = state.frozen.as_ref();
        planned.is_some_and(|planned| planned.info.segment == segment)
    }
}

/// R28, before the log is frozen: what would refuse is asked first.
fn may_freeze(hosted: &Hosted) -> Result<(), RollError> {
    let state = hosted.state.lock();
    let leader = state.replica.as_ref().and_then(|replica| replica.leader());
    let leader = leader.ok_or(RollError::NotLeader)?;
    if !leader.may_append() {
        return Err(FreezeRefusal::NotAppending.into());
    }
    if leader.pending().is_some() {
        return Err(FreezeRefusal::ProposalPending.into());
    }
    if !leader.has_min_insync() {
        return Err(FreezeRefusal::TooFewInSync.into());
    }
    Ok(())
}
