//! Decompression: the first byte of an input is the codec's id, the rest is compressed.

use mainstem_record::{Codec, CodecError, compress, decompress};

use super::Target;
use crate::Trace;

/// What an input may unpack to here.
const UNPACKED_BYTES_MAX: usize = 1 << 20;
/// What a bomb unpacks to.
const BOMB_BYTES: usize = 64 << 20;

pub(super) const DECOMPRESS: Target = Target {
    name: "decompress",
    run,
    seeds,
    repair: |_| {},
    // The output, which grows by doubling, and the windows of the codecs.
    bytes_free: 16 << 20,
    bytes_factor: 64,
    short: 40_000,
};

fn packed(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut input = vec![codec.id()];
    input.extend(compress(codec, plain).expect("it compresses"));
    input
}

fn seeds() -> Vec<Vec<u8>> {
    let text: Vec<u8> = b"the quick brown fox "
        .iter()
        .copied()
        .cycle()
        .take(3000)
        .collect();
    let noise: Vec<u8> = (0..2000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut seeds = Vec::new();
    for codec in Codec::ALL {
        for plain in [&[][..], b"x", &text, &noise] {
            seeds.push(packed(codec, plain));
        }
        if codec != Codec::None {
            // A bomb: refused, and without room made for what it would unpack to.
            seeds.push(packed(codec, &vec![0; BOMB_BYTES]));
        }
    }
    seeds
}

fn run(input: &[u8], trace: &mut Trace) {
    let Some((id, packed)) = input.split_first() else {
        return;
    };
    let Some(codec) = Codec::from_id(*id) else {
        trace.note("no codec");
        return;
    };
    match decompress(codec, packed, UNPACKED_BYTES_MAX) {
        Ok(plain) => {
            assert!(plain.len() <= UNPACKED_BYTES_MAX);
            trace.note_size(codec.name(), plain.len());
            let again = compress(codec, &plain).expect("it compresses");
            assert_eq!(decompress(codec, &again, plain.len()), Ok(plain));
        }
        Err(CodecError::TooLarge { bytes_max }) => {
            assert_eq!(bytes_max, UNPACKED_BYTES_MAX);
            trace.note(&format!("{codec} too large"));
        }
        Err(CodecError::Corrupt { detail, .. }) => trace.note_kind(codec.name(), &detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bomb_is_refused() {
        let bombs = seeds();
        let refused = bombs.iter().filter(|input| {
            let codec = Codec::from_id(input[0]).expect("a codec");
            let unpacked = decompress(codec, &input[1..], UNPACKED_BYTES_MAX);
            matches!(unpacked, Err(CodecError::TooLarge { .. }))
        });
        assert_eq!(refused.count(), 4);
    }
}
