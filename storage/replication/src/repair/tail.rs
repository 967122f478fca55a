//! CopyTail (R24): a fenced broker that is short copies from one that is not.

use std::{sync::Arc, time::Duration};

use mainstem_record::SegmentId;

use super::{Copies, Inner, Repair, ask::AskError};
use crate::wire::{Asked, CopyAnswer, CopyOrder, CopyQuestion, FRAME_BYTES, Fenced, Unfenced};

/// How long the answer to an order waits for the copy. The next order goes on where this one stopped.
const WAIT: Duration = Duration::from_secs(3);

/// Holds the right to fetch for an open segment: its tail, or what is remembered at its base.
pub(super) struct Turn<'a, H> {
    inner: &'a Inner<H>,
    segment: SegmentId,
}

impl<H: Copies> Repair<H> {
    /// Copies tails, and says how far this node is then, in the order of the orders. Every segment
    /// must be fenced here and where it is copied from. With `flush=always` what is said is synced.
    pub(crate) async fn copy_tails(&self, orders: &[CopyOrder]) -> Vec<Fenced> {
        let tasks: Vec<_> = orders
            .iter()
            .map(|order| {
                let (inner, order) = (self.inner.clone(), *order);
                let copy = async move { copy_tail(&inner, order).await };
                self.inner.env.start("copy tail", copy)
            })
            .collect();
        let mut answers = Vec::with_capacity(orders.len());
        for (task, order) in tasks.into_iter().zip(orders) {
            // Dropped only when the runtime ends, and then nobody asks.
            let outcome = task.await.unwrap_or(Err(Unfenced::NotYet));
            answers.push(Fenced {
                segment: order.segment,
                outcome,
            });
        }
        answers
    }
}

async fn copy_tail<H: Copies>(
    inner: &Arc<Inner<H>>,
    order: CopyOrder,
) -> Result<crate::machine::FenceAnswer, Unfenced> {
    let CopyOrder {
        partition, segment, ..
    } = order;
    let answer = || inner.host.answer(partition, segment);
    if answer().is_none() {
        return Err(Unfenced::NotYet);
    }
    if let Some(_turn) = Turn::take(inner, segment) {
        let copying = inner.env.timeout(WAIT, copy(inner, order));
        match copying.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(%partition, %segment, from = %order.from, %error, "tail not copied");
            }
            Err(_) => tracing::debug!(%partition, %segment, "a tail takes longer to copy"),
        }
    }
    answer().ok_or(Unfenced::NotYet)
}

/// Why a tail was not copied, or not all of it.
#[derive(Debug, thiserror::Error)]
enum NotCopied {
    #[error("the partition is not open")]
    NotOpen,
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    NotAppended(#[from] crate::host::NotAppended),
    #[error(transparent)]
    Append(#[from] mainstem_log::AppendError),
    #[error(transparent)]
    Log(#[from] mainstem_log::PartitionError),
}

async fn copy<H: Copies>(inner: &Inner<H>, order: CopyOrder) -> Result<(), NotCopied> {
    let CopyOrder {
        partition,
        segment,
        from,
        ..
    } = order;
    let log = inner.host.log(partition).ok_or(NotCopied::NotOpen)?;
    if log.needs_memory() {
        let place = (partition, segment);
        let memory = |position| Asked::Memory { position };
        let memory = inner.asker.whole(from.broker, place, memory).await?;
        log.install_memory(memory).await?;
    }
    loop {
        let at = log.ends().log_end;
        let asked = Asked::Tail {
            from,
            at,
            bytes_max: FRAME_BYTES as u32,
        };
        let question = CopyQuestion {
            partition,
            segment,
            asked,
        };
        let answer = inner.asker.ask(from.broker, question).await?;
        let CopyAnswer::Batches { batches, .. } = answer else {
            return Err(AskError::Other.into());
        };
        if batches.is_empty() {
            return Ok(());
        }
        let bytes = batches.len() as u64;
        let copied = inner.host.copied(partition, segment, at, batches).await?;
        // Through when it is written, with `flush=always` synced.
        copied.await?;
        inner.metrics.tail_bytes.inc_by(bytes);
    }
}

// === impl Turn ===

impl<'a, H> Turn<'a, H> {
    /// `None` if that is under way already.
    pub(super) fn take(inner: &'a Inner<H>, segment: SegmentId) -> Option<Self> {
        let is_free = inner.tails.lock().insert(segment);
        is_free.then_some(Self { inner, segment })
    }
}

impl<H> Drop for Turn<'_, H> {
    fn drop(&mut self) {
        self.inner.tails.lock().remove(&self.segment);
    }
}
