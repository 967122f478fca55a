"""One end of a latency measurement.

    latency.py mqtt-sub|kafka-sub|mqtt-pub|kafka-pub PORT TOPIC RUN COUNT SECONDS

A message carries the run (8 bytes), its number and its time of sending (CLOCK_MONOTONIC, which all
processes share). A publisher sends 1,000 a second by the clock, whatever the broker does: a message
that is late because the one before had to wait counts from the time at which it was due. A
subscriber says `ready`, and prints one JSON object after COUNT messages or SECONDS. The first
messages warm everything up and are not counted.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from bench.core import wire  # noqa: E402

RATE = 1000
PAYLOAD_BYTES = 128
WARM_UP_MESSAGES = 500
# Unacknowledged messages at a time: what Mainstem allows by default.
WINDOW = 32
QOS = 1
HEAD = struct.Struct(">8sIq")
KEY = "device"


class Samples:
    """Latencies by message number."""

    def __init__(self, run, count):
        self.run, self.count, self.seen = run, count, {}

    def add(self, payload):
        now = time.monotonic_ns()
        if len(payload) < HEAD.size:
            return
        run, number, sent = HEAD.unpack_from(payload)
        if run == self.run:
            self.seen.setdefault(number, now - sent)

    def complete(self):
        return len(self.seen) >= self.count

    def result(self):
        counted = sorted(took for number, took in self.seen.items() if number >= WARM_UP_MESSAGES)
        if not counted:
            return {"samples": 0, "lost": self.count - len(self.seen)}
        return {
            "samples": len(counted),
            "lost": self.count - len(self.seen),
            "p50_ms": quantile(counted, 0.5),
            "p99_ms": quantile(counted, 0.99),
            "max_ms": counted[-1] / 1e6,
        }


def quantile(ordered_ns, share):
    """The value below which `share` of them lie, in ms."""
    return ordered_ns[min(len(ordered_ns) - 1, int(len(ordered_ns) * share))] / 1e6


def schedule(run, count, send):
    """Calls `send(number, payload)` RATE times a second; a late one carries its due time."""
    filler = bytes(PAYLOAD_BYTES - HEAD.size)
    began = time.monotonic_ns() + 10_000_000
    for number in range(count):
        due = began + number * 1_000_000_000 // RATE
        wait = due - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / 1e9)
            due = time.monotonic_ns()
        send(number, HEAD.pack(run, number, due) + filler)


# === MQTT ===


def mqtt_sub(port, topic, run, count, seconds):
    samples, packets = Samples(run, count), wire.MqttPackets()
    deadline = time.monotonic() + seconds
    with wire.mqtt_session(port, f"latency-sub-{os.getpid()}") as stream:
        wire.mqtt_subscribe(stream, f"{topic}/#", QOS)
        print("ready", flush=True)
        stream.settimeout(0.2)
        while not samples.complete() and time.monotonic() < deadline:
            try:
                data = stream.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise wire.WireError("the broker closed the subscriber")
            acks = b""
            for first, body in packets.feed(data):
                if first & 0xF0 != wire.PUBLISH:
                    continue
                at = 2 + struct.unpack_from(">H", body)[0]
                if first & 0x06:
                    acks += bytes([wire.PUBACK, 2]) + body[at : at + 2]
                    at += 2
                samples.add(body[at:])
            stream.sendall(acks)
    return samples.result()


class MqttPublisher:
    """A publisher at QoS 1 that takes acknowledgements as they come."""

    def __init__(self, stream, topic, deadline):
        self.stream, self.topic, self.deadline = stream, topic, deadline
        self.packets, self.open = wire.MqttPackets(), 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(stream, selectors.EVENT_READ)

    def take(self, wait_s):
        if self.selector.select(wait_s):
            data = self.stream.recv(65536)
            if not data:
                raise wire.WireError("the broker closed the publisher")
            self.open -= sum(first == wire.PUBACK for first, _ in self.packets.feed(data))

    def send(self, number, payload):
        self.take(0)
        while self.open >= WINDOW:
            self.take(0.1)
            if time.monotonic() > self.deadline:
                raise wire.WireError("no acknowledgement in time")
        packet = wire.mqtt_publish(f"{self.topic}/{KEY}", payload, QOS, number % 65535 + 1)
        self.stream.sendall(packet)
        self.open += 1


def mqtt_pub(port, topic, run, count, seconds):
    deadline = time.monotonic() + seconds
    with wire.mqtt_session(port, f"latency-pub-{os.getpid()}") as stream:
        publisher = MqttPublisher(stream, topic, deadline)
        schedule(run, count, publisher.send)
        while publisher.open and time.monotonic() < deadline:
            publisher.take(0.1)
        stream.shutdown(socket.SHUT_WR)
    return {"unacknowledged": publisher.open}


# === Kafka ===


def kafka_sub(port, topic, run, count, seconds):
    from confluent_kafka import Consumer, TopicPartition

    samples, deadline = Samples(run, count), time.monotonic() + seconds
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "bench-latency"})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 5.0)
    consumer.assign([TopicPartition(topic, 0, end)])
    # The first fetch is on its way after this.
    consumer.poll(0.3)
    print("ready", flush=True)
    while not samples.complete() and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            samples.add(message.value())
    consumer.close()
    return samples.result()


def kafka_pub(port, topic, run, count, seconds):
    from confluent_kafka import Producer

    failed = []
    producer = Producer({
        "bootstrap.servers": f"127.0.0.1:{port}",
        "acks": "all",
        "linger.ms": 0,
        "socket.nagle.disable": True,
        "delivery.report.only.error": True,
        "on_delivery": lambda error, _message: failed.append(str(error)),
    })  # fmt: skip
    # Connected before the clock starts.
    producer.list_topics(topic, 5.0)

    def send(_number, payload):
        producer.produce(topic, payload, key=KEY, partition=0)
        producer.poll(0)

    schedule(run, count, send)
    return {"unacknowledged": producer.flush(seconds) + len(failed), "error": failed[:1]}


def main():
    role, port, topic, run, count, seconds = sys.argv[1:]
    work = {"mqtt-sub": mqtt_sub, "kafka-sub": kafka_sub, "mqtt-pub": mqtt_pub, "kafka-pub": kafka_pub}
    result = work[role](int(port), topic, bytes.fromhex(run), int(count), float(seconds))
    print(json.dumps(result), flush=True)


main()
