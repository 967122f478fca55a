//! The handshake: both sides prove that they know the cluster's secret, then say who they are.
//!
//! ```text
//! dials     Hello      versions, lane, nonce
//! listens   Challenge  version, nonce            or Refuse
//! dials     Proof      who it is, whom it wants, HMAC of all so far
//! listens   Accept     who it is, HMAC of all    or Refuse
//! ```
//! A state machine without I/O. The listener shows nothing of itself before the dialler's proof was
//! right, and nothing but handshake messages of at most [`MESSAGE_BYTES_MAX`] is read before that.
//! Proofs cover both nonces, so none is good on another connection; those of the two sides begin
//! with different words, so neither can be handed back. They are compared in constant time.

mod message;

use hmac::{Hmac, KeyInit, Mac};
use mainstem_record::BrokerId;
use sha2::Sha256;

use message::{Bytes32, NONCE_BYTES};
pub use message::{Identity, MESSAGE_BYTES_MAX, Message, PREFIX_BYTES, Refuse, rest_bytes};

use crate::{CLUSTER_ID_BYTES_MAX, HandshakeError, Lane, Secret};

/// The lowest version of the protocol that this code speaks.
pub const VERSION_MIN: u16 = 1;
/// The highest.
pub const VERSION_MAX: u16 = 1;

/// What the dialler's proof begins with.
const DIALLER: &[u8] = b"mainstem peers, dialler";
/// What the listener's proof begins with.
const LISTENER: &[u8] = b"mainstem peers, listener";

/// This side.
#[derive(Debug, Clone)]
pub struct Local {
    /// Who it is.
    pub identity: Identity,
    /// What it knows; without, all who know none are let in.
    pub secret: Option<Secret>,
    /// The lowest and the highest version that it speaks.
    pub versions: (u16, u16),
}

/// The other side, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Who it is.
    pub identity: Identity,
    /// The version that is spoken.
    pub version: u16,
    /// What the connection is for.
    pub lane: Lane,
}

/// Who dials.
#[derive(Debug)]
pub struct Dialler {
    local: Local,
    lane: Lane,
    expected: Option<BrokerId>,
    version: u16,
    /// All messages so far.
    transcript: Vec<u8>,
}

/// Who listens.
#[derive(Debug)]
pub struct Listener {
    local: Local,
    lane: Lane,
    version: u16,
    /// All messages so far.
    transcript: Vec<u8>,
}

// === impl Local ===

impl Local {
    /// This side, speaking all versions that this code does.
    ///
    /// # Panics
    /// The cluster id is longer than [`CLUSTER_ID_BYTES_MAX`]; ids are made by ourselves.
    pub fn new(identity: Identity, secret: Option<Secret>) -> Self {
        assert!(identity.cluster_id.len() <= CLUSTER_ID_BYTES_MAX);
        Self {
            identity,
            secret,
            versions: (VERSION_MIN, VERSION_MAX),
        }
    }

    fn mac(&self, side: &[u8], transcript: &[u8], own: &[u8]) -> Hmac<Sha256> {
        let key = self.secret.as_ref().map_or(&[][..], Secret::bytes);
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
        mac.update(side);
        mac.update(transcript);
        mac.update(own);
        mac
    }

    /// The proof of a message, which is encoded with an empty one.
    fn prove(&self, side: &[u8], transcript: &[u8], empty: &Message) -> Bytes32 {
        let own = empty.encode();
        self.mac(side, transcript, &own)
            .finalize()
            .into_bytes()
            .into()
    }

    fn verify(
        &self,
        side: &[u8],
        transcript: &[u8],
        empty: &Message,
        mac: &Bytes32,
    ) -> Result<(), HandshakeError> {
        let own = empty.encode();
        self.mac(side, transcript, &own)
            .verify_slice(mac)
            .map_err(|_| HandshakeError::Secret)
    }

