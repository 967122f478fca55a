//! The index file of a sealed segment, and the recovery point of an active one.
//!
//! ```text
//! "MSIX"  version u32  { tag u32  length u64  payload }*  crc32c u32
//! ```
//! All numbers are little-endian; the checksum covers everything before it. The header section
//! comes first and has a checksum of its own, so that a start reads the first few bytes only.
//! Unknown tags are skipped: a newer version may add sections.

mod labels;

use std::io;

use mainstem_env::File;
use mainstem_record::{LeaderEpoch, Offset, SegmentId};

pub(crate) use labels::{Dictionary, LabelsBuilder};

use crate::{
    dedupe::{Dedupe, Fields, Producers, Qos2},
    digest::{Digest, digest_of_chunks},
    index::{Entry, Index, SEGMENT_BYTES_MAX, SEGMENT_OFFSETS_MAX},
    scan::read_range,
};

/// Bytes of a section before its payload: tag and length.
const SECTION_HEAD_BYTES: u64 = 12;

pub(crate) const MAGIC: [u8; 4] = *b"MSIX";
/// Version 1 had no digests of chunks; a file of it counts as none and is made again.
pub(crate) const VERSION: u32 = 2;

const TAG_HEADER: u32 = 1;
const TAG_OFFSETS: u32 = 2;
const TAG_TIMES: u32 = 3;
const TAG_PRODUCERS: u32 = 4;
const TAG_QOS2: u32 = 5;
// 6 was in files of version 1.
const TAG_CHUNKS: u32 = 7;
const TAG_LABELS: u32 = 8;

/// Every section that is written, in the order of the tags.
#[cfg(test)]
pub(crate) const TAGS: [u32; 7] = [
    TAG_HEADER,
    TAG_OFFSETS,
    TAG_TIMES,
    TAG_PRODUCERS,
    TAG_QOS2,
    TAG_CHUNKS,
    TAG_LABELS,
];

/// The largest dictionary that is written, or read back.
pub(crate) const LABELS_BYTES_MAX: usize = 64 << 20;

const HEADER_BYTES: usize = 1 + 16 + 8 + 8 + 4 + 4 + 8 + 8 + 8 + 8 + 16 + 4;

/// Enough of the file to read the header from.
pub(crate) const HEADER_PREFIX_BYTES: usize = 8 + 12 + HEADER_BYTES;

/// The largest index file that is read. The largest segment with the smallest sensible interval
/// and full dedupe memories stays below it.
pub(crate) const INDEX_FILE_BYTES_MAX: usize = 512 << 20;

/// Whether a segment has a dictionary of its records' labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labelled {
    /// Nobody has tried to make one.
    NotYet,
    /// Yes.
    Yes,
    /// It would be too large, or there is nothing to put into it.
    Never,
}

/// What the header section says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) labelled: Labelled,
    pub(crate) segment: SegmentId,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// Of all batches; of the last ones in a compacted segment.
    pub(crate) epoch: LeaderEpoch,
    /// Set if the segment is compacted: its lowest epoch.
    pub(crate) compacted_from: Option<LeaderEpoch>,
    pub(crate) bytes: u64,
    pub(crate) min_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) created_wall_ms: i64,
    /// Of the chunks' digests; see [`crate::digest`].
    pub(crate) digest: u128,
}

/// A decoded file.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) dedupe: Dedupe,
    pub(crate) digest: Digest,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IndexFileError {
    #[error("not an index file")]
    Magic,
    #[error("unknown version {0}")]
    Version(u32),
    #[error("truncated")]
    Truncated,
    #[error("checksum mismatch")]
    Crc,
    #[error("malformed section {0}")]
    Section(u32),
}

// === impl Header ===

impl Header {
    /// Whether a segment can be like this: what a start takes over is counted on from.
    fn is_possible(&self) -> bool {
        let offsets = self.end.0.checked_sub(self.base.0);
        self.base.0 >= 0
            && offsets.is_some_and(|offsets| (0..=SEGMENT_OFFSETS_MAX).contains(&offsets))
            && self.bytes <= SEGMENT_BYTES_MAX
    }
}

// === impl Labelled ===

impl Labelled {
    /// As in the file.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::NotYet => 0,
            Self::Yes => 1,
            Self::Never => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::NotYet),
            1 => Some(Self::Yes),
            2 => Some(Self::Never),
            _ => None,
        }
    }
}

// === encoding ===

