"""The few bytes of MQTT 3.1.1 and Kafka that this benchmark speaks itself.

Raw sockets, so that a thousand connections or a probe cost next to nothing on the client's side.
"""

import socket
import struct

CONNECT_LIMIT_S = 5.0
# Seconds; long enough that no idle connection has to ping during a measurement.
KEEP_ALIVE_S = 600
KAFKA_FRAME_MAX = 16 << 20

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x30, 0x40, 0x50, 0x62, 0x70
CONNACK, SUBACK = 0x20, 0x90


class WireError(Exception):
    """A broker answered something that the benchmark cannot go on with."""


def connect(port):
    """A connection to 127.0.0.1 without Nagle's delay."""
    stream = socket.create_connection(("127.0.0.1", port), CONNECT_LIMIT_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def read_exactly(stream, count):
    """`count` bytes, or WireError when the broker closes."""
    parts = []
    while count:
        part = stream.recv(count)
        if not part:
            raise WireError("the broker closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# === MQTT ===


def mqtt_string(text):
    """Length and UTF-8."""
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def mqtt_packet(first, body):
    """Fixed header and body."""
    length, out = len(body), bytearray([first])
    while True:
        length, low = length >> 7, length & 0x7F
        out.append(low | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


def mqtt_session(port, client_id):
    """A connection with a clean session of MQTT 3.1.1."""
    stream = connect(port)
    try:
        body = mqtt_string("MQTT") + struct.pack(">BBH", 4, 2, KEEP_ALIVE_S) + mqtt_string(client_id)
        stream.sendall(mqtt_packet(0x10, body))
        answer = read_exactly(stream, 4)
        if answer != b"\x20\x02\x00\x00":
            raise WireError(f"CONNECT was answered {answer.hex()}")
    except BaseException:
        stream.close()
        raise
    return stream


def mqtt_subscribe(stream, filter_, qos):
    """Subscribes and waits for the SUBACK."""
    stream.sendall(mqtt_packet(0x82, struct.pack(">H", 1) + mqtt_string(filter_) + bytes([qos])))
    answer = read_exactly(stream, 5)
    if answer != bytes([SUBACK, 3, 0, 1, qos]):
        raise WireError(f"SUBSCRIBE {filter_} was answered {answer.hex()}")


def mqtt_publish(topic, payload, qos, packet_id):
    """A PUBLISH; `packet_id` counts only above QoS 0."""
    identifier = struct.pack(">H", packet_id) if qos else b""
    return mqtt_packet(PUBLISH | qos << 1, mqtt_string(topic) + identifier + payload)


class MqttPackets:
    """Cuts a byte stream into (first byte, body)."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        """Yields every whole packet that is there after `data`."""
        self.buffer += data
        while True:
            length, at = 0, 1
            while at < len(self.buffer):
                byte = self.buffer[at]
                length |= (byte & 0x7F) << 7 * (at - 1)
                at += 1
                if not byte & 0x80:
                    break
            else:
                return
            if len(self.buffer) < at + length:
                return
            first, body = self.buffer[0], bytes(self.buffer[at : at + length])
            del self.buffer[: at + length]
            yield first, body


# === Kafka ===


def kafka_request(stream, api, version, body):
    """Sends one request with a v1 header (no client id)."""
    header = struct.pack(">hhih", api, version, 7, -1)
    stream.sendall(struct.pack(">i", len(header) + len(body)) + header + body)


def kafka_call(stream, api, version, body):
    """The response's body, without the correlation id."""
    kafka_request(stream, api, version, body)
    (length,) = struct.unpack(">i", read_exactly(stream, 4))
    if not 4 <= length <= KAFKA_FRAME_MAX:
        raise WireError(f"a response of {length} bytes")
    return read_exactly(stream, length)[4:]


def kafka_connection(port):
    """A connection whose ApiVersions (v0) has been answered without an error."""
    stream = connect(port)
    try:
        answer = kafka_call(stream, 18, 0, b"")
        if answer[:2] != b"\0\0":
            raise WireError(f"ApiVersions was answered {answer[:2].hex()}")
    except BaseException:
        stream.close()
        raise
    return stream


def kafka_topic_error(stream, topic):
    """Metadata v1 for one topic, which creates it: its error code, 0 when there is a leader."""
    name = topic.encode()
    answer = kafka_call(stream, 3, 1, struct.pack(">ih", 1, len(name)) + name)
    at = 4
    for _ in range(struct.unpack_from(">i", answer)[0]):
        at += 4  # node id
        at += 2 + struct.unpack_from(">h", answer, at)[0] + 4  # host and port
        at += 2 + max(0, struct.unpack_from(">h", answer, at)[0])  # rack
    at += 8  # controller, number of topics
    error = struct.unpack_from(">h", answer, at)[0]
    if error:
        return error
    at += 2 + 2 + len(name) + 1
    partitions, partition_error = struct.unpack_from(">ih", answer, at)
    return partition_error if partitions else -1


def kafka_long_poll(stream, topic, wait_ms):
    """Sends Fetch v4 for partition 0 from offset 0 and does not wait for the answer."""
    name = topic.encode()
    body = struct.pack(">iiiib", -1, wait_ms, 1, 50 << 20, 0)
    body += struct.pack(">ih", 1, len(name)) + name + struct.pack(">iiqi", 1, 0, 0, 1 << 20)
    kafka_request(stream, 1, 4, body)


# === readiness ===


def kafka_ready(port):
    """ApiVersions is answered, and Metadata (v1, all topics) lists a broker."""
    try:
        with kafka_connection(port) as stream:
            answer = kafka_call(stream, 3, 1, struct.pack(">i", -1))
            return struct.unpack_from(">i", answer)[0] > 0
    except (OSError, WireError, struct.error):
        return False


def mqtt_ready(port):
    """CONNECT is answered CONNACK 0."""
    try:
        with mqtt_session(port, "ready") as stream:
            stream.sendall(b"\xe0\x00")
            return True
    except (OSError, WireError):
        return False