    /// Whether the other side may be talked to.
    fn judge(&self, theirs: &Identity) -> Result<(), HandshakeError> {
        let ours = &self.identity;
        if theirs.node == ours.node {
            return Err(match theirs.directory_id == ours.directory_id {
                true => HandshakeError::Itself,
                false => HandshakeError::OwnNodeId { node: ours.node },
            });
        }
        let is_other = theirs.cluster_id != ours.cluster_id;
        if is_other && !theirs.cluster_id.is_empty() && !ours.cluster_id.is_empty() {
            return Err(HandshakeError::Cluster {
                ours: ours.cluster_id.clone(),
                theirs: theirs.cluster_id.clone(),
            });
        }
        Ok(())
    }
}

// === impl Dialler ===

impl Dialler {
    /// Begins: also gives the first message. `nonce` is fresh randomness.
    pub fn start(
        local: Local,
        lane: Lane,
        expected: Option<BrokerId>,
        nonce: [u8; NONCE_BYTES],
    ) -> (Self, Vec<u8>) {
        let (min, max) = local.versions;
        let hello = Message::Hello {
            min,
            max,
            lane,
            nonce,
        }
        .encode();
        let this = Self {
            local,
            lane,
            expected,
            version: 0,
            transcript: hello.clone(),
        };
        (this, hello)
    }

    /// Takes the second message and gives the third.
    ///
    /// # Errors
    /// It is none, the other side refuses, or there is no common version.
    pub fn challenge(&mut self, bytes: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let version = match Message::decode(bytes)? {
            Message::Challenge { version, .. } => version,
            Message::Refuse(refuse) => return Err(self.refused(&refuse)),
            _ => return Err(HandshakeError::Malformed("it comes out of turn")),
        };
        let (min, max) = self.local.versions;
        if !(min..=max).contains(&version) {
            return Err(no_common(self.local.versions, (version, version)));
        }
        self.version = version;
        self.transcript.extend_from_slice(bytes);
        let proof = |mac| Message::Proof {
            identity: self.local.identity.clone(),
            expected: self.expected,
            mac,
        };
        let empty = proof([0; NONCE_BYTES]);
        let mac = self.local.prove(DIALLER, &self.transcript, &empty);
        let proof = proof(mac).encode();
        self.transcript.extend_from_slice(&proof);
        Ok(proof)
    }

    /// Takes the last message.
    ///
    /// # Errors
    /// It is none, the other side refuses or does not know the secret, or is not whom this side
    /// wants to talk to.
    pub fn accepted(&self, bytes: &[u8]) -> Result<Remote, HandshakeError> {
        let (identity, mac) = match Message::decode(bytes)? {
            Message::Accept { identity, mac } => (identity, mac),
            Message::Refuse(refuse) => return Err(self.refused(&refuse)),
            _ => return Err(HandshakeError::Malformed("it comes out of turn")),
        };
        let empty = Message::Accept {
            identity: identity.clone(),
            mac: [0; NONCE_BYTES],
        };
        self.local
            .verify(LISTENER, &self.transcript, &empty, &mac)?;
        self.local.judge(&identity)?;
        if let Some(expected) = self.expected.filter(|node| *node != identity.node) {
            return Err(HandshakeError::WrongNode {
                expected,
                found: identity.node,
            });
        }
        Ok(Remote {
            identity,
            version: self.version,
            lane: self.lane,
        })
    }

    /// What a refusal means on this side.
    fn refused(&self, refuse: &Refuse) -> HandshakeError {
        let node = BrokerId(refuse.node);
        match refuse.reason {
            1 => no_common(self.local.versions, (refuse.min, refuse.max)),
            2 => HandshakeError::Secret,
            3 => HandshakeError::Cluster {
                ours: self.local.identity.cluster_id.clone(),
                theirs: refuse.cluster_id.clone(),
            },
            4 => HandshakeError::Itself,
            5 => HandshakeError::OwnNodeId { node },
            6 => HandshakeError::Duplicate { node },
            7 => HandshakeError::WrongNode {
                expected: self.expected.unwrap_or(BrokerId(-1)),
                found: node,
            },
            8 => HandshakeError::TooMany,
            9 => HandshakeError::Malformed("the other side understood nothing"),
            10 => HandshakeError::TimedOut,
            other => HandshakeError::Other(other),
        }
    }
}

