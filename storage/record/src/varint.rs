//! Zigzag variable-length integers of records (Kafka's "varint" and "varlong", as in Protocol
//! Buffers): 7 bits per byte, least significant first, the top bit says that another byte follows.

use bytes::BufMut;
use thiserror::Error;

/// The most bytes that a 32-bit varint takes.
pub const VARINT_BYTES_MAX: usize = 5;

/// The most bytes that a 64-bit varint takes.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Why a variable-length integer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VarintError {
    /// The input ended inside the integer.
    #[error("the input ends inside a variable-length integer")]
    Truncated,
    /// The integer takes more bits than its type has.
    #[error("a variable-length integer is too long for its type")]
    TooLong,
}

/// Takes one 32-bit zigzag integer off the front of `input`.
///
/// On an error, `input` is left as it was.
#[inline]
pub fn read_varint(input: &mut &[u8]) -> Result<i32, VarintError> {
    // Nearly all lengths and deltas of real batches take one byte.
    if let Some((&byte, rest)) = input.split_first()
        && byte < 0x80
    {
        *input = rest;
        return Ok(unzigzag32(u32::from(byte)));
    }
    let raw = read_raw(input, VARINT_BYTES_MAX, 0x0f)?;
    // The limits above leave at most 32 bits.
    Ok(unzigzag32(raw as u32))
}

/// Takes one 64-bit zigzag integer off the front of `input`.
///
/// On an error, `input` is left as it was.
#[inline]
pub fn read_varlong(input: &mut &[u8]) -> Result<i64, VarintError> {
    if let Some((&byte, rest)) = input.split_first()
        && byte < 0x80
    {
        *input = rest;
        return Ok(unzigzag64(u64::from(byte)));
    }
    Ok(unzigzag64(read_raw(input, VARLONG_BYTES_MAX, 0x01)?))
}

/// Reads at most `bytes_max` bytes; the last of them may be at most `last_max`, so that no bit is
/// shifted out silently.
fn read_raw(input: &mut &[u8], bytes_max: usize, last_max: u8) -> Result<u64, VarintError> {
    let mut raw = 0u64;
    for (index, &byte) in input.iter().take(bytes_max).enumerate() {
        if index + 1 == bytes_max && byte > last_max {
            return Err(VarintError::TooLong);
        }
        raw |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *input = input.get(index + 1..).unwrap_or_default();
            return Ok(raw);
        }
    }
    // The last allowed byte cannot continue: with its top bit set it is above `last_max`.
    Err(VarintError::Truncated)
}

/// Appends `value` as a 32-bit zigzag integer.
#[inline]
pub fn write_varint(out: &mut impl BufMut, value: i32) {
    write_raw(out, u64::from(zigzag32(value)));
}

/// Appends `value` as a 64-bit zigzag integer.
#[inline]
pub fn write_varlong(out: &mut impl BufMut, value: i64) {
    write_raw(out, zigzag64(value));
}

fn write_raw(out: &mut impl BufMut, mut raw: u64) {
    while raw >= 0x80 {
        out.put_u8((raw as u8 & 0x7f) | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

/// How many bytes [`write_varint`] takes for `value`.
#[inline]
#[must_use]
pub const fn varint_bytes(value: i32) -> usize {
    raw_bytes(zigzag32(value) as u64)
}

/// How many bytes [`write_varlong`] takes for `value`.
#[inline]
#[must_use]
pub const fn varlong_bytes(value: i64) -> usize {
    raw_bytes(zigzag64(value))
}

const fn raw_bytes(raw: u64) -> usize {
    // A zero takes one byte too, hence the `| 1`.
    let bits = 64 - (raw | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag32(raw: u32) -> i32 {
    ((raw >> 1) as i32) ^ -((raw & 1) as i32)
}

const fn unzigzag64(raw: u64) -> i64 {
    ((raw >> 1) as i64) ^ -((raw & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }

    #[test]
    fn too_long_and_truncated_are_told_apart() {
        let mut long: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0x10];
        assert_eq!(read_varint(&mut long), Err(VarintError::TooLong));
        assert_eq!(long.len(), 5, "an error consumes nothing");
        assert_eq!(
            read_varint(&mut &[0x80, 0x80][..]),
            Err(VarintError::Truncated)
        );
        assert_eq!(read_varint(&mut &[][..]), Err(VarintError::Truncated));
        assert_eq!(
            read_varlong(&mut &[0xff; 10][..]),
            Err(VarintError::TooLong)
        );
        assert_eq!(
            read_varlong(&mut &[0xff; 9][..]),
            Err(VarintError::Truncated)
        );
    }

    proptest! {
        #[test]
        fn varint_round_trips(value: i32, tail: Vec<u8>) {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            out.extend_from_slice(&tail);
            let mut input = &out[..];
            prop_assert_eq!(read_varint(&mut input), Ok(value));
            prop_assert_eq!(input, &tail[..]);
        }

        #[test]
        fn varlong_round_trips(value: i64, shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            write_varlong(&mut out, value);
            prop_assert_eq!(out.len(), varlong_bytes(value));
            let mut input = &out[..];
            prop_assert_eq!(read_varlong(&mut input), Ok(value));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn any_bytes_read_or_fail(bytes: Vec<u8>) {
            let mut input = &bytes[..];
            while read_varint(&mut input).is_ok() {}
            let mut input = &bytes[..];
            while read_varlong(&mut input).is_ok() {}
        }
    }
}
