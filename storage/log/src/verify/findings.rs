//! What a check has found, and what it has looked at.

use std::{fmt, io, path::PathBuf};

use mainstem_record::{Offset, ProducerId, SegmentId};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// As it must be after a crash, or on a node that runs: the next start deals with it.
    Note,
    /// The file system would not let us look.
    Unreadable,
    /// Something that was stored safely is not as it was stored.
    Damage,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the directory.
    pub path: PathBuf,
    /// Where in the file, in bytes: the batch, entry or chunk begins there.
    pub position: Option<u64>,
    /// The offsets it is about: the first, and the one after the last. For a batch the first is
    /// its base offset.
    pub offsets: Option<(Offset, Offset)>,
    /// What it is.
    pub problem: Problem,
}

/// What can be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A batch is not as it was written.
    #[error("damaged batch: {reason}")]
    Batch {
        /// How that shows.
        reason: String,
    },
    /// A file has fewer bytes than were stored safely.
    #[error("the file has {bytes} bytes of {expected} that were stored")]
    Short {
        /// How many there are.
        bytes: u64,
        /// How many there must be.
        expected: u64,
    },
    /// The batches of a sealed segment do not end where it was sealed.
    #[error("the batches end at offset {found}, the segment was sealed at {expected}")]
    End {
        /// Where the batches end.
        found: Offset,
        /// The sealed end.
        expected: Offset,
    },
    /// The bytes of a segment, or of one chunk of it, have another digest than when it was sealed.
    #[error("the digest of {bytes} bytes is not the one taken at the seal")]
    Digest {
        /// How many bytes, from the position on.
        bytes: u64,
    },
    /// An index file cannot be used.
    #[error("unusable index file: {reason}")]
    IndexFile {
        /// Why.
        reason: String,
    },
    /// An entry of the index does not say what the batches say.
    #[error("an index entry that the batches do not bear out")]
    IndexEntry,
    /// The header of an index file does not say what the batches say.
    #[error("the index file says timestamps {found:?}, the batches {expected:?}")]
    IndexTimes {
        /// Lowest and highest timestamp as the file says.
        found: (i64, i64),
        /// As the batches say.
        expected: (i64, i64),
    },
    /// The newest batch of a producer is not the one that the index file remembers.
    #[error("producer {id}: remembered up to offset {found}, the batches say {expected}")]
    Producer {
        /// The producer.
        id: ProducerId,
        /// The last offset in the index file.
        found: Offset,
        /// The last offset in the batches.
        expected: Offset,
    },
    /// A file with batches is not there though others say that it must be.
    #[error("the segment file is missing")]
    MissingSegment,
    /// A segment that was synced is not there, and no later one either.
    #[error("the file of segment {segment}, synced up to offset {end}, is missing")]
    MissingSynced {
        /// The segment.
        segment: SegmentId,
        /// The offset after the last one that was synced.
        end: Offset,
    },
    /// The file of synced points cannot be used.
    #[error("the checkpoint is damaged")]
    Checkpoint,
    /// A ring of the journal has lost a record that was on stable storage.
    #[error("{reason}")]
    Journal {
        /// Why.
        reason: String,
    },
    /// The format file cannot be used, or tells another format.
    #[error("{reason}")]
    Format {
        /// Why.
        reason: String,
    },
    /// A read failed.
    #[error("cannot be read: {reason}")]
    Io {
        /// What the operating system said.
        reason: String,
    },
    /// Bytes above the synced point that are no whole batch: the next start cuts them off.
    #[error("torn tail of {bytes} bytes above the synced point")]
    TornTail {
        /// How many bytes.
        bytes: u64,
    },
    /// Bytes that only the journal has: the next start writes them into the file.
    #[error("the journal holds {bytes} bytes more")]
    Journalled {
        /// How many.
        bytes: u64,
    },
    /// Bytes above the sealed end: they were never acknowledged.
    #[error("{bytes} bytes above the sealed end")]
    Beyond {
        /// How many.
        bytes: u64,
    },
    /// A segment that is not the last one has no index file: the next start makes it again if its
    /// batches are whole.
    #[error("no index file; the next start makes it again if the batches are whole")]
    NoIndex,
    /// What an interrupted operation has left: the next start removes it.
    #[error("left by an interrupted operation")]
    Leftover,
    /// A file that is none of the log's.
    #[error("not a file of the log")]
    UnknownFile,
    /// It was there when the directory was listed and is not any more: the node is running.
    #[error("gone since the directory was listed")]
    Vanished,
    /// A segment whose offsets another one has, too: replaced by compaction, or not known to the
    /// metadata.
    #[error("its offsets are in segment {other}, too")]
    Overlap {
        /// The other one.
        other: SegmentId,
    },
    /// Offsets between two segments that no segment has.
    #[error("no segment has these offsets, between {before} and {after}")]
    Hole {
        /// The name of the file before them.
        before: String,
        /// The name of the file behind them.
        after: String,
    },
}

/// What was looked at, and how much was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Directories of partitions.
    pub partitions: u64,
    /// Segment files.
    pub segments: u64,
    /// Those of them that are sealed.
    pub sealed: u64,
    /// Good batches.
    pub batches: u64,
    /// Records in them, as their headers say.
    pub records: u64,
    /// Bytes of good batches.
    pub bytes: u64,
    /// Findings of each severity.
    pub notes: u64,
    /// What could not be read.
    pub unreadable: u64,
    /// What is damaged.
    pub damage: u64,
}

// === impl Problem ===

impl Problem {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Batch { .. }
            | Self::Short { .. }
            | Self::End { .. }
            | Self::Digest { .. }
            | Self::IndexFile { .. }
            | Self::IndexEntry
            | Self::IndexTimes { .. }
            | Self::Producer { .. }
            | Self::MissingSegment
            | Self::MissingSynced { .. }
            | Self::Hole { .. }
            | Self::Checkpoint
            | Self::Journal { .. }
            | Self::Format { .. } => Severity::Damage,
            Self::Io { .. } => Severity::Unreadable,
            Self::TornTail { .. }
            | Self::Journalled { .. }
            | Self::Beyond { .. }
            | Self::NoIndex
            | Self::Leftover
            | Self::UnknownFile
            | Self::Vanished
            | Self::Overlap { .. } => Severity::Note,
        }
    }

    pub(super) fn io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Vanished,
            _ => Self::Io {
                reason: error.to_string(),
            },
        }
    }
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Unreadable => "unreadable",
            Self::Damage => "damage",
        })
    }
}

// === impl Finding ===

impl Finding {
    pub(super) fn new(path: impl Into<PathBuf>, problem: Problem) -> Self {
        Self {
            path: path.into(),
            position: None,
            offsets: None,
            problem,
        }
    }

    pub(super) fn at(mut self, position: u64) -> Self {
        self.position = Some(position);
        self
    }

    pub(super) fn of(mut self, base: Offset, end: Offset) -> Self {
        self.offsets = Some((base, end));
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem.severity(), self.path.display())?;
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        if let Some((base, end)) = self.offsets {
            write!(f, " (offsets {base} to {end})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

// === impl Summary ===

impl Summary {
    pub(super) fn count(&mut self, severity: Severity) {
        match severity {
            Severity::Note => self.notes += 1,
            Severity::Unreadable => self.unreadable += 1,
            Severity::Damage => self.damage += 1,
        }
    }
}
