//! Control batches: what a transaction coordinator writes into the partitions of a transaction.
//!
//! The key of a control record is `version i16 | type i16`, big-endian (KIP-98); its value, the
//! coordinator's epoch, is of no interest to a log.

use crate::batch::BatchError;
use crate::records::records;

/// What a control batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    /// The producer's transaction is undone.
    Abort,
    /// The producer's transaction holds.
    Commit,
    /// Something else, which ends no transaction.
    Other(i16),
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// What the control batch `batch` says: a checked batch with
/// [`crate::batch::Attributes::is_control`]. `None` if it has no record any more.
///
/// # Errors
/// As [`records()`]. A record without such a key is [`ControlType::Other`]`(-1)`.
pub fn control_type(
    batch: &[u8],
    decompressed_bytes_max: usize,
) -> Result<Option<ControlType>, BatchError> {
    let records = records(batch, decompressed_bytes_max)?;
    let Some(first) = records.iter().next() else {
        return Ok(None);
    };
    let key = first?.key.and_then(|key| key.get(2..4));
    let number = key.and_then(|bytes| bytes.try_into().ok());
    Ok(Some(match number.map_or(-1, i16::from_be_bytes) {
        ABORT => ControlType::Abort,
        COMMIT => ControlType::Commit,
        other => ControlType::Other(other),
    }))
}
