//! The bodies that nodes of the quorum exchange.
//!
//! ```text
//! request: version u8 | kind u8 | cluster id length u8 | cluster id | JSON length u32 BE | JSON | raw
//! answer:  version u8 | JSON
//! ```
//! `raw` is the data of a snapshot's chunk. A request of another version, kind or cluster is refused
//! with a text that says so. Lengths are checked against the body before anything is read; the body
//! itself is bounded by the transport ([`BODY_BYTES_MAX`]).

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::transport::{BODY_BYTES_MAX, Purpose};

/// The version that this build speaks.
pub(crate) const WIRE_VERSION: u8 = 1;

/// What a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Raft: a vote.
    Vote,
    /// Raft: entries, or that there are none.
    Append,
    /// Raft: a chunk of a snapshot.
    Snapshot,
    /// Whether a vote would be given, without anything being changed.
    PreVote,
    /// A command for the leader to commit.
    Propose,
    /// Up to where the log must be applied for a linearizable read.
    ReadIndex,
    /// Who is there, and what it belongs to.
    Hello,
    /// Binds a blank node to a cluster that is being made.
    Found,
    /// Takes a node, or its new address, into the cluster.
    Join,
    /// Who asks leads.
    Heartbeat,
}

/// A request, split up.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// The sender's cluster; empty if it has none yet.
    pub(crate) cluster_id: String,
    json: Bytes,
    pub(crate) raw: Bytes,
}

/// Why a body cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("body of version {0}; this build speaks version {WIRE_VERSION}")]
    Version(u8),
    #[error("unknown kind {0} of request")]
    Kind(u8),
    #[error("body ends early")]
    Short,
    #[error("body of {0} bytes is too large")]
    Large(usize),
    #[error("body: {0}")]
    Json(#[from] serde_json::Error),
}

const KINDS: [Kind; 10] = [
    Kind::Vote,
    Kind::Append,
    Kind::Snapshot,
    Kind::PreVote,
    Kind::Propose,
    Kind::ReadIndex,
    Kind::Hello,
    Kind::Found,
    Kind::Join,
    Kind::Heartbeat,
];

// === impl Kind ===

impl Kind {
    /// The stored number; never changes its meaning.
    fn code(self) -> u8 {
        match self {
            Self::Vote => 1,
            Self::Append => 2,
            Self::Snapshot => 3,
            Self::PreVote => 4,
            Self::Propose => 5,
            Self::ReadIndex => 6,
            Self::Hello => 7,
            Self::Found => 8,
            Self::Join => 9,
            Self::Heartbeat => 10,
        }
    }

    fn of(code: u8) -> Result<Self, WireError> {
        let mut kinds = KINDS.into_iter();
        kinds
            .find(|kind| kind.code() == code)
            .ok_or(WireError::Kind(code))
    }

    /// What it is to the transport.
    pub(crate) fn purpose(self) -> Purpose {
        match self {
            Self::Vote | Self::PreVote | Self::Heartbeat => Purpose::Vote,
            Self::Append => Purpose::Append,
            Self::Snapshot => Purpose::Snapshot,
            Self::Propose | Self::ReadIndex => Purpose::Propose,
            Self::Hello | Self::Found | Self::Join => Purpose::Join,
        }
    }

    /// Whether a node that belongs to no cluster yet may ask it.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Hello | Self::Found | Self::Join)
    }
}

// === impl Request ===

impl Request {
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, WireError> {
        let head = take(&mut body, 3)?;
        let [version, kind, cluster_len] = head[..] else {
            return Err(WireError::Short);
        };
        if version != WIRE_VERSION {
            return Err(WireError::Version(version));
        }
        let kind = Kind::of(kind)?;
        let cluster_id = take(&mut body, cluster_len.into())?;
        let cluster_id = String::from_utf8_lossy(&cluster_id).into_owned();
        let len = take(&mut body, 4)?;
        let len = <[u8; 4]>::try_from(&len[..]).map_err(|_| WireError::Short)?;
        let len = usize::try_from(u32::from_be_bytes(len)).map_err(|_| WireError::Short)?;
        let json = take(&mut body, len)?;
        Ok(Self {
            kind,
            cluster_id,
            json,
            raw: body,
        })
    }

    /// What it says.
    pub(crate) fn value<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        Ok(serde_json::from_slice(&self.json)?)
    }
}

fn take(body: &mut Bytes, len: usize) -> Result<Bytes, WireError> {
    if body.len() < len {
        return Err(WireError::Short);
    }
    Ok(body.split_to(len))
}

/// The body of a request.
pub(crate) fn request<T: Serialize>(
    kind: Kind,
    cluster_id: &str,
    value: &T,
    raw: &[u8],
) -> Result<Bytes, WireError> {
    let json = serde_json::to_vec(value)?;
    let total = json
        .len()
        .saturating_add(raw.len())
        .saturating_add(cluster_id.len() + 7);
    if total > BODY_BYTES_MAX {
        return Err(WireError::Large(total));
    }
    let mut body = BytesMut::with_capacity(total);
    body.put_u8(WIRE_VERSION);
    body.put_u8(kind.code());
    // Cluster ids have 22 bytes; bounds are checked above and when one is set.
    body.put_u8(u8::try_from(cluster_id.len()).map_err(|_| WireError::Large(total))?);
    body.put_slice(cluster_id.as_bytes());
    body.put_u32(u32::try_from(json.len()).map_err(|_| WireError::Large(total))?);
    body.put_slice(&json);
    body.put_slice(raw);
    Ok(body.freeze())
}

/// The body of an answer.
pub(crate) fn answer<T: Serialize>(value: &T) -> Result<Bytes, WireError> {
    let mut body = vec![WIRE_VERSION];
    serde_json::to_writer(&mut body, value)?;
    if body.len() > BODY_BYTES_MAX {
        return Err(WireError::Large(body.len()));
    }
    Ok(body.into())
}

/// What an answer says.
pub(crate) fn read_answer<T: DeserializeOwned>(body: &Bytes) -> Result<T, WireError> {
    match body.split_first() {
        Some((&WIRE_VERSION, json)) => Ok(serde_json::from_slice(json)?),
        Some((version, _)) => Err(WireError::Version(*version)),
        None => Err(WireError::Short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_out_as_they_went_in() {
        for kind in KINDS {
            let body = request(kind, "cluster", &vec![1u8, 2], b"raw").expect("small");
            let read = Request::decode(body).expect("whole");
            assert_eq!((read.kind, read.cluster_id.as_str()), (kind, "cluster"));
            assert_eq!(read.value::<Vec<u8>>().expect("JSON"), [1, 2]);
            assert_eq!(&read.raw[..], b"raw");
        }
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let good = request(Kind::Join, "c", &7u8, b"").expect("small");
        for len in 0..good.len() {
            let cut = good.slice(..len);
            assert!(Request::decode(cut).is_err(), "cut at {len}");
        }
        let mut other = good.to_vec();
        other[0] = 2;
        let error = Request::decode(other.into()).expect_err("version 2");
        assert!(error.to_string().contains("version 2"), "{error}");
        let mut other = good.to_vec();
        other[1] = 200;
        assert!(Request::decode(other.into()).is_err());
        let huge = vec![1, 9, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(Request::decode(huge.into()).is_err());
        assert!(read_answer::<u8>(&Bytes::new()).is_err());
        let large = vec![0; BODY_BYTES_MAX];
        assert!(request(Kind::Snapshot, "", &0u8, &large).is_err());
    }
}
