//! What nobody knows: directories and segments that metadata does not name, and rings of the journal
//! that could not be written to their segments.
//!
//! It may be rubbish of a deletion that a crash cut short, or all that is left after metadata was
//! lost or an old copy of it was put back. So it is moved out of the way first, to
//! `<dir>/trash/<wall clock ms>-<what it was>`, and removed after a day in which the node ran.
//!
//! ```text
//! "MSTS"  version u32  { seen ms u64  bytes of the name u16  name }*  crc32c u32
//! ```
//! The file `trash-seen` holds for how long each thing has been seen there, by all runs together.
//! Without the file, or with a damaged one, the time begins anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use mainstem_env::{DirEntry, Fs};
use parking_lot::Mutex;

use crate::{dedupe::Fields, paths};

/// How long something stays in the trash: time to notice, and to put it back.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Of how many starts the rings stay in the trash: a node that is killed again and again must not
/// fill the disk with them.
const RING_STARTS_MAX: usize = 4;

/// What rings are called in the trash.
const RING_PREFIX: &str = "journal-";

pub(crate) const MAGIC: [u8; 4] = *b"MSTS";
pub(crate) const VERSION: u32 = 1;

/// The largest file of times that is read.
const FILE_BYTES_MAX: usize = 16 << 20;

/// For how long each thing that is in the trash has been seen there, by the clock that only goes
/// forward: what a board without a battery writes before it knows the year looks decades old a minute
/// later.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    /// When it was last looked.
    last: Option<Duration>,
    seen: Times,
}

/// By name.
type Times = BTreeMap<String, Duration>;

/// Moves `path` into the trash of the log in `dir`, and says where it is. Blocks.
pub(crate) fn put(
    fs: &dyn Fs,
    dir: &Path,
    path: &Path,
    (what, wall_ms): (&str, i64),
) -> io::Result<PathBuf> {
    let trash = paths::trash(dir);
    fs.create_dir_all(&trash)?;
    // Also if it was there: a process may have ended before its name was durable.
    fs.sync_dir(dir)?;
    let mut place = trash.join(format!("{wall_ms}-{what}"));
    let mut again = 1;
    while fs.exists(&place)? {
        place = trash.join(format!("{wall_ms}-{what}-{again}"));
        again += 1;
    }
    fs.rename(path, &place)?;
    fs.sync_dir(&trash)?;
    if let Some(parent) = path.parent() {
        fs.sync_dir(parent)?;
    }
    Ok(place)
}

/// Moves a ring into the trash, says where it is, and removes those of the oldest starts if there are
/// too many. Blocks.
pub(crate) fn put_ring(fs: &dyn Fs, dir: &Path, path: &Path, wall_ms: i64) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let place = put(fs, dir, path, (&format!("{RING_PREFIX}{name}"), wall_ms))?;
    let trash = paths::trash(dir);
    let rings: Vec<(i64, String)> = fs
        .read_dir(&trash)?
        .into_iter()
        .filter_map(|entry| {
            let (ms, what) = entry.name.split_once('-')?;
            what.starts_with(RING_PREFIX).then_some(())?;
            Some((ms.parse().ok()?, entry.name))
        })
        .collect();
    // Whatever the clock says, those of this start stay.
    let others = rings.iter().map(|(ms, _)| *ms).filter(|ms| *ms != wall_ms);
    let others: BTreeSet<i64> = others.collect();
    let too_many = others.len().saturating_sub(RING_STARTS_MAX - 1);
    let oldest: BTreeSet<i64> = others.into_iter().take(too_many).collect();
    for (_, name) in rings.iter().filter(|(ms, _)| oldest.contains(ms)) {
        fs.remove_file(&trash.join(name))?;
    }
    Ok(place)
}

/// Removes what has been seen there for long enough; says how much that was. `now` is that
/// of the monotonic clock. Blocks.
pub(crate) fn empty(fs: &dyn Fs, dir: &Path, seen: &Seen, now: Duration) -> io::Result<usize> {
    let trash = paths::trash(dir);
    if !fs.exists(&trash)? {
        return Ok(0);
    }
    let mut removed = 0;
    let entries = fs.read_dir(&trash)?;
    for entry in seen.due(fs, &paths::trash_seen(dir), entries, now)? {
        let path = trash.join(&entry.name);
        if entry.is_dir {
            fs.remove_dir_all(&path)?;
        } else {
            fs.remove_file(&path)?;
        }
        tracing::info!(path = %path.display(), "removed for good");
        removed += 1;
    }
    Ok(removed)
}

// === impl Seen ===

