"""A paho-mqtt client that keeps what it got, for tests of MQTT behaviour."""

import itertools
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from .records import Message
from .wait import until

V31, V311, V5 = paho.MQTTv31, paho.MQTTv311, paho.MQTTv5
LIMIT_S = 15.0
_names = itertools.count(1)


def properties(packet, **values):
    """MQTT 5 properties; `None` leaves one out, UserProperty takes a list of pairs."""
    out = Properties(packet)
    for name, value in values.items():
        if value is None:
            continue
        if name in ("UserProperty", "SubscriptionIdentifier") and isinstance(value, list | tuple):
            for one in value:
                setattr(out, name, one)
        else:
            setattr(out, name, value)
    return out


class Device:
    """One client id; it may connect, go and come back.

    `received` holds every message in order of arrival; `closed` is the reason code of the last
    DISCONNECT or lost connection, `connack` the (reason, flags, properties) of the last CONNACK.
    """

    def __init__(self, broker, client_id=None, version=V5, websocket=False, manual_ack=False):
        self.broker = broker
        self.version = version
        self.client_id = client_id if client_id is not None else f"device-{next(_names)}"
        self.websocket = websocket
        self.received = []
        self.mids = []
        self.acked = {}
        self.granted = {}
        self.connack = None
        self.closed = None
        self._lock = threading.Lock()
        more = {} if version == V5 else {"clean_session": True}
        self._make(more, manual_ack)
        self.looping = False

    def _make(self, more, manual_ack=False):
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=self.version,
            transport="websockets" if self.websocket else "tcp",
            reconnect_on_failure=False,
            manual_ack=manual_ack,
            **more,
        )
        if self.websocket:
            self.client.ws_set_options(path="/mqtt")
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_publish = self._on_publish
        self.client.on_subscribe = self._on_subscribe
        self.client.on_unsubscribe = self._on_subscribe

    # === callbacks, on paho's thread ===

    def _on_connect(self, _client, _data, flags, reason, props):
        self.connack = (reason, flags, props)

    def _on_disconnect(self, _client, _data, _flags, reason, _props):
        self.closed = reason

    def _on_message(self, _client, _data, m):
        with self._lock:
            self.received.append(to_message(m))
            self.mids.append((m.mid, m.qos))

    def _on_publish(self, _client, _data, mid, reason, _props):
        self.acked[mid] = reason

    def _on_subscribe(self, _client, _data, mid, reasons, _props):
        self.granted[mid] = reasons

    # === life ===

    def start(self, clean=True, expiry=None, keepalive=60, will=None, receive_maximum=None, **props):
        """Connects and waits for CONNACK; returns the device. Does not judge the reason code."""
        if will is not None:
            self.client.will_set(
                will.topic,
                will.payload,
                will.qos,
                will.retain,
                will_properties(will, props.pop("will_delay", None))
                if self.version == V5
                else None,
            )
        self.connack = self.closed = None
        host, port = self.broker.host, self.broker.ws_port if self.websocket else self.broker.mqtt_port
        if self.version == V5:
            self.client.connect(
                host,
                port,
                keepalive,
                clean_start=clean,
                properties=properties(
                    PacketTypes.CONNECT,
                    SessionExpiryInterval=expiry,
                    ReceiveMaximum=receive_maximum,
                    **props,
                ),
            )
        else:
            self.client._clean_session = clean
            self.client.connect(host, port, keepalive)
        self.client.loop_start()
        self.looping = True
        until(
            lambda: self.connack or self.closed, f"CONNACK for {self.client_id}", LIMIT_S
        )
        return self

    @property
    def session_present(self):
        return bool(self.connack and self.connack[1].session_present)

    @property
    def reason(self):
        """The reason code of CONNACK, as a number."""
        return self.connack[0].value if self.connack else None

    def connected(self):
        return self.client.is_connected()

    def stop(self, reason=0, **props):
        """DISCONNECT."""
        if self.version == V5:
            from paho.mqtt.reasoncodes import ReasonCode

            self.client.disconnect(
                reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=reason),
                properties=properties(PacketTypes.DISCONNECT, **props),
            )
        else:
            self.client.disconnect()
        self._end_loop()

    def drop(self):
        """The connection breaks without DISCONNECT."""
        sock = self.client.socket()
        # The loop must not see the closed descriptor: it ends first.
        self._end_loop()
        if sock is not None:
            sock.close()
        self.client._sock = None

    def _end_loop(self):
        if self.looping:
            # paho's thread looks at this flag when it wakes, which it does once a second by itself.
            self.client._thread_terminate = True
            wake = self.client._sockpairW
            if wake is not None:
                wake.send(b"0")
            self.client.loop_stop()
            self.looping = False

    def wait_closed(self, limit_s=LIMIT_S):
        """Waits until the broker has closed; returns the reason code as a number."""
        until(lambda: self.closed is not None, f"{self.client_id} is disconnected", limit_s)
        self._end_loop()
        return self.closed.value

    def ack(self, message_index=0):
        """With manual_ack: acknowledges the message that came as number `message_index`."""
        mid, qos = self.mids[message_index]
        self.client.ack(mid, qos)

    # === messages ===

    def subscribe(self, *filters, qos=2, identifier=None, **options):
        """Subscribes and returns the reason codes of SUBACK."""
        if self.version == V5:
            wanted = [(name, SubscribeOptions(qos=qos, **options)) for name in filters]
            props = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier)
            result, mid = self.client.subscribe(wanted, properties=props)
        else:
            result, mid = self.client.subscribe([(name, qos) for name in filters])
        assert result == paho.MQTT_ERR_SUCCESS, result
        reasons = until(lambda: self.granted.get(mid), f"SUBACK for {filters}", LIMIT_S)
        return [reason.value for reason in reasons]

    def unsubscribe(self, *filters):
        result, mid = self.client.unsubscribe(list(filters))
        assert result == paho.MQTT_ERR_SUCCESS, result
        until(lambda: mid in self.granted, f"UNSUBACK for {filters}", LIMIT_S)

    def send(self, message, alias=None):
        """Publishes without waiting; returns paho's handle."""
        props = None
        if self.version == V5:
            props = properties(
                PacketTypes.PUBLISH,
                UserProperty=list(message.user) or None,
                ContentType=message.content_type,
                ResponseTopic=message.response_topic,
                CorrelationData=message.correlation,
                PayloadFormatIndicator=message.payload_format,
                MessageExpiryInterval=message.expiry,
                TopicAlias=alias,
            )
        return self.client.publish(
            message.topic, message.payload, message.qos, message.retain, properties=props
        )

    def publish(self, topic, payload=b"", qos=1, retain=False, **fields):
        """Publishes and waits for the last acknowledgement; returns its reason code as a number."""
        alias = fields.pop("alias", None)
        return self.publish_message(Message(topic, payload, qos, retain, **fields), alias)

    def publish_message(self, message, alias=None):
        handle = self.send(message, alias)
        if message.qos == 0:
            handle.wait_for_publish(LIMIT_S)
            return 0
        reason = until(
            lambda: self.acked.get(handle.mid) or self.closed,
            f"acknowledgement of {message.topic}",
            LIMIT_S,
        )
        return reason.value

    def take(self):
        """The messages so far, which are then forgotten."""
        with self._lock:
            taken, self.received = self.received, []
            return taken

    def expect(self, count, limit_s=LIMIT_S):
        """Waits for `count` messages in all and takes them; more than that is an error."""
        until(
            lambda: len(self.received) >= count,
            lambda: f"{count} messages for {self.client_id}: {self.received}",
            limit_s,
        )
        taken = self.take()
        assert len(taken) == count, f"{len(taken)} messages instead of {count}: {taken}"
        return taken

    def expect_payloads(self, *payloads, limit_s=LIMIT_S):
        got = [message.payload for message in self.expect(len(payloads), limit_s)]
        assert got == list(payloads), f"{got} instead of {list(payloads)}"

    def settled(self):
        """What has arrived once everything that is on its way to this client has.

        A message to itself comes after what was sent before it, on the connection's one stream.
        """
        fence = f"fence/{self.client_id}"
        # At QoS 0, so that it does not wait for acknowledgements of what came before.
        self.subscribe(fence, qos=0)
        assert self.publish(fence, b"fence", qos=1) == 0
        until(
            lambda: any(message.topic == fence for message in self.received),
            f"the fence of {self.client_id}",
            LIMIT_S,
        )
        self.unsubscribe(fence)
        return [message for message in self.take() if message.topic != fence]


def will_properties(will, delay):
    return properties(
        PacketTypes.WILLMESSAGE,
        WillDelayInterval=delay,
        UserProperty=list(will.user) or None,
        ContentType=will.content_type,
        MessageExpiryInterval=will.expiry,
    )


def to_message(m):
    """paho's message as ours."""
    props = m.properties

    def one(name):
        return getattr(props, name, None)

    return Message(
        m.topic,
        bytes(m.payload),
        m.qos,
        bool(m.retain),
        tuple(tuple(pair) for pair in (one("UserProperty") or ())),
        one("ContentType"),
        one("ResponseTopic"),
        one("CorrelationData"),
        one("PayloadFormatIndicator"),
        one("MessageExpiryInterval"),
        tuple(one("SubscriptionIdentifier") or ()),
        # Not there in what aiomqtt hands out.
        bool(getattr(m, "dup", False)),
    )
