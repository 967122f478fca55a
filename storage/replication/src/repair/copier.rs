//! Copying one sealed segment.

use bytes::Bytes;
use mainstem_log::{Partition, PartitionError, SegmentCopy};
use mainstem_record::BrokerId;

use super::{
    Copies, Inner,
    ask::{AskError, Asker},
    plan::Wanted,
};
use crate::wire::{Asked, CopyAnswer, CopyQuestion};

/// Why a segment was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCopied {
    #[error("the partition is not open")]
    NotOpen,
    #[error("nobody has it")]
    NoSource,
    #[error("broker {from}: {error}")]
    Ask { from: BrokerId, error: AskError },
    #[error("broker {from}: {error}")]
    Bad {
        from: BrokerId,
        error: PartitionError,
    },
    #[error(transparent)]
    Log(PartitionError),
}

impl<H: Copies> Inner<H> {
    /// Copies what is missing of a segment, from the first of its holders that can give it, beginning
    /// with number `first` of them.
    pub(super) async fn copy_segment(
        &self,
        wanted: &Wanted,
        first: usize,
    ) -> Result<(), NotCopied> {
        let log = self.host.log(wanted.partition).ok_or(NotCopied::NotOpen)?;
        let mut sources = wanted.sources.clone();
        if !sources.is_empty() {
            let turn = first % sources.len();
            sources.rotate_left(turn);
        }
        let mut failed = NotCopied::NoSource;
        let mut copy = None;
        for from in sources {
            match self.copy_from(&log, wanted, from, &mut copy).await {
                Ok(()) => {
                    let Some(copy) = copy.take() else {
                        break;
                    };
                    return log.add_copy(copy).await.map_err(NotCopied::Log);
                }
                // Another one does not help.
                Err(error @ NotCopied::Log(_)) => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Takes all that is missing from one holder.
    async fn copy_from(
        &self,
        log: &Partition,
        wanted: &Wanted,
        from: BrokerId,
        copy: &mut Option<SegmentCopy>,
    ) -> Result<(), NotCopied> {
        let asked = |error| NotCopied::Ask { from, error };
        let copy = match copy {
            Some(copy) => copy,
            None => {
                let place = (wanted.partition, wanted.segment);
                let facts = |position| Asked::Facts { position };
                let facts = self.asker.whole(from, place, facts).await.map_err(asked)?;
                let begun = log.begin_copy(wanted.segment, wanted.digest(), facts).await;
                copy.insert(begun.map_err(|error| of_source(from, error))?)
            }
        };
        let missing: Vec<u32> = copy.missing().collect();
        let chunk = |number| fetch(&self.asker, wanted, from, number);
        let mut numbers = missing.into_iter();
        let Some(mut number) = numbers.next() else {
            return Ok(());
        };
        let mut bytes = chunk(number).await.map_err(asked)?;
        loop {
            let count = bytes.len();
            self.copying.take(count).await;
            let put = copy.put(number, bytes);
            let next = numbers.next();
            // The next one is on its way while this one is written.
            let (put, fetched) = match next {
                Some(next) => {
                    let (put, fetched) = tokio::join!(put, chunk(next));
                    (put, Some(fetched))
                }
                None => (put.await, None),
            };
            put.map_err(|error| of_source(from, error))?;
            self.metrics.copied_bytes.inc_by(count as u64);
            let (Some(next), Some(fetched)) = (next, fetched) else {
                return Ok(());
            };
            (number, bytes) = (next, fetched.map_err(asked)?);
        }
    }

    /// Looks whether the file that is here is the segment; if so it is taken.
    pub(super) async fn verify_own(&self, wanted: &Wanted) -> Result<bool, NotCopied> {
        let log = self.host.log(wanted.partition).ok_or(NotCopied::NotOpen)?;
        let known = (wanted.bytes, wanted.digest());
        let found = log.check_copy(wanted.segment, known).await;
        let Some(found) = found.map_err(NotCopied::Log)? else {
            return Ok(false);
        };
        self.copying
            .take(usize::try_from(wanted.bytes).unwrap_or(usize::MAX))
            .await;
        log.add_copy(found).await.map_err(NotCopied::Log)?;
        Ok(true)
    }
}

async fn fetch(
    asker: &Asker,
    wanted: &Wanted,
    from: BrokerId,
    number: u32,
) -> Result<Bytes, AskError> {
    let question = CopyQuestion {
        partition: wanted.partition,
        segment: wanted.segment,
        asked: Asked::Chunk { number },
    };
    match asker.ask(from, question).await? {
        CopyAnswer::Chunk(bytes) => Ok(bytes),
        _ => Err(AskError::Other),
    }
}

/// Whether another holder may do better.
fn of_source(from: BrokerId, error: PartitionError) -> NotCopied {
    match error {
        PartitionError::BadCopy(_) => NotCopied::Bad { from, error },
        _ => NotCopied::Log(error),
    }
}
