"""Broker CPU per GB produced and consumed with librdkafka."""

from functools import partial

from ..core import process
from ..core.context import ClientError
from . import topics
from .load import client
from .sections import rows_of

RECORDS = 500_000
# Produces and consumes this much before anything counts: compilers, caches, page tables.
WARM_UP_RECORDS = 300_000
CLIENT_LIMIT_S = 12.0
SECTION = "kafka-cost"


def run(context):
    """All columns once in every round."""
    rows = rows_of(SECTION)
    context.fleet.start_all()
    for round_ in range(-1, context.rounds):
        if round_ >= 0:
            context.begin_round(SECTION, round_)
        records = int((RECORDS if round_ >= 0 else WARM_UP_RECORDS) * context.scale)
        context.revive()
        for number, (column, (name, configs)) in enumerate(topics.POLICIES.items()):
            broker = getattr(context.fleet, name)
            topic = f"bench-cost-{number}-{round_ + 1}"
            work = partial(load, broker, topic, configs, records) if broker else context.absent(name)
            if round_ >= 0:
                context.cell(SECTION, column, rows, work)
            elif broker:
                context.warm_up(SECTION, work)


def load(broker, topic, configs, records):
    """Produces, consumes, deletes."""
    topics.create(broker.kafka_port, topic, configs)
    try:
        before = process.cpu_seconds(broker.pid)
        produced = transfer("produce", broker, topic, records)
        between = process.cpu_seconds(broker.pid)
        consumed = transfer("consume", broker, topic, produced["records"])
        after = process.cpu_seconds(broker.pid)
    finally:
        topics.delete(broker.kafka_port, topic)
    if consumed["records"] != produced["records"]:
        raise ClientError(f"{produced['records']} records produced, {consumed['records']} consumed")
    return {
        "produced, CPU-s per GB": (between - before) / produced["bytes"] * 1e9,
        "consumed, CPU-s per GB": (after - between) / consumed["bytes"] * 1e9,
        "produced, MB/s": produced["bytes"] / produced["seconds"] / 1e6,
        "consumed, MB/s": consumed["bytes"] / consumed["seconds"] / 1e6,
        "average batch, KiB": produced["batch_bytes"] / 1024,
    }


def transfer(verb, broker, topic, records):
    """One client run; every record must get through."""
    done = client("kafka_load.py", [verb, broker.kafka_port, topic, records, CLIENT_LIMIT_S], CLIENT_LIMIT_S)
    if done["error"]:
        raise ClientError(f"{verb}: {done['error']}")
    if not done["records"]:
        raise ClientError(f"{verb}: no record within {CLIENT_LIMIT_S:g} s")
    return done
