//! Showing what the files of a log hold, item by item.

mod rings;

use std::{
    fmt::{self, Write as _},
    io,
    path::Path,
};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{BatchHeader, PartitionId, RecordView, records};

use super::{
    Finding, Problem,
    layout::{self, SegmentFiles},
    open_dir, segment,
    walk::{Expected, Step, Walk},
};
use crate::{
    checkpoint,
    digest::CHUNK_BYTES,
    error::LogError,
    index_file::{self, Contents, Labelled},
    paths,
    scan::BatchRule,
};

/// Characters of a key that are shown.
const KEY_CHARS_MAX: usize = 256;

/// What to show.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// Only this partition.
    pub partition: Option<PartitionId>,
    /// Every batch, and every record of the journal.
    pub batches: bool,
    /// Every record of every batch.
    pub records: bool,
    /// Every entry of the sections of index files.
    pub index: bool,
    /// The most bytes that one batch may have when it is decompressed.
    pub decompressed_bytes_max: usize,
}

/// One thing that is shown: a line of text, or an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is: `partition`, `segment`, `index`, `batch`, …
    pub kind: &'static str,
    /// Its fields, in the order in which they are shown.
    pub fields: Vec<(&'static str, Value)>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(String),
    /// There is none.
    Null,
}

/// Shows what is in the log in `dir` (see [`super::verify`]) until `on_item` fails.
///
/// # Errors
/// As [`super::verify`], and what `on_item` says, as [`LogError::Io`].
pub fn dump(
    fs: &dyn Fs,
    dir: &Path,
    options: &DumpOptions,
    on_item: &mut dyn FnMut(&Item) -> io::Result<()>,
) -> Result<(), LogError> {
    let dir = open_dir(fs, dir)?;
    let mut dumper = Dumper {
        fs,
        options,
        on_item,
    };
    dumper.run(&dir)
}

struct Dumper<'a> {
    fs: &'a dyn Fs,
    options: &'a DumpOptions,
    on_item: &'a mut dyn FnMut(&Item) -> io::Result<()>,
}

// === impl Dumper ===

