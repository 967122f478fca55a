//! The records inside a batch, read where they lie.
//!
//! Layout of one record (Kafka protocol guide, "Record"); every integer but the attributes is a
//! zigzag varint:
//!
//! ```text
//! length (of all that follows) | attributes u8 | timestamp delta (64 bits) | offset delta
//! key length, -1 is null | key | value length, -1 is null | value
//! header count | per header: name length, name, value length, -1 is null, value
//! ```

use std::borrow::Cow;

use thiserror::Error;

use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, TimestampType, whole};
use crate::compression::{Codec, decompress};
use crate::ids::{Offset, TimestampMs};
use crate::varint::{VarintError, read_varint, read_varlong};

/// The smallest record: length, attributes, two deltas, null key, null value, no headers.
pub const RECORD_BYTES_MIN: usize = 7;

/// The smallest header: an empty name and a null value.
const HEADER_BYTES_MIN: usize = 2;

/// What a length field says for "null".
const NULL: i32 = -1;

/// Why a record is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A length, delta or count cannot be read.
    #[error(transparent)]
    Varint(#[from] VarintError),
    /// A length is negative where it may not be.
    #[error("impossible length {0}")]
    Length(i32),
    /// A length reaches past the end of the record or of the batch.
    #[error("a field of {need} bytes in {have} remaining bytes")]
    Truncated {
        /// What the length field says.
        need: usize,
        /// How many bytes are left.
        have: usize,
    },
    /// More headers than the remaining bytes can hold, or fewer than none.
    #[error("impossible header count {0}")]
    HeaderCount(i32),
    /// The offset delta does not rise, or is beyond the last one of the batch.
    #[error("offset delta {delta} after {previous}, the batch ends at {last}")]
    OffsetDelta {
        /// The record's offset delta.
        delta: i32,
        /// That of the record before it; -1 at the first.
        previous: i32,
        /// The last offset delta of the batch.
        last: i32,
    },
    /// A record is longer than its fields.
    #[error("{bytes} bytes follow the fields of a record")]
    RecordTrailing {
        /// How many bytes are left over.
        bytes: usize,
    },
    /// The body ends before all records that the batch header announces.
    #[error("{missing} records are missing")]
    Missing {
        /// How many are missing.
        missing: i32,
    },
    /// The body goes on after all records that the batch header announces.
    #[error("{bytes} bytes follow the last record")]
    Trailing {
        /// How many bytes are left over.
        bytes: usize,
    },
}

/// The body of a batch, decompressed if it had to be.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    body: Cow<'a, [u8]>,
}

/// Walks the records of a batch; see [`Records::iter`].
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    /// Records that must still come.
    missing: i32,
    previous_delta: i32,
    done: bool,
}

/// One record, borrowed from the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The record's own attributes; they mean something only in batches of the MQTT adapter
    /// ([`crate::batch::Attributes::is_mqtt`]).
    pub attributes: u8,
    /// The offset.
    pub offset: Offset,
    /// The record's time: its own, or the batch's under `LogAppendTime`.
    pub timestamp: TimestampMs,
    /// The key; none is null.
    pub key: Option<&'a [u8]>,
    /// The value; none is null, a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
}

/// The headers of a record: checked when the record was read, taken apart when they are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    bytes: &'a [u8],
}

/// What [`validate_records`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsSummary {
    /// At least one record has a null key, which a compacted topic refuses.
    pub any_null_key: bool,
    /// The smallest timestamp of the records ([`TimestampMs::NONE`] if there are none).
    pub min_timestamp: TimestampMs,
    /// The largest timestamp of the records ([`TimestampMs::NONE`] if there are none).
    pub max_timestamp: TimestampMs,
}

/// Opens the body of exactly one batch. An uncompressed body is borrowed; a compressed one is
/// unpacked, to at most `decompressed_bytes_max` bytes.
///
/// The checksum is not looked at again, and the records are checked as they are read.
///
/// # Errors
/// Errors of the header; [`BatchError::Codec`], [`BatchError::Decompress`],
/// [`BatchError::TooLarge`].
pub fn records(batch: &[u8], decompressed_bytes_max: usize) -> Result<Records<'_>, BatchError> {
    let header = whole(batch)?;
    let body = batch.get(BATCH_HEADER_BYTES..).unwrap_or_default();
    let body = match header.attributes.codec()? {
        Codec::None => Cow::Borrowed(body),
        // What compaction has emptied has nothing to unpack.
        _ if header.record_count == 0 && body.is_empty() => Cow::Borrowed(body),
        codec => Cow::Owned(decompress(codec, body, decompressed_bytes_max)?),
    };
    Ok(Records { header, body })
}

/// Reads all records of exactly one batch, and allocates nothing per record.
///
/// # Errors
/// As [`records()`], and [`BatchError::Record`] for the first malformed record.
pub fn validate_records(
    batch: &[u8],
    decompressed_bytes_max: usize,
) -> Result<RecordsSummary, BatchError> {
    let records = records(batch, decompressed_bytes_max)?;
    let mut any_null_key = false;
    let mut range: Option<(TimestampMs, TimestampMs)> = None;
    for record in records.iter() {
        let record = record?;
        any_null_key |= record.key.is_none();
        let (min, max) = range.unwrap_or((record.timestamp, record.timestamp));
        range = Some((min.min(record.timestamp), max.max(record.timestamp)));
    }
    let (min_timestamp, max_timestamp) = range.unwrap_or((TimestampMs::NONE, TimestampMs::NONE));
    Ok(RecordsSummary {
        any_null_key,
        min_timestamp,
        max_timestamp,
    })
}

