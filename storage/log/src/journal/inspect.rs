//! What a ring holds, for showing it: as much as can be read.

use std::{path::Path, sync::Arc};

use mainstem_env::File;

use super::{
    file,
    header::Header,
    record::Head,
    replay::{Piece, pieces_of},
    scan::{self, Hole},
};
use crate::error::LogError;

/// A ring.
pub(crate) struct Inspected {
    pub(crate) header: Header,
    /// Those that can be read, from the trim point of the newest one on, as they were written.
    pub(crate) records: Vec<Record>,
    /// A start would end with this one.
    pub(crate) hole: Option<Hole>,
}

/// A record of it.
pub(crate) struct Record {
    /// Where it begins, in bytes.
    pub(crate) position: u64,
    pub(crate) head: Head,
    /// One for each entry.
    pub(crate) pieces: Vec<Piece>,
}

/// Reads the ring in `file`. Blocks.
///
/// # Errors
/// As for a start, except that a record may be missing.
pub(crate) fn inspect(file: &Arc<dyn File>, path: &Path) -> Result<Inspected, LogError> {
    let header = file::read_header(&**file, path)?;
    let mut inspected = Inspected {
        header,
        records: Vec::new(),
        hole: None,
    };
    if !header.open {
        return Ok(inspected);
    }
    let found = scan::find(&**file, header.ring, header.bytes).map_err(LogError::io(path))?;
    let trim = found.last_key_value().map_or(0, |(_, last)| last.head.trim);
    for (_, found) in found.range(trim..) {
        let record = scan::read(&**file, found.position, &found.head, header.bytes);
        let Some((head, entries)) = record.map_err(LogError::io(path))? else {
            continue;
        };
        inspected.records.push(Record {
            position: found.position,
            head,
            pieces: pieces_of(file, found.position, entries).collect(),
        });
    }
    inspected.hole = scan::live(found).err();
    Ok(inspected)
}
