//! What the machine makes its shell do.

use bytes::{Bytes, BytesMut};

use crate::codec::{
    Ack, AckKind, DecodeError, EncodeError, PacketId, Peer, Properties, QoS, Subscribe, TopicName,
    Unsubscribe, disconnect::encode_ping_resp,
};

/// One thing to do. Effects are to be carried out in order; those that ask the broker may be
/// started in order and awaited later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<D> {
    /// Hand a message to the broker. If it has a receipt, tell [`super::Machine::published`] how it
    /// went.
    Publish(InboundPublish),
    /// Make durable that the client has released this identifier, then call
    /// [`super::Machine::released`].
    Release(PacketId),
    /// Subscribe and answer with SUBACK.
    Subscribe(Subscribe),
    /// Unsubscribe and answer with UNSUBACK.
    Unsubscribe(Unsubscribe),
    /// Write a small packet.
    Send(Outgoing),
    /// Write a PUBLISH. Unless it is resumed, the broker must know of its identifier first.
    Deliver(SendPublish<D>),
    /// Make durable that the client has a QoS 2 message, then call
    /// [`super::Machine::marked_received`].
    Received(PacketId),
    /// The exchange is over; the broker may forget it. Its identifier can be given out again at
    /// once: tell the broker before telling it of later deliveries.
    Completed(PacketId),
    /// The client leaves.
    Disconnected {
        /// Whether its will is to be published.
        publish_will: bool,
        /// The session expiry interval in seconds that replaces that of CONNECT, if any.
        session_expiry_secs: Option<u32>,
    },
    /// The client has broken a rule: say so (version 5 only) and close. Its will is published.
    Close(DecodeError),
}

/// The place of a PUBLISH among those that the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub(super) u64);

/// A message from the client, its topic resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPublish {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: QoS,
    /// Whether as a retained message.
    pub retain: bool,
    /// Whether the client may have sent it before.
    pub dup: bool,
    /// The client's identifier; `Some` exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Properties without the topic alias, which is nobody's business but this connection's.
    pub properties: Properties,
    /// What to answer with; `Some` exactly for QoS 1 and 2.
    pub receipt: Option<Receipt>,
}

/// A PUBLISH to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendPublish<D> {
    /// Its identifier; `Some` exactly for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Its QoS.
    pub qos: QoS,
    /// Its DUP flag.
    pub dup: bool,
    /// Whether an earlier connection has given it its identifier, so that the broker knows of it.
    pub resumed: bool,
    /// The message.
    pub delivery: D,
}

/// A small packet to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(AckKind, Ack),
    /// PINGRESP.
    PingResp,
}

impl Outgoing {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// See [`Ack::encode`]. The machine gives no refusals to clients of older versions, so what is
    /// left is a client whose Maximum Packet Size does not hold five bytes.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Ack(kind, ack) => ack.encode(*kind, peer, out),
            Self::PingResp => {
                encode_ping_resp(out);
                Ok(())
            }
        }
    }
}
