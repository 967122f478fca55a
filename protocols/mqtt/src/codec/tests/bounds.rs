//! Lengths: variable byte integers, frames, packet limits.

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::codec::frame::Check;

/// The first and last values of each length (table 1-1).
const EDGES: [(u32, &[u8]); 8] = [
    (0, &[0x00]),
    (127, &[0x7F]),
    (128, &[0x80, 0x01]),
    (16_383, &[0xFF, 0x7F]),
    (16_384, &[0x80, 0x80, 0x01]),
    (2_097_151, &[0xFF, 0xFF, 0x7F]),
    (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
    (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
];

#[test]
fn variable_byte_integers_have_the_lengths_of_the_standard() {
    for (value, bytes) in EDGES {
        let mut out = BytesMut::new();
        varint::write(&mut out, value);
        assert_eq!(&out[..], bytes);
        assert_eq!(varint::len(value), bytes.len());
        assert_eq!(varint::read(bytes), Ok(Some((value, bytes.len()))));
        assert_eq!(
            varint::read(&bytes[..bytes.len() - 1]),
            Ok(None),
            "one byte is missing"
        );
    }
}

#[test]
fn long_and_non_minimal_integers_are_malformed() {
    let illegal: [&[u8]; 6] = [
        &[0x85, 0x00],
        &[0x80, 0x00],
        &[0xFF, 0x80, 0x00],
        &[0x80, 0x80, 0x80, 0x00],
        &[0xFF, 0xFF, 0xFF, 0xFF],
        &[0x80, 0x80, 0x80, 0x80, 0x01],
    ];
    for bytes in illegal {
        assert_eq!(reason(varint::read(bytes)), MALFORMED, "{bytes:02x?}");
        let framed = [&[0xC0], bytes].concat();
        assert_eq!(reason(frame::check(&framed, u32::MAX)), MALFORMED);
    }
}

#[test]
fn a_length_is_judged_before_its_bytes_are_there() {
    let claim = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    let over = frame::check(&claim, 2_000_000);
    assert_eq!(reason(over), ReasonCode::PACKET_TOO_LARGE.0);
    let allowed = frame::check(&claim, PACKET_BYTES_MAX_WIRE);
    assert_eq!(
        allowed,
        Ok(Check::NeedMore {
            buffer_bytes: 268_435_460
        })
    );
}

#[test]
fn the_packet_limit_counts_the_fixed_header() {
    for body in [125usize, 126, 127, 128, 16_383, 16_384] {
        let bytes = packet(0x30, &vec![0; body]);
        let exact = u32::try_from(bytes.len()).unwrap();
        assert!(frame::check(&bytes, exact).is_ok());
        let over = frame::check(&bytes, exact - 1);
        assert_eq!(reason(over), ReasonCode::PACKET_TOO_LARGE.0);
    }
}

#[test]
fn a_packet_byte_by_byte_is_found_only_when_it_is_whole() {
    for body in [0usize, 1, 127, 128, 16_384] {
        let bytes = packet(0x30, &vec![7; body]);
        let mut buffer = BytesMut::new();
        for (at, &byte) in bytes.iter().enumerate() {
            assert_eq!(
                frame::split(&mut buffer, u32::MAX),
                Ok(None),
                "after {at} bytes"
            );
            buffer.put_u8(byte);
        }
        let frame = frame::split(&mut buffer, u32::MAX).unwrap().expect("whole");
        assert_eq!((frame.first, frame.body.len()), (0x30, body));
        assert!(buffer.is_empty());
    }
}

#[test]
fn a_first_byte_that_is_no_connect_is_refused_alone() {
    for first in 0..=255u8 {
        let checked = frame::check_first(&[first], u32::MAX);
        match first {
            0x10 => assert!(matches!(checked, Ok(Check::NeedMore { .. }))),
            0x00..=0x0F | 0x11..=0x1F => assert_eq!(reason(checked), MALFORMED),
            _ => assert_eq!(reason(checked), PROTOCOL),
        }
    }
}

/// Frames are cut one after the other, and what follows stays in the buffer.
fn check_one_frame(bytes: &[u8], limit: u32) {
    let mut buffer = BytesMut::from(bytes);
    match frame::split(&mut buffer, limit) {
        Ok(Some(frame)) => {
            let used = bytes.len() - buffer.len();
            assert!(used <= limit as usize);
            assert_eq!(frame.body, bytes[used - frame.body.len()..used]);
            assert_eq!(buffer, bytes[used..]);
        }
        Ok(None) | Err(_) => assert_eq!(buffer, bytes),
    }
    if let Ok(Check::NeedMore { buffer_bytes }) = frame::check(bytes, limit) {
        assert!(buffer_bytes > bytes.len() && buffer_bytes <= (limit as usize).max(5));
    }
}

proptest! {
    #[test]
    fn any_value_survives_and_takes_its_shortest_form(value in 0..=varint::VALUE_MAX) {
        let mut out = BytesMut::new();
        varint::write(&mut out, value);
        prop_assert_eq!(out.len(), varint::len(value));
        prop_assert_eq!(varint::read(&out), Ok(Some((value, out.len()))));
    }

    #[test]
    fn splitting_takes_one_frame_or_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        limit in 2u32..400,
    ) {
        check_one_frame(&bytes, limit);
    }
}
