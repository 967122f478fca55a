//! Empty active segments that metadata has replaced: nothing of them is left but, if the process
//! ended before the next one was made, the recovery point with what was remembered at their base.

use std::path::Path;

use super::{RecoverOptions, sealed::read_contents};
use crate::{dedupe::Dedupe, error::LogError, files::delete_file, paths, spec::PartitionSpec};

/// Whether the file is the recovery point of a segment in whose place the active one is.
pub(super) fn is_point(spec: &PartitionSpec, name: &str) -> bool {
    let Some((base, id, extension)) = paths::parse_segment(name) else {
        return false;
    };
    let active = spec.segments.last().filter(|last| last.end.is_none());
    extension == paths::SNAPSHOT
        && active.is_some_and(|active| active.base == base && active.id != id)
}

/// What the newest of these points remembers.
pub(super) fn dedupe(
    options: &RecoverOptions,
    dir: &Path,
    points: &[String],
) -> Result<Option<Dedupe>, LogError> {
    let mut newest = None;
    for name in points {
        let Some(contents) = read_contents(options, &dir.join(name))? else {
            continue;
        };
        let epoch = contents.header.epoch;
        let is_newer = newest.as_ref().is_none_or(|(known, _)| epoch > *known);
        if contents.header.bytes == 0 && is_newer {
            newest = Some((epoch, contents.dedupe));
        }
    }
    Ok(newest.map(|(_, dedupe)| dedupe))
}

/// Removes these points. The active segment has a point of its own that is durable.
pub(super) fn remove_points(
    options: &RecoverOptions,
    dir: &Path,
    points: &[String],
) -> Result<(), LogError> {
    for name in points {
        let path = dir.join(name);
        delete_file(&*options.fs, &path).map_err(LogError::io(&path))?;
    }
    Ok(())
}
