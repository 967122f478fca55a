#!/usr/bin/env python3
"""A Kafka producer that commands MQTT devices: one set point for each reading of the fleet.

    python command_devices.py [--bootstrap 127.0.0.1:9092]
"""

import argparse
import json
from decimal import Decimal

from confluent_kafka import Producer

from readings import readings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    arguments = parser.parse_args()
    producer = Producer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            # Everyone else's partitioner, MQTT's included; librdkafka's own default differs.
            "partitioner": "murmur2_random",
        }
    )
    failed, count, total = [], 0, Decimal(0)

    def delivered(error, _message):
        if error:
            failed.append(error)

    for city, sensor, _time, degrees in readings():
        # The key says which device: it has subscribed to weather/<city>/<sensor>/set.
        producer.produce(
            "weather", key=f"{city}/{sensor}/set", value=str(degrees), on_delivery=delivered
        )
        producer.poll(0)
        count, total = count + 1, total + degrees
    producer.flush()
    if failed:
        raise SystemExit(f"{len(failed)} commands were not delivered: {failed[0]}")
    print(json.dumps({"commanded": count, "sum": str(total)}))


if __name__ == "__main__":
    main()
