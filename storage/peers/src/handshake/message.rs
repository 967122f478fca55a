//! The bytes of the handshake's messages.
//!
//! ```text
//! "MSPR"  u16 bytes that follow  u8 type  body  u32 CRC-32C of all before it
//! Hello      u16 lowest version  u16 highest version  u8 lane  32 nonce
//! Challenge  u16 version         32 nonce
//! Proof      identity  i32 node that is looked for, or -1  32 HMAC
//! Accept     identity  32 HMAC
//! Refuse     u16 reason  u16 lowest version  u16 highest version  i32 node  text cluster id
//! identity   i32 node  16 directory id  text cluster id;  text: u8 length, bytes
//! ```

use mainstem_record::BrokerId;
use uuid::Uuid;

use crate::{CLUSTER_ID_BYTES_MAX, HandshakeError, Lane};

/// What each message begins with.
const MAGIC: [u8; 4] = *b"MSPR";
/// The magic and the length.
pub const PREFIX_BYTES: usize = 6;
/// The longest message, prefix included.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// The length of nonces and of proofs.
pub(super) const NONCE_BYTES: usize = 32;
/// Type and checksum.
const REST_BYTES_MIN: usize = 5;

/// 32 bytes that are never used twice, or that prove a secret.
pub(super) type Bytes32 = [u8; NONCE_BYTES];

/// Who somebody says that they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node id.
    pub node: BrokerId,
    /// The id of the data directory.
    pub directory_id: Uuid,
    /// The cluster; empty while it is not known.
    pub cluster_id: String,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first, from who dials.
    Hello {
        /// The lowest version that it speaks.
        min: u16,
        /// The highest.
        max: u16,
        /// What the connection is for.
        lane: Lane,
        /// Fresh.
        nonce: Bytes32,
    },
    /// The second, from who listens.
    Challenge {
        /// The version that is spoken.
        version: u16,
        /// Fresh.
        nonce: Bytes32,
    },
    /// The third, from who dials.
    Proof {
        /// Who it is.
        identity: Identity,
        /// Whom it looks for, if it knows.
        expected: Option<BrokerId>,
        /// That it knows the secret.
        mac: Bytes32,
    },
    /// The last, from who listens.
    Accept {
        /// Who it is.
        identity: Identity,
        /// That it knows the secret.
        mac: Bytes32,
    },
    /// Instead of the second or the last.
    Refuse(Refuse),
}

/// Why, and what the other side needs in order to say so to people. What is not of its reason is
/// zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refuse {
    pub(super) reason: u16,
    pub(super) min: u16,
    pub(super) max: u16,
    pub(super) node: i32,
    pub(super) cluster_id: String,
}

/// Takes fields off bytes.
struct Fields<'a>(&'a [u8]);

// === impl Message ===

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        match self {
            Self::Hello {
                min,
                max,
                lane,
                nonce,
            } => {
                body.push(1);
                body.extend_from_slice(&min.to_le_bytes());
                body.extend_from_slice(&max.to_le_bytes());
                body.push(*lane as u8);
                body.extend_from_slice(nonce);
            }
            Self::Challenge { version, nonce } => {
                body.push(2);
                body.extend_from_slice(&version.to_le_bytes());
                body.extend_from_slice(nonce);
            }
            Self::Proof {
                identity,
                expected,
                mac,
            } => {
                body.push(3);
                identity.encode(&mut body);
                let expected = expected.map_or(-1, |node| node.0);
                body.extend_from_slice(&expected.to_le_bytes());
                body.extend_from_slice(mac);
            }
            Self::Accept { identity, mac } => {
                body.push(4);
                identity.encode(&mut body);
                body.extend_from_slice(mac);
            }
            Self::Refuse(refuse) => {
                body.push(5);
                for number in [refuse.reason, refuse.min, refuse.max] {
                    body.extend_from_slice(&number.to_le_bytes());
                }
                body.extend_from_slice(&refuse.node.to_le_bytes());
                encode_text(&refuse.cluster_id, &mut body);
            }
        }
        let rest = u16::try_from(body.len() + 4).expect("all fields are bounded");
        let mut out = Vec::with_capacity(PREFIX_BYTES + usize::from(rest));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&rest.to_le_bytes());
        out.extend_from_slice(&body);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads one whole message.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let (prefix, _) = bytes
            .split_first_chunk::<PREFIX_BYTES>()
            .ok_or(HandshakeError::Malformed("it is cut"))?;
        if rest_bytes(prefix)? != bytes.len() - PREFIX_BYTES {
            return Err(HandshakeError::Malformed("its length is wrong"));
        }
        let (covered, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or(HandshakeError::Malformed("it is cut"))?;
        if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
            return Err(HandshakeError::Malformed("its checksum is wrong"));
        }
        let mut fields = Fields(&covered[PREFIX_BYTES..]);
        Self::decode_body(&mut fields)
            .filter(|_| fields.0.is_empty())
            .ok_or(HandshakeError::Malformed("its fields make no sense"))
    }

    fn decode_body(fields: &mut Fields<'_>) -> Option<Self> {
        let [kind] = fields.take()?;
        Some(match kind {
            1 => Self::Hello {
                min: fields.u16()?,
                max: fields.u16()?,
                lane: fields.lane()?,
                nonce: fields.take()?,
            },
            2 => Self::Challenge {
                version: fields.u16()?,
                nonce: fields.take()?,
            },
            3 => Self::Proof {
                identity: fields.identity()?,
                expected: Some(fields.i32()?).filter(|node| *node != -1).map(BrokerId),
                mac: fields.take()?,
            },
            4 => Self::Accept {
                identity: fields.identity()?,
                mac: fields.take()?,
            },
            5 => Self::Refuse(Refuse {
                reason: fields.u16()?,
                min: fields.u16()?,
                max: fields.u16()?,
                node: fields.i32()?,
                cluster_id: fields.text()?,
            }),
            _ => return None,
        })
    }
}

/// How many bytes follow the prefix of a message.
///
/// # Errors
/// It is none, or announces more than a message may have.
pub fn rest_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, HandshakeError> {
    let [magic @ .., l0, l1] = *prefix;
    if magic != MAGIC {
        return Err(HandshakeError::Malformed("it is no peer of a cluster"));
    }
    let rest = usize::from(u16::from_le_bytes([l0, l1]));
    if !(REST_BYTES_MIN..=MESSAGE_BYTES_MAX - PREFIX_BYTES).contains(&rest) {
        return Err(HandshakeError::Malformed("its length is out of bounds"));
    }
    Ok(rest)
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).expect("cluster ids are bounded");
    out.push(length);
    out.extend_from_slice(text.as_bytes());
}

// === impl Identity ===

impl Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(self.directory_id.as_bytes());
        encode_text(&self.cluster_id, out);
    }
}

// === impl Fields ===

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    fn lane(&mut self) -> Option<Lane> {
        let [byte] = self.take()?;
        Lane::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }

    /// A cluster id: what may stand in one can be logged as it is.
    fn text(&mut self) -> Option<String> {
        let [length] = self.take()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        let is_plain = text.len() <= CLUSTER_ID_BYTES_MAX
            && text
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        let text = std::str::from_utf8(text).ok()?;
        is_plain.then(|| text.to_owned())
    }

    fn identity(&mut self) -> Option<Identity> {
        Some(Identity {
            node: BrokerId(self.i32()?),
            directory_id: Uuid::from_bytes(self.take()?),
            cluster_id: self.text()?,
        })
    }
}
