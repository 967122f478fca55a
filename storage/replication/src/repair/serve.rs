//! Answering those who copy, and readers of other nodes.

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_log::{Partition, Read, ReadError, SegmentInfo};
use mainstem_peers::{Handler, PeerIdentity, Refusal};
use mainstem_record::{Member, Offset};

use super::Copies;
use crate::{
    throttle::Throttle,
    wire::{Asked, CopyAnswer, CopyQuestion, FRAME_BYTES},
};

/// What is told in parts is told in parts of so many bytes.
const PART_BYTES: usize = 8 << 20;

/// The body cannot be read.
pub(super) const REFUSED_BODY: u16 = 1;
/// It is not to be had here (now).
pub(super) const NOT_HERE: u16 = 2;
/// It is damaged here, or the disk does not work.
pub(super) const DAMAGED: u16 = 3;

/// Serves [`mainstem_peers::Service::COPY`].
pub(super) struct CopyService<H> {
    host: H,
    throttle: Throttle,
}

// === impl CopyService ===

impl<H: Copies> CopyService<H> {
    pub(super) fn new(host: H, throttle: Throttle) -> Self {
        Self { host, throttle }
    }

    async fn answer(&self, body: Bytes) -> Result<Bytes, Refusal> {
        let question = CopyQuestion::decode(body).map_err(|error| Refusal {
            code: REFUSED_BODY,
            text: error.to_string(),
        })?;
        let CopyQuestion {
            partition, segment, ..
        } = question;
        let log = self.host.log(partition).ok_or_else(not_here)?;
        match question.asked {
            Asked::Tail {
                from,
                at,
                bytes_max,
            } => self.tail(&question, &log, (from, at), bytes_max).await,
            Asked::Memory { position } => {
                let memory = log.memory(segment).await;
                part(&memory.map_err(|_| not_here())?, position)
            }
            Asked::Facts { position } => {
                let facts = log.copy_facts(segment).await;
                part(&facts.map_err(unread)?, position)
            }
            Asked::Chunk { number } => {
                let chunk = log.read_chunk(segment, number).await.map_err(unread)?;
                self.throttle.take(chunk.len()).await;
                Ok(CopyAnswer::Chunk(chunk).encode())
            }
            Asked::Batches { from, bytes_max } => {
                let info = self.segment(&question, &log)?;
                let end = info.end.filter(|end| info.base <= from && from < *end);
                let read = Read {
                    from,
                    bytes_max: bounded(bytes_max),
                    at_least_one_batch: true,
                    end: end.ok_or_else(not_here)?,
                };
                let chunk = log.read(read).await.map_err(unread)?;
                Ok(CopyAnswer::encode_batches(chunk.next, &chunk.batches))
            }
            Asked::Time { from, sought } => {
                let found = log.find_in_segment(segment, from, sought).await;
                Ok(CopyAnswer::Found(found.map_err(unread)?).encode())
            }
        }
    }

    /// R24: both have answered a fence.
    async fn tail(
        &self,
        question: &CopyQuestion,
        log: &Partition,
        (from, at): (Member, Offset),
        bytes_max: u32,
    ) -> Result<Bytes, Refusal> {
        let (partition, segment) = (question.partition, question.segment);
        if from != self.host.me() {
            return Err(not_here());
        }
        let answer = self.host.answer(partition, segment).ok_or_else(not_here)?;
        let info = self.segment(question, log)?;
        if at < info.base {
            return Err(not_here());
        }
        if at >= answer.leo {
            return Ok(CopyAnswer::encode_batches::<Bytes>(answer.leo, &[]));
        }
        let chunk = log.read_tail(at, bounded(bytes_max)).await;
        Ok(CopyAnswer::encode_batches(
            answer.leo,
            &chunk.map_err(unread)?.batches,
        ))
    }

    fn segment(&self, question: &CopyQuestion, log: &Partition) -> Result<SegmentInfo, Refusal> {
        let mut segments = log.segments().into_iter();
        let found = segments.find(|info| info.id == question.segment && info.held);
        found.ok_or_else(not_here)
    }
}

impl<H: Copies> Handler for CopyService<H> {
    fn call<'a>(
        &'a self,
        _from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(self.answer(body))
    }
}

fn bounded(bytes_max: u32) -> usize {
    usize::try_from(bytes_max).map_or(FRAME_BYTES, |max| max.min(FRAME_BYTES))
}

fn part(whole: &Bytes, position: u64) -> Result<Bytes, Refusal> {
    let begin = usize::try_from(position).unwrap_or(usize::MAX);
    if begin > whole.len() {
        return Err(not_here());
    }
    let end = whole.len().min(begin.saturating_add(PART_BYTES));
    let answer = CopyAnswer::Part {
        total: whole.len() as u64,
        bytes: whole.slice(begin..end),
    };
    Ok(answer.encode())
}

fn not_here() -> Refusal {
    Refusal {
        code: NOT_HERE,
        text: "not to be had here".to_owned(),
    }
}

fn unread(error: ReadError) -> Refusal {
    let code = match error {
        ReadError::Damaged { .. } | ReadError::Io(_) => DAMAGED,
        ReadError::NotHeld { .. } | ReadError::OutOfRange { .. } | ReadError::Removed => NOT_HERE,
    };
    Refusal {
        code,
        text: error.to_string(),
    }
}
