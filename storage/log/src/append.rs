//! What is appended, and the ticket that says what became of it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use mainstem_record::{EncodedRecord, Offset, SegmentId, TimestampMs};
use tokio::sync::oneshot;

use crate::error::AppendError;

/// One append.
#[derive(Debug)]
pub enum Append {
    /// One whole v2 batch as a producer sent it, validated by the caller (CRC included). The log
    /// stamps offset and epoch, and the time if the partition stamps its own. A buffer that
    /// nobody else holds is stamped in place, another one is copied.
    Batch {
        /// The bytes of the batch.
        batch: Bytes,
        /// When the ticket completes.
        ack: Ack,
    },
    /// One record of an MQTT client. All that wait for the partition become one batch.
    Record {
        /// Key, value and headers. With `qos2`, the headers must hold it too, as
        /// [`crate::QOS2_HEADER`], or it would be forgotten at the next start.
        record: EncodedRecord,
        /// The record's own attributes byte.
        attributes: u8,
        /// Its timestamp.
        timestamp: TimestampMs,
        /// Its QoS 2 identity: a sequence that was seen is not appended again.
        qos2: Option<Qos2Id>,
        /// When the ticket completes.
        ack: Ack,
    },
    /// Records of the broker's own (internal topics); they become one batch.
    Records {
        /// The records with their timestamps; at least one.
        records: Vec<(EncodedRecord, TimestampMs)>,
        /// When the ticket completes.
        ack: Ack,
    },
}

/// Batches of a leader, for a follower.
#[derive(Debug)]
pub struct ReplicaAppend {
    /// The segment that they are of.
    pub segment: SegmentId,
    /// Where they begin: the end of this log.
    pub at: Offset,
    /// Whole batches as they lie in the leader's log, one after the other, at least one.
    pub batches: Bytes,
    /// When the ticket completes; [`Ack::Durable`] asks for no high watermark here, only for a sync
    /// under [`crate::Flush::Always`].
    pub ack: Ack,
}

/// When a ticket completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ack {
    /// When written; for those who do not wait for it.
    None,
    /// When written: others may take it over, a power cut may lose it.
    Written,
    /// When durable, as the partition's [`crate::Flush`] says; with [`crate::Commit::External`] when
    /// the committed end has passed it.
    Durable,
}

/// Which QoS 2 publish a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Qos2Id {
    /// The session.
    pub session: [u8; 16],
    /// The owner epoch of the session: an older one than seen is refused.
    pub epoch: u32,
    /// The number of the publish within the session; it goes on counting when the epoch rises.
    pub sequence: u64,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record; for [`Append::Record`] that of the record itself. -1 for a
    /// duplicate whose offset is no longer known.
    pub base_offset: Offset,
    /// The offset of the last record.
    pub last_offset: Offset,
    /// The time that the log stamped, if it stamps.
    pub log_append_time: Option<TimestampMs>,
    /// The first offset of the partition that may be read.
    pub log_start: Offset,
    /// Nothing was written: it had been appended before.
    pub duplicate: bool,
}

/// Completes when the append is as durable as asked, or has failed.
///
/// Dropping it does not take the append back.
#[derive(Debug)]
#[must_use = "an append may fail, and only its ticket tells"]
pub struct AppendTicket {
    receiver: oneshot::Receiver<Result<Appended, AppendError>>,
}

/// The other end of an [`AppendTicket`].
pub(crate) type TicketSender = oneshot::Sender<Result<Appended, AppendError>>;

/// The length of a [`crate::QOS2_HEADER`]'s value.
const QOS2_HEADER_BYTES: usize = 28;

// === impl Qos2Id ===

impl Qos2Id {
    /// The value of the header [`crate::QOS2_HEADER`]: 16 bytes session, u32 epoch and u64
    /// sequence, both big-endian.
    pub fn to_header(&self) -> [u8; QOS2_HEADER_BYTES] {
        let mut value = [0; QOS2_HEADER_BYTES];
        let (session, rest) = value.split_at_mut(16);
        let (epoch, sequence) = rest.split_at_mut(4);
        session.copy_from_slice(&self.session);
        epoch.copy_from_slice(&self.epoch.to_be_bytes());
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        value
    }

    /// Reads the value of a header; `None` if it has another length.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let (session, rest) = value.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let sequence: [u8; 8] = rest.try_into().ok()?;
        Some(Self {
            session: *session,
            epoch: u32::from_be_bytes(*epoch),
            sequence: u64::from_be_bytes(sequence),
        })
    }
}

// === impl AppendTicket ===

impl AppendTicket {
    pub(crate) fn new() -> (TicketSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self { receiver })
    }
}

impl Future for AppendTicket {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|received| received.unwrap_or(Err(AppendError::Closed)))
    }
}