// === impl Records ===

impl Records<'_> {
    /// The header of the batch.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Bytes of all records, decompressed.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Walks the records in order. There are exactly as many as the header says, they fill the
    /// body, and their offsets rise within the batch; whatever breaks this is the last item.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            header: self.header,
            rest: &self.body,
            missing: self.header.record_count,
            previous_delta: -1,
            done: false,
        }
    }
}

impl<'a> IntoIterator for &'a Records<'_> {
    type Item = Result<RecordView<'a>, BatchError>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

// === impl RecordIter ===

impl<'a> RecordIter<'a> {
    fn read(&mut self) -> Result<RecordView<'a>, RecordError> {
        let mut input = self.rest;
        let mut fields = take_bytes(&mut input)?;
        let attributes = take(&mut fields, 1)?.first().copied().unwrap_or_default();
        let timestamp_delta = read_varlong(&mut fields)?;
        let delta = read_varint(&mut fields)?;
        let (previous, last) = (self.previous_delta, self.header.last_offset_delta);
        if delta <= previous || delta > last {
            return Err(RecordError::OffsetDelta {
                delta,
                previous,
                last,
            });
        }
        let key = take_nullable(&mut fields)?;
        let value = take_nullable(&mut fields)?;
        let headers = Headers::take(&mut fields)?;
        if !fields.is_empty() {
            return Err(RecordError::RecordTrailing {
                bytes: fields.len(),
            });
        }
        self.rest = input;
        self.previous_delta = delta;
        Ok(RecordView {
            attributes,
            offset: self.header.base_offset.plus(i64::from(delta)),
            timestamp: self.timestamp(timestamp_delta),
            key,
            value,
            headers,
        })
    }

    fn timestamp(&self, delta: i64) -> TimestampMs {
        match self.header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp,
            // Wraps as the writers do, so that every pair of timestamps survives.
            TimestampType::CreateTime => {
                TimestampMs(self.header.base_timestamp.0.wrapping_add(delta))
            }
        }
    }

    /// What is wrong once there is nothing left to read.
    fn end(&self) -> Option<RecordError> {
        if self.missing > 0 {
            return Some(RecordError::Missing {
                missing: self.missing,
            });
        }
        if !self.rest.is_empty() {
            return Some(RecordError::Trailing {
                bytes: self.rest.len(),
            });
        }
        None
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.missing <= 0 || self.rest.is_empty() {
            self.done = true;
            return self.end().map(|error| Err(error.into()));
        }
        match self.read() {
            Ok(record) => {
                self.missing -= 1;
                Some(Ok(record))
            }
            Err(error) => {
                self.done = true;
                Some(Err(error.into()))
            }
        }
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

// === impl Headers ===

impl<'a> Headers<'a> {
    /// Takes count and headers off the front of `input`; checks each, keeps the bytes.
    fn take(input: &mut &'a [u8]) -> Result<Self, RecordError> {
        let announced = read_varint(input)?;
        let count = usize::try_from(announced)
            .ok()
            .filter(|count| *count <= input.len() / HEADER_BYTES_MIN)
            .ok_or(RecordError::HeaderCount(announced))?;
        let start = *input;
        for _ in 0..count {
            take_bytes(input)?;
            take_nullable(input)?;
        }
        let bytes = start.get(..start.len() - input.len()).unwrap_or_default();
        Ok(Self { count, bytes })
    }

    /// How many headers there are; repeated names count each time.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// The headers as they are encoded, without their count.
    pub(crate) const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// There are no headers.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values in the order in which they were written, repeats included.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| {
            // Cannot fail: the same bytes have been read before.
            let name = take_bytes(&mut rest).ok()?;
            let value = take_nullable(&mut rest).ok()?;
            Some((name, value))
        })
    }

    /// The value of the last header called `name`; a null value counts as none.
    #[must_use]
    pub fn last(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut found = None;
        for (header, value) in self.iter() {
            if header == name {
                found = value;
            }
        }
        found
    }
}

// === reading fields ===

/// Takes `count` bytes off the front.
#[inline]
fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], RecordError> {
    let Some((taken, rest)) = input.split_at_checked(count) else {
        return Err(RecordError::Truncated {
            need: count,
            have: input.len(),
        });
    };
    *input = rest;
    Ok(taken)
}

/// Takes a length and as many bytes; null is not allowed.
#[inline]
fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], RecordError> {
    let length = read_varint(input)?;
    let count = usize::try_from(length).map_err(|_| RecordError::Length(length))?;
    take(input, count)
}

/// Takes a length and as many bytes, or null.
#[inline]
fn take_nullable<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordError> {
    let length = read_varint(input)?;
    if length == NULL {
        return Ok(None);
    }
    let count = usize::try_from(length).map_err(|_| RecordError::Length(length))?;
    take(input, count).map(Some)
}
