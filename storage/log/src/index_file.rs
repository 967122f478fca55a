//! The index file of a sealed segment, and the recovery point of an active one.
//!
//! ```text
//! "MSIX"  version u32  { tag u32  length u64  payload }*  crc32c u32
//! ```
//! All numbers are little-endian; the checksum covers everything before it. The header section
//! comes first and has a checksum of its own, so that a start reads the first few bytes only.
//! Unknown tags are skipped: a newer version may add sections.

use mainstem_record::{LeaderEpoch, Offset, SegmentId};

use crate::{
    dedupe::{Dedupe, Fields, Producers, Qos2},
    digest::{Digest, digest_of_chunks},
    index::{Entry, Index},
};

const MAGIC: [u8; 4] = *b"MSIX";
/// Version 1 had no digests of chunks; a file of it counts as none and is made again.
const VERSION: u32 = 2;

const TAG_HEADER: u32 = 1;
const TAG_OFFSETS: u32 = 2;
const TAG_TIMES: u32 = 3;
const TAG_PRODUCERS: u32 = 4;
const TAG_QOS2: u32 = 5;
// 6 was in files of version 1.
const TAG_CHUNKS: u32 = 7;

const HEADER_BYTES: usize = 16 + 8 + 8 + 4 + 4 + 8 + 8 + 8 + 8 + 16 + 4;

/// Enough of the file to read the header from.
pub(crate) const HEADER_PREFIX_BYTES: usize = 8 + 12 + HEADER_BYTES;

/// The largest index file that is read. The largest segment with the smallest sensible interval
/// and full dedupe memories stays below it.
pub(crate) const INDEX_FILE_BYTES_MAX: usize = 512 << 20;

/// What the header section says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
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

// === decoding ===

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
    let (body, trailer) = file
        .split_last_chunk::<4>()
        .ok_or(IndexFileError::Truncated)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*trailer) {
        return Err(IndexFileError::Crc);
    }
    let mut fields = open(body)?;
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
    Some(Header {
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
    })
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::CHUNK_BYTES;

    const CHUNKS: [u128; 3] = [1 << 99, 7, 8];

    fn sample(count: u32) -> (Header, Index, Dedupe) {
        let header = Header {
            segment: SegmentId(uuid::Uuid::from_u128(5)),
            base: Offset(100),
            end: Offset(900),
            epoch: LeaderEpoch(3),
            compacted_from: Some(LeaderEpoch(2)),
            bytes: 2 * CHUNK_BYTES + 77,
            min_timestamp: -1,
            max_timestamp: 55,
            created_wall_ms: 9,
            digest: digest_of_chunks(&CHUNKS),
        };
        let entries = (0..count)
            .map(|i| Entry {
                offset: i * 3,
                position: i * 5000,
                max_before: i64::from(i) - 1,
            })
            .collect();
        let index = Index::from_parts(Offset(100), 4096, entries, (-1, 55));
        (header, index, Dedupe::new(10))
    }

    #[test]
    fn file_round_trips_and_skips_unknown_sections() {
        let (header, index, dedupe) = sample(9);
        let file = encode(&header, &CHUNKS, &index, &dedupe);
        let mut longer = file[..file.len() - 4].to_vec();
        section(&mut longer, 4711, |out| out.extend_from_slice(b"new"));
        let crc = crc32c::crc32c(&longer);
        longer.extend_from_slice(&crc.to_le_bytes());
        for bytes in [file, longer] {
            assert_eq!(decode_header(&bytes[..HEADER_PREFIX_BYTES]), Ok(header));
            let contents = decode(&bytes, 4096, 10).expect("decodes");
            assert_eq!(contents.header, header);
            assert_eq!(contents.index, index);
            assert_eq!(contents.digest.chunks(), Some(CHUNKS.to_vec()));
            assert_eq!(contents.dedupe, dedupe);
        }
    }

    #[test]
    fn chunks_must_be_those_of_the_header() {
        let (header, index, dedupe) = sample(2);
        for chunks in [&CHUNKS[..2], &[1, 2, 3], &[]] {
            let file = encode(&header, chunks, &index, &dedupe);
            let error = decode(&file, 4096, 10).expect_err("of something else");
            assert_eq!(error, IndexFileError::Section(TAG_CHUNKS));
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(count in 0u32..20, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (header, index, dedupe) = sample(count);
            let mut file = encode(&header, &CHUNKS, &index, &dedupe);
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            prop_assert!(decode(&file, 4096, 10).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut file = b"MSIX\x02\0\0\0".to_vec();
            file.extend_from_slice(&bytes);
            let _ = decode_header(&file);
            let crc = crc32c::crc32c(&file);
            file.extend_from_slice(&crc.to_le_bytes());
            let _ = decode(&file, 4096, 10);
        }
    }
}
