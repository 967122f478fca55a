"""The records of the matrix, what each client can show of them, and the table of results."""

import random
import time
from dataclasses import dataclass, replace

from .records import Message, Record, kafka_topic_of, mqtt_topic_of, short, user_properties_of

# A fixed seed: "random" payloads are the same in every run.
BYTES = random.Random(20250101)
BLOB = BYTES.randbytes(65_536)
TEXT = b"the temperature of the kitchen is 21.5 degrees; " * 40
AN_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Batch:
    """Records that a Kafka client produces in one go."""

    records: tuple
    codec: str = "none"


def kafka_batches(client):
    """What `client` writes, in order; leaves out what it can't carry."""
    hour_ago = int(time.time() * 1000) - AN_HOUR_MS
    single = [
        Record(b"plain", b"21.5"),
        Record(None, b"no key"),
        Record(b"", b"empty key"),
        Record(b"empty-value", b""),
        Record(b"null-value", None),
        Record("küche/tür/🌡".encode(), "späť 🌍".encode()),
        Record(b"\xff\xfebinary", b"a key that is no UTF-8"),
        Record(b"with+wildcard/#", b"a key that is no topic name"),
        Record(b"binary-value", bytes(range(256)) * 4),
        Record(b"blob", BLOB),
        Record(
            b"headers",
            b"h",
            (
                ("trace", b"abc-123"),
                ("repeated", b"one"),
                ("repeated", b"two"),
                ("utf-8", "grün".encode()),
                ("empty", b""),
                ("content-type", b"text/plain"),
            ),
        ),
        Record(b"binary-header", b"h", (("raw", b"\xff\x80\xfe"), ("text", b"t"))),
    ]
    if client.writes_null_headers:
        single.append(Record(b"null-header", b"h", (("nothing", None), ("text", b"t"))))
    if client.writes_timestamps:
        single.append(Record(b"timestamp", b"t", (), hour_ago))
    if client.name == "kcat":
        # Neither a null key nor a null value with a null key can be said to it with an empty value.
        single = [record for record in single if record.value or record.key]
    batches = [Batch((record,)) for record in single]
    for codec in client.codecs:
        rows = [
            Record(f"codec/{codec}/{i}".encode(), TEXT + str(i).encode(), (("i", str(i).encode()),))
            for i in range(5)
        ]
        batches.append(Batch(tuple(rows), codec))
    return batches


def mqtt_messages(client, root):
    """What `client` publishes under the Kafka topic `root`, in order."""
    out = [
        Message(f"{root}/qos/0", b"at most once", 0),
        Message(f"{root}/qos/1", b"at least once", 1),
        Message(f"{root}/qos/2", b"exactly once", 2),
        Message(root, b"no slash: null key", 1),
        Message(f"{root}/", b"empty key", 1),
        Message(f"{root}/empty", b"", 1),
        Message(f"{root}/küche/tür/🌡", "späť 🌍".encode(), 1),
        Message(f"{root}//a//b/", b"empty levels", 1),
        Message(f"{root}/binary", bytes(range(256)) * 4, 2),
        Message(f"{root}/blob", BLOB, 1),
    ]
    if client.v5:
        out += [
            Message(
                f"{root}/user",
                b"u",
                1,
                user=(("a", "1"), ("repeated", "one"), ("repeated", "two"), ("ü", "grün")),
            ),
            # A name that could be taken for the broker's own must not become one.
            Message(f"{root}/spoof", b"s", 1, user=(("mqtt.client", "somebody"), ("x", "y"))),
            Message(
                f"{root}/request",
                b"{}",
                2,
                content_type="application/json",
                response_topic=f"{root}/reply/1",
                correlation=b"correlation-7",
                payload_format=1,
                expiry=3600,
            ),
        ]
    return out


# === what a reader must see ===


def header_rows(headers, client):
    """Headers as `client` can show them."""
    rows = [(n, v if client.null_headers else (v or b"")) for n, v in headers]
    # A stable sort: repeats of a name keep their order.
    return rows if client.header_order else sorted(rows, key=lambda row: row[0])


def compare_kafka_to_kafka(wanted, got, client):
    assert len(got) == len(wanted), count_text(wanted, got)
    for at, (want, have) in enumerate(zip(wanted, got, strict=True)):
        what = f"record {at} (key {short(want.key)})"
        assert have.offset == at, f"{what}: offset {have.offset}"
        assert have.key == want.key, f"{what}: key {short(have.key)}"
        assert have.value == want.value, f"{what}: value {short(have.value)}"
        assert header_rows(have.headers, client) == header_rows(want.headers, client), what
        if want.timestamp is not None:
            assert have.timestamp == want.timestamp, f"{what}: timestamp {have.timestamp}"
    return len(got)


