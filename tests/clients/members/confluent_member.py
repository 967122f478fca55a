"""One member of a consumer group by confluent-kafka (librdkafka); see harness/members.py.

Arguments: bootstrap, group, topic, "eager" or "cooperative", session timeout in ms,
group.instance.id (may be empty).
"""

import json
import signal
import sys

from confluent_kafka import Consumer

bootstrap, group, topic, protocol, session_ms, instance = sys.argv[1:7]
owned, stopping = set(), []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))


def tell(**line):
    print(json.dumps(line), flush=True)


def changed(event, partitions):
    numbers = sorted(p.partition for p in partitions)
    (owned.update if event == "assigned" else owned.difference_update)(numbers)
    tell(event=event, changed=numbers, owned=sorted(owned))


consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "partition.assignment.strategy": "cooperative-sticky" if protocol == "cooperative" else "range",
        "session.timeout.ms": int(session_ms),
        "heartbeat.interval.ms": 300,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
        **({"group.instance.id": instance} if instance else {}),
    }
)
consumer.subscribe(
    [topic],
    on_assign=lambda _, partitions: changed("assigned", partitions),
    on_revoke=lambda _, partitions: changed("revoked", partitions),
    on_lost=lambda _, partitions: changed("revoked", partitions),
)
while not stopping:
    messages = consumer.consume(500, 0.1)
    rows = []
    for message in messages:
        if message.error():
            tell(event="error", text=str(message.error()))
        else:
            rows.append([message.partition(), message.offset(), message.value().decode()])
    if rows:
        tell(event="records", records=rows)
        try:
            consumer.commit(asynchronous=False)
        except Exception as error:  # a rebalance took the partitions: they are read again
            tell(event="commit-failed", text=str(error))
consumer.close()
tell(event="left")
