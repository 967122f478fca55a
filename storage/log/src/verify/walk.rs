//! Walking the batches of a file that may be damaged, and going on behind the damage.

use std::io;

use mainstem_env::File;
use mainstem_record::{BatchHeader, Offset};

use crate::{
    index::Entry,
    scan::{Bad, BatchReader, BatchRule, WINDOW_BYTES},
};

/// What a walk expects.
pub(super) struct Expected<'a> {
    pub(super) base: Offset,
    /// Which batches belong here; if it is not known, those with the epoch of the first one.
    pub(super) rule: Option<BatchRule>,
    /// Where the batches end, in bytes.
    pub(super) limit: u64,
    /// Where batches must begin, in order: what is behind damage is found by it.
    pub(super) entries: &'a [Entry],
}

/// Walks a file.
pub(super) struct Walk<'a> {
    expected: Expected<'a>,
    reader: BatchReader<'a>,
    position: u64,
    next: Offset,
    /// The first of the entries that lie behind the position.
    entry: usize,
}

/// One step of a walk.
pub(super) enum Step {
    /// A good batch; its bytes are [`Walk::bytes`].
    Batch { header: BatchHeader, position: u64 },
    /// A bad one, and where the walk goes on: at `end`, `None` if nowhere.
    Bad {
        position: u64,
        base: Offset,
        end: Option<Offset>,
        reason: Bad,
    },
    /// There is nothing more.
    End,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a dyn File, expected: Expected<'a>) -> Self {
        let base = expected.base;
        Self::from(file, expected, (0, base))
    }

    /// Begins at a batch whose position and offset are known.
    pub(super) fn from(
        file: &'a dyn File,
        expected: Expected<'a>,
        (position, next): (u64, Offset),
    ) -> Self {
        let mut walk = Self {
            reader: BatchReader::new(file, expected.limit, WINDOW_BYTES),
            expected,
            position,
            next,
            entry: 0,
        };
        walk.go_to(position, next);
        walk
    }

    /// Where the next batch is looked for, and its offset.
    pub(super) fn place(&self) -> (u64, Offset) {
        (self.position, self.next)
    }

    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.position >= self.expected.limit {
            return Ok(Step::End);
        }
        let position = self.position;
        let header = self.reader.header(position)?;
        let checked = match header {
            Ok(header) => match self.belongs(&header) {
                Ok(()) => match self.reader.batch(position, &header)? {
                    Ok(_) => Ok(header),
                    Err(bad) => Err((Some(header), bad)),
                },
                Err(bad) => Err((None, bad)),
            },
            Err(bad) => Err((None, bad)),
        };
        match checked {
            Ok(header) => {
                let rule = BatchRule::new(header.leader_epoch, None);
                self.expected.rule.get_or_insert(rule);
                self.go_to(position + header.size_bytes() as u64, header.next_offset());
                Ok(Step::Batch { header, position })
            }
            Err((header, reason)) => {
                let base = self.next;
                let end = match self.resume(header.as_ref())? {
                    Some((at, next)) => {
                        self.go_to(at, next);
                        Some(next)
                    }
                    None => None,
                };
                Ok(Step::Bad {
                    position,
                    base,
                    end,
                    reason,
                })
            }
        }
    }

    /// The bytes of a batch that a step has given.
    pub(super) fn bytes(&mut self, position: u64, header: &BatchHeader) -> io::Result<&[u8]> {
        match self.reader.batch(position, header)? {
            Ok(bytes) => Ok(bytes),
            // It was good a moment ago.
            Err(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn go_to(&mut self, position: u64, next: Offset) {
        self.position = position;
        self.next = next;
        let entries = self.expected.entries;
        while entries
            .get(self.entry)
            .is_some_and(|entry| u64::from(entry.position) <= position)
        {
            self.entry += 1;
        }
    }

    /// Whether a header fits the place where it lies.
    fn belongs(&self, header: &BatchHeader) -> Result<(), Bad> {
        let rule = self.expected.rule;
        rule.unwrap_or(BatchRule::new(header.leader_epoch, None))
            .check(header, self.next)?;
        let end = self.position.saturating_add(header.size_bytes() as u64);
        let entry = self.expected.entries.get(self.entry);
        let reaches_into = |entry: &Entry| {
            let next = self.expected.base.plus(i64::from(entry.offset));
            u64::from(entry.position) < end || next < header.next_offset()
        };
        if entry.is_some_and(reaches_into) {
            return Err(Bad::Length);
        }
        Ok(())
    }

    /// Where to go on after a bad batch: behind it if its own length leads to a batch that
    /// follows, else at the next index entry.
    fn resume(&mut self, header: Option<&BatchHeader>) -> io::Result<Option<(u64, Offset)>> {
        if let Some(header) = header {
            let at = self.position + header.size_bytes() as u64;
            // The delta may be what is damaged.
            let next = header
                .base_offset
                .plus(i64::from(header.last_offset_delta.max(0)) + 1);
            if at == self.expected.limit {
                return Ok(Some((at, next)));
            }
            if let Ok(after) = self.reader.header(at)?
                && after.base_offset == next
                && after.leader_epoch == header.leader_epoch
            {
                return Ok(Some((at, next)));
            }
        }
        let entry = self.expected.entries.get(self.entry);
        Ok(entry.map(|entry| {
            let next = self.expected.base.plus(i64::from(entry.offset));
            (u64::from(entry.position), next)
        }))
    }
}
