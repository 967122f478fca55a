#!/usr/bin/env python3
"""A Kafka consumer group that adds up what the sensors published by MQTT, city by city.

    python aggregate.py [--bootstrap 127.0.0.1:9092] [--group weather] [--idle 5]

Stops when nothing has come for `--idle` seconds. Offsets are committed after each batch, so that a
second run goes on where this one stopped.
"""

import argparse
import json
from decimal import Decimal

from confluent_kafka import Consumer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--group", default="weather")
    parser.add_argument("--idle", type=float, default=5, help="seconds")
    arguments = parser.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "group.id": arguments.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["weather"])
    cities = {}
    while messages := consumer.consume(num_messages=1000, timeout=arguments.idle):
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            # The key is the MQTT topic without its first level: <city>/<sensor>/temperature.
            city, _sensor, kind = message.key().decode().split("/")
            if kind == "temperature":
                add(cities, city, Decimal(json.loads(message.value())["degrees"]))
        consumer.commit(asynchronous=False)
    consumer.close()
    for city, row in sorted(cities.items()):
        print(json.dumps({"city": city, **{name: str(value) for name, value in row.items()}}))


def add(cities, city, degrees):
    row = cities.setdefault(
        city, {"count": 0, "sum": Decimal(0), "lowest": degrees, "highest": degrees}
    )
    row["count"] += 1
    row["sum"] += degrees
    row["lowest"] = min(row["lowest"], degrees)
    row["highest"] = max(row["highest"], degrees)


if __name__ == "__main__":
    main()
