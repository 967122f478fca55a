//! From the accepted stream to CONNACK.
//!
//! Until its CONNECT is there, a stranger is given a time limit, single reads of
//! [`FIRST_READ_BYTES_MAX`], and no memory for a length that it only claims.

use std::{future::poll_fn, net::SocketAddr, time::Duration};

use mainstem_broker::{Caller, ConnectError, ConnectRequest, Connected, Session};
use mainstem_env::Stream;
use mainstem_net::Connection;

use super::{
    Context, Transport, convert,
    end::{close, protocol_label, write_out},
    input::Input,
    output::Output,
    websocket,
};
use crate::codec::{
    ConnAck, Connect, DecodeError, Packet, Peer, Properties, PropertyId, PropertyWriter,
    ReasonCode, Utf8Str, Version, connect::answer_version, packet::PacketType,
};

/// Bytes of one read before the CONNECT is whole.
const FIRST_READ_BYTES_MAX: usize = 4 << 10;

/// A client that was let in; its CONNACK waits in the output.
pub(crate) struct Opened {
    pub(crate) peer: Peer,
    pub(crate) session: Session,
    /// Boxed: it is moved on, and the task would keep its place.
    pub(crate) start: Box<Start>,
}

/// What the loop of the connection begins with.
pub(crate) struct Start {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) peer: Peer,
    /// QoS 1 and 2 messages that may be on their way to the client.
    pub(crate) window: u16,
    /// Of the CONNECT, as the client asked: a DISCONNECT may not raise it from 0.
    pub(crate) session_expiry_s: u32,
    /// One and a half keep alive periods.
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) inbound_qos2: Vec<u16>,
    pub(crate) outbound: Vec<mainstem_broker::Resume>,
}

/// Why there is no connection.
enum Refused {
    /// Nothing is said; the label of the metric.
    Silently(&'static str),
    /// With a CONNACK, if the version has a word for it.
    With(Peer, DecodeError),
}

/// What was agreed on beside what the client asked for.
struct Granted {
    /// The keep alive in seconds; 0 is none.
    keep_alive_s: u16,
    /// If it is not what the client asked for.
    server_keep_alive: Option<u16>,
    /// Asked for, as the broker is told.
    session_expiry_s: u32,
}

/// Reads CONNECT, opens the session and prepares CONNACK. `None`: the connection is closed.
pub(crate) async fn open(
    context: &Context,
    connection: Connection,
    transport: Transport,
) -> Option<Opened> {
    let Connection {
        stream,
        peer: address,
        id,
        drain,
    } = connection;
    let limit = Duration::from_millis(context.config.mqtt.connect_timeout_ms);
    let mut input = Input::default();
    let began = context.env.timeout(limit, async {
        let mut stream = match transport {
            Transport::Tcp => stream,
            Transport::WebSocket => {
                let frame_bytes_max = context.config.mqtt.ws_frame_bytes_max;
                websocket::upgrade(stream, frame_bytes_max)
                    .await
                    .map_err(|_: std::io::Error| Refused::Silently("websocket"))?
            }
        };
        let connect = read_connect(context, &mut *stream, &mut input).await;
        Ok::<_, Refused>((stream, connect))
    });
    let (stream, connect) = match drain.run_until_cancelled(began).await {
        None => return refuse(context, None, Refused::Silently("shutdown")).await,
        Some(Err(_)) => return refuse(context, None, Refused::Silently("connect_timeout")).await,
        Some(Ok(Err(refused))) => return refuse(context, None, refused).await,
        Some(Ok(Ok((stream, Err(refused))))) => {
            return refuse(context, Some(stream), refused).await;
        }
        Some(Ok(Ok((stream, Ok(connect))))) => (stream, connect),
    };
    match enter(context, address, &connect).await {
        Ok((connected, granted)) => Some(begin(
            context,
            (stream, input),
            &connect,
            (connected, granted),
        )),
        Err(error) => {
            tracing::debug!(connection = id, peer = %address, %error, "CONNECT refused");
            refuse(context, Some(stream), Refused::With(connect.peer(), error)).await
        }
    }
}

async fn read_connect(
    context: &Context,
    stream: &mut dyn Stream,
    input: &mut Input,
) -> Result<Connect, Refused> {
    let frame = loop {
        match input.first_frame(context.connect_bytes_max) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            // Whoever sends this may not even speak MQTT.
            Err(error) => return Err(Refused::Silently(protocol_label(error.reason))),
        }
        let read = poll_fn(|task| input.poll_fill(stream, task, FIRST_READ_BYTES_MAX));
        match read.await {
            Ok(0) | Err(_) => return Err(Refused::Silently("connection_lost")),
            Ok(_) => {}
        }
    };
    context.metrics.received(frame.first);
    let body = frame.body.clone();
    Packet::decode_first(frame, &context.limits).map_err(|error| match answer_version(&body) {
        Some(version) => Refused::With(Peer::new(version), error),
        None => Refused::Silently(protocol_label(error.reason)),
    })
}

