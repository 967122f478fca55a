"""Every producing client against every consuming client: what is written here is read there, equal.

Each client is started once. Subscribers are there before anything is written; Kafka consumers read
from the beginning afterwards.
"""

import time

import pytest

from harness import kafka_clients, matrix, mqtt_clients
from harness.wait import Late, until

SETTINGS = {"num.partitions": "1"}
PRODUCERS = (*kafka_clients.PRODUCERS, *mqtt_clients.CLIENTS)
CONSUMERS = (*kafka_clients.CONSUMERS, *mqtt_clients.CLIENTS)
KAFKA = (*kafka_clients.CONSUMERS,)


def topic_of(client):
    return f"mx-{client.name}"


class World:
    """The clients, what each wrote, and what each has read: each is asked once."""

    def __init__(self, broker, directory):
        self.broker, self.directory = broker, directory
        self.clients = {}
        self.subscribed = {}
        self.written = {}
        self.read = {}
        self.patience_s = dict.fromkeys(mqtt_clients.CLIENTS, 10.0)

    def client(self, kind):
        if kind not in self.clients:
            self.clients[kind] = kind(self.broker, self.directory)
        return self.clients[kind]

    def subscribe_all(self):
        filters = [f"{topic_of(kind)}/#" for kind in PRODUCERS]
        for kind in mqtt_clients.CLIENTS:
            try:
                self.client(kind).subscribe(filters)
            except Exception as error:  # one client's trouble fails its own cells only
                self.subscribed[kind] = error

    def write(self, kind):
        """What `kind` has written: (list, window of time in ms); an error is kept and raised."""
        if kind not in self.written:
            try:
                self.written[kind] = self._write(kind)
            except Exception as error:  # the same for every cell of the row
                self.written[kind] = error
        found = self.written[kind]
        if isinstance(found, Exception):
            raise AssertionError(f"{kind.name} could not write: {found!r}") from found
        return found

    def _write(self, kind):
        client, topic = self.client(kind), topic_of(kind)
        before = int(time.time() * 1000)
        if issubclass(kind, mqtt_clients.MqttClient):
            items = matrix.mqtt_messages(client, topic)
            for message in items:
                client.publish(message)
        else:
            items = []
            for batch in matrix.kafka_batches(client):
                offsets = client.produce(topic, batch.records, batch.codec)
                if offsets is not None:
                    expected = [(0, len(items) + i) for i in range(len(batch.records))]
                    assert offsets == expected, f"acknowledged at {offsets}, not {expected}"
                items += batch.records
        return items, (before - 1, int(time.time() * 1000) + 1)

    def kafka_read(self, kind):
        """Everything that `kind` reads of what all have written: one consumer run."""
        for producer in PRODUCERS:
            try:
                self.write(producer)
            except AssertionError:
                continue
        if kind not in self.read:
            topics = [topic_of(p) for p in PRODUCERS if not isinstance(self.written[p], Exception)]
            try:
                self.read[kind] = self.client(kind).consume(topics)
            except Exception as error:  # fails the cells of this column
                self.read[kind] = error
        if isinstance(self.read[kind], Exception):
            raise AssertionError(f"{kind.name} could not read: {self.read[kind]!r}")
        return self.read[kind]

    def mqtt_read(self, kind, producer, count):
        """What the subscriber `kind` got of `producer`, waited for."""
        if kind in self.subscribed:
            raise AssertionError(f"{kind.name} could not subscribe: {self.subscribed[kind]!r}")
        root = topic_of(producer)

        def of_producer():
            messages = self.client(kind).messages()
            return [m for m in messages if m.topic.partition("/")[0] == root]

        began = time.monotonic()
        try:
            until(lambda: len(of_producer()) >= count, "", self.patience_s[kind], every_s=0.1)
        except Late:
            pass  # the comparison tells what is missing
        # A client that gets nothing is waited for once, not once for each producer.
        self.patience_s[kind] = max(0.5, self.patience_s[kind] - (time.monotonic() - began))
        return of_producer()

    def close(self):
        for client in self.clients.values():
            client.close()


@pytest.fixture(scope="module")
def world(broker, request):
    directory = broker.directory / "clients"
    directory.mkdir()
    world = World(broker, directory)
    matrix.RESULTS.expect(PRODUCERS, CONSUMERS)
    world.subscribe_all()
    yield world
    world.close()


def cell(world, producer, consumer):
    wanted, window = world.write(producer)
    reader, writer = world.client(consumer), world.client(producer)
    by_mqtt = issubclass(producer, mqtt_clients.MqttClient)
    if consumer in KAFKA:
        got = world.kafka_read(consumer)[topic_of(producer)]
        if by_mqtt:
            return matrix.compare_mqtt_to_kafka(wanted, got, writer, reader, window)
        return matrix.compare_kafka_to_kafka(wanted, got, reader)
    got = world.mqtt_read(consumer, producer, len(wanted))
    if by_mqtt:
        return matrix.compare_mqtt_to_mqtt(wanted, got, writer, reader)
    return matrix.compare_kafka_to_mqtt(wanted, got, topic_of(producer), reader)


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda kind: f"to-{kind.name}")
@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda kind: f"from-{kind.name}")
def test_every_record_arrives_equal(world, producer, consumer):
    matrix.RESULTS.set(producer.name, consumer.name, "FAILED")
    count = cell(world, producer, consumer)
    matrix.RESULTS.set(producer.name, consumer.name, str(count))
