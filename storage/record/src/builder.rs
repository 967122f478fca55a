//! Building batches: records are encoded once, where they arrive ([`EncodedRecord`]), and strung
//! together by whoever owns the partition ([`BatchBuilder`]).

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{
    Attributes, BATCH_HEADER_BYTES, BatchError, BatchHeader, LOG_OVERHEAD_BYTES, seal,
};
use crate::compression::{Codec, compress_into};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use crate::varint::{
    VARINT_BYTES_MAX, VARLONG_BYTES_MAX, read_varint, varint_bytes, varlong_bytes, write_varint,
    write_varlong,
};

/// The largest batch that its length field can express.
pub(crate) const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// Length, attributes and both deltas: what stands before an [`EncodedRecord`] in a batch.
const PREFIX_BYTES_MAX: usize = VARINT_BYTES_MAX + 1 + VARLONG_BYTES_MAX + VARINT_BYTES_MAX;

/// The part of a record that does not depend on its batch, encoded: from the key's length to the
/// last header. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRecord(Bytes);

/// What a batch says about all its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// How the records are compressed; wins over the codec bits of `attributes`.
    pub codec: Codec,
    /// All other attributes.
    pub attributes: Attributes,
    /// The producer, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// The producer's epoch, or [`ProducerEpoch::NONE`].
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the first record, or [`Sequence::NONE`].
    pub base_sequence: Sequence,
}

/// Builds one batch of records in the order in which they are pushed.
///
/// The builder grows with what is pushed: the caller bounds it by [`BatchBuilder::size_bytes`].
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, uncompressed.
    buffer: BytesMut,
    record_count: usize,
    /// Of the first record; the timestamp deltas count from it.
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
}

// === impl EncodedRecord ===

impl EncodedRecord {
    /// Encodes key, value and headers (name, value) in one allocation of the exact size.
    ///
    /// The headers are walked three times, so pass an iterator that is cheap to clone: of a slice
    /// rather than of a vector. A field of 2 GiB or more cannot be expressed; a batch with one fails
    /// at [`BatchBuilder::finish`].
    pub fn new<'n, 'v, H>(key: Option<&[u8]>, value: Option<&[u8]>, headers: H) -> Self
    where
        H: IntoIterator<Item = (&'n [u8], Option<&'v [u8]>), IntoIter: Clone>,
    {
        let headers = headers.into_iter();
        let mut header_count = 0;
        let mut size = nullable_bytes(key) + nullable_bytes(value);
        for (name, value) in headers.clone() {
            header_count += 1;
            size += nullable_bytes(Some(name)) + nullable_bytes(value);
        }
        let header_count = saturated(header_count);
        size += varint_bytes(header_count);
        let mut out = Vec::with_capacity(size);
        put_nullable(&mut out, key);
        put_nullable(&mut out, value);
        write_varint(&mut out, header_count);
        for (name, value) in headers {
            put_nullable(&mut out, Some(name));
            put_nullable(&mut out, value);
        }
        Self(Bytes::from(out))
    }

    /// Bytes of the encoding.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.0.len()
    }

    /// The encoding: key, value, number of headers, and name and value of each.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Takes over an encoding that another node made; `None` if it is none, or goes on behind its
    /// end.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let mut input: &[u8] = &bytes;
        skip_nullable(&mut input)?;
        skip_nullable(&mut input)?;
        let headers = read_varint(&mut input).ok().filter(|count| *count >= 0)?;
        for _ in 0..headers {
            skip_nullable(&mut input)?.then_some(())?;
            skip_nullable(&mut input)?;
        }
        input.is_empty().then_some(Self(bytes))
    }
}

/// Whether it is there; `None` if it does not fit.
fn skip_nullable(input: &mut &[u8]) -> Option<bool> {
    let length = read_varint(input).ok()?;
    if length == -1 {
        return Some(false);
    }
    let length = usize::try_from(length).ok()?;
    *input = input.split_at_checked(length)?.1;
    Some(true)
}

// === impl BatchOptions ===

impl Default for BatchOptions {
    /// Uncompressed, `CreateTime`, no producer.
    fn default() -> Self {
        Self {
            codec: Codec::None,
            attributes: Attributes::default(),
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: Sequence::NONE,
        }
    }
}

