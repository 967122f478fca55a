//! The codecs of record batches (batch attribute bits 0-2), in the framing that Kafka's clients
//! use.
//!
//! Decompression is capped by its caller and never allocates by a size that the input claims:
//! memory grows with what has really been produced.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    #[default]
    #[serde(alias = "uncompressed")]
    None,
    /// Gzip members (RFC 1952).
    Gzip,
    /// Snappy, written in the framing of the Java library, read in it or raw.
    Snappy,
    /// One LZ4 frame with a correct header checksum (KIP-57).
    Lz4,
    /// Zstandard frames (KIP-110).
    Zstd,
}

/// No codec goes by that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown compression codec '{0}'")]
pub struct UnknownCodec(pub String);

/// Why bytes could not be compressed or decompressed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The result would be larger than the caller allows.
    #[error("decompressing yields more than the {bytes_max} bytes allowed")]
    TooLarge {
        /// What the caller allows.
        bytes_max: usize,
    },
    /// The bytes are not what the codec writes.
    #[error("bytes are not valid {codec}: {detail}")]
    Corrupt {
        /// The codec.
        codec: Codec,
        /// What the codec says about it, for people.
        detail: String,
    },
}

/// The first bytes of the Java library's snappy framing.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];

/// Version and lowest compatible version, both 1, big-endian, after the magic.
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];

/// How much input goes into one block of the Java library's framing; its own default.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

/// Snappy's densest element is a copy of 64 bytes in 3: no block unpacks to more than this many
/// times its size. (A claimed length beyond it is a lie, found before anything is allocated.)
const SNAPPY_RATIO_MAX: usize = 22;

/// The first bytes of an LZ4 frame, 0x184D2204 little-endian.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// The zstd level of Kafka's clients.
const ZSTD_LEVEL: i32 = 3;

/// How much output is expected per byte of input; only a first guess of the buffer's size.
const RATIO_GUESS: usize = 4;

/// By how much the zstd output buffer grows when it was too small.
const ZSTD_GROWTH: usize = 4;

/// The smallest first output buffer.
const OUTPUT_BYTES_MIN: usize = 4 * 1024;

// === impl Codec ===

impl Codec {
    /// All codecs, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of an id as it stands in batch attributes; `None` for 5 and above.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The id in batch attributes, 0 to 4.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    /// Reads a name as Kafka's `compression.type` has it; `uncompressed` means [`Codec::None`].
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "uncompressed" {
            return Ok(Self::None);
        }
        let found = Self::ALL.into_iter().find(|codec| codec.name() == name);
        found.ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}

/// Compresses `input`.
///
/// Fails only if the codec's library does, which it has no reason to.
pub fn compress(codec: Codec, input: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    compress_into(codec, input, &mut out)?;
    Ok(out)
}

/// Appends `input`, compressed, to `out`.
pub(crate) fn compress_into(
    codec: Codec,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    match codec {
        Codec::None => out.extend_from_slice(input),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder
                .write_all(input)
                .and_then(|()| encoder.try_finish())
                .map_err(corrupt(codec))?;
        }
        Codec::Snappy => compress_xerial(input, out)?,
        Codec::Lz4 => compress_lz4(input, out).map_err(corrupt(codec))?,
        Codec::Zstd => {
            let start = out.len();
            out.resize(start + zstd::zstd_safe::compress_bound(input.len()), 0);
            let room = out.get_mut(start..).unwrap_or_default();
            let written = zstd::bulk::compress_to_buffer(input, room, ZSTD_LEVEL);
            out.truncate(start + written.map_err(corrupt(codec))?);
        }
    }
    Ok(())
}

/// Decompresses `input` to at most `bytes_max` bytes.
///
/// Never allocates more than a small multiple of what is really produced, whatever the input
/// claims. For [`Codec::None`] the input is copied.
///
/// # Errors
/// [`CodecError::TooLarge`] if there is more than `bytes_max`, [`CodecError::Corrupt`] if the
/// bytes are not what the codec writes.
pub fn decompress(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    match codec {
        Codec::None if input.len() > bytes_max => Err(CodecError::TooLarge { bytes_max }),
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => read_capped(
            codec,
            flate2::bufread::MultiGzDecoder::new(input),
            input.len(),
            bytes_max,
        ),
        Codec::Snappy => decompress_snappy(input, bytes_max),
        Codec::Lz4 => {
            // Kafka knows this frame only; the library would also take the legacy one.
            if !input.starts_with(&LZ4_MAGIC) {
                return Err(corrupt(codec)("not an LZ4 frame"));
            }
            let decoder = lz4_flex::frame::FrameDecoder::new(input);
            read_capped(codec, decoder, input.len(), bytes_max)
        }
        Codec::Zstd => decompress_zstd(input, bytes_max),
    }
}

