//! The record batch of magic 2 as a whole: its header, its checksum, and the fields that the broker
//! owns. What is inside the body is the business of [`mod@crate::records`].
//!
//! Layout, all big-endian (Kafka protocol guide, "Record Batch"):
//!
//! ```text
//!  0 base offset i64 | 8 length i32 (of all that follows) | 12 leader epoch i32 | 16 magic i8
//! 17 CRC-32C u32 (of all that follows) | 21 attributes i16 | 23 last offset delta i32
//! 27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64 | 51 producer epoch i16
//! 53 base sequence i32 | 57 record count i32 | 61 records
//! ```

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

pub use crate::attributes::{Attributes, TimestampType};
use crate::compression::{Codec, CodecError};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use crate::records::{RECORD_BYTES_MIN, RecordError};

/// Bytes from the base offset to the record count: everything before the records.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes that the batch's own length does not count: base offset and length.
pub const LOG_OVERHEAD_BYTES: usize = 12;

/// The only batch format that is stored (message sets 0 and 1 are refused).
pub(crate) const MAGIC: i8 = 2;

/// The smallest legal value of the length field: a header without records.
const BATCH_LENGTH_MIN: i32 = (BATCH_HEADER_BYTES - LOG_OVERHEAD_BYTES) as i32;

const LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
/// The checksum covers everything from here to the end of the batch.
pub(crate) const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

/// Why bytes are not an acceptable batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("a batch needs {need} bytes, there are {have}")]
    Truncated {
        /// How many bytes the batch (or its header) takes.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// There is something after the batch, where exactly one batch was expected.
    #[error("{bytes} bytes follow the batch")]
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
    /// The format is not record batch v2.
    #[error("unsupported batch magic {0}")]
    Magic(i8),
    /// The length field is too small for a header.
    #[error("impossible batch length {0}")]
    Length(i32),
    /// The base offset of a stored batch is negative or its last offset does not exist.
    #[error("impossible base offset {0}")]
    BaseOffset(i64),
    /// The checksum does not fit.
    #[error("batch checksum is {computed:08x}, its header says {stored:08x}")]
    Crc {
        /// What the header says.
        stored: u32,
        /// The CRC-32C of the bytes.
        computed: u32,
    },
    /// The number of records does not fit the offsets or the body.
    #[error("batch has {record_count} records and last offset delta {last_offset_delta}")]
    Count {
        /// The record count of the header.
        record_count: i32,
        /// The last offset delta of the header.
        last_offset_delta: i32,
    },
    /// The attributes name a codec that does not exist.
    #[error("unknown compression codec {0}")]
    Codec(u8),
    /// A record in the body is malformed.
    #[error("malformed record: {0}")]
    Record(#[from] RecordError),
    /// The body cannot be decompressed.
    #[error("the records cannot be decompressed: {0}")]
    Decompress(#[source] CodecError),
    /// The decompressed records, or a batch to be built, are larger than allowed.
    #[error("the records take more than the {bytes_max} bytes allowed")]
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
}

impl From<CodecError> for BatchError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::TooLarge { bytes_max } => Self::TooLarge { bytes_max },
            corrupt @ CodecError::Corrupt { .. } => Self::Decompress(corrupt),
        }
    }
}

/// The fields of a batch before its records, see the [module](self) for the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record (of what was first, if compaction has removed it).
    pub base_offset: Offset,
    /// Bytes after the length field; see [`BatchHeader::size_bytes`].
    pub batch_length: i32,
    /// The epoch of the leader that appended the batch.
    pub leader_epoch: LeaderEpoch,
    /// The CRC-32C of everything from the attributes on, as the header says.
    pub crc: u32,
    /// Codec, kind of timestamps, transaction and other marks.
    pub attributes: Attributes,
    /// The last offset, less the base offset; compaction keeps it.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas count from.
    pub base_timestamp: TimestampMs,
    /// The largest timestamp of the records.
    pub max_timestamp: TimestampMs,
    /// The producer, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// The producer's epoch, or [`ProducerEpoch::NONE`].
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the first record, or [`Sequence::NONE`].
    pub base_sequence: Sequence,
    /// How many records there are.
    pub record_count: i32,
}

