"""A broker that does nothing: how fast it starts, how much memory it holds."""

import time
from functools import partial

from ..core import process, wire
from ..core.context import say
from .sections import KAFKA, MAINSTEM, MOSQUITTO, rows_of

CONNECTIONS = 1000
SETTLE_S = 1.5
# Longer than a measurement, shorter than any broker's limit.
LONG_POLL_MS = 30_000
TOPIC = "bench-idle"
TOPIC_LIMIT_S = 15.0
# Memory varies little, and every row of it costs a start.
MEMORY_ROUNDS_MAX = 3


def columns(context):
    """(column, broker or the reason why there is none)."""
    fleet = context.fleet
    named = {MAINSTEM: "mainstem", KAFKA: "kafka", MOSQUITTO: "mosquitto"}
    return [(column, getattr(fleet, name) or context.absent(name)) for column, name in named.items()]


# === start ===


def start(context):
    """First and second start of each broker."""
    rows = rows_of("start")
    for round_ in range(context.rounds):
        context.begin_round("start", round_)
        for column, broker in columns(context):
            work = broker if isinstance(broker, str) else partial(two_starts, broker)
            context.cell("start", column, rows, work)


def two_starts(broker):
    """ms of a start with an empty directory, and of one with what that left."""
    broker.erase()
    try:
        first = broker.start()
        broker.stop()
        second = broker.start()
    finally:
        broker.stop()
        broker.erase()
    return {"first start": first, "second start": second}


# === memory ===


def memory(context):
    """Resident memory, idle and with connections of each kind that the broker speaks."""
    idle, plain, polling, sessions, subscribed = rows_of("memory")
    kinds = {plain: open_plain, polling: open_polling, sessions: open_session, subscribed: open_subscribed}
    for round_ in range(min(context.rounds, MEMORY_ROUNDS_MAX)):
        context.begin_round("memory", round_)
        for row, open_one in kinds.items():
            for column, broker in columns(context):
                if column == (MOSQUITTO if row in (plain, polling) else KAFKA):
                    continue
                if isinstance(broker, str):
                    context.cell("memory", column, [idle, row], broker)
                else:
                    context.cell("memory", column, [row], partial(loaded, broker, idle, row, open_one))


def loaded(broker, idle_row, row, open_one):
    """Resident memory of a fresh process, without and with CONNECTIONS connections."""
    streams = []
    broker.erase()
    try:
        broker.start()
        time.sleep(SETTLE_S)
        idle = process.resident_mib(broker.pid)
        for number in range(CONNECTIONS):
            streams.append(open_one(broker, number))
        time.sleep(SETTLE_S)
        with_connections = process.resident_mib(broker.pid)
        assert_open(streams)
    finally:
        for stream in streams:
            stream.close()
        broker.stop()
        broker.erase()
    say(f"  {type(broker).__name__}: {row}: {idle:.1f} -> {with_connections:.1f} MiB")
    return {idle_row: idle, row: with_connections}


def assert_open(streams):
    """A broker that drops connections would look small."""
    for stream in streams:
        stream.setblocking(False)
        try:
            if stream.recv(1) == b"":
                raise wire.WireError("the broker closed an idle connection")
        except BlockingIOError:
            continue


def open_plain(broker, _number):
    return wire.kafka_connection(broker.kafka_port)


def open_polling(broker, number):
    stream = wire.kafka_connection(broker.kafka_port)
    deadline = time.monotonic() + TOPIC_LIMIT_S
    while number == 0 and (error := wire.kafka_topic_error(stream, TOPIC)):
        if time.monotonic() > deadline:
            raise wire.WireError(f"Metadata: error {error} for a new topic")
        time.sleep(0.05)
    wire.kafka_long_poll(stream, TOPIC, LONG_POLL_MS)
    return stream


def open_session(broker, number):
    return wire.mqtt_session(broker.mqtt_port, f"bench-{number}")


def open_subscribed(broker, number):
    stream = open_session(broker, number)
    wire.mqtt_subscribe(stream, f"bench/device-{number}/set", 1)
    return stream