/// Reads `decoder` to its end, or until it has yielded one byte more than allowed.
fn read_capped(
    codec: Codec,
    decoder: impl Read,
    input_bytes: usize,
    bytes_max: usize,
) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(first_capacity(input_bytes, bytes_max));
    let limit = u64::try_from(bytes_max)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut out)
        .map_err(corrupt(codec))?;
    if out.len() > bytes_max {
        return Err(CodecError::TooLarge { bytes_max });
    }
    Ok(out)
}

/// The first guess of the output's size, from the size of the input that is really there.
fn first_capacity(input_bytes: usize, bytes_max: usize) -> usize {
    input_bytes
        .saturating_mul(RATIO_GUESS)
        .max(OUTPUT_BYTES_MIN)
        .min(bytes_max)
}

/// Zstandard in one call per attempt: the output itself is the window, so that the window size
/// that a frame claims (up to 128 MiB) is never allocated.
fn decompress_zstd(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    let mut context = zstd::zstd_safe::DCtx::create();
    let mut capacity = first_capacity(input.len(), bytes_max);
    loop {
        let mut out = Vec::with_capacity(capacity);
        match context.decompress(&mut out, input) {
            Ok(_) if out.len() > bytes_max => return Err(CodecError::TooLarge { bytes_max }),
            Ok(_) => return Ok(out),
            Err(code) if !zstd_output_was_too_small(code) => {
                return Err(corrupt(Codec::Zstd)(zstd::zstd_safe::get_error_name(code)));
            }
            Err(_) if capacity >= bytes_max => return Err(CodecError::TooLarge { bytes_max }),
            // Starting over costs at most a third more than having guessed right.
            Err(_) => capacity = capacity.saturating_mul(ZSTD_GROWTH).min(bytes_max),
        }
    }
}

fn zstd_output_was_too_small(code: zstd::zstd_safe::ErrorCode) -> bool {
    use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

    zstd::zstd_safe::is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall)
}

fn compress_lz4(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    // Kafka's Java client reads independent blocks only, and writes blocks of 64 KiB.
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(input)?;
    encoder.finish().map_err(io::Error::from)?;
    Ok(())
}

fn compress_xerial(input: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let length_at = out.len();
        let start = length_at + size_of::<u32>();
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let written = encoder
            .compress(block, room)
            .map_err(corrupt(Codec::Snappy))?;
        out.truncate(start + written);
        // A block of 32 KiB stays far below 4 GiB.
        let length = (written as u32).to_be_bytes();
        if let Some(field) = out.get_mut(length_at..start) {
            field.copy_from_slice(&length);
        }
    }
    Ok(())
}

/// Snappy as the Java library frames it (possibly several streams, one after the other), or raw.
fn decompress_snappy(mut input: &[u8], bytes_max: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    if !input.starts_with(&XERIAL_MAGIC) {
        decompress_snappy_block(input, bytes_max, &mut out)?;
        return Ok(out);
    }
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix(&XERIAL_MAGIC) {
            // The versions say nothing that readers depend on: there has been only one layout.
            let after = rest.get(XERIAL_VERSIONS.len()..);
            input = after.ok_or_else(|| corrupt(Codec::Snappy)("the stream header is cut off"))?;
            continue;
        }
        let block = input
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| {
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                rest.split_at_checked(length)
            })
            .ok_or_else(|| corrupt(Codec::Snappy)("a block is cut off"))?;
        decompress_snappy_block(block.0, bytes_max, &mut out)?;
        input = block.1;
    }
    Ok(out)
}

/// Appends one raw snappy block, so that `out` has at most `bytes_max` bytes.
fn decompress_snappy_block(
    block: &[u8],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let claimed = snap::raw::decompress_len(block).map_err(corrupt(Codec::Snappy))?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(corrupt(Codec::Snappy)(
            "the claimed length is beyond what the bytes can hold",
        ));
    }
    let start = out.len();
    if claimed > bytes_max.saturating_sub(start) {
        return Err(CodecError::TooLarge { bytes_max });
    }
    out.resize(start + claimed, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = snap::raw::Decoder::new().decompress(block, room);
    out.truncate(start + written.map_err(corrupt(Codec::Snappy))?);
    Ok(())
}

/// Makes [`CodecError::Corrupt`] of whatever a codec's library says.
fn corrupt<E: fmt::Display>(codec: Codec) -> impl Fn(E) -> CodecError {
    move |error| CodecError::Corrupt {
        codec,
        detail: error.to_string(),
    }
}
