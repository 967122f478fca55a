"""Load that goes on through crashes, and remembers what was acknowledged."""

import itertools
import threading
import time
from collections import Counter, deque

import paho.mqtt.client as paho
from confluent_kafka import Producer
from paho.mqtt.packettypes import PacketTypes

from .device import properties
from .wait import until

# Messages that a load has under way: enough to keep the broker busy at the moment of a kill.
UNDER_WAY_MAX = 200
# Below the broker's Receive Maximum of 32, which paho does not look at.
INFLIGHT_MAX = 20
# Kafka records a second and load: a multiple of what MQTT's acknowledgements allow, so that each round
# has enough of both, and the checker does not drown in the one.
KAFKA_RATE = 1500
# Reason code "packet identifier not found".
NOT_FOUND = 0x92


class Load:
    """A thread that sends numbered messages until it is told to stop."""

    def __init__(self, name):
        self.name = name
        self.sent = set()
        self.errors = []
        self.numbers = itertools.count()
        self.stopping = threading.Event()
        self.thread = None

    def acked_count(self):
        raise NotImplementedError

    def start(self):
        self.stopping.clear()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopping.is_set():
            if not self.step():
                time.sleep(0.001)  # the pace while the queue is full

    def step(self):
        """Sends one message if there is room; says whether it did."""
        raise NotImplementedError

    def next_value(self):
        value = f"{self.name}-{next(self.numbers)}"
        self.sent.add(value)
        return value

    def pause(self):
        """No more messages; returns once everything sent is acknowledged."""
        self.stopping.set()
        self.thread.join(20)
        self.settle()
        assert not self.errors, f"{self.name}: {self.errors[:3]}"

    def settle(self):
        raise NotImplementedError


class KafkaLoad(Load):
    """acks=all; `idempotent` or with plain retries, which may write a record twice."""

    def __init__(self, broker, topic, idempotent):
        super().__init__(f"{topic}")
        self.topic = topic
        self.acked = {}
        self.producer = Producer(
            {
                "bootstrap.servers": broker.bootstrap,
                "acks": "all",
                "enable.idempotence": idempotent,
                "linger.ms": 1,
                "message.timeout.ms": 120_000,
                "retry.backoff.ms": 50,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def acked_count(self):
        return len(self.acked)

    def _delivered(self, error, message):
        if error:
            self.errors.append(str(error))
        else:
            self.acked[message.partition(), message.offset()] = message.value().decode()

    def start(self):
        self.began, self.sent_before = time.monotonic(), len(self.sent)
        super().start()

    def step(self):
        self.producer.poll(0)
        allowed = self.sent_before + (time.monotonic() - self.began) * KAFKA_RATE
        if len(self.producer) >= UNDER_WAY_MAX or len(self.sent) >= allowed:
            return False
        value = self.next_value()
        self.producer.produce(self.topic, value, key=value, on_delivery=self._delivered)
        return True

    def settle(self):
        left = self.producer.flush(60)
        assert left == 0, f"{self.name}: {left} records were never acknowledged"


class ExactClient(paho.Client):
    """paho, but for one fault: where an attempt to connect fails while a PUBREL is to be sent again, it
    goes back to the PUBLISH, under an identifier that the broker may have released. That would be a
    second message."""

    def _messages_reconnect_reset_out(self):
        with self._out_message_mutex:
            for message in self._out_messages.values():
                if message.state == paho.mqtt_ms_resend_pubrel:
                    message.state = paho.mqtt_ms_wait_for_pubcomp
        super()._messages_reconnect_reset_out()


def lasting_client(broker, client_id):
    """An MQTT 5 client with a lasting session that reconnects by itself."""
    client = ExactClient(
        paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5
    )
    client.max_inflight_messages_set(INFLIGHT_MAX)
    client.reconnect_delay_set(0.05, 0.3)
    client.connect_async(
        "127.0.0.1",
        broker.mqtt_port,
        keepalive=30,
        clean_start=False,
        properties=properties(PacketTypes.CONNECT, SessionExpiryInterval=36_000),
    )
    return client


class MqttLoad(Load):
    """Publishes at QoS 1 or 2 in a lasting session; what is not acknowledged is sent again."""

    def __init__(self, broker, topic, qos):
        super().__init__(f"{topic}-qos{qos}")
        self.topic, self.qos = f"{topic}/{self.name}", qos
        self.acked = set()
        self.under_way = deque()
        # Packet id -> its last message, and the messages whose release was answered "not found".
        self.mids, self.not_found = {}, []
        self.lost_sessions = 0
        self.connects = 0
        self.client = lasting_client(broker, self.name)
        self.client.on_connect = self._on_connect
        self.client.on_publish = self._on_publish
        self.client.loop_start()
        until(lambda: self.connects, f"{self.name} is connected")

    def _on_connect(self, _client, _data, flags, reason, _props):
        if reason.is_failure:
            self.errors.append(f"CONNACK {reason}")
        if self.connects and not flags.session_present:
            self.lost_sessions += 1
        self.connects += 1

    def _on_publish(self, _client, _data, mid, reason, _props):
        # A PUBREL sent again after a crash may name an identifier that was released already: "not an
        # error during recovery" (MQTT 5, 3.7.2.1). The checker looks for the message itself.
        is_released = self.qos == 2 and self.connects > 1 and reason.value == NOT_FOUND
        if reason.value == NOT_FOUND:
            self.not_found.append((mid, self.mids.get(mid)))
        if reason.is_failure and not is_released:
            self.errors.append(f"refused: {reason}")

    def acked_count(self):
        return len(self.acked)

    def _collect(self):
        for _ in range(len(self.under_way)):
            value, handle = self.under_way.popleft()
            if handle.is_published():
                self.acked.add(value)
            else:
                self.under_way.append((value, handle))

    def step(self):
        if len(self.under_way) >= UNDER_WAY_MAX:
            self._collect()
            return len(self.under_way) < UNDER_WAY_MAX
        value = self.next_value()
        handle = self.client.publish(self.topic, value, self.qos)
        self.under_way.append((value, handle))
        self.mids[handle.mid] = value
        if len(self.under_way) % 20 == 0:
            self._collect()
        return True

    def settle(self):
        def all_acked():
            self._collect()
            return not self.under_way

        until(all_acked, lambda: f"{self.name}: {len(self.under_way)} not acknowledged", 60)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Listener:
    """A lasting session that counts each payload; it may go away and come back."""

    def __init__(self, broker, client_id, topic, qos):
        self.broker, self.client_id, self.topic, self.qos = broker, client_id, topic, qos
        self.counts = Counter()
        self.lost_sessions = 0
        self.connects = 0
        self.subscribed = False
        self.client = lasting_client(broker, client_id)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self.client.loop_start()
        until(lambda: self.subscribed, f"{client_id} is subscribed")

    def _on_connect(self, client, _data, flags, _reason, _props):
        if not self.connects:
            client.subscribe(self.topic, self.qos)
        elif not flags.session_present:
            self.lost_sessions += 1
        self.connects += 1

    def _on_subscribe(self, *_):
        self.subscribed = True

    def _on_message(self, _client, _data, message):
        self.counts[message.payload.decode()] += 1

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def come_back(self):
        before = self.connects
        self.client.reconnect()
        self.client.loop_start()
        until(lambda: self.connects > before, f"{self.client_id} is back")

    def missing(self, wanted):
        return [value for value in wanted if not self.counts[value]]

    def repeated(self):
        return [value for value, count in self.counts.items() if count > 1]