// === impl BatchBuilder ===

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(BatchOptions::default())
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 0)
    }

    /// An empty batch with room for `records_bytes` bytes of records, so that pushing so many does
    /// not reallocate.
    #[must_use]
    pub fn with_capacity(options: BatchOptions, records_bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(BATCH_HEADER_BYTES + records_bytes);
        buffer.put_bytes(0, BATCH_HEADER_BYTES);
        Self {
            options,
            buffer,
            record_count: 0,
            base_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
        }
    }

    /// Appends a record. Of `attributes`, only bits 4-6 may be set, and only in a batch with
    /// [`Attributes::is_mqtt`]: some clients trip over the others.
    pub fn push(&mut self, attributes: u8, timestamp: TimestampMs, record: &EncodedRecord) {
        if self.record_count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else {
            self.max_timestamp = self.max_timestamp.max(timestamp);
        }
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let offset_delta = saturated(self.record_count);
        let length =
            1 + varlong_bytes(timestamp_delta) + varint_bytes(offset_delta) + record.0.len();
        self.buffer.reserve(PREFIX_BYTES_MAX + record.0.len());
        write_varint(&mut self.buffer, saturated(length));
        self.buffer.put_u8(attributes);
        write_varlong(&mut self.buffer, timestamp_delta);
        write_varint(&mut self.buffer, offset_delta);
        self.buffer.extend_from_slice(&record.0);
        self.record_count += 1;
    }

    /// Encodes and appends a record; for tests and internal topics. See [`BatchBuilder::push`] and
    /// [`EncodedRecord::new`].
    pub fn push_record<'n, 'v, H>(
        &mut self,
        attributes: u8,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) where
        H: IntoIterator<Item = (&'n [u8], Option<&'v [u8]>), IntoIter: Clone>,
    {
        self.push(
            attributes,
            timestamp,
            &EncodedRecord::new(key, value, headers),
        );
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

    /// Bytes of the batch so far, header included, before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Compresses, writes the header and the checksum. The base offset is 0 and the leader epoch
    /// none: [`crate::batch::stamp`] sets both.
    ///
    /// # Errors
    /// [`BatchError::Count`] without records, [`BatchError::TooLarge`] beyond what the length field
    /// can express.
    pub fn finish(self) -> Result<BytesMut, BatchError> {
        if self.buffer.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge {
                bytes_max: BATCH_BYTES_MAX,
            });
        }
        // Every record takes several bytes, so the count is in range if the size is.
        let record_count = saturated(self.record_count);
        if record_count == 0 {
            return Err(BatchError::Count {
                record_count,
                last_offset_delta: -1,
            });
        }
        let mut batch = match self.options.codec {
            Codec::None => self.buffer,
            codec => compressed(codec, &self.buffer)?,
        };
        if batch.len() > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge {
                bytes_max: BATCH_BYTES_MAX,
            });
        }
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length: saturated(batch.len() - LOG_OVERHEAD_BYTES),
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: self.options.attributes.with_codec(self.options.codec),
            last_offset_delta: record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.options.producer_id,
            producer_epoch: self.options.producer_epoch,
            base_sequence: self.options.base_sequence,
            record_count,
        };
        crate::batch::put(&mut batch, 0, header.encode());
        seal(&mut batch);
        Ok(batch)
    }
}

/// A batch with room for the header and the records of `plain`, which has such room too.
pub(crate) fn compressed(codec: Codec, plain: &[u8]) -> Result<BytesMut, BatchError> {
    let records = plain.get(BATCH_HEADER_BYTES..).unwrap_or_default();
    let mut out = vec![0; BATCH_HEADER_BYTES];
    compress_into(codec, records, &mut out)?;
    // Takes the vector over, nothing is copied.
    Ok(BytesMut::from(Bytes::from(out)))
}

/// As `i32`; what does not fit makes the batch too large as well, which `finish` reports.
pub(crate) fn saturated(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(crate) fn nullable_bytes(field: Option<&[u8]>) -> usize {
    match field {
        None => varint_bytes(-1),
        Some(bytes) => varint_bytes(saturated(bytes.len())) + bytes.len(),
    }
}

pub(crate) fn put_nullable(out: &mut impl BufMut, field: Option<&[u8]>) {
    match field {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varint(out, saturated(bytes.len()));
            out.put_slice(bytes);
        }
    }
}
