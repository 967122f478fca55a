"""Load that goes on through crashes, and remembers what was acknowledged."""

import itertools
import threading
import time
from collections import deque

import paho.mqtt.client as paho
from confluent_kafka import Producer
from paho.mqtt.packettypes import PacketTypes

from .checker import ALIEN, Arrivals, Violations, parse, payload
from .device import properties
from .wait import until

# Records that a Kafka load has under way: enough to keep the broker busy at the moment of a kill.
UNDER_WAY_MAX = 200
# Messages that an MQTT load has under way. Below the broker's Receive Maximum of 32: paho does not look at
# it, and after a reconnect sends everything again at once, whatever its own limit.
INFLIGHT_MAX = 20
# Kafka records a second and load: a multiple of what MQTT's acknowledgements allow, so that each round
# has enough of both, and the checker does not drown in the one.
KAFKA_RATE = 1500
# Topics of an MQTT load.
MQTT_TOPICS = 3
# Reason codes: "packet identifier not found"; "server unavailable", "server busy", to a CONNECT.
NOT_FOUND = 0x92
COME_BACK = (0x88, 0x89)
# A node that is cut off does not even refuse a connection.
CONNECT_LIMIT_S = 2.0


class Load:
    """A thread that sends numbered messages until it is told to stop; `name` is the writer's."""

    def __init__(self, name, once):
        self.name, self.once = name, once
        self.sent_count = 0
        self.errors = []
        self.stopping = threading.Event()
        self.thread = None

    def acked_count(self):
        raise NotImplementedError

    def describe(self):
        """Where it is, for the text of a failure."""
        counts = f"sent {self.sent_count}, acknowledged {self.acked_count()}"
        return f"{self.name}: {counts}, {self.errors[:3]}"

    def start(self):
        self.stopping.clear()
        self.began, self.sent_before = time.monotonic(), self.sent_count
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.stopping.is_set():
                if not self.step():
                    time.sleep(0.001)  # the pace while the queue is full
        except Exception as error:  # the drill's own thread reports it
            self.errors.append(repr(error))

    def step(self):
        """Sends one message if there is room; says whether it did."""
        raise NotImplementedError

    def next_payload(self):
        """(number, payload) of the next message."""
        number = self.sent_count
        self.sent_count += 1
        return number, payload(self.name, number, sized=True)

    def pause(self):
        """No more messages; returns once everything sent is acknowledged."""
        self.stopping.set()
        self.thread.join(20)
        self.settle()
        assert not self.errors, f"{self.name}: {self.errors[:3]}"

    def settle(self):
        raise NotImplementedError


