//! What a leader must remember of producers and sessions before it leads, where it has not what came
//! before its segment: told by a broker that has.

use std::time::Duration;

use mainstem_metadata::{Image, PartitionRecord, SegmentRecord};
use mainstem_record::{BrokerId, Member, PartitionId, SegmentId};

use super::{Copies, Inner, Repair, ask::AskError, tail::Turn};
use crate::wire::Asked;

/// The pause before all are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why nothing was learned from a broker.
#[derive(Debug, thiserror::Error)]
enum NotTold {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Log(#[from] mainstem_log::PartitionError),
}

impl<H: Copies> Repair<H> {
    /// If a partition is to be led here and its log does not know what it must remember, asks until it
    /// does, or another segment is the open one. The host tries to lead by itself.
    pub(super) fn remember(&self, id: PartitionId) {
        let inner = &self.inner;
        let Some(segment) = forgotten(&**inner, id) else {
            return;
        };
        let repair = self.clone();
        self.spawn("remember", async move {
            let inner = &*repair.inner;
            let Some(_turn) = Turn::take(inner, segment) else {
                return;
            };
            let mut is_told = false;
            while forgotten(inner, id) == Some(segment) {
                if ask_all(inner, (id, segment)).await {
                    return;
                }
                if !is_told {
                    tracing::warn!(
                        partition = %id, %segment,
                        "to be led here, and nobody tells yet what is remembered of its producers"
                    );
                    is_told = true;
                }
                inner.env.sleep(PAUSE).await;
            }
        });
    }
}

/// The open segment of a partition, if it is to be led here by a log that lacks its memory.
fn forgotten<H: Copies>(inner: &Inner<H>, id: PartitionId) -> Option<SegmentId> {
    let image = inner.host.image();
    let open = image.partition(id)?.active()?;
    let log = inner.host.log(id)?;
    let is_mine = open.leader_member() == inner.host.me();
    let writes = log.segments().last().map(|last| last.id);
    (is_mine && log.needs_memory() && writes == Some(open.id)).then_some(open.id)
}

/// Whether anybody has told.
async fn ask_all<H: Copies>(inner: &Inner<H>, place: (PartitionId, SegmentId)) -> bool {
    let (partition, segment) = place;
    let image = inner.host.image();
    let Some(record) = image.partition(partition) else {
        return false;
    };
    for broker in who_know(&image, record, inner.host.me()) {
        match ask_one(inner, broker, place).await {
            Ok(()) => {
                tracing::info!(%partition, %segment, from = %broker, "producers are known again");
                return true;
            }
            Err(error) => {
                tracing::debug!(%partition, %segment, from = %broker, %error, "producers not told");
            }
        }
    }
    false
}

async fn ask_one<H: Copies>(
    inner: &Inner<H>,
    broker: BrokerId,
    place: (PartitionId, SegmentId),
) -> Result<(), NotTold> {
    let memory = |position| Asked::Memory { position };
    let memory = inner.asker.whole(broker, place, memory).await?;
    if let Some(log) = inner.host.log(place.0) {
        log.install_memory(memory).await?;
    }
    Ok(())
}

/// Other brokers that may know: those that have all of the last records, then those that follow.
fn who_know(image: &Image, record: &PartitionRecord, me: Member) -> Vec<BrokerId> {
    let has_records = |sealed: &&SegmentRecord| sealed.end.is_some_and(|end| end > sealed.base);
    let last = record.segments.iter().rev().find(has_records);
    let holders = last.into_iter().flat_map(|sealed| {
        let current = sealed.complete.iter().map(|copy| copy.member());
        current.filter(|member| image.is_current(*member))
    });
    let replicas = record.active().into_iter().flat_map(|open| &open.replicas);
    let mut brokers = Vec::new();
    for broker in holders.map(|member| member.broker).chain(replicas.copied()) {
        if broker != me.broker && !brokers.contains(&broker) {
            brokers.push(broker);
        }
    }
    brokers
}
