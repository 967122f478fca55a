"""What was measured, and why the rest was not; the tables that are printed."""

import statistics
from dataclasses import dataclass

MAINSTEM = "Mainstem"
MAINSTEM_OS = "Mainstem, `flush=os`"
MAINSTEM_ALWAYS = "Mainstem, `flush=always`"
KAFKA = "Apache Kafka"
KAFKA_SYNC = "Apache Kafka, `flush.messages=1`"
MOSQUITTO = "Mosquitto"

REASON_SHOWN_MAX = 80


@dataclass(frozen=True)
class Section:
    """One table: a row for each metric, a column for each target."""

    name: str
    title: str
    columns: tuple
    rows: tuple
    note: str


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


class Results:
    """Values by section, row and column; one value a round."""

    def __init__(self):
        self.values, self.reasons, self.facts, self.machine = {}, {}, {}, []

    def add(self, section, column, values):
        """`values`: row to number."""
        for row, value in values.items():
            self.values.setdefault((section, row, column), []).append(value)

    def skip(self, section, column, rows, reason, failed=False):
        """Nothing was measured, and why; kept beside what other rounds measured."""
        text = f"{'failed' if failed else 'not run'}: {str(reason).strip()}"
        for row in rows:
            self.reasons.setdefault((section, row, column), text)

    def cell(self, section, row, column):
        """Median and range, or the reason, or a dash where the row does not apply."""
        values = self.values.get((section, row, column))
        reason = self.reasons.get((section, row, column))
        if values:
            low, middle, high = min(values), statistics.median(values), max(values)
            text = number(middle)
            return f"{text} ({number(low)}–{number(high)})" if len(values) > 1 else text
        if reason:
            return reason.splitlines()[0][:REASON_SHOWN_MAX].replace("|", "/")
        return "–"

    def markdown(self, names):
        """The tables of the sections in `names`."""
        lines = ["Median (lowest–highest) of the rounds.", ""]
        lines += [f"- {name}: {value}" for name, value in {**self.facts, **self.minutes()}.items()]
        for section in SECTIONS:
            if section.name not in names:
                continue
            # The build has rows as they come.
            known = {**self.values, **self.reasons}
            rows = section.rows or [row for name, row, _ in known if name == section.name]
            lines += ["", f"### {section.title}", "", section.note, ""]
            lines.append("| | " + " | ".join(section.columns) + " |")
            lines.append("|---" * (len(section.columns) + 1) + "|")
            for row in rows:
                cells = [self.cell(section.name, row, column) for column in section.columns]
                lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def minutes(self):
        """The machine during the rounds, in words."""
        if not self.machine:
            return {}
        syncs = [look["fdatasync_64k_p50_ms"] for look in self.machine]
        loads = [look["load"] for look in self.machine]
        first, last = self.machine[0], self.machine[-1]
        ticks = max(1, last["ticks"] - first["ticks"])
        return {
            "fdatasync after 64 KiB, p50": f"{number(statistics.median(syncs))} ms "
            f"({number(min(syncs))}–{number(max(syncs))})",
            "load while it ran": f"{number(min(loads))}–{number(max(loads))}",
            "CPU time stolen": f"{(last['stolen_ticks'] - first['stolen_ticks']) / ticks:.1%}",
        }

    def document(self):
        """Everything, for the JSON."""
        return {
            "facts": self.facts,
            "machine": self.machine,
            "values": [
                {"section": s, "row": r, "column": c, "median": statistics.median(v), "rounds": v}
                for (s, r, c), v in self.values.items()
            ],
            "not_measured": [
                {"section": s, "row": r, "column": c, "reason": reason}
                for (s, r, c), reason in self.reasons.items()
            ],
        }


def number(value):
    """Three significant digits, and thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def rows_of(section_name):
    """The rows of a section."""
    return next(section.rows for section in SECTIONS if section.name == section_name)