pub(crate) fn encode(header: &Header, chunks: &[u128], index: &Index, dedupe: &Dedupe) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_PREFIX_BYTES + index.entries().len() * 16 + 1024);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    section(&mut out, TAG_HEADER, |out| encode_header(out, header));
    section(&mut out, TAG_OFFSETS, |out| {
        for entry in index.entries() {
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
        }
    });
    section(&mut out, TAG_TIMES, |out| {
        for entry in index.entries() {
            out.extend_from_slice(&entry.max_before.to_le_bytes());
        }
    });
    section(&mut out, TAG_CHUNKS, |out| {
        for chunk in chunks {
            out.extend_from_slice(&chunk.to_le_bytes());
        }
    });
    section(&mut out, TAG_PRODUCERS, |out| dedupe.producers.encode(out));
    section(&mut out, TAG_QOS2, |out| dedupe.qos2.encode(out));
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn encode_header(out: &mut Vec<u8>, header: &Header) {
    let start = out.len();
    out.push(header.labelled.to_byte());
    out.extend_from_slice(header.segment.0.as_bytes());
    out.extend_from_slice(&header.base.0.to_le_bytes());
    out.extend_from_slice(&header.end.0.to_le_bytes());
    out.extend_from_slice(&header.epoch.0.to_le_bytes());
    let compacted_from = header.compacted_from.unwrap_or(LeaderEpoch::NONE);
    out.extend_from_slice(&compacted_from.0.to_le_bytes());
    out.extend_from_slice(&header.bytes.to_le_bytes());
    out.extend_from_slice(&header.min_timestamp.to_le_bytes());
    out.extend_from_slice(&header.max_timestamp.to_le_bytes());
    out.extend_from_slice(&header.created_wall_ms.to_le_bytes());
    out.extend_from_slice(&header.digest.to_le_bytes());
    let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_le_bytes());
}

fn section(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&tag.to_le_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 8]);
    let start = out.len();
    write(out);
    let length = (out.len() - start) as u64;
    if let Some(field) = out.get_mut(length_at..start) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

/// The same file with the outcome of making its dictionary, `labels`.
pub(crate) fn with_labels(file: &[u8], labels: Option<&[u8]>) -> Result<Vec<u8>, IndexFileError> {
    let mut fields = checked(file)?;
    let mut out = Vec::with_capacity(file.len() + labels.map_or(0, <[u8]>::len) + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    while !fields.0.is_empty() {
        let (tag, payload) = next_section(&mut fields)?;
        match tag {
            TAG_HEADER => {
                let mut header = header(payload).ok_or(IndexFileError::Section(tag))?;
                header.labelled = match labels {
                    Some(_) => Labelled::Yes,
                    None => Labelled::Never,
                };
                section(&mut out, tag, |out| encode_header(out, &header));
            }
            TAG_LABELS => {}
            _ => section(&mut out, tag, |out| out.extend_from_slice(payload)),
        }
    }
    if let Some(labels) = labels {
        section(&mut out, TAG_LABELS, |out| out.extend_from_slice(labels));
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

// === decoding ===

/// The dictionary of a file, read without the rest of it. `None` if it has none. Blocks.
pub(crate) fn read_labels(
    file: &dyn File,
) -> io::Result<Result<Option<Dictionary>, IndexFileError>> {
    let len = file.len()?;
    // Magic and version are known from the header of the segment.
    let mut position = 8;
    loop {
        // The trailer has fewer bytes than a section's head.
        let head = read_range(file, position, len.min(position + SECTION_HEAD_BYTES))?;
        let mut fields = Fields(&head);
        let (Some(tag), Some(length)) = (fields.u32(), fields.u64()) else {
            return Ok(Ok(None));
        };
        let start = position + SECTION_HEAD_BYTES;
        position = match start.checked_add(length).filter(|end| *end <= len) {
            Some(end) => end,
            None => return Ok(Err(IndexFileError::Truncated)),
        };
        if tag != TAG_LABELS {
            continue;
        }
        if length > LABELS_BYTES_MAX as u64 {
            return Ok(Err(IndexFileError::Section(tag)));
        }
        let payload = read_range(file, start, position)?;
        let dictionary = Dictionary::open(payload);
        return Ok(dictionary.map(Some).ok_or(IndexFileError::Section(tag)));
    }
}

/// The sections of a file whose checksum is right.
fn checked(file: &[u8]) -> Result<Fields<'_>, IndexFileError> {
    let (body, trailer) = file
        .split_last_chunk::<4>()
        .ok_or(IndexFileError::Truncated)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*trailer) {
        return Err(IndexFileError::Crc);
    }
    open(body)
}

/// Reads the header from the first [`HEADER_PREFIX_BYTES`] of a file.
pub(crate) fn decode_header(prefix: &[u8]) -> Result<Header, IndexFileError> {
    let mut fields = open(prefix)?;
    let (tag, payload) = next_section(&mut fields)?;
    if tag != TAG_HEADER {
        return Err(IndexFileError::Section(TAG_HEADER));
    }
    header(payload).ok_or(IndexFileError::Section(TAG_HEADER))
}

/// Reads a whole file.
pub(crate) fn decode(
    file: &[u8],
    interval: u32,
    expiry_ms: i64,
) -> Result<Contents, IndexFileError> {
    let mut fields = checked(file)?;
    let mut found_header = None;
    let (mut offsets, mut times, mut chunks) = (&[][..], &[][..], &[][..]);
    let mut dedupe = Dedupe::new(expiry_ms);
    while !fields.0.is_empty() {
        let (tag, payload) = next_section(&mut fields)?;
        let bad = IndexFileError::Section(tag);
        match tag {
            TAG_HEADER => found_header = Some(header(payload).ok_or(bad)?),
            TAG_OFFSETS => offsets = payload,
            TAG_TIMES => times = payload,
            TAG_CHUNKS => chunks = payload,
            // Read by itself when it is wanted.
            TAG_LABELS => {}
            TAG_PRODUCERS => {
                dedupe.producers = Producers::decode(payload, expiry_ms).ok_or(bad)?;
            }
            TAG_QOS2 => dedupe.qos2 = Qos2::decode(payload, expiry_ms).ok_or(bad)?,
            _ => {}
        }
    }
    let header = found_header.ok_or(IndexFileError::Section(TAG_HEADER))?;
    let digest = digest(chunks, &header).ok_or(IndexFileError::Section(TAG_CHUNKS))?;
    let entries = entries(offsets, times).ok_or(IndexFileError::Section(TAG_OFFSETS))?;
    let range = (header.min_timestamp, header.max_timestamp);
    let index = Index::from_parts(header.base, interval, entries, range);
    Ok(Contents {
        header,
        index,
        dedupe,
        digest,
    })
}

fn open(file: &[u8]) -> Result<Fields<'_>, IndexFileError> {
    let mut fields = Fields(file);
    if fields.take().ok_or(IndexFileError::Truncated)? != MAGIC {
        return Err(IndexFileError::Magic);
    }
    match fields.u32().ok_or(IndexFileError::Truncated)? {
        VERSION => Ok(fields),
        other => Err(IndexFileError::Version(other)),
    }
}

