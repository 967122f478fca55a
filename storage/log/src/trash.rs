//! What nobody knows: directories and segments that metadata does not name, and rings of the journal
//! that could not be written to their segments.
//!
//! It may be rubbish of a deletion that a crash cut short, or all that is left after metadata was
//! lost or an old copy of it was put back. So it is moved out of the way first, to
//! `<dir>/trash/<wall clock ms>-<what it was>`, and removed after a day in which the process ran.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use mainstem_env::{DirEntry, Fs};
use parking_lot::Mutex;

use crate::paths;

/// How long something stays in the trash: time to notice, and to put it back.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Of how many starts the rings stay in the trash: a node that is killed again and again must not
/// fill the disk with them.
const RING_STARTS_MAX: usize = 4;

/// What rings are called in the trash.
const RING_PREFIX: &str = "journal-";

/// When this process first saw each thing that is in the trash, by the clock that only goes forward:
/// what a board without a battery writes before it knows the year looks decades old a minute later.
/// A process that does not run for a whole day removes nothing.
#[derive(Default)]
pub(crate) struct Seen(Mutex<BTreeMap<String, Duration>>);

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

/// Removes what this process has seen there for long enough; says how much that was. `now` is that
/// of the monotonic clock. Blocks.
pub(crate) fn empty(fs: &dyn Fs, dir: &Path, seen: &Seen, now: Duration) -> io::Result<usize> {
    let trash = paths::trash(dir);
    if !fs.exists(&trash)? {
        return Ok(0);
    }
    let mut removed = 0;
    let entries = fs.read_dir(&trash)?;
    for entry in seen.due(entries, now) {
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
    /// Which of all that is there has been seen for long enough.
    fn due(&self, entries: Vec<DirEntry>, now: Duration) -> Vec<DirEntry> {
        let mut seen = self.0.lock();
        let mut before = std::mem::take(&mut *seen);
        let mut due = Vec::new();
        for entry in entries {
            let since = before.remove(&entry.name).unwrap_or(now);
            seen.insert(entry.name.clone(), since);
            if now.saturating_sub(since) >= KEPT {
                due.push(entry);
            }
        }
        due
    }
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
        // Another process has not seen them for a day, however old they are.
        assert_eq!(empty_at(&Seen::default(), 9 * KEPT), 0);
        assert_eq!(empty_at(&seen, KEPT), 2);
        assert!(names(&fs).is_empty());
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
