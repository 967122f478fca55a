//! Where a run of batches ends, without reading its records.

use mainstem_record::Offset;

/// Base offset and length.
const PREFIX_BYTES: usize = 12;
/// Where a batch says how many offsets it covers, less one.
const LAST_DELTA_AT: usize = 23;

/// The offset after the last record of whole batches; `None` if the bytes are none. Whether they are
/// what they say is for the log to check.
pub(in crate::stream) fn end_of(mut batches: &[u8]) -> Option<Offset> {
    let mut end = None;
    while !batches.is_empty() {
        let base = i64::from_be_bytes(*batches.first_chunk()?);
        let length: [u8; 4] = batches.get(8..PREFIX_BYTES)?.try_into().ok()?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
        let (batch, rest) = batches.split_at_checked(PREFIX_BYTES.checked_add(length)?)?;
        let delta: [u8; 4] = batch
            .get(LAST_DELTA_AT..LAST_DELTA_AT + 4)?
            .try_into()
            .ok()?;
        let delta = i32::from_be_bytes(delta);
        if base < 0 || delta < 0 {
            return None;
        }
        end = Some(Offset(base).plus(i64::from(delta) + 1));
        batches = rest;
    }
    end
}
