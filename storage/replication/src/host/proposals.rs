//! What this node proposes to metadata, over many partitions in one command.
//!
//! One task per kind, so that each kind has one command in flight: what comes meanwhile goes with the
//! next one.

use std::time::Duration;

use mainstem_metadata::{
    AlterIsr, Applied, ApplyError, BeginSeal, Command, ProposeError, RemoveCopy, SealReason,
    SegmentCopy,
};
use mainstem_record::{PartitionId, SegmentId};

use super::{Host, queue::Queue};
use crate::machine::leader::{AlterIsrOutcome, IsrProposal, SealProposal};

/// How many changes go with one command.
const CHANGES_MAX: usize = 1024;
/// How long to wait before what had no answer is proposed again.
const RETRY: Duration = Duration::from_millis(250);

/// What waits to be proposed, by kind.
#[derive(Default)]
pub(crate) struct Proposals {
    isr: Queue<IsrProposal>,
    pub(super) seals: Queue<SealProposal>,
    stuck: Queue<BeginSeal>,
    add: Queue<SegmentCopy>,
    durable: Queue<SegmentCopy>,
    remove: Queue<RemoveCopy>,
}

/// Changes with the partition and the segment that each is of.
type Batch<T> = Vec<((PartitionId, SegmentId), T)>;

// === impl Proposals ===

impl Proposals {
    /// A leader changes its ISR; the outcome goes to its machine.
    pub(super) fn alter_isr(&self, id: PartitionId, proposal: IsrProposal) {
        self.isr.put(id, proposal.segment, proposal);
    }

    /// A leader seals its segment as planned (R28).
    pub(super) fn seal(&self, id: PartitionId, proposal: SealProposal) {
        self.seals.put(id, proposal.segment, proposal);
    }

    /// A leader is stuck: the controller is to seal.
    pub(super) fn begin_seal(&self, seal: BeginSeal) {
        self.stuck.put(seal.partition, seal.segment, seal);
    }

    /// A whole copy was verified here (R34).
    pub(crate) fn add_complete(&self, copy: SegmentCopy) {
        self.add.put(copy.partition, copy.segment, copy);
    }

    /// A complete copy is synced (R32).
    pub(crate) fn mark_durable(&self, copy: SegmentCopy) {
        self.durable.put(copy.partition, copy.segment, copy);
    }

    /// A copy is not to be read any more (R35).
    pub(crate) fn remove_complete(&self, copy: RemoveCopy) {
        self.remove.put(copy.partition, copy.segment, copy);
    }
}

// === impl Host ===

impl Host {
    /// Starts the tasks that propose.
    pub(super) fn start_proposing(&self) {
        let host = self.clone();
        self.spawn("alter isr", async move { host.propose_isr().await });
        let host = self.clone();
        let stuck = async move {
            let queue = &host.proposals().stuck;
            let command = |seals| Command::BeginSeal {
                seals,
                reason: SealReason::LeaderStuck,
            };
            host.propose_all(queue, command).await;
        };
        self.spawn("begin seal", stuck);
        let host = self.clone();
        let add = async move {
            let queue = &host.proposals().add;
            host.propose_all(queue, |copies| Command::AddComplete { copies })
                .await;
        };
        self.spawn("add complete", add);
        let host = self.clone();
        let durable = async move {
            let queue = &host.proposals().durable;
            host.propose_all(queue, |copies| Command::MarkDurable { copies })
                .await;
        };
        self.spawn("mark durable", durable);
        let host = self.clone();
        let remove = async move {
            let queue = &host.proposals().remove;
            host.propose_all(queue, |copies| Command::RemoveComplete { copies })
                .await;
        };
        self.spawn("remove complete", remove);
    }

    /// R15: what leaders propose, with the outcome told to each.
    async fn propose_isr(&self) {
        loop {
            let batch = self.inner.proposals.isr.next(CHANGES_MAX).await;
            let changes = batch
                .iter()
                .map(|((partition, segment), proposal)| AlterIsr {
                    partition: *partition,
                    segment: *segment,
                    version: proposal.version,
                    isr: proposal.isr.iter().copied().collect(),
                });
            let command = Command::AlterIsr {
                changes: changes.collect(),
            };
            match self.inner.metadata.propose(command).await {
                Ok(Applied::IsrAltered { results }) => {
                    for (((partition, _), proposal), result) in batch.into_iter().zip(results) {
                        self.isr_outcome(partition, &proposal, outcome_of(&result));
                    }
                }
                Ok(other) => panic!("metadata answered AlterIsr with {other:?}"),
                // R17: no answer; the machine proposes it again.
                Err(error) => tracing::debug!(%error, "an ISR change has no answer"),
            }
        }
    }

    fn isr_outcome(&self, id: PartitionId, proposal: &IsrProposal, outcome: AlterIsrOutcome) {
        let Some(hosted) = self.hosted(id) else {
            return;
        };
        hosted.feed(self, proposal.segment, |replica, now| {
            let leader = replica.leader_mut();
            let effects = leader.map(|leader| leader.isr_outcome(proposal, outcome, now));
            ((), effects.unwrap_or_default())
        });
    }

    /// Proposes what is queued until it has an answer. A refusal is for whoever looks at the image
    /// again.
    async fn propose_all<T: Clone>(&self, queue: &Queue<T>, command: impl Fn(Vec<T>) -> Command) {
        loop {
            let batch: Batch<T> = queue.next(CHANGES_MAX).await;
            let changes = batch.iter().map(|(_, change)| change.clone()).collect();
            match self.inner.metadata.propose(command(changes)).await {
                Ok(applied) => log_refusals(&batch, &applied),
                Err(ProposeError::Apply(error)) => {
                    tracing::warn!(%error, "metadata refused a change of copies");
                }
                Err(error) => {
                    tracing::debug!(%error, "a change of copies has no answer");
                    queue.put_back(batch);
                    self.inner.env.sleep(RETRY).await;
                }
            }
        }
    }
}

fn outcome_of(result: &Result<u32, ApplyError>) -> AlterIsrOutcome {
    match result {
        Ok(_) => AlterIsrOutcome::Applied,
        Err(error) if error.is_final() => AlterIsrOutcome::RefusedForGood,
        Err(ApplyError::StaleVersion { .. } | ApplyError::StaleSegment { .. }) => {
            AlterIsrOutcome::VersionMoved
        }
        Err(_) => AlterIsrOutcome::NotNow,
    }
}

fn log_refusals<T>(batch: &Batch<T>, applied: &Applied) {
    let errors: Vec<Option<&ApplyError>> = match applied {
        Applied::CopiesChanged { results } => {
            results.iter().map(|result| result.as_ref().err()).collect()
        }
        Applied::SealsBegun { results } => {
            results.iter().map(|result| result.as_ref().err()).collect()
        }
        other => panic!("metadata answered a change of segments with {other:?}"),
    };
    for (((partition, segment), _), error) in batch.iter().zip(errors) {
        if let Some(error) = error {
            tracing::debug!(%partition, %segment, %error, "metadata refused a change");
        }
    }
}