/// Opens the session.
async fn enter(
    context: &Context,
    address: SocketAddr,
    connect: &Connect,
) -> Result<(Connected, Granted), DecodeError> {
    if connect.authentication_method().is_some() {
        let reason = ReasonCode::BAD_AUTHENTICATION_METHOD;
        return Err(DecodeError::new(reason, "no such authentication method"));
    }
    if let Some(will) = &connect.will
        && !will.is_payload_format_kept()
    {
        let reason = ReasonCode::PAYLOAD_FORMAT_INVALID;
        return Err(DecodeError::new(
            reason,
            "will payload is not UTF-8 as it says",
        ));
    }
    let granted = grant(context, connect);
    let client_id = connect.client_id.as_str();
    let request = ConnectRequest {
        client_id: client_id.to_owned(),
        clean_start: connect.clean_start,
        session_expiry_s: granted.session_expiry_s,
        v5: connect.version.is_v5(),
        will: connect.will.as_ref().map(convert::will_up),
        receive_maximum: window(context, connect),
    };
    let caller = Caller::anonymous(address, client_id);
    let connected = context.broker.mqtt().connect(&caller, request).await;
    Ok((connected.map_err(refusal)?, granted))
}

fn refusal(error: ConnectError) -> DecodeError {
    let (reason, what) = match error {
        ConnectError::ClientIdentifier => (
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            "client identifier is not accepted",
        ),
        ConnectError::WillTopic => (
            ReasonCode::TOPIC_NAME_INVALID,
            "topic of the will is not accepted",
        ),
        ConnectError::WillTooLarge => (ReasonCode::PACKET_TOO_LARGE, "will is too large"),
        ConnectError::TooManySessions => (ReasonCode::QUOTA_EXCEEDED, "too many sessions"),
        ConnectError::Unavailable => (
            ReasonCode::SERVER_UNAVAILABLE,
            "session cannot be stored now",
        ),
        ConnectError::ShuttingDown => (ReasonCode::SERVER_UNAVAILABLE, "server is shutting down"),
    };
    DecodeError::new(reason, what)
}

fn window(context: &Context, connect: &Connect) -> u16 {
    connect
        .receive_maximum()
        .min(context.config.mqtt.outgoing_inflight_max)
}

/// Only a client of version 5 can be told of another keep alive; an older one keeps its own, or it
/// would be closed for what it does not know of.
fn grant(context: &Context, connect: &Connect) -> Granted {
    let mqtt = &context.config.mqtt;
    let (asked, max) = (connect.keep_alive_secs, mqtt.keep_alive_s_max);
    let capped = connect.version.is_v5() && (asked == 0 || asked > max);
    let v3_persistent = !connect.version.is_v5() && !connect.clean_start;
    Granted {
        keep_alive_s: if capped { max } else { asked },
        server_keep_alive: capped.then_some(max),
        session_expiry_s: if v3_persistent {
            mqtt.v3_session_expiry_s
        } else {
            connect.session_expiry_secs()
        },
    }
}

