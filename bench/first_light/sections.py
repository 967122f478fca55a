"""The tables of docs/first-light.md."""

from ..core.results import Section

MAINSTEM = "Mainstem"
MAINSTEM_OS = "Mainstem, `flush=os`"
MAINSTEM_ALWAYS = "Mainstem, `flush=always`"
KAFKA = "Apache Kafka"
KAFKA_SYNC = "Apache Kafka, `flush.messages=1`"
MOSQUITTO = "Mosquitto"

SECTIONS = (
    Section(
        "start",
        "Start to ready, ms",
        (MAINSTEM, KAFKA, MOSQUITTO),
        ("first start", "second start"),
        "From the start of the process until every listener serves (Kafka: ApiVersions answered and a "
        "broker listed; MQTT: CONNACK; Mainstem: both, and `/readyz`). First: an empty directory "
        "(Kafka's is formatted before the clock starts). Second: the same directory after a clean stop.",
    ),
    Section(
        "memory",
        "Resident memory, MiB",
        (MAINSTEM, KAFKA, MOSQUITTO),
        (
            "idle",
            "1,000 Kafka connections, idle",
            "1,000 Kafka consumers in a long poll",
            "1,000 MQTT clean sessions",
            "1,000 MQTT clean sessions, one subscription each",
        ),
        "VmRSS, each row from a process of its own. Idle Kafka connections have asked for ApiVersions; "
        "consumers wait in a Fetch of an empty partition. Kafka's heap is that of its own start script "
        "(1 GiB) and grows with use, not with need.",
    ),
    Section(
        "kafka-cost",
        "Broker CPU per GB with librdkafka",
        (MAINSTEM_OS, MAINSTEM_ALWAYS, KAFKA, KAFKA_SYNC),
        (
            "produced, CPU-s per GB",
            "consumed, CPU-s per GB",
            "produced, MB/s",
            "consumed, MB/s",
            "average batch, KiB",
        ),
        "1 GB is 10^9 bytes of record values. Records of 1 KiB, batches of 64 KiB, `acks=all`, no "
        "compression, one partition, one client on the same machine; consumed from the start while the "
        "data is in the page cache.",
    ),
    Section(
        "mqtt-cost",
        "Broker CPU per MQTT message",
        (MAINSTEM_OS, MAINSTEM_ALWAYS, MOSQUITTO),
        tuple(f"QoS {qos}, {unit}" for qos in range(3) for unit in ("CPU-µs per message", "messages/s")),
        "One publisher, one subscriber at the same QoS, 128 bytes of payload, at most 32 messages on the "
        "way. Mainstem writes every message to its log; Mosquitto has no persistence here.",
    ),
    Section(
        "latency",
        "Latency at 1,000 messages/s, ms",
        (MAINSTEM_OS, MAINSTEM_ALWAYS, KAFKA, KAFKA_SYNC, MOSQUITTO),
        tuple(
            f"{path}, {rank}"
            for path in ("MQTT to MQTT", "Kafka to Kafka", "MQTT to Kafka", "Kafka to MQTT")
            for rank in ("p50", "p99")
        ),
        "From before the publisher's send until the subscriber has the message; 128 bytes, MQTT at QoS 1, "
        "Kafka with librdkafka, `acks=all`, `linger.ms=0`. Open loop: a message held up by the one before "
        "counts from when it was due.",
    ),
    Section("build", "The build", (MAINSTEM,), (), "One profile, `release`."),
)


def rows_of(section_name):
    """The rows of a section."""
    return next(section.rows for section in SECTIONS if section.name == section_name)