def compare_mqtt_to_kafka(wanted, got, producer, client, window):
    assert len(got) == len(wanted), count_text(wanted, got)
    for at, (want, have) in enumerate(zip(wanted, got, strict=True)):
        what = f"record {at} (topic {want.topic})"
        _, key = kafka_topic_of(want.topic)
        assert have.offset == at, f"{what}: offset {have.offset}"
        assert have.key == key, f"{what}: key {short(have.key)}"
        assert have.value == want.payload, f"{what}: value {short(have.value)}"
        assert window[0] <= have.timestamp <= window[1], f"{what}: timestamp {have.timestamp}"
        headers = dict(have.headers)
        own = {
            "mqtt.client": producer.client_id_of(want).encode(),
            "content-type": want.content_type and want.content_type.encode(),
            "mqtt.response-topic": want.response_topic and want.response_topic.encode(),
            "mqtt.correlation-data": want.correlation,
            "mqtt.expiry": None if want.expiry is None else want.expiry.to_bytes(4, "big"),
        }
        for name, value in own.items():
            if value is not None and not client.nul_in_headers:
                value = value.split(b"\0")[0]
            assert headers.get(name) == value, f"{what}: header {name} is {headers.get(name)!r}"
        assert ("mqtt.payload-format" in headers) == (want.payload_format is not None), what
        assert ("mqtt.qos2" in headers) == (want.qos == 2), what
        user = [
            (f"mqtt.up.{name}" if name.startswith("mqtt.") else name, value.encode())
            for name, value in want.user
        ]
        known = {*own, "mqtt.payload-format", "mqtt.qos2"}
        others = [row for row in have.headers if row[0] not in known]
        if not (producer.property_order and client.header_order):
            user, others = (sorted(both, key=lambda row: row[0]) for both in (user, others))
        assert others == user, f"{what}: user properties {others}"
    return len(got)


def properties_agree(want, have, ordered):
    if ordered:
        return list(want) == list(have)
    return sorted(want, key=lambda p: p[0]) == sorted(have, key=lambda p: p[0])


def compare_message(want, have, client, what, ordered=True):
    assert have.topic == want.topic, f"{what}: topic {have.topic!r}, not {want.topic!r}"
    assert have.payload == want.payload, f"{what}: payload {short(have.payload)}"
    assert have.qos == want.qos, f"{what}: QoS {have.qos}"
    assert not have.retain, f"{what}: the retain flag is set"
    if not client.v5:
        return
    assert properties_agree(want.user, have.user, ordered and client.property_order), (
        f"{what}: user properties {have.user}"
    )
    assert have.content_type == want.content_type, f"{what}: content type {have.content_type!r}"
    assert have.response_topic == want.response_topic, f"{what}: {have.response_topic!r}"
    assert have.payload_format == want.payload_format, f"{what}: {have.payload_format!r}"
    if client.shows_correlation:
        assert have.correlation == want.correlation, f"{what}: {have.correlation!r}"
    if want.expiry is None:
        assert have.expiry is None, f"{what}: expiry {have.expiry}"
    else:
        assert want.expiry - 120 <= have.expiry <= want.expiry, f"{what}: expiry {have.expiry}"


def compare_kafka_to_mqtt(wanted, got, topic, client):
    assert len(got) == len(wanted), count_text(wanted, got)
    for at, (want, have) in enumerate(zip(wanted, got, strict=True)):
        content = dict(want.headers).get("content-type")
        expected = Message(
            mqtt_topic_of(topic, want.key),
            want.value or b"",
            1,
            user=user_properties_of(want.headers),
            content_type=content and content.decode(),
        )
        compare_message(expected, have, client, f"record {at} (key {short(want.key)})")
    return len(got)


def compare_mqtt_to_mqtt(wanted, got, producer, client):
    assert len(got) == len(wanted), count_text(wanted, got)
    # MQTT keeps the order within a QoS: clients hand out QoS 2 when it is released.
    wanted, got = (sorted(both, key=lambda message: message.qos) for both in (wanted, got))
    for at, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if not producer.v5:
            want = replace(want, user=(), content_type=None)
        what = f"message {at} (topic {want.topic})"
        compare_message(want, have, client, what, producer.property_order)
    return len(got)


def count_text(wanted, got):
    names = [short(row.topic if isinstance(row, Message) else row.key) for row in got]
    return f"{len(got)} instead of {len(wanted)}: {names}"


# === the table ===


class Results:
    """Cells of the matrix: how many records were found equal, or why there is no number."""

    def __init__(self):
        self.cells = {}
        self.rows, self.columns, self.notes = [], [], {}

    def expect(self, producers, consumers):
        self.rows = [client.name for client in producers]
        self.columns = [client.name for client in consumers]
        for client in (*producers, *consumers):
            for note in client.notes:
                self.notes[note] = None

    def set(self, producer, consumer, text):
        self.cells[producer, consumer] = text

    def render(self):
        if not self.cells:
            return ""
        width = max(len(name) for name in (*self.rows, *self.columns))
        head = " " * (width + 1) + " ".join(f"{name:>{width}}" for name in self.columns)
        lines = [head]
        for row in self.rows:
            cells = [self.cells.get((row, column), "not run") for column in self.columns]
            lines.append(f"{row:<{width}} " + " ".join(f"{cell:>{width}}" for cell in cells))
        lines.append("")
        lines.append("A number: records whose key, value, headers, timestamp, topic, QoS and")
        lines.append("properties arrived equal, as far as both clients can carry and show them:")
        lines += [f"  - {note}" for note in self.notes]
        return "\n".join(lines)


RESULTS = Results()
