//! The codec of frames and of the handshake.

use mainstem_peers::{
    HandshakeError, Lane, Refusal, Service,
    frame::{
        Failure, FrameError, HEADER_BYTES, Header, Kind, decode_credit, decode_refusal,
        encode_refusal,
    },
    handshake::{Dialler, Listener, MESSAGE_BYTES_MAX, Message, PREFIX_BYTES, rest_bytes},
};
use proptest::prelude::*;

use crate::raw::local;

fn frames() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let kinds = prop_oneof![
        Just(Kind::Call),
        Just(Kind::Answer),
        Just(Kind::Data),
        Just(Kind::Open)
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    (kinds, any::<u16>(), any::<u64>(), payload).prop_map(|(kind, service, id, payload)| {
        let service = match kind {
            Kind::Call | Kind::Open => Service(service),
            _ => Service(0),
        };
        (Header::of(1, kind, service, id, &payload), payload)
    })
}

/// All messages of a handshake that works.
fn messages(directory: u128, nonce: u8, cluster: &str) -> Vec<Vec<u8>> {
    let (mut one, mut two) = (local(1, directory), local(2, directory + 1));
    cluster.clone_into(&mut one.identity.cluster_id);
    cluster.clone_into(&mut two.identity.cluster_id);
    let (mut dialler, hello) = Dialler::start(one, Lane::Data, None, [nonce; 32]);
    let (mut listener, challenge) = Listener::hello(two, &hello, [nonce ^ 1; 32]).expect("a hello");
    let proof = dialler.challenge(&challenge).expect("a challenge");
    listener.proof(&proof).expect("a proof");
    let accept = listener.accept();
    dialler.accepted(&accept).expect("it is let in");
    let refuse = mainstem_peers::handshake::refuse(&HandshakeError::Cluster {
        ours: cluster.to_owned(),
        theirs: String::new(),
    });
    vec![hello, challenge, proof, accept, refuse]
}

proptest! {
    #[test]
    fn frame_is_read_as_it_was_written((header, payload) in frames()) {
        let read = Header::decode(&header.encode(), 1).expect("a header");
        prop_assert_eq!(read, header);
        prop_assert_eq!(read.check(&payload), Ok(()));
    }

    #[test]
    fn any_flipped_bit_of_a_frame_is_noticed((header, payload) in frames(), at in any::<prop::sample::Index>()) {
        let mut bytes = [&header.encode()[..], &payload].concat();
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let head = bytes.first_chunk::<HEADER_BYTES>().expect("a header");
        let result = Header::decode(head, 1).and_then(|header| header.check(&bytes[HEADER_BYTES..]));
        prop_assert!(matches!(result, Err(FrameError::HeaderChecksum | FrameError::PayloadChecksum)));
    }

    #[test]
    fn any_cut_payload_is_noticed((header, payload) in frames(), at in any::<prop::sample::Index>()) {
        prop_assume!(!payload.is_empty());
        let cut = &payload[..at.index(payload.len())];
        prop_assert_eq!(header.check(cut), Err(FrameError::PayloadChecksum));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..MESSAGE_BYTES_MAX + 10)) {
        let _ = Message::decode(&bytes);
        let _ = Failure::decode(&bytes);
        let _ = decode_credit(&bytes);
        let _ = decode_refusal(Kind::Close, &bytes);
        if let Some(head) = bytes.first_chunk() {
            let _ = Header::decode(head, 1);
        }
        if let Some(Ok(rest)) = bytes.first_chunk::<PREFIX_BYTES>().map(rest_bytes) {
            prop_assert!(PREFIX_BYTES + rest <= MESSAGE_BYTES_MAX);
        }
    }

    #[test]
    fn message_of_a_handshake_is_read_as_it_was_written(directory in any::<u64>(), nonce in any::<u8>(), cluster in "[a-zA-Z0-9_-]{0,64}") {
        for bytes in messages(u128::from(directory), nonce, &cluster) {
            let message = Message::decode(&bytes).expect("a message");
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn any_cut_or_flipped_bit_of_a_handshake_is_refused(nonce in any::<u8>(), at in any::<prop::sample::Index>()) {
        for bytes in messages(1, nonce, "ours") {
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert!(Message::decode(cut).is_err());
            let mut flipped = bytes.clone();
            let bit = at.index(bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Message::decode(&flipped).is_err());
        }
    }

    /// What is changed with care for the checksum does not pass the proof.
    #[test]
    fn no_field_of_a_handshake_can_be_changed(which in 0..4_usize, at in any::<prop::sample::Index>()) {
        let change = |step: usize, mut message: Vec<u8>| {
            if step == which {
                let end = message.len() - 4;
                let bit = at.index((end - PREFIX_BYTES - 1) * 8);
                message[PREFIX_BYTES + 1 + bit / 8] ^= 1 << (bit % 8);
                let crc = crc32c::crc32c(&message[..end]);
                message[end..].copy_from_slice(&crc.to_le_bytes());
            }
            message
        };
        let handshake = || -> Result<(), HandshakeError> {
            let (mut dialler, hello) = Dialler::start(local(1, 1), Lane::Data, None, [3; 32]);
            let (mut listener, challenge) = Listener::hello(local(2, 2), &change(0, hello), [4; 32])?;
            let proof = dialler.challenge(&change(1, challenge))?;
            listener.proof(&change(2, proof))?;
            dialler.accepted(&change(3, listener.accept()))?;
            Ok(())
        };
        prop_assert!(handshake().is_err());
    }

    #[test]
    fn refusal_is_read_as_it_was_written_and_cut_where_too_long(code in any::<u16>(), text in "\\PC{0,600}") {
        let bytes = encode_refusal(&Refusal { code, text: text.clone() });
        let read = decode_refusal(Kind::Refuse, &bytes).expect("a refusal");
        prop_assert_eq!(read.code, code);
        prop_assert!(text.starts_with(&read.text));
        prop_assert!(read.text.len() + 4 > text.len().min(mainstem_peers::REFUSAL_TEXT_BYTES_MAX));
    }
}