impl Dumper<'_> {
    fn run(&mut self, dir: &Path) -> Result<(), LogError> {
        let shown = LogError::io(dir);
        let item = Item::new("log").text("dir", dir.display()).flag(
            "clean",
            self.fs.exists(&paths::marker(dir)).unwrap_or(false),
        );
        self.show(&item).map_err(shown)?;
        self.checkpoint(dir).map_err(LogError::io(dir))?;
        self.journal(dir).map_err(LogError::io(dir))?;
        let partitions = layout::partitions(self.fs, dir, |_| {})
            .map_err(LogError::io(paths::partitions(dir)))?;
        for partition in partitions {
            if self.options.partition.is_none_or(|id| id == partition.id) {
                self.partition(&partition)
                    .map_err(LogError::io(&partition.path))?;
            }
        }
        Ok(())
    }

    fn show(&mut self, item: &Item) -> io::Result<()> {
        (self.on_item)(item)
    }

    /// What cannot be shown is shown as that, and the rest goes on.
    fn damage(&mut self, finding: &Finding) -> io::Result<()> {
        let mut item = Item::new("damage").text("file", finding.path.display());
        if let Some(position) = finding.position {
            item = item.number("position", as_i64(position));
        }
        self.show(&item.text("problem", &finding.problem))
    }

    fn checkpoint(&mut self, dir: &Path) -> io::Result<()> {
        let path = paths::checkpoint(dir);
        let points = match self.fs.read(&path, checkpoint::FILE_BYTES_MAX) {
            Ok(bytes) => checkpoint::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.damage(&Finding::new(path, Problem::io(&error))),
        };
        let Some(points) = points else {
            return self.damage(&Finding::new(path, Problem::Checkpoint));
        };
        let mut points: Vec<_> = points.into_iter().collect();
        points.sort_unstable_by_key(|(id, _)| *id);
        for (id, point) in points {
            if self.options.partition.is_none_or(|only| only == id) {
                let item = Item::new("synced")
                    .partition(id)
                    .text("segment", point.segment)
                    .number("offset", point.offset.0)
                    .number("position", as_i64(point.position));
                self.show(&item)?;
            }
        }
        Ok(())
    }

    fn partition(&mut self, partition: &layout::PartitionDir) -> io::Result<()> {
        self.show(&Item::new("partition").partition(partition.id))?;
        let listing = match layout::list(self.fs, &partition.path) {
            Ok(listing) => listing,
            Err(error) => {
                return self.damage(&Finding::new(&partition.path, Problem::io(&error)));
            }
        };
        for files in &listing.segments {
            self.segment(&partition.path, files)?;
        }
        Ok(())
    }

    fn segment(&mut self, dir: &Path, files: &SegmentFiles) -> io::Result<()> {
        let path = paths::segment(dir, files.base, files.id);
        let opened = self
            .fs
            .open(&path, OpenMode::Read)
            .and_then(|file| Ok((file.len()?, file)));
        let (len, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.damage(&Finding::new(path, Problem::io(&error))),
        };
        let item = Item::new("segment")
            .text("file", path.display())
            .number("base", files.base.0)
            .text("id", files.id)
            .flag("sealed", files.index)
            .number("file_bytes", as_i64(len));
        self.show(&item)?;
        let mut sealed = None;
        for (there, extension) in [
            (files.index, paths::INDEX),
            (files.snapshot, paths::SNAPSHOT),
        ] {
            if !there {
                continue;
            }
            let index_path = path.with_extension(extension);
            match segment::index_file(self.fs, &index_path) {
                Ok(contents) => {
                    self.index(&index_path, &contents)?;
                    if extension == paths::INDEX {
                        sealed = Some(contents);
                    }
                }
                Err(problem) => self.damage(&Finding::new(index_path, problem))?,
            }
        }
        if self.options.batches || self.options.records {
            let limit = sealed.as_ref().map_or(len, |c| len.min(c.header.bytes));
            self.batches(&path, (&*file, limit), files, sealed.as_ref())?;
        }
        Ok(())
    }

    fn index(&mut self, path: &Path, contents: &Contents) -> io::Result<()> {
        let header = &contents.header;
        let entries = contents.index.entries();
        let chunks = contents.digest.chunks().unwrap_or_default();
        let mut producers: Vec<_> = contents.dedupe.producers.iter().collect();
        producers.sort_unstable_by_key(|(id, _)| **id);
        let item = Item::new("index")
            .text("file", path.display())
            .number("base", header.base.0)
            .number("end", header.end.0)
            .number("epoch", i64::from(header.epoch.0))
            .maybe(
                "compacted_from",
                header.compacted_from.map(|epoch| i64::from(epoch.0)),
            )
            .number("bytes", as_i64(header.bytes))
            .number("min_timestamp", header.min_timestamp)
            .number("max_timestamp", header.max_timestamp)
            .number("created", header.created_wall_ms)
            .text("digest", format_args!("{:032x}", header.digest))
            .text("dictionary", format_args!("{:?}", header.labelled))
            .number("entries", as_i64(entries.len() as u64))
            .number("chunks", as_i64(chunks.len() as u64))
            .number("producers", as_i64(producers.len() as u64))
            .number("qos2_sessions", as_i64(contents.dedupe.qos2.len() as u64));
        self.show(&item)?;
        for (id, producer) in producers {
            let last = producer.marks().last();
            let item = Item::new("producer")
                .number("id", id.0)
                .number("epoch", i64::from(producer.epoch.0))
                .maybe("last_sequence", last.map(|mark| i64::from(mark.last.0)))
                .maybe("last_offset", last.map(|mark| mark.last_offset.0))
                .number("last_seen", producer.last_seen_ms);
            self.show(&item)?;
        }
        if !self.options.index {
            return Ok(());
        }
        for entry in entries {
            let item = Item::new("entry")
                .number("offset", header.base.plus(i64::from(entry.offset)).0)
                .number("position", i64::from(entry.position))
                .number("max_timestamp_before", entry.max_before);
            self.show(&item)?;
        }
        self.labels(path, contents)?;
        for (number, digest) in chunks.iter().enumerate() {
            let item = Item::new("chunk")
                .number("position", as_i64(number as u64 * CHUNK_BYTES))
                .text("digest", format_args!("{digest:032x}"));
            self.show(&item)?;
        }
        Ok(())
    }

    fn labels(&mut self, path: &Path, contents: &Contents) -> io::Result<()> {
        if contents.header.labelled != Labelled::Yes {
            return Ok(());
        }
        let read = self
            .fs
            .open(path, OpenMode::Read)
            .and_then(|file| index_file::read_labels(&*file));
        let dictionary = match read {
            Ok(Ok(Some(dictionary))) => dictionary,
            Ok(_) => {
                let reason = "unusable dictionary".to_owned();
                return self.damage(&Finding::new(path, Problem::IndexFile { reason }));
            }
            Err(error) => return self.damage(&Finding::new(path, Problem::io(&error))),
        };
        let mut shown = Ok(());
        // One that is malformed ends early; `verify` says so.
        let _ = dictionary.list(|label, positions| {
            if shown.is_err() {
                return;
            }
            let item = Item::new("label");
            let item = match label {
                Some(label) => item.text("label", readable(label)),
                None => item.field("label", Value::Null),
            };
            shown = self.show(&item.number("batches", as_i64(positions.len() as u64)));
        });
        shown
    }

    fn batches(
        &mut self,
        path: &Path,
        (file, limit): (&dyn File, u64),
        files: &SegmentFiles,
        sealed: Option<&Contents>,
    ) -> io::Result<()> {
        let expected = Expected {
            base: files.base,
            rule: sealed.map(|contents| {
                let header = &contents.header;
                BatchRule::new(header.epoch, header.compacted_from)
            }),
            limit,
            entries: sealed.map_or(&[], |contents| contents.index.entries()),
        };
        let mut walk = Walk::new(file, expected);
        loop {
            let step = match walk.step() {
                Ok(step) => step,
                Err(error) => return self.damage(&Finding::new(path, Problem::io(&error))),
            };
            match step {
                Step::Batch { header, position } => {
                    self.show(&batch_item(&header, position))?;
                    if self.options.records {
                        let bytes = walk.bytes(position, &header)?.to_vec();
                        self.records(path, position, &bytes)?;
                    }
                }
                Step::Bad {
                    position,
                    end,
                    reason,
                    ..
                } => {
                    let reason = reason.to_string();
                    self.damage(&Finding::new(path, Problem::Batch { reason }).at(position))?;
                    if end.is_none() {
                        return Ok(());
                    }
                }
                Step::End => return Ok(()),
            }
        }
    }

    fn records(&mut self, path: &Path, position: u64, batch: &[u8]) -> io::Result<()> {
        let bad = |reason: String| Finding::new(path, Problem::Batch { reason }).at(position);
        let records = match records(batch, self.options.decompressed_bytes_max) {
            Ok(records) => records,
            Err(error) => return self.damage(&bad(error.to_string())),
        };
        for record in records.iter() {
            match record {
                Ok(record) => self.show(&record_item(&record))?,
                Err(error) => return self.damage(&bad(error.to_string())),
            }
        }
        Ok(())
    }
}

