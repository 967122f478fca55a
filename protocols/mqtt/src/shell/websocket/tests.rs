use proptest::prelude::*;

use super::decoder::{Decoder, FrameError, Reply};

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        126..=0xFFFF => {
            bytes.push(0xFE);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0xFF);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// Decodes in pieces, as reads would bring them.
fn decode(decoder: &mut Decoder, bytes: &[u8], pieces: &[usize]) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        let mut piece = piece.to_vec();
        let count = decoder.decode(&mut piece)?;
        payload.extend_from_slice(&piece[..count]);
        rest = left;
    }
    Ok(payload)
}

proptest! {
    /// However messages are cut into frames and frames into reads, with control frames between:
    /// the payload comes out as it was.
    #[test]
    fn payload_is_what_was_sent(
        messages in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..400), 1usize..4, any::<bool>()), 0..8),
        pieces in proptest::collection::vec(1usize..300, 1..6),
        mask in any::<[u8; 4]>(),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (payload, parts, ping) in &messages {
            expected.extend_from_slice(payload);
            let size = payload.len().div_ceil(*parts).max(1);
            let chunks: Vec<&[u8]> =
                if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
            for (at, chunk) in chunks.iter().enumerate() {
                let opcode = if at == 0 { 2 } else { 0 };
                let fin = if at + 1 == chunks.len() { 0x80 } else { 0 };
                bytes.extend_from_slice(&frame(fin | opcode, chunk, mask));
                if *ping {
                    bytes.extend_from_slice(&frame(0x89, b"ping", mask));
                }
            }
        }
        let mut decoder = Decoder::new(1 << 20);
        prop_assert_eq!(decode(&mut decoder, &bytes, &pieces), Ok(expected));
        prop_assert!(!decoder.is_closed());
    }

    /// Whatever comes, the decoder answers, and never gives more bytes than it got.
    #[test]
    fn anything_is_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        pieces in proptest::collection::vec(1usize..50, 1..4),
    ) {
        let mut decoder = Decoder::new(100);
        if let Ok(payload) = decode(&mut decoder, &bytes, &pieces) {
            prop_assert!(payload.len() <= bytes.len());
        }
    }
}

#[test]
fn only_the_latest_ping_is_answered() {
    let mut decoder = Decoder::new(1024);
    let mut bytes = Vec::new();
    for count in 0..100u8 {
        bytes.extend_from_slice(&frame(0x89, &[count], [9, 8, 7, 6]));
    }
    assert_eq!(decode(&mut decoder, &bytes, &[7]), Ok(vec![]));
    assert_eq!(decoder.take_reply(), Some(Reply::Pong(vec![99])));
    assert_eq!(decoder.take_reply(), None);
}

#[test]
fn nothing_is_read_behind_a_close() {
    let mut decoder = Decoder::new(1024);
    let mut bytes = frame(0x88, &[3, 0xE8], [1; 4]);
    bytes.extend_from_slice(&frame(0x82, b"late", [1; 4]));
    assert_eq!(decode(&mut decoder, &bytes, &[1000]), Ok(vec![]));
    assert!(decoder.is_closed());
    assert_eq!(decoder.take_reply(), Some(Reply::Close));
}

#[test]
fn each_broken_rule_has_its_error() {
    let mask = [1, 2, 3, 4];
    let cases = [
        (frame(0x81, b"x", mask), FrameError::Text),
        (frame(0x83, b"x", mask), FrameError::Opcode),
        (frame(0x8B, b"x", mask), FrameError::Opcode),
        (frame(0xA2, b"x", mask), FrameError::Reserved),
        (vec![0x82, 1, 0], FrameError::Unmasked),
        (frame(0x09, b"x", mask), FrameError::Control),
        (frame(0x89, &[0; 126], mask), FrameError::Control),
        (frame(0x80, b"x", mask), FrameError::Order),
        (
            [frame(0x02, b"x", mask), frame(0x82, b"x", mask)].concat(),
            FrameError::Order,
        ),
        (frame(0x82, &[0; 1025], mask), FrameError::TooLarge),
        (
            vec![
                0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4,
            ],
            FrameError::TooLarge,
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(&mut Decoder::new(1024), &bytes, &[1]), Err(error));
    }
}
