//! How a connection ends, and what is said then.

use std::{fmt, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use mainstem_broker::{Disconnect as Leave, Session};
use mainstem_env::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Context, output::Output};
use crate::codec::{
    DecodeError, Disconnect, Peer, PropertyId, PropertyWriter, ReasonCode, Utf8Str,
    packet::PacketType,
};

/// How long the last packets may take to be written, and then how long the peer may take to close:
/// a socket that is closed with bytes unread resets the connection, and the peer might never read
/// the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes that are read and thrown away while the peer closes.
const LINGER_BYTES_MAX: usize = 256 << 10;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said so.
    Client {
        publish_will: bool,
        session_expiry_s: Option<u32>,
    },
    /// The stream ended or broke.
    Lost,
    /// The client broke a rule, or was refused what MQTT 3 has no answer for.
    Protocol(DecodeError),
    /// Nothing came for one and a half keep alive periods.
    KeepAlive,
    /// The client took nothing of what was sent to it.
    WriteStall,
    /// Another connection has the session.
    TakenOver,
    /// The node is ending.
    Shutdown,
    /// The client is too far behind.
    SlowConsumer,
    /// The broker cannot do now what it must do before the client may be answered.
    Unavailable,
    /// A broken promise between our own layers.
    Internal,
}

/// What is left of a connection when it has ended, its session apart.
pub(crate) struct Remains {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) output: Output,
    pub(crate) peer: Peer,
    pub(crate) end: End,
}

// === impl End ===

impl End {
    /// The label of the metric: one of a fixed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Client {
                publish_will: false,
                ..
            } => "client",
            Self::Client { .. } => "client_with_will",
            Self::Lost => "connection_lost",
            Self::Protocol(error) => protocol_label(error.reason),
            Self::KeepAlive => "keep_alive",
            Self::WriteStall => "write_stall",
            Self::TakenOver => "taken_over",
            Self::Shutdown => "shutdown",
            Self::SlowConsumer => "slow_consumer",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// What a client of version 5 is told, if anything.
    pub(crate) fn reason(&self) -> Option<ReasonCode> {
        Some(match self {
            Self::Client { .. } | Self::Lost => return None,
            Self::Protocol(error) => error.reason,
            Self::KeepAlive => ReasonCode::KEEP_ALIVE_TIMEOUT,
            Self::WriteStall | Self::SlowConsumer => ReasonCode::QUOTA_EXCEEDED,
            Self::TakenOver => ReasonCode::SESSION_TAKEN_OVER,
            Self::Shutdown => ReasonCode::SERVER_SHUTTING_DOWN,
            // DISCONNECT knows no 0x88 (table 3-13).
            Self::Unavailable => ReasonCode::SERVER_BUSY,
            Self::Internal => ReasonCode::UNSPECIFIED_ERROR,
        })
    }

    fn what(&self) -> Option<&'static str> {
        match self {
            Self::Protocol(error) => Some(error.what),
            Self::WriteStall => Some("nothing was taken of what was sent"),
            Self::SlowConsumer => Some("too far behind"),
            Self::Unavailable => Some("messages cannot be stored now"),
            _ => None,
        }
    }

    fn packet(&self) -> Option<Disconnect> {
        let mut disconnect = Disconnect::new(self.reason()?);
        if let Some(text) = self.what().and_then(|what| Utf8Str::copy_from(what).ok()) {
            let mut block = PropertyWriter::new();
            block.text(PropertyId::ReasonString, &text);
            disconnect.properties = block.finish();
        }
        Some(disconnect)
    }

    /// How the session is left; `None`: it is not ours any more.
    fn leave(&self) -> Option<Leave> {
        match *self {
            Self::TakenOver => None,
            Self::Client {
                publish_will,
                session_expiry_s,
            } => Some(Leave {
                publish_will,
                session_expiry_s,
            }),
            _ => Some(Leave {
                publish_will: true,
                session_expiry_s: None,
            }),
        }
    }
}