fn batch_item(header: &BatchHeader, position: u64) -> Item {
    let codec = match header.attributes.codec() {
        Ok(codec) => format!("{codec:?}").to_lowercase(),
        Err(error) => error.to_string(),
    };
    let mut item = Item::new("batch")
        .number("position", as_i64(position))
        .number("base", header.base_offset.0)
        .number("last", header.last_offset().0)
        .number("bytes", as_i64(header.size_bytes() as u64))
        .number("records", i64::from(header.record_count))
        .number("epoch", i64::from(header.leader_epoch.0))
        .text("codec", codec)
        .text("attributes", format_args!("{:04x}", header.attributes.0))
        .number("base_timestamp", header.base_timestamp.0)
        .number("max_timestamp", header.max_timestamp.0);
    if header.has_producer() {
        item = item
            .number("producer", header.producer_id.0)
            .number("producer_epoch", i64::from(header.producer_epoch.0))
            .number("sequence", i64::from(header.base_sequence.0));
    }
    item.text("crc", format_args!("{:08x}", header.crc))
}

fn record_item(record: &RecordView<'_>) -> Item {
    let value_bytes = record.value.map(|value| as_i64(value.len() as u64));
    let item = Item::new("record")
        .number("offset", record.offset.0)
        .number("timestamp", record.timestamp.0)
        .number("attributes", i64::from(record.attributes));
    let item = match record.key {
        Some(key) => item.text("key", readable(key)),
        None => item.field("key", Value::Null),
    };
    let mut names = String::new();
    for (name, _) in record.headers.iter() {
        if !names.is_empty() {
            names.push(',');
        }
        names.push_str(&readable(name));
    }
    item.maybe("value_bytes", value_bytes)
        .text("headers", names)
}

/// UTF-8 as it is, without control characters; everything else escaped; not longer than
/// [`KEY_CHARS_MAX`].
fn readable(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut shown = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if shown == KEY_CHARS_MAX {
                out.push('…');
                return out;
            }
            shown += 1;
            if character.is_control() || character == '\\' {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            shown += 1;
            // A String takes everything.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

// === impl Item ===

impl Item {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            fields: Vec::new(),
        }
    }

    fn field(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    fn number(self, name: &'static str, value: i64) -> Self {
        self.field(name, Value::Number(value))
    }

    fn maybe(self, name: &'static str, value: Option<i64>) -> Self {
        self.field(name, value.map_or(Value::Null, Value::Number))
    }

    fn flag(self, name: &'static str, value: bool) -> Self {
        self.field(name, Value::Flag(value))
    }

    fn text(self, name: &'static str, value: impl fmt::Display) -> Self {
        self.field(name, Value::Text(value.to_string()))
    }

    fn partition(self, id: PartitionId) -> Self {
        self.text("topic", id.topic)
            .number("index", i64::from(id.index.0))
    }
}

// === impl Value ===

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Text(text) => f.write_str(text),
            Self::Null => f.write_str("-"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}
