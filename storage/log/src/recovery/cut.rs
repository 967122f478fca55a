//! What an active segment is up to an offset at which it is to be cut: found out as recovery does,
//! before anything is changed.

use std::path::Path;

use mainstem_env::File;
use mainstem_record::Offset;

use super::{RecoverOptions, active::read_point, held_run, sealed::dedupe_after};
use crate::{
    dedupe::Dedupe,
    error::LogError,
    paths,
    scan::{BatchRule, Scan, ScanOptions, scan},
    spec::SegmentSpec,
};

/// A segment up to an offset.
pub(crate) struct Rebuilt {
    pub(crate) scan: Scan,
    pub(crate) dedupe: Dedupe,
}

/// The last of the segments of `chain`, which has `bytes` in `file`, up to `end`; `None` if no batch
/// ends there, or its recovery point lies above. Blocks.
pub(crate) fn rebuild(
    options: &RecoverOptions,
    dir: &Path,
    chain: &[SegmentSpec],
    (file, bytes): (&dyn File, u64),
    end: Offset,
) -> Result<Option<Rebuilt>, LogError> {
    let Some((spec, sealed)) = chain.split_last() else {
        return Ok(None);
    };
    let path = paths::segment(dir, spec.base, spec.id);
    let (begin, mut dedupe) = match read_point(options, &path, spec)? {
        Some(point) if point.header.end > end => return Ok(None),
        Some(point) => {
            let read = point.digest.verify_last(file);
            let Some(digest) = read.map_err(LogError::io(&path))? else {
                return Ok(None);
            };
            let begin = Scan {
                position: point.header.bytes,
                next: point.header.end,
                bad: None,
                index: point.index,
                digest,
            };
            (begin, point.dedupe)
        }
        None => {
            let begin = Scan::new(spec.base, options.index_interval);
            (begin, dedupe_after(options, dir, held_run(sealed))?)
        }
    };
    let scan_options = ScanOptions {
        rule: BatchRule::of(spec),
        limit: bytes,
        stop_at: Some(end),
        wall_ms: options.wall_ms,
        decompressed_bytes_max: options.decompressed_bytes_max,
    };
    let scan = scan(file, &scan_options, begin, &mut dedupe).map_err(LogError::io(&path))?;
    Ok(Some(Rebuilt { scan, dedupe }).filter(|rebuilt| rebuilt.scan.next == end))
}
