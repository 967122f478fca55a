//! What nobody knows: directories and segments that metadata does not name.
//!
//! It may be rubbish of a deletion that a crash cut short, or all that is left after metadata was
//! lost or an old copy of it was put back. So it is moved out of the way first, to
//! `<dir>/trash/<wall clock ms>-<what it was>`, and removed a day later.

use std::{
    io,
    path::{Path, PathBuf},
};

use mainstem_env::Fs;

use crate::paths;

/// How long something stays in the trash, in milliseconds: time to notice, and to put it back.
pub(crate) const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// Moves `path` into the trash of the log in `dir`, and says where it is. Blocks.
pub(crate) fn put(
    fs: &dyn Fs,
    dir: &Path,
    path: &Path,
    (what, wall_ms): (&str, i64),
) -> io::Result<PathBuf> {
    let trash = paths::trash(dir);
    if !fs.exists(&trash)? {
        fs.create_dir_all(&trash)?;
        fs.sync_dir(dir)?;
    }
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

/// Removes what has been there for long enough; says how much that was. Blocks.
pub(crate) fn empty(fs: &dyn Fs, dir: &Path, wall_ms: i64) -> io::Result<usize> {
    let trash = paths::trash(dir);
    if !fs.exists(&trash)? {
        return Ok(0);
    }
    let mut removed = 0;
    for entry in fs.read_dir(&trash)? {
        let since = entry.name.split('-').next().and_then(|ms| ms.parse().ok());
        let Some(since): Option<i64> = since else {
            continue;
        };
        // A clock that was set back must not keep things for ever, nor one that was set forward
        // take them at once: the age counts in both directions.
        if wall_ms.saturating_sub(since).saturating_abs() < KEPT_MS {
            continue;
        }
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
        assert_eq!(empty(&fs, dir, KEPT_MS).expect("emptied"), 0);
        assert_eq!(empty(&fs, dir, KEPT_MS + 5).expect("emptied"), 2);
        assert!(names(&fs).is_empty());
    }
}