// === impl BatchHeader ===

impl BatchHeader {
    /// Reads the header at the start of `batch`, whose records need not be there yet.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] with fewer than [`BATCH_HEADER_BYTES`], [`BatchError::Magic`],
    /// [`BatchError::Length`]. The magic is looked at first: older formats have other headers.
    /// Nothing else is checked, in particular not the checksum.
    pub fn parse(batch: &[u8]) -> Result<Self, BatchError> {
        let Some(mut header) = batch.get(..BATCH_HEADER_BYTES) else {
            return Err(BatchError::Truncated {
                need: BATCH_HEADER_BYTES,
                have: batch.len(),
            });
        };
        let base_offset = Offset(header.get_i64());
        let batch_length = header.get_i32();
        let leader_epoch = LeaderEpoch(header.get_i32());
        let magic = header.get_i8();
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        if batch_length < BATCH_LENGTH_MIN {
            return Err(BatchError::Length(batch_length));
        }
        Ok(Self {
            base_offset,
            batch_length,
            leader_epoch,
            crc: header.get_u32(),
            attributes: Attributes(header.get_i16()),
            last_offset_delta: header.get_i32(),
            base_timestamp: TimestampMs(header.get_i64()),
            max_timestamp: TimestampMs(header.get_i64()),
            producer_id: ProducerId(header.get_i64()),
            producer_epoch: ProducerEpoch(header.get_i16()),
            base_sequence: Sequence(header.get_i32()),
            record_count: header.get_i32(),
        })
    }

    /// Writes the header; the inverse of [`BatchHeader::parse`].
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_i64(self.base_offset.0);
        out.put_i32(self.batch_length);
        out.put_i32(self.leader_epoch.0);
        out.put_i8(MAGIC);
        out.put_u32(self.crc);
        out.put_i16(self.attributes.0);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(self.producer_id.0);
        out.put_i16(self.producer_epoch.0);
        out.put_i32(self.base_sequence.0);
        out.put_i32(self.record_count);
        bytes
    }

    /// Bytes of the whole batch, header included.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        // `parse` refuses negative lengths; a header made by hand with one counts as empty.
        LOG_OVERHEAD_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// The offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// The sequence of the last record; [`Sequence::NONE`] if the batch carries none.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence.0 < 0 {
            return Sequence::NONE;
        }
        self.base_sequence.next(self.last_offset_delta)
    }

    /// The batch comes from an idempotent or transactional producer.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }

    fn count_error(&self) -> BatchError {
        BatchError::Count {
            record_count: self.record_count,
            last_offset_delta: self.last_offset_delta,
        }
    }
}

/// Reads the header of exactly one whole batch: no bytes missing, none too many.
pub(crate) fn whole(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let (need, have) = (header.size_bytes(), batch.len());
    if have < need {
        return Err(BatchError::Truncated { need, have });
    }
    if have > need {
        return Err(BatchError::Trailing { bytes: have - need });
    }
    Ok(header)
}

/// Checks everything about `batch` that can be told without looking at its records, as for a batch
/// that a producer sends: exactly one whole batch, magic, codec, CRC-32C, at least one record, and
/// one record per offset.
///
/// The offsets themselves are not looked at: the leader assigns them.
///
/// # Errors
/// The first thing that is wrong, cheap checks first. The records of an accepted batch may still be
/// malformed: [`crate::records::validate_records`].
pub fn validate(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = whole(batch)?;
    let expected = i64::from(header.last_offset_delta) + 1;
    if header.record_count < 1 || i64::from(header.record_count) != expected {
        return Err(header.count_error());
    }
    check_body(&header, batch)?;
    Ok(header)
}

/// Checks `batch` as recovery finds it in a segment: as [`validate`], but compaction may have
/// removed some or all records while it kept the offsets, and the offsets must exist.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_stored(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = whole(batch)?;
    let offsets = i64::from(header.last_offset_delta) + 1;
    if header.last_offset_delta < 0
        || header.record_count < 0
        || i64::from(header.record_count) > offsets
    {
        return Err(header.count_error());
    }
    if header.base_offset.0 < 0 || header.base_offset.0.checked_add(offsets).is_none() {
        return Err(BatchError::BaseOffset(header.base_offset.0));
    }
    check_body(&header, batch)?;
    Ok(header)
}