/// Reason codes as labels.
pub(crate) fn protocol_label(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::MALFORMED_PACKET => "malformed",
        ReasonCode::PROTOCOL_ERROR => "protocol_error",
        ReasonCode::PACKET_TOO_LARGE => "packet_too_large",
        ReasonCode::RECEIVE_MAXIMUM_EXCEEDED => "receive_maximum",
        ReasonCode::TOPIC_ALIAS_INVALID => "topic_alias",
        ReasonCode::TOPIC_NAME_INVALID | ReasonCode::TOPIC_FILTER_INVALID => "topic",
        ReasonCode::NOT_AUTHORIZED => "not_authorized",
        ReasonCode::QUOTA_EXCEEDED => "quota",
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => "version",
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => "client_id",
        _ => "refused",
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self.what() {
            Some(what) => write!(f, ": {what}"),
            None => Ok(()),
        }
    }
}

/// Says why, leaves the session and closes the stream. The client's DISCONNECT ends the session
/// first: it may connect again at once, and must not be taken for one that took over.
pub(crate) async fn finish(context: &Context, session: Session, remains: Box<Remains>) {
    let Remains {
        mut stream,
        mut output,
        peer,
        end,
    } = *remains;
    context.metrics.disconnected(end.label());
    let mut writable = !matches!(end, End::Lost | End::WriteStall);
    if writable && !matches!(end, End::Client { .. }) {
        if let Some(packet) = end.packet()
            && packet.encode(&peer, output.tail()).is_ok()
        {
            context.metrics.sent(PacketType::Disconnect);
        }
        // Acknowledgements may wait there too.
        writable = write_out(context, &mut *stream, &mut output).await;
    }
    match end.leave() {
        Some(leave) => session.disconnect(leave).await,
        None => drop(session),
    }
    if writable {
        close(context, stream).await;
    }
}

/// Writes what waits, for as long as a farewell may take; whether it was taken.
pub(crate) async fn write_out(
    context: &Context,
    stream: &mut dyn Stream,
    output: &mut Output,
) -> bool {
    let all = poll_fn(|task| match output.poll_write(stream, task) {
        Ok(written) if written.all => Poll::Ready(true),
        Ok(_) => Poll::Pending,
        Err(_) => Poll::Ready(false),
    });
    context.env.timeout(FAREWELL, all).await.unwrap_or(false)
}

/// Closes our half and waits a little for the peer to close its own.
pub(crate) async fn close(context: &Context, mut stream: Box<dyn Stream>) {
    let closing = async {
        if Pin::new(&mut *stream).shutdown().await.is_err() {
            return;
        }
        let mut scratch = [0; 1024];
        let mut thrown_away = 0;
        while let Ok(count) = stream.read(&mut scratch).await {
            thrown_away += count;
            if count == 0 || thrown_away > LINGER_BYTES_MAX {
                return;
            }
        }
    };
    // A peer that does not close has had its time.
    let _ = context.env.timeout(FAREWELL, closing).await;
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::codec::Version;

    const ENDS: [End; 9] = [
        End::Client {
            publish_will: true,
            session_expiry_s: None,
        },
        End::Lost,
        End::KeepAlive,
        End::WriteStall,
        End::TakenOver,
        End::Shutdown,
        End::SlowConsumer,
        End::Unavailable,
        End::Internal,
    ];

    #[test]
    fn only_what_a_client_cannot_know_is_said() {
        for end in ENDS {
            let said = end.packet().map(|packet| packet.reason);
            assert_eq!(said, end.reason());
            assert!(said.is_none_or(ReasonCode::is_error));
            assert_eq!(end.leave().is_none(), end == End::TakenOver);
        }
        assert_eq!(End::TakenOver.reason(), Some(ReasonCode(0x8E)));
        assert_eq!(End::Shutdown.reason(), Some(ReasonCode(0x8B)));
        assert_eq!(End::SlowConsumer.reason(), Some(ReasonCode(0x97)));
        assert_eq!(End::KeepAlive.reason(), Some(ReasonCode(0x8D)));
    }

    #[test]
    fn a_will_is_kept_back_only_by_a_normal_disconnect() {
        let normal = End::Client {
            publish_will: false,
            session_expiry_s: Some(7),
        };
        let leave = normal.leave().expect("the session is ours");
        assert!(!leave.publish_will);
        assert_eq!(leave.session_expiry_s, Some(7));
        for leave in ENDS.iter().filter_map(End::leave) {
            assert!(leave.publish_will);
        }
    }

    #[test]
    fn older_clients_are_only_closed() {
        let mut out = BytesMut::new();
        let packet = End::Shutdown.packet().expect("version 5 is told");
        assert!(packet.encode(&Peer::new(Version::V311), &mut out).is_err());
        assert!(out.is_empty());
    }
}
