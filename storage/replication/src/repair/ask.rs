//! Asking brokers that hold segments.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstem_peers::{CallError, Peers, Service};
use mainstem_record::{BrokerId, PartitionId, SegmentId};

use crate::wire::{Asked, CopyAnswer, CopyQuestion, WireError};

/// How long one answer is waited for: it carries some MiB at most.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest thing that is read in parts.
const WHOLE_BYTES_MAX: u64 = 96 << 20;

/// Asks other brokers.
#[derive(Clone)]
pub(super) struct Asker {
    peers: Option<Peers>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("there are no other nodes")]
    Alone,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("an answer that cannot be read: {0}")]
    Wire(#[from] WireError),
    #[error("an answer to something else")]
    Other,
}

// === impl Asker ===

impl Asker {
    pub(super) fn new(peers: Option<Peers>) -> Self {
        Self { peers }
    }

    pub(super) async fn ask(
        &self,
        to: BrokerId,
        question: CopyQuestion,
    ) -> Result<CopyAnswer, AskError> {
        self.ask_within(to, question, TIMEOUT).await
    }

    /// As [`Self::ask`], with another limit.
    pub(super) async fn ask_within(
        &self,
        to: BrokerId,
        question: CopyQuestion,
        limit: Duration,
    ) -> Result<CopyAnswer, AskError> {
        let peers = self.peers.as_ref().ok_or(AskError::Alone)?;
        let answer = peers.call(to, Service::COPY, question.encode(), limit);
        let answer = answer.await?;
        Ok(CopyAnswer::decode(answer)?)
    }

    /// What is told in parts: `asked` asks for what begins at a position.
    pub(super) async fn whole(
        &self,
        to: BrokerId,
        (partition, segment): (PartitionId, SegmentId),
        asked: impl Fn(u64) -> Asked,
    ) -> Result<Bytes, AskError> {
        let mut all = BytesMut::new();
        loop {
            let question = CopyQuestion {
                partition,
                segment,
                asked: asked(all.len() as u64),
            };
            let CopyAnswer::Part { total, bytes } = self.ask(to, question).await? else {
                return Err(AskError::Other);
            };
            let have = all.len() as u64 + bytes.len() as u64;
            if total > WHOLE_BYTES_MAX || have > total || (bytes.is_empty() && have < total) {
                return Err(AskError::Other);
            }
            if all.is_empty() && have == total {
                return Ok(bytes);
            }
            all.extend_from_slice(&bytes);
            if have == total {
                return Ok(all.freeze());
            }
        }
    }
}
