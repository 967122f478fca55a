//! Checking one segment: its batches, its digest, its index file.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{BatchHeader, Offset};

use super::{
    Checker, Finding, Problem,
    compare::Compare,
    layout::{PartitionDir, SegmentFiles},
    walk::{Expected, Step, Walk},
};
use crate::{
    checkpoint::SyncedPoint,
    digest::{CHUNK_BYTES, chunk_is},
    index_file::{self, Contents, INDEX_FILE_BYTES_MAX, Labelled},
    paths,
    scan::{Bad, BatchRule},
};

/// What the rest of the partition needs to know of a segment.
pub(super) struct Checked {
    /// The offset after its last record.
    pub(super) end: Offset,
    pub(super) is_sealed: bool,
    /// Where its batches stop, if only they tell where it ends and there are bytes behind that.
    pub(super) torn: Option<Torn>,
}

/// Bytes above the synced point that are no whole batch: a torn tail if no segment follows.
pub(super) struct Torn {
    pub(super) position: u64,
    pub(super) bytes: u64,
    /// Why the first of them are no batch.
    pub(super) reason: String,
}

/// Reads and decodes an index file or a snapshot.
pub(super) fn index_file(fs: &dyn Fs, path: &Path) -> Result<Contents, Problem> {
    let bytes = fs
        .read(path, INDEX_FILE_BYTES_MAX)
        .map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge | io::ErrorKind::UnexpectedEof => Problem::IndexFile {
                reason: error.to_string(),
            },
            _ => Problem::io(&error),
        })?;
    let interval = 1;
    index_file::decode(&bytes, interval, i64::MAX).map_err(|error| Problem::IndexFile {
        reason: error.to_string(),
    })
}

// === impl Checker ===