fn next_section<'a>(fields: &mut Fields<'a>) -> Result<(u32, &'a [u8]), IndexFileError> {
    let tag = fields.u32().ok_or(IndexFileError::Truncated)?;
    let length = fields.u64().ok_or(IndexFileError::Truncated)?;
    let length = usize::try_from(length).map_err(|_| IndexFileError::Truncated)?;
    let (payload, rest) = fields
        .0
        .split_at_checked(length)
        .ok_or(IndexFileError::Truncated)?;
    fields.0 = rest;
    Ok((tag, payload))
}

fn header(payload: &[u8]) -> Option<Header> {
    let (body, trailer) = payload.get(..HEADER_BYTES)?.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*trailer) {
        return None;
    }
    let mut fields = Fields(body);
    let labelled = Labelled::from_byte(fields.u8()?)?;
    let header = Header {
        labelled,
        segment: SegmentId(uuid::Uuid::from_bytes(fields.take()?)),
        base: Offset(fields.i64()?),
        end: Offset(fields.i64()?),
        epoch: LeaderEpoch(fields.i32()?),
        compacted_from: Some(LeaderEpoch(fields.i32()?)).filter(|from| from.0 >= 0),
        bytes: fields.u64()?,
        min_timestamp: fields.i64()?,
        max_timestamp: fields.i64()?,
        created_wall_ms: fields.i64()?,
        digest: u128::from_le_bytes(fields.take()?),
    };
    header.is_possible().then_some(header)
}

/// The digest of the file, if the chunks are those that the header speaks of.
fn digest(chunks: &[u8], header: &Header) -> Option<Digest> {
    let (chunks, rest) = chunks.as_chunks::<16>();
    if !rest.is_empty() {
        return None;
    }
    let chunks: Vec<u128> = chunks.iter().map(|c| u128::from_le_bytes(*c)).collect();
    if digest_of_chunks(&chunks) != header.digest {
        return None;
    }
    Digest::from_chunks(chunks, header.bytes)
}

/// The entries, if both sections have as many and they rise.
fn entries(offsets: &[u8], times: &[u8]) -> Option<Vec<Entry>> {
    let (offsets, offsets_rest) = offsets.as_chunks::<8>();
    let (times, times_rest) = times.as_chunks::<8>();
    if offsets.len() != times.len() || !offsets_rest.is_empty() || !times_rest.is_empty() {
        return None;
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(offsets.len());
    for (pair, time) in offsets.iter().zip(times) {
        let mut fields = Fields(pair);
        let entry = Entry {
            offset: fields.u32()?,
            position: fields.u32()?,
            max_before: i64::from_le_bytes(*time),
        };
        let rises = entries.last().is_none_or(|last| {
            last.offset < entry.offset
                && last.position < entry.position
                && last.max_before <= entry.max_before
        });
        if !rises {
            return None;
        }
        entries.push(entry);
    }
    Some(entries)
}

#[cfg(test)]
mod tests;
