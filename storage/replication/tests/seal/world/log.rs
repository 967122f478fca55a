//! One broker's log of one segment, on a disk that forgets what is not synced.

use mainstem_record::{LeaderEpoch, Offset};
use mainstem_replication::machine::Ends;

/// A record: its epoch, and a content that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) content: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) base: Offset,
    pub(crate) records: Vec<Rec>,
    /// How many of them are synced.
    pub(crate) synced: usize,
}

fn count(records: usize) -> i64 {
    i64::try_from(records).expect("few records")
}

impl Log {
    pub(crate) fn new(base: Offset) -> Self {
        Self {
            base,
            records: Vec::new(),
            synced: 0,
        }
    }

    pub(crate) fn end(&self) -> Offset {
        self.base.plus(count(self.records.len()))
    }

    pub(crate) fn ends(&self) -> Ends {
        Ends {
            log_end: self.end(),
            synced_end: self.base.plus(count(self.synced)),
        }
    }

    fn index(&self, at: Offset) -> usize {
        usize::try_from(at.0 - self.base.0).unwrap_or(0)
    }

    /// The record at `at`.
    pub(crate) fn get(&self, at: Offset) -> Option<Rec> {
        (at >= self.base).then(|| self.records.get(self.index(at)).copied())?
    }

    /// At most `max` records from `at` on.
    pub(crate) fn read(&self, at: Offset, max: usize) -> Vec<Rec> {
        let rest = self.records.iter().skip(self.index(at));
        rest.take(max).copied().collect()
    }

    pub(crate) fn sync(&mut self) {
        self.synced = self.records.len();
    }

    pub(crate) fn cut(&mut self, end: Offset) {
        let keep = self.index(end);
        self.records.truncate(keep);
        self.synced = self.synced.min(self.records.len());
    }

    /// Power is gone: what is not synced is lost, but for `kept` records.
    pub(crate) fn lose_power(&mut self, kept: usize) {
        self.records.truncate(self.synced + kept);
        self.synced = self.records.len();
    }

    /// The digest of everything below `end`.
    pub(crate) fn digest(&self, end: Offset) -> [u8; 16] {
        digest(&self.records[..self.index(end).min(self.records.len())])
    }
}

/// The digest of records: contents are all that makes them differ.
pub(crate) fn digest(records: &[Rec]) -> [u8; 16] {
    let mut sum = u128::from(0xcbf2_9ce4_8422_2325_u64);
    for record in records {
        sum = (sum ^ u128::from(record.content)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    sum.to_be_bytes()
}