class KafkaLoad(Load):
    """acks=all; `once` is an idempotent producer, the other retries by itself and may repeat."""

    def __init__(self, broker, topic, once):
        super().__init__(topic, once)
        self.topic = topic
        # (partition, offset, number) as acknowledged.
        self.places = []
        self.producer = Producer(
            {
                "bootstrap.servers": broker.bootstrap,
                "acks": "all",
                "enable.idempotence": once,
                # Without sequence numbers only one request at a time keeps the order over retries.
                "max.in.flight.requests.per.connection": 5 if once else 1,
                "linger.ms": 1,
                "message.timeout.ms": 120_000,
                "retry.backoff.ms": 50,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def acked_count(self):
        return len(self.places)

    def _send(self):
        number, value = self.next_payload()

        def delivered(error, message):
            if error:
                self.errors.append(str(error))
            else:
                self.places.append((message.partition(), message.offset(), number))

        self.producer.produce(self.topic, value, key=str(number), on_delivery=delivered)

    def step(self):
        self.producer.poll(0)
        allowed = self.sent_before + (time.monotonic() - self.began) * KAFKA_RATE
        if len(self.producer) >= UNDER_WAY_MAX or self.sent_count >= allowed:
            return False
        self._send()
        return True

    def settle(self):
        left = self.producer.flush(60)
        assert left == 0, f"{self.name}: {left} records were never acknowledged"


class ExactClient(paho.Client):
    """paho, but for one fault: where an attempt to connect fails while a PUBREL is to be sent again, it
    goes back to the PUBLISH, under an identifier that the broker may have released. That would be a
    second message.

    Each attempt to connect goes to the next of `addresses`."""

    def __init__(self, addresses, **options):
        super().__init__(paho.CallbackAPIVersion.VERSION2, **options)
        self._addresses = itertools.cycle(addresses)

    def reconnect(self):
        self._host, self._port = next(self._addresses)
        return super().reconnect()

    def _messages_reconnect_reset_out(self):
        with self._out_message_mutex:
            for message in self._out_messages.values():
                if message.state == paho.mqtt_ms_resend_pubrel:
                    message.state = paho.mqtt_ms_wait_for_pubcomp
        super()._messages_reconnect_reset_out()


def lasting_client(broker, client_id, version=paho.MQTTv5, keepalive=30):
    """A client with a lasting session that reconnects by itself, to any node of a cluster."""
    options = {} if version == paho.MQTTv5 else {"clean_session": False}
    addresses = broker.mqtt_addresses()
    client = ExactClient(addresses, client_id=client_id, protocol=version, **options)
    client.max_inflight_messages_set(INFLIGHT_MAX)
    client.reconnect_delay_set(0.05, 0.3)
    client.connect_timeout = CONNECT_LIMIT_S
    if version == paho.MQTTv5:
        expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=36_000)
        options = {"clean_start": False, "properties": expiry}
    else:
        options = {}
    client.connect_async(*addresses[0], keepalive=keepalive, **options)
    return client


class MqttLoad(Load):
    """Publishes at QoS 1 or 2 in a lasting session; what is not acknowledged is sent again."""

    def __init__(self, broker, topic, qos, name=None, **options):
        super().__init__(name or f"{topic}-qos{qos}", qos == 2)
        self.prefix, self.qos = f"{topic}/{self.name}", qos
        self.acked = set()
        # Packet id -> the number of its message that is under way, and when it was sent.
        self.under_way = {}
        # (sent at, acknowledged at) of each acknowledged message, by time.monotonic().
        self.times = []
        # The messages whose release was answered "not found", for a failure's text.
        self.not_found = []
        # (packet id, reason code, time) from paho's thread, which must not wait for ours.
        self.answers = deque()
        self.lost_sessions = 0
        self.connects = 0
        self.is_connected = False
        self.client = lasting_client(broker, self.name, **options)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = self._on_publish
        self.client.loop_start()
        until(lambda: self.connects, f"{self.name} is connected")

    def topic_of(self, number):
        """Few topics, so that there are several places in which order holds."""
        return f"{self.prefix}/{number % MQTT_TOPICS}"

    def _on_connect(self, _client, _data, flags, reason, _props):
        if reason.is_failure:
            # "Not now" is no lost promise: paho tries again, at the next node of a cluster.
            if reason.value not in COME_BACK:
                self.errors.append(f"CONNACK {reason}")
            return
        if self.connects and not flags.session_present:
            self.lost_sessions += 1
        self.connects += 1
        self.is_connected = True

    def _on_disconnect(self, *_):
        self.is_connected = False

    def _on_publish(self, _client, _data, mid, reason, _props):
        self.answers.append((mid, reason, time.monotonic()))

    def _collect(self):
        while self.answers:
            mid, reason, answered_at = self.answers.popleft()
            number, sent_at = self.under_way.pop(mid)
            # A PUBREL sent again after a crash may name an identifier that was released already: "not
            # an error during recovery" (MQTT 5, 3.7.2.1). The checker looks for the message itself.
            is_released = self.qos == 2 and self.connects > 1 and reason.value == NOT_FOUND
            if is_released:
                self.not_found.append(number)
            if reason.is_failure and not is_released:
                self.errors.append(f"{number} is refused: {reason}")
            else:
                self.acked.add(number)
                self.times.append((sent_at, answered_at))

    def acked_count(self):
        return len(self.acked)

    def describe(self):
        return (
            f"{super().describe()}, connected: {self.is_connected},"
            f" {self.connects} connects, not found: {self.not_found[-5:]}"
        )

    def step(self):
        self._collect()
        # Between a new connection and its CONNACK paho would send a new message before the old ones.
        if not self.is_connected or len(self.under_way) >= INFLIGHT_MAX:
            return False
        number, value = self.next_payload()
        sent_at = time.monotonic()
        handle = self.client.publish(self.topic_of(number), value, self.qos)
        self.under_way[handle.mid] = number, sent_at
        return True

    def settle(self):
        def all_acked():
            self._collect()
            return not self.under_way

        until(all_acked, self.describe, 60)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Listener:
    """A lasting session that looks at each message; it may go away and come back.

    `once` maps the names of the writers to whether each message may come at most once.
    """

    def __init__(self, broker, client_id, topic, qos, once, **options):
        self.broker, self.client_id, self.topic, self.qos = broker, client_id, topic, qos
        self.once = once
        self.violations = Violations()
        self.arrivals = Arrivals(self.violations, client_id)
        self.lost_sessions = 0
        self.connects = 0
        self.subscribed = False
        self.client = lasting_client(broker, client_id, **options)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self.client.loop_start()
        until(lambda: self.subscribed, f"{client_id} is subscribed")

    def _on_connect(self, client, _data, flags, reason, _props):
        if reason.is_failure:
            return  # paho tries again
        if not self.connects:
            client.subscribe(self.topic, self.qos)
        elif not flags.session_present:
            self.lost_sessions += 1
        self.connects += 1

    def _on_subscribe(self, *_):
        self.subscribed = True

    def _on_message(self, _client, _data, message):
        found = parse(message.payload.decode(errors="replace"))
        if found is None or found[0] not in self.once:
            self.violations.add(ALIEN, f"{message.payload[:40]!r}")
            return
        writer, number = found
        self.arrivals.arrive(writer, number, message.topic, self.once[writer])

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def come_back(self):
        before = self.connects
        self.client.reconnect()
        self.client.loop_start()
        until(lambda: self.connects > before, f"{self.client_id} is back")

    def missing(self, wanted):
        """What has not come of {writer: numbers}."""
        return [
            f"{writer}-{number}"
            for writer, numbers in wanted.items()
            for number in self.arrivals.missing(writer, numbers)
        ]
