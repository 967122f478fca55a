//! Labels: what a record is looked for by, as the owner of the log defines it. The log itself knows
//! only bytes; it keeps a dictionary of them beside each sealed segment, so that who wants few of a
//! segment's records need not read them all.

use std::fmt::Debug;

use mainstem_record::{BatchHeader, PartitionId, RecordView};

/// Gives labels to the records of the partitions that have some.
pub trait Labels: Send + Sync + Debug {
    /// Labels the records of a partition; `None` if they have no labels now.
    fn labeller(&self, partition: PartitionId) -> Option<Box<dyn Labeller>>;
}

/// Gives labels to the records of one partition.
pub trait Labeller: Send {
    /// Writes the label of a record to `out`, which is empty, and says what is known of it. A
    /// label that is [`Label::Known`] is the record's for good.
    fn label(&mut self, batch: &BatchHeader, record: &RecordView<'_>, out: &mut Vec<u8>) -> Label;
}

/// What is known of the label of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// It is what was written.
    Known,
    /// It may become another one: every look-up gets the record's batch.
    Uncertain,
}