impl Seen {
    /// Which of all that is there has been seen for long enough; what is known of the others is
    /// written down for the next run.
    fn due(
        &self,
        fs: &dyn Fs,
        file: &Path,
        entries: Vec<DirEntry>,
        now: Duration,
    ) -> io::Result<Vec<DirEntry>> {
        let mut looks = self.0.lock();
        let (before, passed) = match looks.last {
            Some(last) => (std::mem::take(&mut looks.seen), now.saturating_sub(last)),
            None => (load(fs, file), Duration::ZERO),
        };
        looks.last = Some(now);
        let mut due = Vec::new();
        for entry in entries {
            let seen = before.get(&entry.name);
            let seen = seen.map_or(Duration::ZERO, |seen| seen.saturating_add(passed));
            looks.seen.insert(entry.name.clone(), seen);
            if seen >= KEPT {
                due.push(entry);
            }
        }
        if looks.seen != before {
            fs.write_atomic(file, &encode(&looks.seen))?;
        }
        Ok(due)
    }
}

fn load(fs: &dyn Fs, file: &Path) -> Times {
    let bytes = fs.read(file, FILE_BYTES_MAX).unwrap_or_default();
    decode(&bytes).unwrap_or_default()
}

fn encode(seen: &Times) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    for (name, seen) in seen {
        // No file system takes a name that does not fit.
        let Ok(len) = u16::try_from(name.len()) else {
            continue;
        };
        let ms = u64::try_from(seen.as_millis()).unwrap_or(u64::MAX);
        out.extend_from_slice(&ms.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(file: &[u8]) -> Option<Times> {
    let (body, crc) = file.split_last_chunk::<4>()?;
    let mut fields = Fields(body);
    let is_ours = crc32c::crc32c(body) == u32::from_le_bytes(*crc)
        && fields.take()? == MAGIC
        && fields.u32()? == VERSION;
    if !is_ours {
        return None;
    }
    let mut seen = Times::new();
    while !fields.0.is_empty() {
        let ms = fields.u64()?;
        let len = usize::from(u16::from_le_bytes(fields.take()?));
        let (name, rest) = fields.0.split_at_checked(len)?;
        fields.0 = rest;
        let name = String::from_utf8(name.to_vec()).ok()?;
        seen.insert(name, Duration::from_millis(ms));
    }
    Some(seen)
}

#[cfg(test)]
mod tests {
    use mainstem_env::{MemFs, OpenMode};

    use super::*;

    #[test]
    fn trash_is_kept_for_its_time_and_replaces_nothing() {
        let fs = MemFs::new();
        let dir = Path::new("/log");
        fs.create_dir_all(&dir.join("partitions")).expect("made");
        let path = dir.join("partitions").join("x.log");
        for content in [b"a", b"b"] {
            let file = fs.open(&path, OpenMode::Create).expect("made");
            file.write_all_vectored_at(&[io::IoSlice::new(content)], 0)
                .expect("written");
            put(&fs, dir, &path, ("x.log", 5)).expect("moved");
            assert!(!fs.exists(&path).expect("known"));
        }
        let names = |fs: &MemFs| {
            let entries = fs.read_dir(&paths::trash(dir)).expect("read");
            entries.into_iter().map(|e| e.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&fs), ["5-x.log", "5-x.log-1"]);
        let (seen, start) = (Seen::default(), Duration::from_secs(7));
        let empty_at =
            |seen: &Seen, after: Duration| empty(&fs, dir, seen, start + after).expect("emptied");
        assert_eq!(empty_at(&seen, Duration::ZERO), 0);
        assert_eq!(empty_at(&seen, KEPT - Duration::from_nanos(1)), 0);
        // Another run has not seen them for a day, however old they are.
        let again = Seen::default();
        assert_eq!(empty_at(&again, 9 * KEPT), 0);
        assert_eq!(empty_at(&again, 9 * KEPT), 0);
        // What the runs have seen counts together.
        assert_eq!(empty_at(&again, 9 * KEPT + Duration::from_millis(1)), 2);
        assert!(names(&fs).is_empty());
    }

    #[test]
    fn times_are_read_back_and_damage_begins_anew() {
        let seen = Times::from([
            ("5-x.log".to_owned(), Duration::from_millis(7)),
            ("6-y".to_owned(), Duration::ZERO),
        ]);
        let file = encode(&seen);
        assert_eq!(decode(&file), Some(seen));
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None);
            assert_eq!(decode(&file[..at]), None);
        }
    }

    #[test]
    fn rings_of_the_newest_starts_stay_and_all_of_this_one() {
        let fs = MemFs::new();
        let dir = Path::new("/log");
        fs.create_dir_all(&paths::journal(dir)).expect("made");
        // The last one was before the clock was set.
        let starts = [10, 20, 30, 40, 50, 60, 1];
        for wall_ms in starts {
            for shard in 0..3 {
                let ring = paths::ring(dir, shard);
                fs.open(&ring, OpenMode::Create).expect("made");
                put_ring(&fs, dir, &ring, wall_ms).expect("moved");
            }
        }
        let entries = fs.read_dir(&paths::trash(dir)).expect("read");
        let names: BTreeSet<String> = entries.into_iter().map(|e| e.name).collect();
        let expected = [1, 40, 50, 60]
            .into_iter()
            .flat_map(|ms| (0..3).map(move |shard| format!("{ms}-journal-{shard}.ring")));
        assert_eq!(names, expected.collect());
    }
}