fn begin(
    context: &Context,
    (stream, input): (Box<dyn Stream>, Input),
    connect: &Connect,
    (connected, granted): (Connected, Granted),
) -> Opened {
    let peer = connect.peer();
    let mut output = Output::default();
    // If no CONNACK is small enough for the client, the output stays empty, and the loop ends before
    // it has begun.
    for explicit in [true, false] {
        let connack = ConnAck {
            session_present: connected.session_present,
            reason: ReasonCode::SUCCESS,
            properties: agreed(context, connect, (&connected, &granted), explicit),
        };
        if connack.encode(&peer, output.tail()).is_ok() {
            break;
        }
    }
    context.metrics.sent(PacketType::ConnAck);
    let keep_alive = u64::from(granted.keep_alive_s) * 1500;
    Opened {
        peer,
        session: connected.session,
        start: Box::new(Start {
            stream,
            input,
            output,
            peer,
            window: window(context, connect),
            session_expiry_s: connect.session_expiry_secs(),
            keep_alive: (keep_alive > 0).then(|| Duration::from_millis(keep_alive)),
            inbound_qos2: connected.inbound_qos2,
            outbound: connected.outbound,
        }),
    }
}

/// The properties of CONNACK (3.2.2.3). `explicit`: those too that say what their absence says, for
/// clients that like to be told; a client may be too small for them.
fn agreed(
    context: &Context,
    connect: &Connect,
    (connected, granted): (&Connected, &Granted),
    explicit: bool,
) -> Properties {
    if connect.version != Version::V5 {
        return Properties::EMPTY;
    }
    let mqtt = &context.config.mqtt;
    let mut block = PropertyWriter::new();
    if connected.session_expiry_s != connect.session_expiry_secs() {
        block.u32(
            PropertyId::SessionExpiryInterval,
            connected.session_expiry_s,
        );
    }
    block.u16(PropertyId::ReceiveMaximum, mqtt.receive_maximum.max(1));
    block.u32(PropertyId::MaximumPacketSize, context.packet_bytes_max);
    block.u16(PropertyId::TopicAliasMaximum, mqtt.topic_alias_maximum);
    if connect.client_id.is_empty()
        && let Ok(assigned) = Utf8Str::copy_from(&connected.client_id)
    {
        block.text(PropertyId::AssignedClientIdentifier, &assigned);
    }
    if let Some(keep_alive) = granted.server_keep_alive {
        block.u16(PropertyId::ServerKeepAlive, keep_alive);
    }
    if explicit {
        block.byte(PropertyId::RetainAvailable, 1);
        block.byte(PropertyId::WildcardSubscriptionAvailable, 1);
        block.byte(PropertyId::SubscriptionIdentifierAvailable, 1);
        block.byte(PropertyId::SharedSubscriptionAvailable, 1);
    }
    block.finish()
}

/// Says why, where there is a word for it, and closes.
async fn refuse(
    context: &Context,
    stream: Option<Box<dyn Stream>>,
    refused: Refused,
) -> Option<Opened> {
    let (peer, error) = match refused {
        Refused::Silently(label) => {
            context.metrics.disconnected(label);
            return None;
        }
        Refused::With(peer, error) => (peer, error),
    };
    context.metrics.disconnected(protocol_label(error.reason));
    let mut stream = stream?;
    let mut connack = ConnAck::refusal(error.reason);
    if let Ok(text) = Utf8Str::copy_from(error.what) {
        let mut block = PropertyWriter::new();
        block.text(PropertyId::ReasonString, &text);
        connack.properties = block.finish();
    }
    let mut output = Output::default();
    if connack.encode(&peer, output.tail()).is_ok() {
        context.metrics.sent(PacketType::ConnAck);
        if write_out(context, &mut *stream, &mut output).await {
            close(context, stream).await;
        }
    }
    None
}