// === impl Listener ===

impl Listener {
    /// Takes the first message; gives the second. `nonce` is fresh randomness.
    ///
    /// # Errors
    /// It is none, or there is no common version.
    pub fn hello(
        local: Local,
        bytes: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let Message::Hello { min, max, lane, .. } = Message::decode(bytes)? else {
            return Err(HandshakeError::Malformed("it comes out of turn"));
        };
        let (ours_min, ours_max) = local.versions;
        let version = ours_max.min(max);
        if version < ours_min.max(min) {
            return Err(no_common(local.versions, (min, max)));
        }
        let challenge = Message::Challenge { version, nonce }.encode();
        let mut transcript = bytes.to_vec();
        transcript.extend_from_slice(&challenge);
        let this = Self {
            local,
            lane,
            version,
            transcript,
        };
        Ok((this, challenge))
    }

    /// Takes the third message.
    ///
    /// # Errors
    /// It is none, the other side does not know the secret, or is not one to talk to.
    pub fn proof(&mut self, bytes: &[u8]) -> Result<Remote, HandshakeError> {
        let Message::Proof {
            identity,
            expected,
            mac,
        } = Message::decode(bytes)?
        else {
            return Err(HandshakeError::Malformed("it comes out of turn"));
        };
        let empty = Message::Proof {
            identity: identity.clone(),
            expected,
            mac: [0; NONCE_BYTES],
        };
        self.local.verify(DIALLER, &self.transcript, &empty, &mac)?;
        self.transcript.extend_from_slice(bytes);
        self.local.judge(&identity)?;
        let found = self.local.identity.node;
        if let Some(expected) = expected.filter(|node| *node != found) {
            return Err(HandshakeError::WrongNode { expected, found });
        }
        Ok(Remote {
            identity,
            version: self.version,
            lane: self.lane,
        })
    }

    /// The last message.
    pub fn accept(&self) -> Vec<u8> {
        let accept = |mac| Message::Accept {
            identity: self.local.identity.clone(),
            mac,
        };
        let empty = accept([0; NONCE_BYTES]);
        let mac = self.local.prove(LISTENER, &self.transcript, &empty);
        accept(mac).encode()
    }
}

fn no_common(ours: (u16, u16), theirs: (u16, u16)) -> HandshakeError {
    HandshakeError::Version {
        ours_min: ours.0,
        ours_max: ours.1,
        theirs_min: theirs.0,
        theirs_max: theirs.1,
    }
}

/// What tells the dialler why the listener does not want it.
pub fn refuse(error: &HandshakeError) -> Vec<u8> {
    let mut refuse = Refuse::default();
    refuse.reason = match error {
        HandshakeError::Version {
            ours_min, ours_max, ..
        } => {
            (refuse.min, refuse.max) = (*ours_min, *ours_max);
            1
        }
        HandshakeError::Secret => 2,
        HandshakeError::Cluster { ours, .. } => {
            refuse.cluster_id.clone_from(ours);
            3
        }
        HandshakeError::Itself => 4,
        HandshakeError::OwnNodeId { node } => {
            refuse.node = node.0;
            5
        }
        HandshakeError::Duplicate { node } => {
            refuse.node = node.0;
            6
        }
        HandshakeError::WrongNode { found, .. } => {
            refuse.node = found.0;
            7
        }
        HandshakeError::TooMany => 8,
        HandshakeError::Malformed(_) => 9,
        HandshakeError::TimedOut | HandshakeError::Ended => 10,
        HandshakeError::Other(reason) => *reason,
    };
    Message::Refuse(refuse).encode()
}
