"""One librdkafka client under full load.

    kafka_load.py produce PORT TOPIC RECORDS SECONDS
    kafka_load.py consume PORT TOPIC RECORDS SECONDS

1 KiB records, batches of 64 KiB, acks=all, no compression, partition 0. Ends after RECORDS or SECONDS.
Prints one JSON object; `records` are acknowledged or received ones.
"""

import json
import os
import resource
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

RECORD_BYTES = 1024
BATCH_BYTES = 64 << 10
FLUSH_LIMIT_S = 30.0
# An average a little below 64 KiB is a full batch: 63 records and not a 64th.
STATISTICS_MS = 200


class Produced:
    """What the callbacks of librdkafka tell."""

    def __init__(self):
        self.failed, self.error, self.batch_bytes = 0, None, 0

    def delivery(self, error, _message):
        self.failed += 1
        self.error = str(error)

    def statistics(self, text):
        for topic in json.loads(text)["topics"].values():
            self.batch_bytes = topic["batchsize"]["avg"] or self.batch_bytes


def produce(port, topic, records, seconds):
    told = Produced()
    producer = Producer({
        "bootstrap.servers": f"127.0.0.1:{port}",
        "acks": "all",
        "batch.size": BATCH_BYTES,
        "batch.num.messages": 1_000_000,
        # Long enough that batches go out full; never reached while the producer is the faster one.
        "linger.ms": 50,
        "queue.buffering.max.messages": 100_000,
        "delivery.report.only.error": True,
        "on_delivery": told.delivery,
        "stats_cb": told.statistics,
        "statistics.interval.ms": STATISTICS_MS,
    })  # fmt: skip
    value = os.urandom(RECORD_BYTES)
    sent, began = 0, time.perf_counter()
    while sent < records and time.perf_counter() - began < seconds:
        try:
            for _ in range(min(1000, records - sent)):
                producer.produce(topic, value, partition=0)
                sent += 1
            producer.poll(0)
        except BufferError:
            producer.poll(0.005)
    waiting = producer.flush(FLUSH_LIMIT_S)
    took = time.perf_counter() - began
    return {
        "records": sent - told.failed - waiting,
        "seconds": took,
        "batch_bytes": told.batch_bytes,
        "error": told.error or (f"{waiting} records were not acknowledged" if waiting else None),
    }


def consume(port, topic, records, seconds):
    consumer = Consumer({
        "bootstrap.servers": f"127.0.0.1:{port}",
        "group.id": "bench",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    })  # fmt: skip
    received, error, began = 0, None, time.perf_counter()
    consumer.assign([TopicPartition(topic, 0, 0)])
    while received < records and time.perf_counter() - began < seconds and not error:
        for message in consumer.consume(min(1000, records - received), 1.0):
            if message.error():
                error = str(message.error())
            else:
                received += 1
    took = time.perf_counter() - began
    consumer.close()
    return {"records": received, "seconds": took, "error": error}


def main():
    verb, port, topic, records, seconds = sys.argv[1:]
    work = {"produce": produce, "consume": consume}[verb]
    result = work(int(port), topic, int(records), float(seconds))
    used = resource.getrusage(resource.RUSAGE_SELF)
    result["bytes"] = result["records"] * RECORD_BYTES
    result["client_cpu_seconds"] = used.ru_utime + used.ru_stime
    print(json.dumps(result))


main()
