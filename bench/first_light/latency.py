"""Latency within and across the protocols, at a rate far below what any of the brokers can do."""

import json
import os
import subprocess
import sys
from functools import partial

from ..core.context import CLIENT_SLACK_S, ClientError
from . import topics
from .load import CLIENTS
from .sections import MAINSTEM_ALWAYS, MAINSTEM_OS, MOSQUITTO

MESSAGES = 3500
RATE = 1000
# Of the publisher and of the subscriber, beyond what the messages take.
SLACK_S = 8.0
MESSAGES_MIN = 1000
SECTION = "latency"

# Path: publisher, subscriber.
WITHIN = {"MQTT to MQTT": ("mqtt", "mqtt"), "Kafka to Kafka": ("kafka", "kafka")}
ACROSS = {"MQTT to Kafka": ("mqtt", "kafka"), "Kafka to MQTT": ("kafka", "mqtt")}


def cells(context):
    """(column, broker or reason, topic, path, ends), in the order of a round."""
    found = []
    for number, (column, (name, configs)) in enumerate(topics.POLICIES.items()):
        broker, topic = getattr(context.fleet, name) or context.absent(name), f"bench-latency-{number}"
        if not isinstance(broker, str):
            try:
                topics.create(broker.kafka_port, topic, configs)
            except Exception as error:  # noqa: BLE001 librdkafka has its own kinds
                broker = f"topic {topic}: {error}"
                context.problems.append(broker)
        both = column in (MAINSTEM_OS, MAINSTEM_ALWAYS)
        for path, ends in ({**WITHIN, **ACROSS} if both else WITHIN).items():
            if both or "mqtt" not in ends:
                found.append((column, broker, topic, path, ends))
    mosquitto = context.fleet.mosquitto or context.absent("mosquitto")
    found.append((MOSQUITTO, mosquitto, "bench-latency", "MQTT to MQTT", WITHIN["MQTT to MQTT"]))
    return sorted(found, key=lambda cell: cell[3])


def run(context):
    """All cells once in every round."""
    context.fleet.start_all()
    planned = cells(context)
    messages = max(MESSAGES_MIN, int(MESSAGES * context.scale))
    for round_ in range(context.rounds):
        context.begin_round(SECTION, round_)
        for column, broker, topic, path, ends in planned:
            work = broker
            if not isinstance(broker, str):
                work = partial(measure, broker, topic, path, (ends, messages))
            context.cell(SECTION, column, [f"{path}, p50", f"{path}, p99"], work)


def measure(broker, topic, path, plan):
    """One subscriber, one publisher; p50 and p99."""
    (source, sink), messages = plan
    seconds, run_ = messages / RATE + SLACK_S, os.urandom(8).hex()
    ports = {"mqtt": broker.mqtt_port, "kafka": broker.kafka_port}

    def end(protocol, role):
        command = [sys.executable, str(CLIENTS / "latency.py"), f"{protocol}-{role}", str(ports[protocol])]
        return subprocess.Popen(
            [*command, topic, run_, str(messages), str(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    started = []
    try:
        subscriber = end(sink, "sub")
        started.append(subscriber)
        if subscriber.stdout.readline().strip() != "ready":
            raise ClientError(f"subscriber: {subscriber.communicate(timeout=CLIENT_SLACK_S)[1][-500:]}")
        publisher = end(source, "pub")
        started.append(publisher)
        sent = finished(publisher, "publisher", seconds)
        result = finished(subscriber, "subscriber", seconds)
    finally:
        for client in started:
            if client.poll() is None:
                client.kill()
            client.wait()
    if sent["unacknowledged"] or result["lost"]:
        open_, lost = sent["unacknowledged"], result["lost"]
        raise ClientError(
            f"of {messages} in {seconds:g} s {open_} not acknowledged, {lost} not delivered, {sent.get('error', '')}"
        )
    return {f"{path}, p50": result["p50_ms"], f"{path}, p99": result["p99_ms"]}


def finished(client, what, seconds):
    """The JSON of a client that has ended well."""
    out, errors = client.communicate(timeout=seconds + CLIENT_SLACK_S)
    if client.returncode:
        raise ClientError(f"{what}: {errors.strip()[-500:]}")
    return json.loads(out)
