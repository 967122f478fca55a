//! The digest of a segment file: XXH3-128 over the little-endian XXH3-128s of its chunks.
//!
//! Chunks are [`CHUNK_BYTES`] long, the last one may be shorter; an empty file has none. With the
//! list of chunks a digest can be taken up again after a crash without reading what it covers
//! already, and damage can be pinned to one chunk.

use std::io;

use mainstem_env::File;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::scan::read_range;

/// Bytes of one chunk.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// The digest of a file that grows.
#[derive(Clone)]
pub(crate) struct Digest {
    /// Of the chunks that are complete.
    chunks: Vec<u128>,
    /// Bytes taken in.
    bytes: u64,
    last: Last,
    /// A chunk whose digest must be read from the file: it was appended to when only the digest
    /// of its beginning was known. Its entry among `chunks`, if it has one, means nothing.
    unread: Option<usize>,
}

/// The last chunk, if it is not complete.
#[derive(Clone)]
enum Last {
    /// Nothing of it was taken in, or it is the unread one.
    None,
    Running(Box<Xxh3Default>),
    Known(u128),
}

/// How many chunks a file of `bytes` has.
pub(crate) fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES)
}

/// The digest of a file whose chunks have these digests.
pub(crate) fn digest_of_chunks(chunks: &[u128]) -> u128 {
    let mut hasher = Xxh3Default::new();
    for chunk in chunks {
        hasher.update(&chunk.to_le_bytes());
    }
    hasher.digest128()
}

/// Whether chunk number `chunk` of a file of `bytes` has this digest; one that is not all there has
/// not. Blocks.
pub(crate) fn chunk_is(
    file: &dyn File,
    bytes: u64,
    (chunk, digest): (usize, u128),
) -> io::Result<bool> {
    let start = chunk as u64 * CHUNK_BYTES;
    let end = bytes.min(start.saturating_add(CHUNK_BYTES));
    let read = read_range(file, start, end)?;
    Ok(read.len() as u64 == end.saturating_sub(start) && xxh3_128(&read) == digest)
}

// === impl Digest ===