impl Checker<'_> {
    /// Checks a segment with a file of batches; `None` if it could not be looked at.
    pub(super) fn segment(
        &mut self,
        partition: &PartitionDir,
        files: &SegmentFiles,
        synced: Option<SyncedPoint>,
    ) -> Option<Checked> {
        let path = paths::segment(&partition.path, files.base, files.id);
        let file = match self.fs.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) => {
                self.found(Finding::new(path, Problem::io(&error)));
                return None;
            }
        };
        self.summary.segments += 1;
        let index_path = path.with_extension(paths::INDEX);
        // A segment that is sealed while we look has its index file before the next one is there.
        let sealed = files.index || self.fs.exists(&index_path).unwrap_or(false);
        let checked = if sealed {
            self.summary.sealed += 1;
            match self.index(&index_path, files) {
                Some(contents) => {
                    self.dictionary(&index_path, &contents);
                    self.sealed(&path, &*file, &contents)
                }
                None => self.unindexed(&path, &file, files, None),
            }
        } else {
            let target = (partition.id, files.id, files.base);
            match self.with_journal((file, &path), target) {
                Ok(file) => {
                    if files.snapshot {
                        self.snapshot(&path.with_extension(paths::SNAPSHOT), &*file, files);
                    }
                    self.unindexed(&path, &file, files, synced)
                }
                Err(error) => Err(error),
            }
        };
        match checked {
            Ok(checked) => Some(checked),
            Err(error) => {
                self.found(Finding::new(path, Problem::io(&error)));
                None
            }
        }
    }

    fn index(&mut self, path: &Path, files: &SegmentFiles) -> Option<Contents> {
        let problem = match index_file(self.fs, path) {
            Ok(contents)
                if contents.header.segment == files.id && contents.header.base == files.base =>
            {
                return Some(contents);
            }
            Ok(_) => Problem::IndexFile {
                reason: "it is of another segment".to_owned(),
            },
            Err(problem) => problem,
        };
        self.found(Finding::new(path, problem));
        None
    }

    /// The dictionary must be whole, and speak of batches that the segment can have.
    fn dictionary(&mut self, path: &Path, contents: &Contents) {
        if contents.header.labelled != Labelled::Yes {
            return;
        }
        let read = self
            .fs
            .open(path, OpenMode::Read)
            .and_then(|file| index_file::read_labels(&*file));
        let problem = match read {
            Ok(Ok(Some(dictionary))) => {
                let mut within = true;
                let listed = dictionary.list(|_, positions| {
                    let last = positions.last().copied().map_or(0, u64::from);
                    within &= positions.is_empty() || last < contents.header.bytes;
                });
                if listed.is_some() && within {
                    return;
                }
                Problem::IndexFile {
                    reason: "a dictionary of other batches".to_owned(),
                }
            }
            Ok(Ok(None)) => Problem::IndexFile {
                reason: "the dictionary is missing".to_owned(),
            },
            Ok(Err(error)) => Problem::IndexFile {
                reason: error.to_string(),
            },
            Err(error) => Problem::io(&error),
        };
        self.found(Finding::new(path, problem));
    }

    /// A sealed segment: everything must be as its index file says.
    fn sealed(&mut self, path: &Path, file: &dyn File, contents: &Contents) -> io::Result<Checked> {
        let header = &contents.header;
        let len = file.len()?;
        if len < header.bytes {
            let problem = Problem::Short {
                bytes: len,
                expected: header.bytes,
            };
            self.found(
                Finding::new(path, problem)
                    .at(len)
                    .of(header.base, header.end),
            );
        } else if len > header.bytes {
            let bytes = len - header.bytes;
            self.found(Finding::new(path, Problem::Beyond { bytes }).at(header.bytes));
        }
        let limit = len.min(header.bytes);
        let expected = Expected {
            base: header.base,
            rule: Some(BatchRule::new(header.epoch, header.compacted_from)),
            limit,
            entries: contents.index.entries(),
        };
        let mut compare = Compare::new(contents);
        let mut walk = Walk::new(file, expected);
        let mut damaged = Vec::new();
        loop {
            match walk.step()? {
                Step::Batch { header, position } => {
                    self.good(&header);
                    if !compare.batch(&header, position) {
                        let index_path = path.with_extension(paths::INDEX);
                        let offsets = (header.base_offset, header.next_offset());
                        let finding = Finding::new(index_path, Problem::IndexEntry).at(position);
                        self.found(finding.of(offsets.0, offsets.1));
                    }
                }
                Step::Bad {
                    position,
                    base,
                    end,
                    reason,
                } => {
                    let problem = Problem::Batch {
                        reason: reason.to_string(),
                    };
                    damaged.push(position);
                    let end_of_damage = end.unwrap_or(header.end);
                    self.found(
                        Finding::new(path, problem)
                            .at(position)
                            .of(base, end_of_damage),
                    );
                    if end.is_none() {
                        break;
                    }
                }
                Step::End => break,
            }
        }
        if limit == header.bytes {
            if damaged.is_empty() {
                // Compaction may have emptied the end.
                let next = walk.place().1;
                if next > header.end {
                    self.other_end((path, header.bytes), next, header.end);
                }
                let index_path = path.with_extension(paths::INDEX);
                self.at_the_end(&index_path, contents, &compare);
            }
            self.digest(path, (file, contents), &damaged)?;
        }
        Ok(Checked {
            end: header.end,
            is_sealed: true,
            torn: None,
        })
    }

    fn other_end(&mut self, (path, position): (&Path, u64), found: Offset, expected: Offset) {
        let problem = Problem::End { found, expected };
        self.found(Finding::new(path, problem).at(position));
    }

    /// What only all batches that an index file is about can tell.
    fn at_the_end(&mut self, index_path: &Path, contents: &Contents, compare: &Compare<'_>) {
        let header = &contents.header;
        if compare.entries.len() != compare.next_entry {
            self.found(Finding::new(index_path, Problem::IndexEntry));
        }
        let said = (header.min_timestamp, header.max_timestamp);
        if said != compare.times {
            let problem = Problem::IndexTimes {
                found: said,
                expected: compare.times,
            };
            self.found(Finding::new(index_path, problem));
        }
        let mut producers: Vec<_> = compare.producers.iter().collect();
        producers.sort_unstable_by_key(|(id, _)| **id);
        for (id, (found, expected)) in producers {
            if *expected != Offset(-1) && found != expected {
                let problem = Problem::Producer {
                    id: *id,
                    found: *found,
                    expected: *expected,
                };
                self.found(Finding::new(index_path, problem));
            }
        }
    }

    /// Chunk by chunk; one is named only if no batch in it has shown the damage.
    fn digest(
        &mut self,
        path: &Path,
        (file, contents): (&dyn File, &Contents),
        damaged: &[u64],
    ) -> io::Result<()> {
        let header = &contents.header;
        let chunks = contents.digest.chunks().unwrap_or_default();
        for (number, digest) in chunks.into_iter().enumerate() {
            let start = number as u64 * CHUNK_BYTES;
            let end = header.bytes.min(start + CHUNK_BYTES);
            if chunk_is(file, header.bytes, (number, digest))? {
                continue;
            }
            // A batch may begin before the chunk and be damaged in it.
            let told = damaged.iter().any(|position| {
                let batch_end = contents.index.next_after(*position).unwrap_or(header.bytes);
                *position < end && batch_end.max(position + 1) > start
            });
            if !told {
                let bytes = end - start;
                self.found(Finding::new(path, Problem::Digest { bytes }).at(start));
            }
        }
        Ok(())
    }

    /// A segment of which only the batches themselves tell where it ends.
    fn unindexed(
        &mut self,
        path: &Path,
        file: &Arc<dyn File>,
        files: &SegmentFiles,
        synced: Option<SyncedPoint>,
    ) -> io::Result<Checked> {
        let limit = file.len()?;
        let synced_bytes = synced.map_or(0, |point| point.position);
        if limit < synced_bytes {
            let problem = Problem::Short {
                bytes: limit,
                expected: synced_bytes,
            };
            self.found(Finding::new(path, problem).at(limit));
        }
        let expected = Expected {
            base: files.base,
            rule: None,
            limit,
            entries: &[],
        };
        let mut walk = Walk::new(&**file, expected);
        let ends = |end, torn| Checked {
            end,
            is_sealed: false,
            torn,
        };
        loop {
            match walk.step()? {
                Step::Batch { header, .. } => self.good(&header),
                Step::Bad {
                    position,
                    base,
                    end,
                    reason,
                } => {
                    if position >= synced_bytes {
                        let torn = Torn {
                            position,
                            bytes: limit - position,
                            reason: reason.to_string(),
                        };
                        return Ok(ends(base, Some(torn)));
                    }
                    let problem = Problem::Batch {
                        reason: reason.to_string(),
                    };
                    let synced_end = synced.map_or(base, |point| point.offset);
                    let finding = Finding::new(path, problem).at(position);
                    self.found(finding.of(base, end.unwrap_or(synced_end.max(base.next()))));
                    if end.is_none() {
                        return Ok(ends(synced_end, None));
                    }
                }
                Step::End => return Ok(ends(walk.place().1, None)),
            }
        }
    }

    /// The snapshot of an active segment: it must be right for as much as it is about.
    fn snapshot(&mut self, path: &Path, file: &dyn File, files: &SegmentFiles) {
        let Some(contents) = self.index(path, files) else {
            return;
        };
        let header = &contents.header;
        let len = file.len().unwrap_or_default();
        if len < header.bytes {
            let problem = Problem::Short {
                bytes: len,
                expected: header.bytes,
            };
            let log = path.with_extension(paths::LOG);
            self.found(Finding::new(log, problem).at(len));
        }
        let mut compare = Compare::new(&contents);
        let expected = Expected {
            base: header.base,
            rule: Some(BatchRule::new(header.epoch, header.compacted_from)),
            limit: len.min(header.bytes),
            entries: contents.index.entries(),
        };
        let mut walk = Walk::new(file, expected);
        // Batches are counted, and damage in them is named, by the walk of the whole segment.
        loop {
            match walk.step() {
                Ok(Step::Batch { header, position }) => {
                    if !compare.batch(&header, position) {
                        let finding = Finding::new(path, Problem::IndexEntry).at(position);
                        self.found(finding.of(header.base_offset, header.next_offset()));
                    }
                }
                Ok(Step::End) if len >= header.bytes => {
                    let next = walk.place().1;
                    if next != header.end {
                        self.other_end((path, header.bytes), next, header.end);
                    }
                    self.at_the_end(path, &contents, &compare);
                    return;
                }
                // The bytes go on, so it is the snapshot that ends in the wrong place.
                Ok(Step::Bad {
                    position,
                    reason: Bad::Short,
                    ..
                }) if len > header.bytes => {
                    let reason = "it ends within a batch".to_owned();
                    self.found(Finding::new(path, Problem::IndexFile { reason }).at(position));
                    return;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn good(&mut self, header: &BatchHeader) {
        self.summary.batches += 1;
        self.summary.records += u64::try_from(header.record_count).unwrap_or_default();
        self.summary.bytes += header.size_bytes() as u64;
    }
}

/// The offsets of the damaged batches of a sealed segment that lie in these bytes, from the first
/// to after the last; `None` if no batch there shows damage.
pub(crate) fn damaged_batches(
    file: &dyn File,
    contents: &Contents,
    bytes: Range<u64>,
) -> Option<(Offset, Offset)> {
    let header = &contents.header;
    let expected = Expected {
        base: header.base,
        rule: Some(BatchRule::new(header.epoch, header.compacted_from)),
        limit: file.len().ok()?.min(header.bytes),
        entries: contents.index.entries(),
    };
    let (position, base) = contents.index.by_position(bytes.start);
    let mut walk = Walk::from(file, expected, (position, base));
    let mut damaged: Option<(Offset, Offset)> = None;
    while walk.place().0 < bytes.end {
        match walk.step().ok()? {
            // A batch may begin before these bytes and be damaged in them.
            Step::Bad { base, end, .. } => {
                let first = damaged.map_or(base, |(first, _)| first);
                let end_of_damage = end.unwrap_or(header.end);
                damaged = Some((first, end_of_damage));
                if end.is_none() {
                    break;
                }
            }
            Step::Batch { .. } => {}
            Step::End => break,
        }
    }
    damaged
}

/// The path of a segment's file of batches.
pub(super) fn log_path(dir: &Path, files: &SegmentFiles) -> PathBuf {
    paths::segment(dir, files.base, files.id)
}
