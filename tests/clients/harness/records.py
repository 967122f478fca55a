"""Records as tests compare them, and how each protocol shows the other's."""

import base64
from dataclasses import dataclass, field

# Before the name of a user property that could be taken for a header of the broker's own.
ESCAPE = "mqtt.up."


@dataclass(frozen=True)
class Record:
    """A Kafka record; None is null, b"" is empty."""

    key: bytes | None
    value: bytes | None
    headers: tuple = ()
    timestamp: int | None = None
    partition: int = 0
    offset: int = -1

    def to_json(self):
        return {
            "k": encode(self.key),
            "v": encode(self.value),
            "h": [[name, encode(value)] for name, value in self.headers],
            "ts": self.timestamp,
        }

    @staticmethod
    def from_json(row):
        headers = tuple((name, decode(value)) for name, value in row["h"])
        return Record(
            decode(row["k"]), decode(row["v"]), headers, int(row["ts"]), row["p"], int(row["o"])
        )


@dataclass(frozen=True)
class Message:
    """An MQTT message; fields of MQTT 5 are None or empty where a client can't carry them."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    user: tuple = ()
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    payload_format: int | None = None
    expiry: int | None = None
    identifiers: tuple = field(default=(), compare=False)
    dup: bool = field(default=False, compare=False)


def encode(data):
    return None if data is None else base64.b64encode(data).decode()


def decode(text):
    return None if text is None else base64.b64decode(text)


def short(data, limit=24):
    """A value for an error text."""
    if isinstance(data, bytes) and len(data) > limit:
        return f"{data[:limit]!r}...({len(data)} bytes)"
    return repr(data)


def kafka_topic_of(mqtt_topic):
    """(Kafka topic, key) of an MQTT topic by the default map; the key is None without a slash."""
    first, slash, rest = mqtt_topic.partition("/")
    return first, rest.encode() if slash else None


def mqtt_topic_of(kafka_topic, key):
    """The MQTT topic of a record that a Kafka client wrote."""
    if key is None or len(key) > 65000:
        return kafka_topic
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return kafka_topic
    if any(c in text for c in "+#\0"):
        return kafka_topic
    return f"{kafka_topic}/{text}"


def user_properties_of(headers):
    """The user properties that MQTT subscribers get of a Kafka record's headers.

    Values that are no UTF-8 are dropped, null becomes empty; `content-type` has a property of its
    own, and a name that was stored as `mqtt.up.` + name gets its name back.
    """
    out = []
    for name, value in headers:
        if name.startswith(ESCAPE):
            name = name[len(ESCAPE) :]
        elif name == "content-type" or name.startswith("mqtt."):
            continue
        try:
            out.append((name, (value or b"").decode("utf-8")))
        except UnicodeDecodeError:
            continue
    return tuple(out)