/// The checks that a fresh and a stored batch share.
fn check_body(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    let body_bytes = batch.len().saturating_sub(BATCH_HEADER_BYTES);
    let record_count = usize::try_from(header.record_count).unwrap_or(usize::MAX);
    if header.attributes.codec()? == Codec::None
        && record_count.saturating_mul(RECORD_BYTES_MIN) > body_bytes
    {
        return Err(header.count_error());
    }
    let computed = checksum(batch);
    if computed != header.crc {
        return Err(BatchError::Crc {
            stored: header.crc,
            computed,
        });
    }
    Ok(())
}

/// The CRC-32C of everything from the attributes on.
pub(crate) fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default())
}

/// Writes the offset and epoch that the leader assigns, in place; both lie outside the checksum.
///
/// `batch` has been validated; anything shorter than a header is left alone.
pub fn stamp(batch: &mut [u8], base: Offset, epoch: LeaderEpoch) {
    if batch.len() < BATCH_HEADER_BYTES {
        return;
    }
    put(batch, 0, base.0.to_be_bytes());
    put(batch, LEADER_EPOCH_AT, epoch.0.to_be_bytes());
}

/// Turns `batch` into one of `LogAppendTime`, in place: sets the attribute and the max timestamp,
/// and computes the checksum anew. The bytes of the records stay.
///
/// `batch` is exactly one validated batch; anything shorter than a header is left alone.
pub fn stamp_log_append_time(batch: &mut [u8], now: TimestampMs) {
    let Some(&[high, low]) = batch.get(ATTRIBUTES_AT..ATTRIBUTES_AT + 2) else {
        return;
    };
    if batch.len() < BATCH_HEADER_BYTES {
        return;
    }
    let attributes = Attributes(i16::from_be_bytes([high, low]))
        .with_timestamp_type(TimestampType::LogAppendTime);
    put(batch, ATTRIBUTES_AT, attributes.0.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, now.0.to_be_bytes());
    let crc = checksum(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Corrects the max timestamp of `batch`, in place, and computes the checksum anew. For batches whose
/// header does not say what their records do; look-ups by time and retention rely on it.
///
/// `batch` is exactly one validated batch; anything shorter than a header is left alone.
pub fn stamp_max_timestamp(batch: &mut [u8], max: TimestampMs) {
    if batch.len() < BATCH_HEADER_BYTES {
        return;
    }
    put(batch, MAX_TIMESTAMP_AT, max.0.to_be_bytes());
    let crc = checksum(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Overwrites the field at `at`; the callers have made sure that it is there.
pub(crate) fn put<const N: usize>(batch: &mut [u8], at: usize, field: [u8; N]) {
    if let Some(target) = batch.get_mut(at..at + N) {
        target.copy_from_slice(&field);
    }
}

/// Writes the checksum of a batch whose other fields are final.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = checksum(batch);
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Walks concatenated batches by their lengths: each item is a header and the whole batch, sliced,
/// not copied.
///
/// Checksums are not looked at. Ends cleanly after the last whole batch; after an error (for
/// example [`BatchError::Truncated`] on a partial one) there are no more items, and
/// [`Batches::rest`] is what could not be read.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
    failed: bool,
}

// === impl Batches ===

impl Batches {
    /// Walks `bytes`.
    #[must_use]
    pub const fn new(bytes: Bytes) -> Self {
        Self {
            rest: bytes,
            failed: false,
        }
    }

    /// What has not been yielded yet.
    #[must_use]
    pub const fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let header = match BatchHeader::parse(&self.rest) {
            Ok(header) => header,
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        };
        let (need, have) = (header.size_bytes(), self.rest.len());
        if have < need {
            self.failed = true;
            return Some(Err(BatchError::Truncated { need, have }));
        }
        Some(Ok((header, self.rest.split_to(need))))
    }
}

impl std::iter::FusedIterator for Batches {}
