"""Broker CPU per MQTT message at QoS 0, 1 and 2."""

import shutil
import subprocess
from functools import partial

from ..core import process
from ..core.context import ClientError, output
from . import topics
from .load import CLIENTS
from .sections import MAINSTEM_ALWAYS, MAINSTEM_OS, MOSQUITTO, rows_of

MESSAGES = 200_000
WINDOW = 32
PAYLOAD_BYTES = 128
# A cell ends here even when the messages are not all sent.
SECONDS = 3.0
WARM_UP_MESSAGES = 20_000
COMPILE_LIMIT_S = 60
SECTION = "mqtt-cost"


def compile_load(work):
    """The load generator, by the machine's C compiler."""
    program = work / "mqtt_load"
    compiler = shutil.which("cc")
    if compiler is None:
        raise ClientError("no C compiler (cc)")
    subprocess.run(
        [compiler, "-O2", "-o", program, CLIENTS / "mqtt_load.c"], check=True, timeout=COMPILE_LIMIT_S
    )
    return program


def targets(context):
    """(column, broker or reason, topic); topics with their flush policy are made here."""
    fleet, found = context.fleet, []
    for column in (MAINSTEM_OS, MAINSTEM_ALWAYS):
        name, configs = topics.POLICIES[column]
        topic = f"bench-qos-{configs['mainstem.flush']}"
        broker = getattr(fleet, name) or context.absent(name)
        if not isinstance(broker, str):
            try:
                topics.create(broker.kafka_port, topic, configs)
            except Exception as error:  # noqa: BLE001 librdkafka has its own kinds
                broker = f"topic {topic}: {error}"
                context.problems.append(broker)
        found.append((column, broker, topic))
    found.append((MOSQUITTO, fleet.mosquitto or context.absent("mosquitto"), "bench-qos"))
    return found


def run(context):
    """All columns and levels once in every round."""
    context.fleet.start_all()
    program, measured = compile_load(context.work), targets(context)
    for round_ in range(-1, context.rounds):
        if round_ >= 0:
            context.begin_round(SECTION, round_)
        messages = int((MESSAGES if round_ >= 0 else WARM_UP_MESSAGES) * context.scale)
        for qos in range(3):
            rows = [row for row in rows_of(SECTION) if row.startswith(f"QoS {qos}")]
            for column, broker, topic in measured:
                work = broker
                if not isinstance(broker, str):
                    work = partial(load, program, broker, topic, (qos, messages))
                if round_ >= 0:
                    context.cell(SECTION, column, rows, work)
                elif callable(work):
                    context.warm_up(SECTION, work)


def load(program, broker, topic, plan):
    """One run of `plan` (QoS, messages); a message lost, or twice at QoS 2, is an error."""
    qos, messages = plan
    before = process.cpu_seconds(broker.pid)
    command = [program, broker.mqtt_port, f"{topic}/t", qos, messages, WINDOW, PAYLOAD_BYTES, SECONDS]
    done = output(list(map(str, command)), SECONDS)
    used = process.cpu_seconds(broker.pid) - before
    if done["delivered"] != done["sent"] or done["completed"] != done["sent"]:
        raise ClientError(f"QoS {qos}: not every message got through: {done}")
    if done["duplicates"]:
        raise ClientError(f"QoS 2: {done['duplicates']} messages came twice")
    return {
        f"QoS {qos}, CPU-µs per message": used / done["delivered"] * 1e6,
        f"QoS {qos}, messages/s": done["delivered"] / done["seconds"],
    }
