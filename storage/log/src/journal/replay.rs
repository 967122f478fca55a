//! Brings what only a ring holds into the segments' files, before any partition is opened.
//!
//! Everything is looked at before anything is changed. Then: segments are written and synced, the
//! checkpoint is written, the rings are emptied. After a crash in between it is all done again.
//!
//! A ring with something that could not be written is not emptied but moved to the trash: its segment
//! may have been dropped, and then nobody needs it, or may be lost, and then this is the only copy.
//!
//! Bytes that are there already are written again: after a failed sync the page cache shows what the
//! disk does not have.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Env, File, Fs, OpenMode};
use mainstem_record::{Offset, PartitionId, SegmentId};
use tokio::sync::oneshot;

use super::{
    file::{self, RingFile},
    record::{ENTRY_BYTES, Entry, HEAD_BYTES},
    scan,
};
use crate::{
    checkpoint::{Checkpoint, SyncedPoint},
    error::{JournalDamage, LogError},
    paths,
    planted::{Bug, planted},
    trash,
};

/// How many segments are written and synced at the same time.
const CONCURRENCY: usize = 8;

/// A payload in a ring.
pub(crate) struct Piece {
    pub(crate) file: Arc<dyn File>,
    /// Where in the ring, in bytes.
    pub(crate) at: u64,
    pub(crate) entry: Entry,
    /// How much of it still counts, in bytes: the segment may have been cut.
    pub(crate) kept: u32,
}

/// Which segment, and where its file is.
pub(crate) type Target = (PartitionId, SegmentId, Offset);

/// What the rings hold.
#[derive(Default)]
pub(crate) struct Plan {
    /// In the order in which they were written.
    pub(crate) pieces: BTreeMap<Target, Vec<Piece>>,
    pub(crate) points: BTreeMap<PartitionId, SyncedPoint>,
    rings: Rings,
}

/// What is to become of the rings.
#[derive(Default)]
struct Rings {
    /// To be emptied.
    open: Vec<RingFile>,
    /// Of shards that are not there any more.
    leftover: Vec<PathBuf>,
}

/// Files of rings, each once.
#[derive(Default)]
struct RingSet(Vec<Arc<dyn File>>);

/// Replays all rings in `dir`, whatever shards they were of, and leaves them empty.
///
/// # Errors
/// [`LogError::Journal`]: a ring is damaged so that it cannot be told what is lost. Nothing was
/// changed. [`LogError::Io`].
pub(crate) async fn replay(
    env: &Env,
    dir: &Path,
    shards: usize,
    checkpoint: &Arc<Checkpoint>,
) -> Result<(), LogError> {
    let (fs, root) = (env.fs.clone(), dir.to_owned());
    let plan = env.blocking("log-replay", move || look(&*fs, &root, shards));
    let mut plan = plan.await.ok_or(LogError::Closed)??;
    if planted(Bug::NoReplay) {
        plan.pieces.clear();
        plan.points.clear();
    }
    if plan.rings.open.is_empty() && plan.rings.leftover.is_empty() {
        return Ok(());
    }
    let started = env.now();
    let segments = plan.pieces.len();
    let payloads: usize = plan.pieces.values().map(Vec::len).sum();
    let unapplied = apply(env, dir, plan.pieces).await?;
    for (id, point) in plan.points {
        checkpoint.raise(id, point);
    }
    let (fs, root) = (env.fs.clone(), dir.to_owned());
    let checkpoint = checkpoint.clone();
    let (rings, wall_ms) = (plan.rings, env.wall_ms());
    let finish = env.blocking("log-replay", move || {
        checkpoint
            .write(&*fs)
            .map_err(LogError::io(paths::checkpoint(&root)))?;
        empty(&*fs, &root, &rings, (&unapplied, wall_ms))
    });
    finish.await.ok_or(LogError::Closed)??;
    if payloads > 0 {
        let seconds = env.now().saturating_sub(started).as_secs_f64();
        tracing::info!(segments, payloads, seconds, "replayed the journal");
    }
    Ok(())
}

// === look ===

fn look(fs: &dyn Fs, dir: &Path, shards: usize) -> Result<Plan, LogError> {
    let mut plan = Plan::default();
    let journal = paths::journal(dir);
    if !fs.exists(&journal).map_err(LogError::io(&journal))? {
        return Ok(plan);
    }
    for entry in fs.read_dir(&journal).map_err(LogError::io(&journal))? {
        let path = journal.join(&entry.name);
        if entry.name.ends_with(paths::TEMPORARY) {
            // One that was being made when the process ended.
            fs.remove_file(&path).map_err(LogError::io(&path))?;
            continue;
        }
        let Some(shard) = paths::parse_ring(&entry.name) else {
            tracing::warn!(path = %path.display(), "a file that is none of the log's");
            continue;
        };
        if shard >= shards {
            plan.rings.leftover.push(path.clone());
        }
        let file = fs
            .open(&path, OpenMode::ReadWrite)
            .map_err(LogError::io(&path))?;
        if let Some(ring) = look_at_ring(file, &path, &mut plan)? {
            plan.rings.open.push(ring);
        }
    }
    Ok(plan)
}

