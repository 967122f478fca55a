//! Pieces that encoders share.

use bytes::{BufMut, BytesMut};

use super::{EncodeError, Peer, Properties, PropertyId, Utf8Str, Version, varint};

/// Reserves a packet of `remaining` bytes after its fixed header, and writes that header.
///
/// # Errors
/// [`EncodeError::TooLarge`], with nothing written.
pub(crate) fn header(
    out: &mut BytesMut,
    peer: &Peer,
    first: u8,
    remaining: usize,
) -> Result<(), EncodeError> {
    let remaining = check_size(peer, remaining)?;
    out.reserve(1 + varint::len(remaining) + remaining as usize);
    out.put_u8(first);
    varint::write(out, remaining);
    Ok(())
}

/// As [`header`], for a packet whose last `payload` bytes the caller sends on its own.
pub(crate) fn check_size(peer: &Peer, remaining: usize) -> Result<u32, EncodeError> {
    let max = (peer.packet_bytes_max as usize).min(super::PACKET_BYTES_MAX_WIRE as usize);
    let too_large = |bytes| EncodeError::TooLarge { bytes, max };
    let length = u32::try_from(remaining)
        .ok()
        .filter(|&length| length <= varint::VALUE_MAX)
        .ok_or(too_large(remaining))?;
    let bytes = 1 + varint::len(length) + remaining;
    if bytes > max {
        Err(too_large(bytes))
    } else {
        Ok(length)
    }
}

pub(crate) fn text(out: &mut BytesMut, text: &Utf8Str) {
    binary(out, text.as_bytes());
}

/// Two bytes of length, then the bytes: at most 65,535, which the callers' types see to.
pub(crate) fn binary(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    debug_assert_eq!(usize::from(length), bytes.len());
    out.put_u16(length);
    out.put_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// Bytes that a property block takes, its length included; none before version 5.
pub(crate) fn properties_len(version: Version, properties: &Properties) -> usize {
    if version.is_v5() {
        let bytes = properties.raw().len();
        varint::len(u32::try_from(bytes).unwrap_or(u32::MAX)) + bytes
    } else {
        0
    }
}

/// Writes a property block with its length; nothing before version 5.
pub(crate) fn properties(out: &mut BytesMut, version: Version, properties: &Properties) {
    if version.is_v5() {
        varint::write(
            out,
            u32::try_from(properties.raw().len()).unwrap_or(varint::VALUE_MAX),
        );
        out.put_slice(properties.raw());
    }
}

/// How much of a packet's explanations may go out whatever the client asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Explain {
    /// CONNACK and DISCONNECT: always.
    Always,
    /// Acknowledgements: if Request Problem Information is not 0 (3.1.2.11.7).
    IfAsked,
}

/// Cuts `properties` down until a packet with `fixed` other bytes fits the client: the reason
/// string goes first, then the user properties.
///
/// # Errors
/// [`EncodeError::TooLarge`] if it is too large even so.
pub(crate) fn fit(
    peer: &Peer,
    explain: Explain,
    fixed: usize,
    properties: &Properties,
) -> Result<Properties, EncodeError> {
    if !peer.version.is_v5() {
        return Ok(Properties::EMPTY);
    }
    let reason = PropertyId::ReasonString.bit();
    let all = reason | PropertyId::UserProperty.bit();
    let mut kept = if explain == Explain::IfAsked && !peer.problem_information {
        properties.without(all)
    } else {
        properties.clone()
    };
    for drop in [reason, all] {
        if check_size(peer, fixed + properties_len(peer.version, &kept)).is_ok() {
            return Ok(kept);
        }
        kept = kept.without(drop);
    }
    check_size(peer, fixed + properties_len(peer.version, &kept)).map(|_| kept)
}
