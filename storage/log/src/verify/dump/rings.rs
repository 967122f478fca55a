//! The journal: its rings, their records and what these hold of each segment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{File, OpenMode};

use super::{Dumper, Item, as_i64};
use crate::{
    error::{JournalDamage, LogError},
    journal::{Inspected, Record, inspect},
    paths,
    verify::{Finding, Problem},
};

// === impl Dumper ===

impl Dumper<'_> {
    pub(super) fn journal(&mut self, dir: &Path) -> io::Result<()> {
        let journal = paths::journal(dir);
        let entries = match self.fs.read_dir(&journal) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.damage(&Finding::new(journal, Problem::io(&error))),
        };
        let mut rings: Vec<(usize, PathBuf)> = entries
            .into_iter()
            .filter_map(|entry| Some((paths::parse_ring(&entry.name)?, journal.join(&entry.name))))
            .collect();
        rings.sort_unstable();
        for (shard, path) in rings {
            let found = self
                .fs
                .open(&path, OpenMode::Read)
                .map_err(LogError::io(&path))
                .and_then(|file| read(&file, &path));
            match found {
                Ok(ring) => self.ring(shard, &path, &ring)?,
                Err(error) => self.ring_damage(&path, &error)?,
            }
        }
        Ok(())
    }

    fn ring_damage(&mut self, path: &Path, error: &LogError) -> io::Result<()> {
        let problem = match error {
            LogError::Io { source, .. } => Problem::io(source),
            error => Problem::Journal {
                reason: error.to_string(),
            },
        };
        self.damage(&Finding::new(path, problem))
    }

    fn ring(&mut self, shard: usize, path: &Path, ring: &Inspected) -> io::Result<()> {
        let header = &ring.header;
        let newest = ring.records.last().map(|record| record.head);
        let item = Item::new("ring")
            .text("file", path.display())
            .number("shard", as_i64(shard as u64))
            .number("file_bytes", as_i64(header.bytes))
            .flag("open", header.open)
            .number("generation", as_i64(header.generation))
            .text("ring", format_args!("{:032x}", header.ring))
            .number("records", as_i64(ring.records.len() as u64))
            .maybe("trim", newest.map(|head| as_i64(head.trim)))
            .maybe("durable", newest.map(|head| as_i64(head.durable)));
        self.show(&item)?;
        if self.options.batches {
            for record in &ring.records {
                self.ring_record(record)?;
            }
        }
        let Some(hole) = ring.hole else {
            return Ok(());
        };
        let error = LogError::Journal {
            path: path.to_owned(),
            damage: JournalDamage::Record {
                sequence: hole.sequence,
                position: hole.position,
            },
        };
        self.ring_damage(path, &error)
    }

    fn ring_record(&mut self, record: &Record) -> io::Result<()> {
        let only = self.options.partition;
        let pieces = record.pieces.iter();
        let shown: Vec<_> = pieces
            .filter(|piece| only.is_none_or(|id| id == piece.entry.partition))
            .collect();
        if only.is_some() && shown.is_empty() {
            return Ok(());
        }
        let head = &record.head;
        let item = Item::new("journal_record")
            .number("sequence", as_i64(head.sequence))
            .number("position", as_i64(record.position))
            .number("trim", as_i64(head.trim))
            .number("durable", as_i64(head.durable))
            .number("entries", as_i64(head.entries as u64))
            .number("payload_bytes", as_i64(head.payload as u64));
        self.show(&item)?;
        for piece in shown {
            let entry = &piece.entry;
            let item = Item::new("journal_entry")
                .partition(entry.partition)
                .text("segment", entry.segment)
                .number("base", entry.base.0)
                .number("position", as_i64(entry.position))
                .number("bytes", i64::from(entry.length))
                .number("end", entry.end.0)
                .flag("note", entry.length == 0)
                .text("crc", format_args!("{:08x}", entry.crc))
                .flag("good", piece.is_good()?);
            self.show(&item)?;
        }
        Ok(())
    }
}

/// A node that runs may write it meanwhile: only what is missing twice is missing.
fn read(file: &Arc<dyn File>, path: &Path) -> Result<Inspected, LogError> {
    let first = inspect(file, path)?;
    if first.hole.is_none() {
        return Ok(first);
    }
    let mut second = inspect(file, path)?;
    second.hole = second.hole.filter(|hole| first.hole == Some(*hole));
    Ok(second)
}