/// Adds what the ring in `file` holds to the plan; gives it back unless it is empty. Changes nothing.
pub(crate) fn look_at_ring(
    file: Arc<dyn File>,
    path: &Path,
    plan: &mut Plan,
) -> Result<Option<RingFile>, LogError> {
    let header = file::read_header(&*file, path)?;
    if !header.open {
        return Ok(None);
    }
    let io = |error| LogError::io(path)(error);
    let hole = |sequence, position| LogError::Journal {
        path: path.to_owned(),
        damage: JournalDamage::Record { sequence, position },
    };
    let found = scan::find(&*file, header.ring, header.bytes).map_err(io)?;
    let live = scan::live(found).map_err(|lost| hole(lost.sequence, lost.position))?;
    let mut points = BTreeMap::new();
    for found in &live.records {
        let record = scan::read(&*file, found.position, &found.head, header.bytes);
        let (head, entries) = record
            .map_err(io)?
            .ok_or_else(|| hole(found.head.sequence, Some(found.position)))?;
        let is_durable = head.sequence <= live.durable;
        for piece in pieces_of(&file, found.position, entries) {
            // Of a record that may be torn, what is torn was never acknowledged.
            if !is_durable && !piece.is_good().map_err(io)? {
                continue;
            }
            let entry = piece.entry;
            let point = SyncedPoint {
                segment: entry.segment,
                offset: entry.end,
                position: entry.position + u64::from(entry.length),
            };
            // The last one counts: what was synced before may have been cut.
            points.insert(entry.partition, point);
            let target = (entry.partition, entry.segment, entry.base);
            if entry.length > 0 {
                plan.pieces.entry(target).or_default().push(piece);
            } else if let Some(pieces) = plan.pieces.get_mut(&target) {
                cut(pieces, entry.position);
            }
        }
    }
    for (id, point) in points {
        let newest = plan.points.entry(id).or_insert(point);
        if newest.offset <= point.offset {
            *newest = point;
        }
    }
    let path = path.to_owned();
    Ok(Some(RingFile { path, file, header }))
}

/// A note has said that the segment ends at `position`, so far: what was written above it was cut.
fn cut(pieces: &mut Vec<Piece>, position: u64) {
    for piece in pieces.iter_mut() {
        let room = position.saturating_sub(piece.entry.position);
        piece.kept = piece.kept.min(u32::try_from(room).unwrap_or(u32::MAX));
    }
    pieces.retain(|piece| piece.kept > 0);
}

/// The payloads of the record at `position`, one for each of its entries.
pub(super) fn pieces_of(
    file: &Arc<dyn File>,
    position: u64,
    entries: Vec<Entry>,
) -> impl Iterator<Item = Piece> {
    let mut at = position + (HEAD_BYTES + entries.len() * ENTRY_BYTES) as u64;
    entries.into_iter().map(move |entry| {
        let piece = Piece {
            file: file.clone(),
            at,
            entry,
            kept: entry.length,
        };
        at += u64::from(entry.length);
        piece
    })
}

impl Piece {
    /// Where in the segment's file the part of it ends that counts.
    pub(crate) fn end(&self) -> u64 {
        self.entry.position + u64::from(self.kept)
    }

    /// Whether the payload is as it was written.
    pub(crate) fn is_good(&self) -> io::Result<bool> {
        let mut payload = vec![0; self.entry.length as usize];
        self.file.read_exact_at(&mut payload, self.at)?;
        Ok(crc32c::crc32c(&payload) == self.entry.crc || planted(Bug::UncheckedJournal))
    }
}

// === apply ===

