//! What compaction leaves of a batch: the same batch with fewer records, or none.
//!
//! Offsets, sequences and everything else that the header says of the batch stay, so that readers
//! see gaps and nothing else, and the state of a producer can still be told from its last batch.

use bytes::{BufMut, BytesMut};

use crate::batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, LOG_OVERHEAD_BYTES, TimestampType, put, seal,
};
use crate::builder::{BATCH_BYTES_MAX, compressed, nullable_bytes, put_nullable, saturated};
use crate::compression::Codec;
use crate::ids::TimestampMs;
use crate::records::RecordView;
use crate::varint::{varint_bytes, varlong_bytes, write_varint, write_varlong};

/// Builds a batch anew from the records of another one that are to stay.
#[derive(Debug)]
pub struct RetainedBatch {
    original: BatchHeader,
    /// The time at which its tombstones or markers may go, if it has one.
    delete_horizon: Option<TimestampMs>,
    /// Room for the header, then the records, uncompressed.
    buffer: BytesMut,
    record_count: usize,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
}

// === impl BatchHeader ===

impl BatchHeader {
    /// The time, in milliseconds since the Unix epoch, at which the tombstones of the batch may go
    /// (KIP-534); compaction sets it when it first meets them.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<TimestampMs> {
        self.attributes
            .has_delete_horizon()
            .then_some(self.base_timestamp)
    }
}

// === impl RetainedBatch ===

impl RetainedBatch {
    /// A batch in the place of the one with the header `original`, without records so far, and
    /// with room for `records_bytes` bytes of them. `delete_horizon` sets a horizon; one that is
    /// set already stays.
    #[must_use]
    pub fn new(
        original: &BatchHeader,
        delete_horizon: Option<TimestampMs>,
        records_bytes: usize,
    ) -> Self {
        let delete_horizon = original.delete_horizon().or(delete_horizon);
        let mut buffer = BytesMut::with_capacity(BATCH_HEADER_BYTES + records_bytes);
        buffer.put_bytes(0, BATCH_HEADER_BYTES);
        Self {
            original: *original,
            delete_horizon,
            buffer,
            record_count: 0,
            base_timestamp: delete_horizon.unwrap_or(TimestampMs::NONE),
            max_timestamp: original.max_timestamp,
        }
    }

    /// Takes over a record of the original, with its offset. Records come in their order.
    pub fn push(&mut self, record: &RecordView<'_>) {
        if self.record_count == 0 {
            if self.delete_horizon.is_none() {
                self.base_timestamp = record.timestamp;
            }
            self.max_timestamp = record.timestamp;
        } else {
            self.max_timestamp = self.max_timestamp.max(record.timestamp);
        }
        let timestamp_delta = record.timestamp.0.wrapping_sub(self.base_timestamp.0);
        let offset_delta = record.offset.0 - self.original.base_offset.0;
        let offset_delta = i32::try_from(offset_delta).unwrap_or(i32::MAX);
        let header_count = saturated(record.headers.len());
        let headers = record.headers.as_bytes();
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varint_bytes(offset_delta)
            + nullable_bytes(record.key)
            + nullable_bytes(record.value)
            + varint_bytes(header_count)
            + headers.len();
        let out = &mut self.buffer;
        write_varint(out, saturated(length));
        out.put_u8(record.attributes);
        write_varlong(out, timestamp_delta);
        write_varint(out, offset_delta);
        put_nullable(out, record.key);
        put_nullable(out, record.value);
        write_varint(out, header_count);
        out.extend_from_slice(headers);
        self.record_count += 1;
    }

    /// How many records have been pushed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.record_count
    }

    /// Nothing has been pushed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Compresses as the original was, writes the header and the checksum. Without records it is a
    /// header alone, neither compressed nor with a horizon.
    ///
    /// # Errors
    /// [`BatchError::Codec`] if the original names none, [`BatchError::TooLarge`] beyond what the
    /// length field can express.
    pub fn finish(self) -> Result<BytesMut, BatchError> {
        let too_large = BatchError::TooLarge {
            bytes_max: BATCH_BYTES_MAX,
        };
        if self.buffer.len() > BATCH_BYTES_MAX {
            return Err(too_large);
        }
        let codec = match self.record_count {
            0 => Codec::None,
            _ => self.original.attributes.codec()?,
        };
        let has_horizon = self.delete_horizon.is_some() && self.record_count > 0;
        let attributes = self.original.attributes.with_codec(codec);
        let mut batch = match codec {
            Codec::None => self.buffer,
            codec => compressed(codec, &self.buffer)?,
        };
        if batch.len() > BATCH_BYTES_MAX {
            return Err(too_large);
        }
        let stamped = attributes.timestamp_type() == TimestampType::LogAppendTime;
        let header = BatchHeader {
            batch_length: saturated(batch.len() - LOG_OVERHEAD_BYTES),
            crc: 0,
            attributes: attributes.with_delete_horizon(has_horizon),
            base_timestamp: match self.record_count {
                0 => TimestampMs::NONE,
                _ => self.base_timestamp,
            },
            max_timestamp: match stamped {
                true => self.original.max_timestamp,
                false => self.max_timestamp,
            },
            record_count: saturated(self.record_count),
            ..self.original
        };
        put(&mut batch, 0, header.encode());
        seal(&mut batch);
        Ok(batch)
    }
}
