//! How groups and offsets come back from the log.

use std::collections::BTreeMap;

use mainstem_record::{Offset, PartitionIndex};

use super::{
    machine::Snapshot,
    offsets::{Committed, OffsetTable},
    store::{self, Entry},
};
use crate::internal::{InternalTopic, NotReplayed};

/// What the log says of all groups.
#[derive(Default)]
pub(crate) struct Replayed {
    pub(crate) groups: BTreeMap<String, (Option<Snapshot>, OffsetTable)>,
    /// Records that were not understood.
    unreadable: u64,
}

/// Reads a partition of the group log.
pub(crate) async fn replay(
    log: &InternalTopic,
    index: PartitionIndex,
) -> Result<Replayed, NotReplayed> {
    let mut replayed = Replayed::default();
    log.replay_led(index, &mut |record| {
        replayed.take(record.offset, record.key, record.value);
    })
    .await?;
    if replayed.unreadable > 0 {
        // They passed their checksums, so a newer program wrote them. What it kept beyond our
        // knowledge stays in the log.
        tracing::error!(
            records = replayed.unreadable,
            topic = super::OFFSETS_TOPIC,
            partition = index.0,
            "records of an unknown format were left out"
        );
    }
    Ok(replayed)
}

// === impl Replayed ===

impl Replayed {
    /// Takes the next record over.
    pub(crate) fn take(&mut self, at: Offset, key: &[u8], value: Option<&[u8]>) {
        match store::decode(key, value) {
            Err(error) => {
                self.unreadable += 1;
                tracing::debug!(offset = at.0, %error, "record of a group is not understood");
            }
            Ok(Entry::Group { group, value }) => {
                self.groups.entry(group).or_default().0 = value;
            }
            Ok(Entry::Offset {
                group,
                topic,
                partition,
                value,
            }) => {
                let table = &mut self.groups.entry(group).or_default().1;
                match value {
                    None => table.remove(&topic, partition),
                    Some(stored) => {
                        let committed = Committed {
                            stored,
                            topic: None,
                            at,
                        };
                        table.commit(&topic, partition, committed);
                    }
                }
            }
        }
    }
}
