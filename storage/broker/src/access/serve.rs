//! Reads for other nodes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use bytes::{Bytes, BytesMut};
use mainstem_env::BoxFuture;
use mainstem_log::{Partition, Read, ReadError, Subscription};
use mainstem_peers::{Handler, PeerIdentity, PeerStream, Refusal, StreamSender};
use mainstem_record::{Offset, PartitionId};
use tokio::sync::Notify;

use super::{
    Leader,
    wire::{Answer, Fulfilled, Question, decode_wish},
};
use crate::core::Core;

/// Bytes of records in one answer; a longer batch comes alone.
pub(super) const READ_BYTES_MAX: u32 = 1 << 20;
/// Partitions that one node may follow over one stream.
const WISHES_MAX: usize = 100_000;

/// The codes of refusals.
const MALFORMED: u16 = 1;
const NOT_HERE: u16 = 2;
const FAILED: u16 = 3;

/// Serves [`mainstem_peers::Service::FETCH`].
pub(super) struct Reads {
    core: Weak<Core>,
}

/// A wish that is not fulfilled.
struct Wish {
    from: Offset,
    partition: Partition,
    _subscription: Subscription,
}

// === impl Reads ===

impl Reads {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::downgrade(core),
        }
    }

    async fn answer(&self, body: Bytes) -> Result<Bytes, Refusal> {
        let core = self.core.upgrade().ok_or_else(|| refused(NOT_HERE))?;
        let question = Question::decode(&body).ok_or_else(|| refused(MALFORMED))?;
        match question {
            // Only the leader knows what is acknowledged.
            Question::Ends(id) => match core.leader(id) {
                Leader::Here(partition) => {
                    let ends = partition.ends();
                    let next = ends.committed_end;
                    let batches = Bytes::new();
                    let answer = Answer {
                        ends,
                        next,
                        batches,
                    };
                    Ok(answer.encode())
                }
                _ => Err(refused(NOT_HERE)),
            },
            Question::Read {
                partition,
                from,
                bytes_max,
            } => {
                let held = core.log.partition(partition);
                let partition = held.ok_or_else(|| refused(NOT_HERE))?;
                let answer = read(&partition, from, bytes_max.min(READ_BYTES_MAX)).await;
                answer
                    .map(|answer| answer.encode())
                    .map_err(|error| Refusal {
                        code: FAILED,
                        text: error.to_string(),
                    })
            }
        }
    }

    async fn follow(&self, stream: PeerStream) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let (sender, mut receiver) = stream.split();
        let notify = Arc::new(Notify::new());
        let mut changes = core.metadata.changes();
        let mut wishes: BTreeMap<PartitionId, Wish> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = core.stop.cancelled() => return,
                message = receiver.recv() => {
                    let Some((id, from)) = message.and_then(|body| decode_wish(&body)) else {
                        return;
                    };
                    if wishes.len() >= WISHES_MAX {
                        return;
                    }
                    match core.leader(id) {
                        Leader::Here(partition) => {
                            let subscription = partition.subscribe(&notify);
                            let wish = Wish { from, partition, _subscription: subscription };
                            wishes.insert(id, wish);
                        }
                        _ => if send(&sender, id, None).await.is_none() { return },
                    }
                    if fulfil(&core, &mut wishes, &sender, Some(id)).await.is_none() { return }
                }
                () = notify.notified() => {
                    if fulfil(&core, &mut wishes, &sender, None).await.is_none() { return }
                }
                changed = changes.changed() => {
                    if changed.is_err() { return }
                    let lost: Vec<PartitionId> =
                        wishes.keys().copied().filter(|id| !core.leads(*id)).collect();
                    for id in lost {
                        wishes.remove(&id);
                        if send(&sender, id, None).await.is_none() { return }
                    }
                }
            }
        }
    }
}

/// Answers the wishes (or the one) that can be; `None` if nobody listens any more.
async fn fulfil(
    core: &Core,
    wishes: &mut BTreeMap<PartitionId, Wish>,
    sender: &StreamSender,
    only: Option<PartitionId>,
) -> Option<()> {
    let is_ready = |(_, wish): &(&PartitionId, &Wish)| {
        let ends = wish.partition.ends();
        ends.committed_end > wish.from || ends.log_start > wish.from
    };
    let ready: Vec<PartitionId> = match only {
        Some(id) => wishes
            .get_key_value(&id)
            .filter(|entry| is_ready(entry))
            .map(|(id, _)| *id)
            .into_iter()
            .collect(),
        None => wishes.iter().filter(is_ready).map(|(id, _)| *id).collect(),
    };
    for id in ready {
        let Some(wish) = wishes.remove(&id) else {
            continue;
        };
        let answer = match core.leads(id) {
            true => read(&wish.partition, wish.from, READ_BYTES_MAX).await.ok(),
            false => None,
        };
        send(sender, id, answer).await?;
    }
    Some(())
}

async fn send(sender: &StreamSender, partition: PartitionId, answer: Option<Answer>) -> Option<()> {
    let fulfilled = Fulfilled { partition, answer };
    sender.send(fulfilled.encode()).await.ok()
}

async fn read(partition: &Partition, from: Offset, bytes_max: u32) -> Result<Answer, ReadError> {
    let ends = partition.ends();
    let read = Read {
        from: from.max(ends.log_start),
        bytes_max: bytes_max as usize,
        at_least_one_batch: true,
        end: ends.committed_end,
    };
    if read.from >= ends.committed_end {
        // Nothing there, or not yet.
        let batches = Bytes::new();
        return Ok(Answer {
            ends,
            next: from,
            batches,
        });
    }
    let chunk = partition.read(read).await?;
    let batches = match chunk.batches.as_slice() {
        [one] => one.clone(),
        many => {
            let mut joined = BytesMut::with_capacity(chunk.bytes);
            many.iter().for_each(|run| joined.extend_from_slice(run));
            joined.freeze()
        }
    };
    Ok(Answer {
        ends,
        next: chunk.next,
        batches,
    })
}

fn refused(code: u16) -> Refusal {
    let text = match code {
        MALFORMED => "the body is malformed",
        NOT_HERE => "the partition is not here",
        _ => "the read failed",
    };
    Refusal {
        code,
        text: text.to_owned(),
    }
}

impl Handler for Reads {
    fn call<'a>(
        &'a self,
        _from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(self.answer(body))
    }

    fn stream<'a>(
        &'a self,
        _from: &'a PeerIdentity,
        _hello: Bytes,
        stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.follow(stream))
    }
}
