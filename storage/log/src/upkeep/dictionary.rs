//! Making the dictionaries of sealed segments.

use std::{io, sync::Arc};

use mainstem_env::{File, Fs, OpenMode};
use mainstem_record::{BatchHeader, records};

use super::{DICTIONARY_BYTES_PER_SECOND, pause};
use crate::{
    files::delete_file,
    index_file::{self, INDEX_FILE_BYTES_MAX, Labelled, LabelsBuilder},
    labels::{Label, Labeller},
    log::Log,
    partition::{Partition, Tools},
    paths,
    scan::{BatchReader, WINDOW_BYTES},
    segment::Segment,
};

/// Bytes that are read before the task pauses.
const SLICE_BYTES: u64 = 4 << 20;

/// A dictionary that is being made.
struct Making {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    labeller: Box<dyn Labeller>,
    builder: LabelsBuilder,
    position: u64,
    bytes: u64,
    decompressed_bytes_max: usize,
}

/// How far it is.
enum Progress {
    More(Making),
    /// The section, or that there can be none.
    Done(Option<Vec<u8>>),
    /// It was given up: a batch is damaged, which its readers will meet.
    GivenUp,
}

impl Log {
    /// Makes the dictionaries of all sealed segments that have none and are to have one; returns
    /// how many were made. The log does so by itself after [`Log::set_labels`].
    pub async fn make_dictionaries(&self) -> usize {
        let tools = self.tools();
        let Some(labels) = self.labels() else {
            return 0;
        };
        let mut made = 0;
        for partition in self.partitions() {
            for segment in unlabelled(&partition, tools) {
                if !self.is_open() {
                    return made;
                }
                let Some(labeller) = labels.labeller(partition.id()) else {
                    break;
                };
                made += usize::from(make(tools, segment, labeller).await);
            }
        }
        made
    }
}

/// The sealed segments of a partition that nobody has tried to make a dictionary of.
fn unlabelled(partition: &Partition, tools: &Tools) -> Vec<Arc<Segment>> {
    let bytes_min = tools.options.dictionary_segment_bytes_min;
    let chain = partition.shared().chain.read();
    let without = chain.iter().filter(|segment| {
        let state = segment.state.read();
        let is_here = state.end.is_some() && segment.held;
        is_here && state.bytes >= bytes_min && segment.labelled() == Labelled::NotYet
    });
    without.cloned().collect()
}

/// Whether a dictionary was made. A failure is logged and tried again later: it costs reads, no
/// records.
async fn make(tools: &Tools, segment: Arc<Segment>, labeller: Box<dyn Labeller>) -> bool {
    let (fs, path) = (tools.env.fs.clone(), segment.path.clone());
    let decompressed_bytes_max = tools.options.decompressed_bytes_max;
    let opened = tools
        .env
        .blocking("log-labels", {
            let segment = segment.clone();
            move || {
                let file = fs.open(&segment.path, OpenMode::Read)?;
                let bytes = segment.state.read().bytes;
                Ok(Making {
                    segment,
                    file,
                    labeller,
                    builder: LabelsBuilder::default(),
                    position: 0,
                    bytes,
                    decompressed_bytes_max,
                })
            }
        })
        .await;
    let mut making = match opened {
        Some(Ok(making)) => making,
        Some(Err(error)) => return failed(&error, &segment),
        None => return false,
    };
    loop {
        let before = making.position;
        let progress = tools.env.blocking("log-labels", || making.slice()).await;
        making = match progress {
            Some(Ok(Progress::More(making))) => making,
            Some(Ok(Progress::GivenUp)) => {
                tracing::warn!(path = %path.display(), "no dictionary of a damaged segment");
                segment.set_labelled(Labelled::Never);
                return false;
            }
            Some(Ok(Progress::Done(section))) => return store(tools, segment, section).await,
            Some(Err(error)) => return failed(&error, &segment),
            None => return false,
        };
        let read = making.position - before;
        tools
            .env
            .sleep(pause(read, DICTIONARY_BYTES_PER_SECOND))
            .await;
    }
}

fn failed(error: &io::Error, segment: &Segment) -> bool {
    if error.kind() != io::ErrorKind::NotFound {
        tracing::warn!(%error, path = %segment.path.display(), "no dictionary was made");
    }
    false
}

/// Whether there is a dictionary now; that there can be none is noted in the file, too.
async fn store(tools: &Tools, segment: Arc<Segment>, section: Option<Vec<u8>>) -> bool {
    let files = tools.files.clone();
    let work = move || replace_index(&*files.fs, &segment, section.as_deref());
    match tools.env.blocking("log-labels", work).await {
        Some(Ok(labelled)) => labelled == Labelled::Yes,
        Some(Err(error)) => {
            tracing::warn!(%error, "a dictionary was not stored");
            false
        }
        None => false,
    }
}

/// Replaces the index file by one with the dictionary.
fn replace_index(fs: &dyn Fs, segment: &Segment, section: Option<&[u8]>) -> io::Result<Labelled> {
    let path = segment.path.with_extension(paths::INDEX);
    let before = fs.read(&path, INDEX_FILE_BYTES_MAX)?;
    let after = index_file::with_labels(&before, section).map_err(io::Error::other)?;
    if after.len() > INDEX_FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs.write_atomic(&path, &after)?;
    // Whoever removes the segment begins with its batches: either they are still there, and the new
    // index file will be removed with the rest, or it must not stay.
    if !fs.exists(&segment.path)? {
        delete_file(fs, &path)?;
    }
    let labelled = match section {
        Some(_) => Labelled::Yes,
        None => Labelled::Never,
    };
    segment.set_labelled(labelled);
    Ok(labelled)
}

// === impl Making ===

impl Making {
    fn slice(mut self) -> io::Result<Progress> {
        let file = self.file.clone();
        let mut reader = BatchReader::new(&*file, self.bytes, WINDOW_BYTES);
        let until = self.position.saturating_add(SLICE_BYTES);
        while self.position < self.bytes.min(until) {
            if self.segment.is_dropped() {
                return Ok(Progress::GivenUp);
            }
            let Ok(header) = reader.header(self.position)? else {
                return Ok(Progress::GivenUp);
            };
            let Ok(batch) = reader.batch(self.position, &header)? else {
                return Ok(Progress::GivenUp);
            };
            if !self.add(&header, batch) {
                return Ok(Progress::Done(None));
            }
            self.position += header.size_bytes() as u64;
        }
        if self.position < self.bytes {
            return Ok(Progress::More(self));
        }
        Ok(Progress::Done(self.builder.finish()))
    }

    /// Whether there can still be a dictionary.
    fn add(&mut self, header: &BatchHeader, batch: &[u8]) -> bool {
        self.builder.begin_batch();
        if header.attributes.is_control() {
            return true;
        }
        let Ok(position) = u32::try_from(self.position) else {
            return false;
        };
        let Ok(records) = records(batch, self.decompressed_bytes_max) else {
            // Readers shall meet it, and count it, as ever.
            return self.builder.add(position, None).is_ok();
        };
        let mut label = Vec::new();
        for record in records.iter() {
            let known = match record {
                Ok(record) => {
                    label.clear();
                    self.labeller.label(header, &record, &mut label) == Label::Known
                }
                Err(_) => false,
            };
            let added = self.builder.add(position, known.then_some(&label));
            if added.is_err() {
                return false;
            }
        }
        true
    }
}