impl Digest {
    /// Of an empty file.
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            bytes: 0,
            last: Last::None,
            unread: None,
        }
    }

    /// Of a file of `bytes` whose chunks have these digests; `None` if their number is wrong.
    pub(crate) fn from_chunks(mut chunks: Vec<u128>, bytes: u64) -> Option<Self> {
        if chunks.len() as u64 != chunk_count(bytes) {
            return None;
        }
        let is_whole = bytes.is_multiple_of(CHUNK_BYTES);
        let last = match is_whole {
            true => Last::None,
            false => Last::Known(chunks.pop()?),
        };
        Some(Self {
            chunks,
            bytes,
            last,
            unread: None,
        })
    }

    /// Reads what it covers of the last chunk, if that is not whole, and is ready for what
    /// follows without another read. `None` if the file holds something else there. Blocks.
    pub(crate) fn verify_last(mut self, file: &dyn File) -> io::Result<Option<Self>> {
        let Last::Known(known) = self.last else {
            return Ok(Some(self));
        };
        let start = self.bytes - self.bytes % CHUNK_BYTES;
        let chunk = read_range(file, start, self.bytes)?;
        let mut hasher = Box::<Xxh3Default>::default();
        hasher.update(&chunk);
        if chunk.len() as u64 != self.bytes - start || hasher.digest128() != known {
            return Ok(None);
        }
        self.last = Last::Running(hasher);
        Ok(Some(self))
    }

    /// Takes in the bytes that follow.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = self.bytes % CHUNK_BYTES;
            let room = usize::try_from(CHUNK_BYTES - filled).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            if matches!(self.last, Last::Known(_)) {
                self.last = Last::None;
                self.unread = Some(self.chunks.len());
            }
            if self.unread != Some(self.chunks.len()) {
                if matches!(self.last, Last::None) {
                    self.last = Last::Running(Box::default());
                }
                if let Last::Running(hasher) = &mut self.last {
                    hasher.update(part);
                }
            }
            self.bytes += part.len() as u64;
            if part.len() == room {
                self.end_chunk();
            }
            bytes = rest;
        }
    }

    fn end_chunk(&mut self) {
        let digest = match &mut self.last {
            Last::Running(hasher) => {
                let digest = hasher.digest128();
                hasher.reset();
                digest
            }
            // The unread one.
            Last::None | Last::Known(_) => 0,
        };
        self.chunks.push(digest);
    }

    /// Bytes of memory, about.
    pub(crate) fn size_bytes(&self) -> usize {
        self.chunks.len() * size_of::<u128>() + size_of::<Xxh3Default>()
    }

    /// Reads the chunk whose digest is not known, if there is one. Blocks.
    pub(crate) fn complete(&mut self, file: &dyn File) -> io::Result<()> {
        let Some(unread) = self.unread else {
            return Ok(());
        };
        let start = unread as u64 * CHUNK_BYTES;
        let end = self.bytes.min(start + CHUNK_BYTES);
        let chunk = read_range(file, start, end)?;
        if chunk.len() as u64 != end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let digest = xxh3_128(&chunk);
        match self.chunks.get_mut(unread) {
            Some(place) => *place = digest,
            None => self.last = Last::Known(digest),
        }
        self.unread = None;
        Ok(())
    }

    /// The digest of the first `bytes` bytes of the file, of which this is one. Reads no more than one
    /// chunk, and that which is not known. Blocks.
    pub(crate) fn of_prefix(mut self, file: &dyn File, bytes: u64) -> io::Result<u128> {
        self.complete(file)?;
        let mut chunks = self.chunks().unwrap_or_default();
        if bytes < self.bytes {
            let whole = bytes / CHUNK_BYTES;
            chunks.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
            let start = whole * CHUNK_BYTES;
            let rest = read_range(file, start, bytes)?;
            if rest.len() as u64 != bytes - start {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !rest.is_empty() {
                chunks.push(xxh3_128(&rest));
            }
        }
        Ok(digest_of_chunks(&chunks))
    }

    /// The digests of all chunks; `None` before [`Digest::complete`], if that has to read.
    pub(crate) fn chunks(&self) -> Option<Vec<u128>> {
        if self.unread.is_some() {
            return None;
        }
        let mut chunks = Vec::with_capacity(self.chunks.len() + 1);
        chunks.extend_from_slice(&self.chunks);
        if !self.bytes.is_multiple_of(CHUNK_BYTES) {
            match &self.last {
                Last::Running(hasher) => chunks.push(hasher.digest128()),
                Last::Known(digest) => chunks.push(*digest),
                Last::None => return None,
            }
        }
        Some(chunks)
    }

    /// Of the first `len` bytes of a file. Blocks.
    #[cfg(test)]
    pub(crate) fn of_file(file: &dyn File, len: u64) -> io::Result<Self> {
        let mut digest = Self::new();
        while digest.bytes < len {
            let end = len.min(digest.bytes + CHUNK_BYTES);
            let bytes = read_range(file, digest.bytes, end)?;
            if bytes.len() as u64 != end - digest.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            digest.update(&bytes);
        }
        Ok(digest)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mainstem_env::{Fs, MemFs, OpenMode};
    use proptest::prelude::*;

    use super::*;

    const CHUNK: usize = CHUNK_BYTES as usize;

    fn plain(bytes: &[u8]) -> Vec<u128> {
        bytes.chunks(CHUNK).map(xxh3_128).collect()
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn empty_file_has_no_chunks() {
        let chunks = Digest::new().chunks().expect("known");
        assert!(chunks.is_empty());
        assert_eq!(digest_of_chunks(&chunks), xxh3_128(&[]));
    }

    #[test]
    fn last_chunk_is_found_to_be_something_else() {
        let fs = MemFs::new();
        let file = fs.open(Path::new("/f"), OpenMode::Create).expect("file");
        let bytes = content(CHUNK + 100);
        file.write_all_vectored_at(&[io::IoSlice::new(&bytes)], 0)
            .expect("write");
        let chunks = plain(&bytes);
        let is_there = |chunks, len| {
            let digest = Digest::from_chunks(chunks, len)?;
            digest.verify_last(&*file).expect("read")
        };
        assert!(is_there(chunks.clone(), bytes.len() as u64).is_some());
        assert!(is_there(chunks.clone(), bytes.len() as u64 - 1).is_none());
        assert!(is_there(chunks.clone(), bytes.len() as u64 + 1).is_none());
        assert!(is_there(chunks, 3 * CHUNK_BYTES).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However the bytes came in, and wherever it was taken up again.
        #[test]
        fn digest_is_that_of_the_chunks(
            parts in prop::collection::vec(
                prop_oneof![1usize..2000, Just(CHUNK), CHUNK - 3..CHUNK + 3, 1usize..2 * CHUNK],
                0..5,
            ),
            resumed_at in any::<prop::sample::Index>(),
            reads in any::<bool>(),
        ) {
            let bytes = content(parts.iter().sum());
            let fs = MemFs::new();
            let file = fs.open(Path::new("/f"), OpenMode::Create).expect("file");
            file.write_all_vectored_at(&[io::IoSlice::new(&bytes)], 0).expect("write");
            let resumed_at = resumed_at.index(parts.len() + 1);
            let mut digest = Digest::new();
            let mut rest = &bytes[..];
            for (at, part) in parts.iter().enumerate() {
                if at == resumed_at {
                    let (chunks, len) = (digest.chunks().expect("known"), digest.bytes);
                    digest = Digest::from_chunks(chunks, len).expect("as many");
                    if reads {
                        digest = digest.verify_last(&*file).expect("read").expect("as it was");
                    }
                }
                let (now, later) = rest.split_at(*part);
                digest.update(now);
                rest = later;
            }
            digest.complete(&*file).expect("read");
            let expected = plain(&bytes);
            prop_assert_eq!(digest.chunks(), Some(expected.clone()));
            let read = Digest::of_file(&*file, bytes.len() as u64).expect("read");
            prop_assert_eq!(read.chunks(), Some(expected));
        }
    }
}