/// Writes and syncs, several segments at the same time. Gives back the rings with something that could
/// not be written.
async fn apply(
    env: &Env,
    dir: &Path,
    pieces: BTreeMap<Target, Vec<Piece>>,
) -> Result<RingSet, LogError> {
    let per_thread = pieces.len().div_ceil(CONCURRENCY).max(1);
    let mut receivers = Vec::with_capacity(CONCURRENCY);
    let mut pieces = pieces.into_iter().peekable();
    while pieces.peek().is_some() {
        let part: Vec<_> = pieces.by_ref().take(per_thread).collect();
        let (sender, receiver) = oneshot::channel();
        let (fs, dir) = (env.fs.clone(), dir.to_owned());
        let work = move || {
            let mut unapplied = RingSet::default();
            let mut part = part.into_iter();
            let result = part
                .try_for_each(|(target, pieces)| {
                    apply_to(&*fs, &dir, (target, &pieces), &mut unapplied)
                })
                .map(|()| unapplied);
            // The start was given up: nobody wants it.
            let _ = sender.send(result);
        };
        env.tasks.blocking("log-replay", Box::new(work));
        receivers.push(receiver);
    }
    let mut unapplied = RingSet::default();
    for receiver in receivers {
        let RingSet(rings) = receiver.await.map_err(|_| LogError::Closed)??;
        rings.iter().for_each(|ring| unapplied.add(ring));
    }
    Ok(unapplied)
}

fn apply_to(
    fs: &dyn Fs,
    dir: &Path,
    ((id, segment, base), pieces): (Target, &[Piece]),
    unapplied: &mut RingSet,
) -> Result<(), LogError> {
    let path = paths::segment(&paths::partition(dir, id), base, segment);
    let file = match fs.open(&path, OpenMode::ReadWrite) {
        Ok(file) => file,
        // Either it was dropped meanwhile, or recovery will miss it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "the journal has bytes of a segment without a file");
            pieces.iter().for_each(|piece| unapplied.add(&piece.file));
            return Ok(());
        }
        Err(error) => return Err(LogError::io(path)(error)),
    };
    let io = |error| LogError::io(&path)(error);
    let mut length = file.len().map_err(io)?;
    for (index, piece) in pieces.iter().enumerate() {
        let Piece {
            file: ring,
            at,
            entry,
            kept,
        } = piece;
        let mut payload = vec![0; entry.length as usize];
        ring.read_exact_at(&mut payload, *at).map_err(io)?;
        let position = entry.position;
        if position > length {
            // What comes before was synced here, and is gone: recovery will see it, and nothing
            // must be made of it.
            tracing::error!(path = %path.display(), length, position, "a segment was cut");
            let rest = pieces.iter().skip(index);
            rest.for_each(|piece| unapplied.add(&piece.file));
            break;
        }
        if crc32c::crc32c(&payload) != entry.crc && !planted(Bug::UncheckedJournal) {
            // The file may have it, and then nothing is lost. Otherwise recovery will find less
            // than was synced.
            let there = read_if_there(&*file, position, &mut payload).map_err(io)?;
            let lost = !there || crc32c::crc32c(&payload) != entry.crc;
            let journal_position = at;
            tracing::error!(
                path = %path.display(), position, journal_position, lost,
                "the journal is damaged"
            );
            if lost {
                unapplied.add(ring);
                continue;
            }
        }
        payload.truncate(*kept as usize);
        file.write_all_vectored_at(&[IoSlice::new(&payload)], position)
            .map_err(io)?;
        length = length.max(piece.end());
    }
    if planted(Bug::NoSyncOfReplay) {
        return Ok(());
    }
    file.sync_all().map_err(io)
}

fn read_if_there(file: &dyn File, position: u64, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact_at(buffer, position) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

// === empty ===

fn empty(
    fs: &dyn Fs,
    dir: &Path,
    rings: &Rings,
    (unapplied, wall_ms): (&RingSet, i64),
) -> Result<(), LogError> {
    for ring in &rings.open {
        let io = |error| LogError::io(&ring.path)(error);
        if !unapplied.contains(&ring.file) {
            file::close(&*ring.file, &ring.header).map_err(io)?;
            continue;
        }
        let place = trash::put_ring(fs, dir, &ring.path, wall_ms).map_err(io)?;
        tracing::error!(
            path = %ring.path.display(), moved_to = %place.display(),
            "not all of this ring could be written to its segments; it is kept for a day"
        );
    }
    for path in &rings.leftover {
        match fs.remove_file(path) {
            // It was moved.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(LogError::io(path))?,
        }
    }
    if !rings.leftover.is_empty() {
        let journal = paths::journal(dir);
        fs.sync_dir(&journal).map_err(LogError::io(&journal))?;
    }
    Ok(())
}

// === impl RingSet ===

impl RingSet {
    fn add(&mut self, ring: &Arc<dyn File>) {
        if !self.contains(ring) {
            self.0.push(ring.clone());
        }
    }

    fn contains(&self, ring: &Arc<dyn File>) -> bool {
        self.0.iter().any(|known| Arc::ptr_eq(known, ring))
    }
}
