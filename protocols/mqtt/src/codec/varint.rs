//! Variable byte integers (1.5.5): 7 bits a byte, least significant first, at most 4 bytes.

use super::DecodeError;

/// The largest value: 4 bytes of 7 bits.
pub const VALUE_MAX: u32 = 268_435_455;

/// The most bytes that a value may take.
pub const BYTES_MAX: usize = 4;

/// Reads a value at the start of `bytes`: the value and its length in bytes, or `None` if more bytes
/// are needed to tell.
///
/// # Errors
/// Malformed (0x81) if a fifth byte is announced, or if fewer bytes would have done: the standard
/// demands the shortest form, and two spellings of one length are a gift to whoever wants two
/// parsers to disagree.
pub fn read(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0u32;
    for (at, &byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return Err(DecodeError::malformed(
                    "variable byte integer is not minimal",
                ));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= BYTES_MAX {
        return Err(DecodeError::malformed(
            "variable byte integer of more than 4 bytes",
        ));
    }
    Ok(None)
}

/// Bytes that `value` takes, 1 to 4. Values above [`VALUE_MAX`] have no form; encoders refuse them
/// by size before they get here.
pub const fn len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value` in its shortest form; see [`len`] for the range.
pub fn write(out: &mut bytes::BytesMut, mut value: u32) {
    debug_assert!(value <= VALUE_MAX);
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.extend_from_slice(&[byte]);
            return;
        }
        out.extend_from_slice(&[byte | 0x80]);
    }
}
