#!/usr/bin/env python3
"""A fleet of temperature sensors over MQTT: `publish` sends what they measured, `listen` waits for
their commands.

    python sensor_fleet.py publish [--host 127.0.0.1] [--port 1883]
    python sensor_fleet.py listen --count 17518
"""

import argparse
import json
import threading
from decimal import Decimal

import paho.mqtt.client as mqtt

from readings import CITIES, SENSORS, readings


def connect(arguments, client_id):
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5
    )
    client.connect(arguments.host, arguments.port)
    client.loop_start()
    return client


def publish(arguments):
    """Each sensor publishes its readings at QoS 1 and waits for the broker to have them all."""
    sensors = {
        (city, sensor): connect(arguments, f"{city}-{sensor}")
        for city in CITIES
        for sensor in range(SENSORS)
    }
    count, total, pending = 0, Decimal(0), []
    for city, sensor, time, degrees in readings():
        payload = json.dumps({"time": time, "degrees": str(degrees)})
        topic = f"weather/{city}/{sensor}/temperature"
        pending.append(sensors[city, sensor].publish(topic, payload, qos=1))
        count, total = count + 1, total + degrees
    for message in pending:
        message.wait_for_publish()
    for client in sensors.values():
        client.disconnect()
        client.loop_stop()
    print(json.dumps({"published": count, "sum": str(total)}))


def listen(arguments):
    """Every device subscribes to its own commands; the set points of all are counted and added."""
    lock, done = threading.Lock(), threading.Event()
    seen = {"count": 0, "sum": Decimal(0)}

    def on_message(_client, _data, message):
        with lock:
            seen["count"] += 1
            seen["sum"] += Decimal(message.payload.decode())
            if seen["count"] == arguments.count:
                done.set()

    subscribed = threading.Semaphore(0)
    clients = []
    for city in CITIES:
        for sensor in range(SENSORS):
            client = connect(arguments, f"{city}-{sensor}-listener")
            client.on_message = on_message
            client.on_subscribe = lambda *_: subscribed.release()
            client.subscribe(f"weather/{city}/{sensor}/set", qos=1)
            clients.append(client)
    for _ in clients:
        subscribed.acquire()
    print("listening", flush=True)
    done.wait(arguments.timeout)
    for client in clients:
        client.disconnect()
        client.loop_stop()
    print(json.dumps({"received": seen["count"], "sum": str(seen["sum"])}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("publish").set_defaults(run=publish)
    wait = commands.add_parser("listen")
    wait.add_argument("--count", type=int, default=sum(1 for _ in readings()))
    wait.add_argument("--timeout", type=float, default=None, help="seconds")
    wait.set_defaults(run=listen)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
